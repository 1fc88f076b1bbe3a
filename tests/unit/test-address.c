/* Claims: the paths are tried in the documented order; one daemon per path; a dead socket is
 * replaced, a live one never; connecting never blocks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/address.h"

static int make_folder(void **state)
{
	char *folder = strdup(P_tmpdir "/zeph-test-XXXXXX");

	if (!folder || !mkdtemp(folder))
		return -1;
	*state = folder;
	unsetenv("ZEPH_SOCKET");
	setenv("XDG_RUNTIME_DIR", folder, 1);
	return 0;
}

static int remove_folder(void **state)
{
	char command[128];
	int r;

	snprintf(command, sizeof(command), "rm -rf '%s'", (char *)*state);
	r = system(command);
	free(*state);
	return r;
}

static const char *inside(void **state, const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", (char *)*state, name);
	return path;
}

static void paths_come_in_the_documented_order(void **state)
{
	char *paths[SOCKET_PATHS_MAX];

	assert_int_equal(socket_paths("/a/b", paths), 1);
	assert_string_equal(paths[0], "/a/b");
	free(paths[0]);
	setenv("ZEPH_SOCKET", "/c/d", 1);
	assert_int_equal(socket_paths("/a/b", paths), 1);
	assert_string_equal(paths[0], "/a/b");
	free(paths[0]);
	assert_int_equal(socket_paths(NULL, paths), 1);
	assert_string_equal(paths[0], "/c/d");
	free(paths[0]);
	setenv("ZEPH_SOCKET", "", 1); /* empty is unset */
	assert_int_equal(socket_paths(NULL, paths), 2);
	assert_string_equal(paths[0], inside(state, "zeph/zeph.sock"));
	assert_string_equal(paths[1], "/run/zeph/zeph.sock");
	free(paths[0]);
	free(paths[1]);
	unsetenv("ZEPH_SOCKET");
	unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(socket_paths(NULL, paths), 2);
	{
		char user[64];

		snprintf(user, sizeof(user), "/run/user/%u/zeph/zeph.sock", (unsigned)getuid());
		assert_string_equal(paths[0], user);
	}
	free(paths[0]);
	free(paths[1]);
}

static void listen_makes_the_folder_and_the_mode(void **state)
{
	const char *path = inside(state, "zeph/zeph.sock");
	const mode_t old = umask(0077);
	char failed[256];
	struct stat st;
	int lock = -1, fd, c;

	fd = socket_listen(path, 0660, &lock);
	umask(old);
	assert_true(fd >= 0);
	assert_true(lock >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(stat(inside(state, "zeph"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(lock, F_GETFD) & FD_CLOEXEC);
	c = socket_connect(NULL, 1000000, failed, sizeof(failed)); /* by XDG_RUNTIME_DIR */
	assert_true(c >= 0);
	assert_true(fcntl(c, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(c, F_GETFL) & O_NONBLOCK);
	close(c);
	close(fd);
	close(lock);
}

static void one_daemon_per_path_and_a_dead_socket_is_replaced(void **state)
{
	const char *path = inside(state, "one.sock");
	int lock = -1, lock2 = -1, fd, fd2;
	struct stat before, after;

	fd = socket_listen(path, 0600, &lock);
	assert_true(fd >= 0);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(socket_listen(path, 0600, &lock2), -EADDRINUSE);
	assert_int_equal(lock2, -1);
	close(lock); /* the lock is gone, the listener lives: still never unlinked */
	assert_int_equal(socket_listen(path, 0600, &lock2), -EADDRINUSE);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	close(fd); /* dead now, its file stays */
	assert_int_equal(stat(path, &after), 0);
	fd2 = socket_listen(path, 0600, &lock2);
	assert_true(fd2 >= 0);
	close(fd2);
	close(lock2);
}

static void what_is_no_socket_is_left_alone(void **state)
{
	const char *path = inside(state, "file");
	const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	struct stat st;
	int lock;

	close(fd);
	assert_int_equal(socket_listen(path, 0600, &lock), -EEXIST);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(socket_listen(inside(state, "no/such/folder"), 0600, &lock), -ENOENT);
}

static void a_symlinked_lock_is_refused(void **state)
{
	char link_path[300];
	int lock;

	snprintf(link_path, sizeof(link_path), "%s.lock", inside(state, "linked"));
	assert_int_equal(symlink("/dev/null", link_path), 0);
	assert_int_equal(socket_listen(inside(state, "linked"), 0600, &lock), -ELOOP);
}

static void paths_at_the_length_that_fits(void **state)
{
	const size_t fits = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
	char path[256], text[512];
	int lock, fd;

	snprintf(path, sizeof(path), "%s/", (char *)*state);
	memset(path + strlen(path), 'p', fits + 1 - strlen(path));
	path[fits + 1] = 0;
	assert_int_equal(socket_listen(path, 0600, &lock), -ENAMETOOLONG);
	assert_int_equal(socket_connect(path, 1000, text, sizeof(text)), -ENAMETOOLONG);
	assert_string_equal(text, path);
	socket_error(-ENAMETOOLONG, path, text, sizeof(text));
	assert_non_null(strstr(text, "has 108 bytes, at most 107 fit"));
	path[fits] = 0;
	fd = socket_listen(path, 0600, &lock);
	assert_true(fd >= 0);
	close(fd);
	close(lock);
}

static void a_given_path_is_the_only_one(void **state)
{
	char failed[256];

	assert_int_equal(
		socket_connect(inside(state, "none"), 1000, failed, sizeof(failed)), -ENOENT);
	assert_string_equal(failed, inside(state, "none"));
}

static void a_dead_socket_is_told_apart_from_none(void **state)
{
	const char *path = inside(state, "dead.sock");
	char failed[256];
	int lock, fd;

	fd = socket_listen(path, 0600, &lock);
	assert_true(fd >= 0);
	close(fd);
	close(lock);
	assert_int_equal(socket_connect(path, 1000, failed, sizeof(failed)), -ECONNREFUSED);
	assert_string_equal(failed, path);
}

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* A listener that never accepts, whose queue of one is filled. */
static void a_full_queue_is_tried_again_until_the_timeout(void **state)
{
	const char *path = inside(state, "full.sock");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fds[8], n = 0, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;
	char failed[256];
	uint64_t began;

	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	while (n < 8 && (r = socket_connect(path, 0, failed, sizeof(failed))) >= 0)
		fds[n++] = r;
	assert_int_equal(r, -EAGAIN);
	began = now_usec();
	assert_int_equal(socket_connect(path, 120000, failed, sizeof(failed)), -EAGAIN);
	assert_true(now_usec() - began >= 120000);
	if (fork() == 0) { /* a place is free after a while */
		usleep(50000);
		_exit(accept(fd, NULL, NULL) < 0);
	}
	r = socket_connect(path, 5000000, failed, sizeof(failed));
	assert_true(r >= 0);
	close(r);
	while (n > 0)
		close(fds[--n]);
	close(fd);
}

int main(void)
{
#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
	const struct CMUnitTest tests[] = {
		IN_FOLDER(paths_come_in_the_documented_order),
		IN_FOLDER(listen_makes_the_folder_and_the_mode),
		IN_FOLDER(one_daemon_per_path_and_a_dead_socket_is_replaced),
		IN_FOLDER(what_is_no_socket_is_left_alone),
		IN_FOLDER(a_symlinked_lock_is_refused),
		IN_FOLDER(paths_at_the_length_that_fits),
		IN_FOLDER(a_given_path_is_the_only_one),
		IN_FOLDER(a_dead_socket_is_told_apart_from_none),
		IN_FOLDER(a_full_queue_is_tried_again_until_the_timeout),
	};

	return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
