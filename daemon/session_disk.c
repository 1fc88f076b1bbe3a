/* What the sessions' thread does to the disk. Every folder is opened anew for each task, so that a
 * state directory that comes and goes is no special case; no symbolic link below it is followed. A
 * file that is damaged is renamed to NAME.damaged and stays for its owner's administrator. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/session_store.h"

#define SUFFIX              ".session"
#define DAMAGED             ".damaged"
#define TEMPORARY           '#'  /* no name of a session has it */
#define TEMPORARY_SECONDS   3600 /* so old, it is what a killed daemon left */
#define ROWS_MAX            65536
#define FILE_NAME_BYTES_MAX (SESSION_NAME_BYTES_MAX + 32)

static void file_name(const char *session, char name[FILE_NAME_BYTES_MAX])
{
	snprintf(name, FILE_NAME_BYTES_MAX, "%s" SUFFIX, session);
}

/* The path and the folders before it, made if missing. A descriptor or a negative errno. */
static int open_path(const char *path, bool make)
{
	char *copy = strdup(path);
	int fd;

	if (!copy)
		return -ENOMEM;
	for (char *slash = make ? strchr(copy + 1, '/') : NULL; slash;
		slash = strchr(slash + 1, '/')) {
		*slash = 0;
		(void)mkdir(copy, 0700); /* open() says what is wrong */
		*slash = '/';
	}
	if (make)
		(void)mkdir(copy, 0700);
	fd = open(copy, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	free(copy);
	return fd < 0 ? -errno : fd;
}

static int open_folder(int at, const char *name, bool make)
{
	int fd;

	if (make && mkdirat(at, name, 0700) == 0)
		(void)fsync(at);
	fd = openat(at, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* STATE/sessions. */
static int open_sessions(const char *state, bool make)
{
	int at, fd;

	if (!state)
		return -ENOENT;
	at = open_path(state, make);
	if (at < 0)
		return at;
	fd = open_folder(at, "sessions", make);
	close(at);
	return fd;
}

/* STATE/sessions/UID. */
static int open_user(const char *state, uint32_t uid, bool make)
{
	int at = open_sessions(state, make), fd;
	char name[16];

	if (at < 0)
		return at;
	snprintf(name, sizeof(name), "%u", uid);
	fd = open_folder(at, name, make);
	close(at);
	return fd;
}

/* Up to `most` bytes of a regular file; *ret is malloc'ed. 0, or a negative errno: -EBADMSG where
 * it is no such file, or larger and `whole` is wanted. */
static int read_file(
	int folder, const char *name, size_t most, bool whole, char **ret, size_t *ret_len)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	char *data = NULL;
	size_t len = 0, size;
	int r = 0;

	if (fd < 0)
		return errno == ELOOP ? -EBADMSG : -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || (whole && (uint64_t)st.st_size > most))
		r = -EBADMSG;
	if (r == 0) {
		size = (uint64_t)st.st_size < most ? (size_t)st.st_size : most;
		data = malloc(size + 1);
		if (!data)
			r = -ENOMEM;
		while (r == 0 && len < size) {
			ssize_t n = read(fd, data + len, size - len);

			if (n < 0 && errno != EINTR)
				r = -errno;
			else if (n == 0)
				break; /* it has shrunk: the digest will not fit */
			else if (n > 0)
				len += (size_t)n;
		}
	}
	close(fd);
	if (r < 0) {
		free(data);
		return r;
	}
	*ret = data;
	*ret_len = len;
	return 0;
}

static void set_aside(int folder, const char *name, struct store_task *t)
{
	char aside[FILE_NAME_BYTES_MAX + sizeof(DAMAGED)];

	snprintf(aside, sizeof(aside), "%s" DAMAGED, name);
	(void)renameat(folder, name, folder, aside);
	t->damaged++;
}

/* A session's name from its file's; false for other files. */
static bool session_of(const char *file, char name[SESSION_NAME_BYTES_MAX + 1])
{
	size_t len = strlen(file), suffix = strlen(SUFFIX);

	if (len <= suffix || strcmp(file + len - suffix, SUFFIX) != 0 ||
		!session_name_valid(file, len - suffix))
		return false;
	memcpy(name, file, len - suffix);
	name[len - suffix] = 0;
	return true;
}

static int scan_file(int folder, const char *file, struct store_task *t)
{
	char name[SESSION_NAME_BYTES_MAX + 1], *head;
	struct session_row row = {}, *rows;
	size_t len;
	int r;

	if (!session_of(file, name))
		return 0;
	r = read_file(folder, file, SESSION_HEAD_BYTES_MAX, false, &head, &len);
	if (r == 0) {
		r = session_file_head(head, len, &row);
		if (r == 0 && strcmp(row.name, name) != 0)
			r = -EBADMSG;
		free(head);
	}
	if (r == -EBADMSG)
		set_aside(folder, file, t);
	if (r < 0) /* one that cannot be read is not there; reading it says why */
		return r == -ENOMEM ? r : 0;
	if (t->n >= ROWS_MAX)
		return -E2BIG;
	if ((t->n & (t->n - 1)) == 0) { /* full: a power of two, or none yet */
		rows = reallocarray(t->rows, t->n ? t->n * 2 : 1, sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		t->rows = rows;
	}
	t->rows[t->n++] = row;
	return 0;
}

/* What was used last comes first. */
static int compare_rows(const void *a, const void *b)
{
	const struct session_row *one = a, *two = b;

	if (one->used_at != two->used_at)
		return one->used_at > two->used_at ? -1 : 1;
	return strcmp(one->name, two->name);
}

static int scan(const char *state, struct store_task *t)
{
	int folder = open_user(state, t->uid, false), r = 0;
	struct dirent *e;
	DIR *d;

	if (folder < 0)
		return folder == -ENOENT || folder == -ENOTDIR ? 0 : folder;
	d = fdopendir(folder);
	if (!d) {
		r = -errno;
		close(folder);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(d)))
		r = scan_file(folder, e->d_name, t);
	if (r == 0 && errno)
		r = -errno;
	closedir(d);
	if (t->n > 1)
		qsort(t->rows, t->n, sizeof(*t->rows), compare_rows);
	return r;
}

static int load(const char *state, struct store_task *t)
{
	int folder = open_user(state, t->uid, false), r;
	char name[FILE_NAME_BYTES_MAX], *data;
	struct session_row row;
	size_t len;

	if (folder < 0)
		return folder;
	file_name(t->row.name, name);
	r = read_file(folder, name, SESSION_FILE_BYTES_MAX, true, &data, &len);
	if (r == 0) {
		r = session_file_read(data, len, &row, &t->history);
		if (r == 0 && strcmp(row.name, t->row.name) != 0) {
			history_done(&t->history);
			r = -EBADMSG;
		}
		free(data);
	}
	if (r == -EBADMSG)
		set_aside(folder, name, t);
	if (r == 0)
		t->row = row;
	close(folder);
	return r;
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		data += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

/* A new file under a name that no session has. A descriptor or a negative errno. */
static int open_temporary(int folder, char name[FILE_NAME_BYTES_MAX])
{
	uint64_t random;
	int fd;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	snprintf(name, FILE_NAME_BYTES_MAX, "%c%016llx", TEMPORARY, (unsigned long long)random);
	fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

static int save(const char *state, struct store_task *t)
{
	char name[FILE_NAME_BYTES_MAX], temporary[FILE_NAME_BYTES_MAX];
	int folder, fd, r;
	msgpack_sbuffer out;

	msgpack_sbuffer_init(&out);
	r = session_file_write(&t->row, &t->history, &out);
	folder = r == 0 ? open_user(state, t->uid, true) : r;
	if (folder < 0) {
		msgpack_sbuffer_destroy(&out);
		return folder;
	}
	file_name(t->row.name, name);
	fd = open_temporary(folder, temporary);
	r = fd < 0 ? fd : 0;
	if (r == 0) {
		r = write_all(fd, out.data, out.size);
		if (close(fd) < 0 && r == 0)
			r = -errno;
		if (r == 0 && renameat(folder, temporary, folder, name) < 0)
			r = -errno;
		if (r < 0)
			(void)unlinkat(folder, temporary, 0);
		else if (fsync(folder) < 0)
			r = -errno;
	}
	close(folder);
	msgpack_sbuffer_destroy(&out);
	return r;
}

static int drop(const char *state, struct store_task *t)
{
	int folder = open_user(state, t->uid, false), r = 0;
	char name[FILE_NAME_BYTES_MAX];

	if (folder < 0)
		return folder == -ENOENT ? 0 : folder;
	file_name(t->row.name, name);
	if (faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		r = 0; /* a read-only disk would refuse that, too */
	else if (unlinkat(folder, name, 0) < 0)
		r = errno == ENOENT ? 0 : -errno;
	else if (fsync(folder) < 0)
		r = -errno;
	close(folder);
	return r;
}

/* Removes the old ones of one uid. */
static void sweep_user(int sessions, const char *uid, struct store_task *t)
{
	int folder = open_folder(sessions, uid, false);
	int64_t now = time(NULL);
	struct dirent *e;
	struct stat st;
	DIR *d;

	if (folder < 0)
		return;
	d = fdopendir(folder);
	if (!d) {
		close(folder);
		return;
	}
	while ((e = readdir(d))) {
		char name[SESSION_NAME_BYTES_MAX + 1];
		size_t len = strlen(e->d_name), end = strlen(DAMAGED);
		bool session = session_of(e->d_name, name);
		bool ours = session || (len > end && !strcmp(e->d_name + len - end, DAMAGED));

		if (fstatat(folder, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		if ((ours && st.st_mtime < t->before) ||
			(e->d_name[0] == TEMPORARY && st.st_mtime < now - TEMPORARY_SECONDS))
			t->n += unlinkat(folder, e->d_name, 0) == 0 && session;
	}
	closedir(d);
	(void)unlinkat(sessions, uid, AT_REMOVEDIR); /* where it is empty now */
}

static int sweep(const char *state, struct store_task *t)
{
	int sessions = open_sessions(state, false);
	struct dirent *e;
	DIR *d;

	if (sessions < 0)
		return sessions == -ENOENT ? 0 : sessions;
	d = fdopendir(sessions);
	if (!d) {
		close(sessions);
		return -errno;
	}
	while ((e = readdir(d)))
		if (strspn(e->d_name, "0123456789") == strlen(e->d_name))
			sweep_user(sessions, e->d_name, t);
	closedir(d);
	return 0;
}

void session_store_run(const char *state, struct store_task *t)
{
	switch (t->kind) {
	case STORE_SCAN: t->error = scan(state, t); break;
	case STORE_LOAD: t->error = load(state, t); break;
	case STORE_SAVE: t->error = save(state, t); break;
	case STORE_DROP: t->error = drop(state, t); break;
	case STORE_SWEEP: t->error = sweep(state, t); break;
	}
}
