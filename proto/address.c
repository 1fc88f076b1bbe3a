/* Why: daemon and client must agree on where the socket is and on who may own it. Owns nothing
 * beyond the call; fds and paths go to the caller. */
#include "proto/address.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG          1024
#define RETRY_FIRST_USEC 1000
#define RETRY_LAST_USEC  50000

int socket_paths(const char *given, char *ret_paths[SOCKET_PATHS_MAX])
{
	const char *env = getenv("ZEPH_SOCKET"), *run = getenv("XDG_RUNTIME_DIR");
	char *user = NULL, *wide;

	if (!given && env && env[0])
		given = env;
	if (given) {
		ret_paths[0] = strdup(given);
		return ret_paths[0] ? 1 : -ENOMEM;
	}
	if (run && run[0] == '/') {
		if (asprintf(&user, "%s/zeph/zeph.sock", run) < 0)
			return -ENOMEM;
	} else if (asprintf(&user, "/run/user/%u/zeph/zeph.sock", (unsigned)getuid()) < 0) {
		return -ENOMEM;
	}
	wide = strdup("/run/zeph/zeph.sock");
	if (!wide) {
		free(user);
		return -ENOMEM;
	}
	ret_paths[0] = user;
	ret_paths[1] = wide;
	return 2;
}

static int address_fill(const char *path, struct sockaddr_un *ret)
{
	const size_t len = strlen(path);

	if (len == 0)
		return -ENOENT;
	if (len >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, path, len + 1);
	return 0;
}

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* One path, until the deadline while its queue is full. The fd or a negative errno. */
static int connect_path(const char *path, uint64_t deadline_usec)
{
	uint64_t pause_usec = RETRY_FIRST_USEC;
	struct sockaddr_un address;
	int fd, r;

	r = address_fill(path, &address);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	for (;;) {
		uint64_t now;

		if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
			return fd;
		r = -errno;
		if (r == -EINTR)
			continue;
		now = now_usec();
		if (r != -EAGAIN || now >= deadline_usec)
			break;
		if (pause_usec > deadline_usec - now)
			pause_usec = deadline_usec - now;
		/* a signal ends the pause early, and the caller's handlers decide */
		nanosleep(&(struct timespec){.tv_sec = (time_t)(pause_usec / 1000000),
				  .tv_nsec = (long)(pause_usec % 1000000) * 1000},
			NULL);
		if (pause_usec < RETRY_LAST_USEC)
			pause_usec *= 2;
	}
	close(fd);
	return r;
}

int socket_connect(const char *given, uint64_t timeout_usec, char *ret_path, size_t size)
{
	const uint64_t now = now_usec();
	const uint64_t deadline = timeout_usec > UINT64_MAX - now ? UINT64_MAX : now + timeout_usec;
	char *paths[SOCKET_PATHS_MAX];
	int n, r = -ENOENT, told = -1;

	assert(size > 0);
	ret_path[0] = 0;
	n = socket_paths(given, paths);
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		const int got = connect_path(paths[i], deadline);

		/* a dead socket says more than a path where nothing ever was */
		if (told < 0 || got != -ENOENT) {
			r = got;
			told = i;
		}
		if (got != -ENOENT && got != -ECONNREFUSED)
			break;
	}
	if (n > 1 && r == -ENOENT)
		snprintf(ret_path, size, "%s or %s", paths[0], paths[1]);
	else
		snprintf(ret_path, size, "%s", paths[told]);
	for (int i = 0; i < n; i++)
		free(paths[i]);
	return r;
}

/* Locks "PATH.lock", made 0600. The lock's fd or a negative errno. The lock file stays for ever:
 * removing it would let two daemons hold locks on two files of one name. */
static int lock_take(const char *path)
{
	char *name = NULL;
	struct stat st;
	int fd, r = 0;

	if (asprintf(&name, "%s.lock", path) < 0)
		return -ENOMEM;
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
	if (fd < 0)
		r = -errno;
	free(name);
	if (fd < 0)
		return r;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = -EEXIST;
	else if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

/* 0: nothing is at the path (any more); -EADDRINUSE: a socket that somebody serves; -EEXIST: no
 * socket. Only called with the lock held. */
static int dead_socket_remove(const char *path)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	r = connect_path(path, 0);
	if (r >= 0)
		close(r);
	if (r >= 0 || r == -EAGAIN)
		return -EADDRINUSE;
	if (r != -ECONNREFUSED)
		return r;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* Makes the folder of the path, 0700, if it alone is missing. */
static int folder_make(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder;
	int r = 0;

	if (!slash || slash == path)
		return 0;
	folder = strndup(path, (size_t)(slash - path));
	if (!folder)
		return -ENOMEM;
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		r = -errno;
	free(folder);
	return r;
}

static int socket_bind(const char *path, const struct sockaddr_un *address, unsigned mode)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool bound = false;
	int r = 0;

	if (fd < 0)
		return -errno;
	/* The socket is born with the mode of its fd less the umask, so it is never wider than
	 * asked for; chmod() then gives the bits that the umask took. */
	if (fchmod(fd, (mode_t)mode) < 0)
		r = -errno;
	else if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		r = -errno;
	else
		bound = true;
	if (r == 0 && (chmod(path, (mode_t)mode) < 0 || listen(fd, BACKLOG) < 0))
		r = -errno;
	if (r == 0)
		return fd;
	if (bound)
		unlink(path);
	close(fd);
	return r;
}

int socket_listen(const char *path, unsigned mode, int *ret_lock_fd)
{
	struct sockaddr_un address;
	int fd, lock, r;

	r = address_fill(path, &address);
	if (r < 0)
		return r;
	r = folder_make(path);
	if (r < 0)
		return r;
	lock = lock_take(path);
	if (lock < 0)
		return lock;
	r = dead_socket_remove(path);
	fd = r < 0 ? r : socket_bind(path, &address, mode);
	if (fd < 0) {
		close(lock);
		return fd;
	}
	*ret_lock_fd = lock;
	return fd;
}

const char *socket_error(int error, const char *path, char *buffer, size_t size)
{
	switch (error) {
	case -ENAMETOOLONG:
		snprintf(buffer, size, "the socket path has %zu bytes, at most %zu fit: %s",
			strlen(path), sizeof(((struct sockaddr_un *)0)->sun_path) - 1, path);
		break;
	case -EADDRINUSE: snprintf(buffer, size, "another daemon serves %s", path); break;
	case -EEXIST:
		snprintf(buffer, size, "%s (or its .lock) exists and is no socket", path);
		break;
	case -ENOENT: snprintf(buffer, size, "there is no socket at %s", path); break;
	case -ECONNREFUSED: snprintf(buffer, size, "nobody listens at %s", path); break;
	case -EAGAIN:
		snprintf(buffer, size, "the daemon at %s takes no further connections", path);
		break;
	default: snprintf(buffer, size, "%s: %s", path, strerror(-error));
	}
	return buffer;
}
