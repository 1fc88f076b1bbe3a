/* A disk that fails: while the file $FAKE_DISK exists no file can be brought onto it (EIO), which
 * is known only when it is asked for. Preloaded into zephd. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int fsync(int fd)
{
	const char *fails = getenv("FAKE_DISK");

	if (fails && access(fails, F_OK) == 0) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}
