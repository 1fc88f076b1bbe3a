/* Packed weights into their file, and the folder kept tidy. A writer holds a lock on the new file
 * until it has its name: who finds none leaves it alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/packed_file.h"
#include "engine/source.h"

#define BEHIND ((uint64_t)4 * PACKED_PIECE) /* bytes that may be on their way to the disk */

/* ---- what there is to keep ---- */

struct plan {
	const struct weights *w;
	struct packed_head head;
	struct packed_entry *entries; /* [head.n_tensors] */
	const void **data;            /* [head.n_tensors] */
};

static void plan_tensor(struct plan *p, const struct source_tensor *t, const struct weight *weight)
{
	const struct backend_ops *ops = p->w->backends[0]->ops;
	struct packed_entry *e = &p->entries[p->head.n_tensors];

	if (!t || t->n_dims < 2)
		return;
	memcpy(e->name, t->name.text, t->name.len); /* weights_load() has measured it */
	e->dtype = model_loaded_type(p->w->model, t);
	e->rows = (uint32_t)t->dims[1];
	e->cols = (uint32_t)t->dims[0];
	e->bytes = ops->weight_bytes(weight);
	p->data[p->head.n_tensors++] = ops->weight_data(weight);
}

static void plan_all(struct plan *p)
{
	const struct model *m = p->w->model;
	const struct model_source *s = m->source;
	uint64_t at;

	plan_tensor(p, s->fixed[TENSOR_EMBED], p->w->embed);
	for (uint32_t i = 0; i < m->config.n_layers; i++)
		for (unsigned k = 0; k < LAYER_TENSORS; k++)
			plan_tensor(p, source_layer_tensor(s, i, (enum layer_tensor)k),
				*weights_of_layer(&p->w->layers[i], (enum layer_tensor)k));
	if (!m->config.tied)
		plan_tensor(p, s->fixed[TENSOR_OUTPUT], p->w->output);

	at = sizeof(p->head) + p->head.n_tensors * sizeof(*p->entries);
	at = (at + PACKED_ALIGN - 1) / PACKED_ALIGN * PACKED_ALIGN;
	for (uint32_t i = 0; i < p->head.n_tensors; i++) {
		p->entries[i].offset = at;
		at += (p->entries[i].bytes + 63) / 64 * 64;
	}
	p->head.bytes = (at + PACKED_ALIGN - 1) / PACKED_ALIGN * PACKED_ALIGN;
}

static void plan_done(struct plan *p)
{
	free(p->entries);
	free(p->data);
}

static int plan(const struct packed_place *place, const struct weights *w, struct plan *ret)
{
	const size_t most = (size_t)w->model->config.n_layers * LAYER_TENSORS + MODEL_TENSORS;
	const char *layout = w->backends[0]->ops->weight_layout(w->backends[0]);
	struct plan p = {.w = w};
	int r = -ENOMEM;

	p.entries = calloc(most, sizeof(*p.entries));
	p.data = calloc(most, sizeof(*p.data));
	memcpy(p.head.magic, PACKED_MAGIC, sizeof(p.head.magic));
	p.head.version = PACKED_VERSION;
	p.head.key = place->key;
	snprintf(p.head.layout, sizeof(p.head.layout), "%s", layout);
	snprintf(p.head.mix, sizeof(p.head.mix), "%s",
		w->model->quantize ? w->model->quantize->name : "");
	snprintf(p.head.model, sizeof(p.head.model), "%s", place->model);
	if (p.entries && p.data) {
		plan_all(&p);
		r = packed_digest(&p.head, p.entries, p.head.digest);
	}
	if (r < 0) {
		plan_done(&p);
		return r;
	}
	*ret = p;
	return 0;
}

/* ---- into a file ---- */

struct writer {
	int fd;
	uint8_t *piece; /* [PACKED_PIECE] */
	size_t n;       /* bytes in it */
	uint64_t at;    /* bytes before it */
	const _Atomic bool *stop;
};

static int flush(struct writer *w)
{
	size_t done = 0;

	while (done < w->n) {
		ssize_t n;

		if (w->stop && *w->stop)
			return -ECANCELED;
		n = pwrite(w->fd, w->piece + done, w->n - done, (off_t)(w->at + done));
		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	/* Sent on its way, and what was sent some pieces ago waited for: so little is left to
	 * fsync(), which nobody can stop. */
	(void)sync_file_range(w->fd, (off_t)w->at, (off_t)w->n, SYNC_FILE_RANGE_WRITE);
	if (w->at >= BEHIND)
		(void)sync_file_range(w->fd, (off_t)(w->at - BEHIND), (off_t)PACKED_PIECE,
			SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
				SYNC_FILE_RANGE_WAIT_AFTER);
	w->at += w->n;
	w->n = 0;
	return 0;
}

static int put(struct writer *w, const void *data, size_t bytes)
{
	const uint8_t *from = data;

	while (bytes > 0) {
		size_t n = PACKED_PIECE - w->n;
		int r;

		n = n < bytes ? n : bytes;
		memcpy(w->piece + w->n, from, n);
		w->n += n;
		from += n;
		bytes -= n;
		r = w->n == PACKED_PIECE ? flush(w) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Zeros up to that offset, which is less than a huge page away. */
static int pad(struct writer *w, uint64_t offset)
{
	static const uint8_t zeros[4096];
	int r = 0;

	while (r == 0 && w->at + w->n < offset) {
		uint64_t n = offset - (w->at + w->n);

		r = put(w, zeros, n < sizeof(zeros) ? n : sizeof(zeros));
	}
	return r;
}

static int write_all(struct writer *w, const struct plan *p)
{
	const uint32_t n = p->head.n_tensors;
	int r;

	r = put(w, &p->head, sizeof(p->head));
	if (r == 0)
		r = put(w, p->entries, n * sizeof(*p->entries));
	for (uint32_t i = 0; i < n && r == 0; i++) {
		r = pad(w, p->entries[i].offset);
		if (r == 0)
			r = put(w, p->data[i], p->entries[i].bytes);
	}
	if (r == 0)
		r = pad(w, p->head.bytes);
	if (r == 0)
		r = flush(w);
	return r;
}

static int write_file(int fd, const struct plan *p, const _Atomic bool *stop)
{
	struct writer w = {.fd = fd, .stop = stop};
	int r;

	w.piece = aligned_alloc(PACKED_ALIGN, PACKED_PIECE);
	if (!w.piece)
		return -ENOMEM;
	r = write_all(&w, p);
	free(w.piece);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

/* Is it still this file that has the name? */
static bool still_named(int folder, const char *name, int fd)
{
	struct stat ours, there;

	return fstat(fd, &ours) == 0 && fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

/* The new file, empty and locked. */
static int open_new(int folder, const char *name, int *ret_fd)
{
	int fd = openat(folder, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
	else if (!still_named(folder, name, fd))
		r = -EBUSY; /* another has given it its name meanwhile */
	else if (ftruncate(fd, 0) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int room_for(int folder, uint64_t bytes, char *error, size_t error_size)
{
	struct statvfs fs;
	uint64_t there;

	if (fstatvfs(folder, &fs) < 0)
		return -errno;
	there = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (there / 2 >= bytes)
		return 0;
	snprintf(error, error_size,
		"%.2f GB wanted, and as much to stay free; the file system has %.2f GB",
		(double)bytes * 1e-9, (double)there * 1e-9);
	return -ENOSPC;
}

static int write_in(int folder, const char *name, const struct plan *p, const _Atomic bool *stop)
{
	char temporary[128];
	int fd = -1, r;

	snprintf(temporary, sizeof(temporary), "%s" PACKED_NEW, name);
	r = open_new(folder, temporary, &fd);
	if (r < 0)
		return r;
	r = write_file(fd, p, stop);
	if (r == 0 && renameat(folder, temporary, folder, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(folder, temporary, 0);
	close(fd);
	if (r == 0)
		(void)fsync(folder); /* lost, it is only written again */
	return r;
}

int packed_write(const struct packed_place *place, const struct weights *w,
	const _Atomic bool *stop, uint64_t *ret_bytes, char *error, size_t error_size)
{
	struct plan p = {};
	char name[96];
	int folder, r;

	error[0] = 0;
	r = packed_open_folder(place->folder, &folder);
	if (r < 0) {
		snprintf(error, error_size, "%s", strerror(-r));
		return r;
	}
	packed_name(place, w->model, name);
	r = plan(place, w, &p);
	if (r == 0)
		r = room_for(folder, p.head.bytes, error, error_size);
	if (r == 0)
		r = write_in(folder, name, &p, stop);
	close(folder);
	if (r == 0)
		*ret_bytes = p.head.bytes;
	else if (!error[0])
		snprintf(error, error_size, "%s", strerror(-r));
	plan_done(&p);
	return r;
}

/* Does this kernel map the folder's files on huge pages? A small one tells. */
static bool maps_huge(const char *folder)
{
	const size_t bytes = 2 * PACKED_ALIGN;
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	uint8_t *zeros = fd < 0 ? NULL : aligned_alloc(PACKED_ALIGN, bytes), *map = NULL;

	if (zeros) {
		memset(zeros, 0, bytes);
		if (pwrite(fd, zeros, bytes, 0) == (ssize_t)bytes &&
			packed_map_huge(fd, bytes, NULL, 0, &map) == 0)
			munmap(map, bytes);
	}
	free(zeros);
	if (fd >= 0)
		close(fd);
	return map != NULL;
}

bool packed_wanted(const struct packed_place *place, const struct weights *w)
{
	return place->folder && file_key_known(&place->key) && w->n_backends == 1 && !w->packed &&
	       w->backends[0]->ops->weight_layout && w->bytes >= PACKED_MIN_BYTES &&
	       strlen(place->model) < PATH_MAX && (w->model->quantize || maps_huge(place->folder));
}

/* ---- tidiness ---- */

static bool ends_in(const char *name, const char *end)
{
	size_t n = strlen(name), k = strlen(end);

	return n > k && strcmp(name + n - k, end) == 0;
}

/* Damaged, or of a model that is gone or has changed; not where that cannot be told. */
static bool useless(int fd)
{
	struct packed_head head;
	struct file_key now;
	int r = packed_read_head(fd, &head, NULL);

	if (r < 0)
		return r == -EBADMSG;
	now = file_key_of(head.model);
	if (!file_key_known(&now))
		return errno == ENOENT || errno == ENOTDIR;
	return !file_key_same(&now, &head.key);
}

static void sweep_one(int folder, const char *name)
{
	bool unfinished = ends_in(name, PACKED_SUFFIX PACKED_NEW), gone;
	int fd;

	if (!unfinished && !ends_in(name, PACKED_SUFFIX))
		return;
	fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return;
	gone = unfinished ? flock(fd, LOCK_EX | LOCK_NB) == 0 : useless(fd);
	if (gone && still_named(folder, name, fd))
		unlinkat(folder, name, 0);
	close(fd);
}

void packed_sweep(const char *path)
{
	struct dirent *e;
	int folder;
	DIR *d;

	if (packed_open_folder(path, &folder) < 0)
		return;
	d = fdopendir(folder);
	if (!d) {
		close(folder);
		return;
	}
	while ((e = readdir(d)))
		sweep_one(folder, e->d_name);
	closedir(d);
}
