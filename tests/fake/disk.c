/* A disk that fails: while the file $FAKE_DISK exists no file can be brought onto it (EIO), which
 * is known only when it is asked for. Or one that is slow: with $FAKE_DISK_SLOW a large piece takes
 * 0.3 s. Preloaded into zephd. */
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

/* By its name for large files, as zephd is compiled. */
__attribute__((visibility("default"))) ssize_t pwrite(
	int fd, const void *data, size_t n, off_t offset)
{
	if (n >= 1 << 20 && getenv("FAKE_DISK_SLOW"))
		usleep(300000);
	return syscall(SYS_pwrite64, fd, data, n, offset);
}
