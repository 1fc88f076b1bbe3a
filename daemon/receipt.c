/* The model's content hash, off the paths that anybody waits for. The cache is a file per model
 * file under the cache directory: size and times, then the hash; a wrong or missing one only costs
 * the time to compute it again. */
#include "daemon/receipt.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/cache.h"

#define STRINGIFY(x) #x
#define TEXT(x)      STRINGIFY(x)

const char *receipt_build(void)
{
#if defined(__clang__)
	return "zephd " ZEPH_VERSION ", clang " TEXT(__clang_major__) "." TEXT(__clang_minor__);
#else
	return "zephd " ZEPH_VERSION ", gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__);
#endif
}

struct model_hasher {
	pthread_t thread;
	const struct model *model;
	struct file_key key;
	uint32_t threads;
	_Atomic bool stop;
	int done_fd; /* eventfd, written when hash is there */
	char hash[65];
};

static char *cache_file(const struct file_key *key)
{
	char *folder = key->ino ? cache_folder("hashes") : NULL, *path = NULL;

	if (folder && asprintf(&path, "%s/%" PRIx64 "-%" PRIu64, folder, key->dev, key->ino) < 0)
		path = NULL;
	free(folder);
	return path;
}

/* The line that a cache file holds. */
static void cache_line(const struct file_key *key, const char *hash, char line[160])
{
	snprintf(line, 160, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", key->size, key->mtime_nsec,
		key->ctime_nsec, hash);
}

static bool cache_read(const char *path, const struct file_key *key, char ret_hash[65])
{
	char line[160], wanted[160], hash[65];
	bool found = false;
	FILE *f = fopen(path, "re");

	if (!f)
		return false;
	if (fgets(line, sizeof(line), f) && strlen(line) > 65) {
		snprintf(hash, sizeof(hash), "%s", line + strlen(line) - 65);
		cache_line(key, hash, wanted);
		found = !strcmp(line, wanted) && strspn(hash, "0123456789abcdef") == 64;
		if (found)
			memcpy(ret_hash, hash, sizeof(hash));
	}
	fclose(f);
	return found;
}

/* Whole or not at all: a reader never sees half a line. */
static void cache_write(const char *path, const struct file_key *key, const char *hash)
{
	char line[160], *temporary = NULL;
	int fd;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return;
	cache_line(key, hash, line);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd >= 0) {
		size_t len = strlen(line);
		bool good = write(fd, line, len) == (ssize_t)len;
		good &= close(fd) == 0;
		if (!good || rename(temporary, path) < 0)
			unlink(temporary);
	}
	free(temporary);
}

static void *hasher_main(void *userdata)
{
	struct model_hasher *h = userdata;
	char *path = cache_file(&h->key);
	uint64_t one = 1;

	/* On Linux a nice value belongs to the thread and to those that it starts. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	if (!path || !cache_read(path, &h->key, h->hash)) {
		if (model_hash(h->model, h->threads, &h->stop, h->hash) < 0)
			h->hash[0] = 0;
		else if (path)
			cache_write(path, &h->key, h->hash);
	}
	free(path);
	ssize_t n = write(h->done_fd, &one, sizeof(one));
	assert(n == sizeof(one)); /* the counter was 0 */
	return NULL;
}

int model_hasher_new(const struct model *m, const struct file_key *key, uint32_t threads,
	struct model_hasher **ret)
{
	struct model_hasher *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return -ENOMEM;
	h->model = m;
	h->key = *key;
	h->threads = threads;
	h->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = h->done_fd < 0 ? -errno : -pthread_create(&h->thread, NULL, hasher_main, h);
	if (r < 0) {
		if (h->done_fd >= 0)
			close(h->done_fd);
		free(h);
		return r;
	}
	pthread_setname_np(h->thread, "zephd-hash");
	*ret = h;
	return 0;
}

struct model_hasher *model_hasher_free(struct model_hasher *h)
{
	if (!h)
		return NULL;
	h->stop = true;
	pthread_join(h->thread, NULL);
	close(h->done_fd);
	free(h);
	return NULL;
}

int model_hasher_fd(const struct model_hasher *h)
{
	return h->done_fd;
}

const char *model_hasher_hash(const struct model_hasher *h)
{
	uint64_t count;

	return read(h->done_fd, &count, sizeof(count)) < 0 ? ""
							   : h->hash; /* not before it is written */
}
