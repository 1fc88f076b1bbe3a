/* A GGUF writer for the models that zeph makes itself.
 *
 * Source: the GGUF specification, version 3. struct gguf_writer owns two growing byte strings, the
 * key-value section and the tensor list; the file descriptor stays the caller's. */
#include "engine/gguf_write.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGNMENT 32

struct bytes {
	uint8_t *at;
	size_t n, room;
};

struct gguf_writer {
	struct bytes keys, tensors;
	uint64_t n_keys, n_tensors;
	uint64_t data_bytes; /* of all announced tensors, padded */
	uint64_t data_start; /* in the file; known after begin */
	int fd;
	int failure; /* sticky: 0 or a negative errno */
};

struct gguf_writer *gguf_writer_new(void)
{
	struct gguf_writer *w = calloc(1, sizeof(*w));

	if (w)
		w->fd = -1;
	return w;
}

struct gguf_writer *gguf_writer_free(struct gguf_writer *w)
{
	if (!w)
		return NULL;
	free(w->keys.at);
	free(w->tensors.at);
	free(w);
	return NULL;
}

static void add(struct gguf_writer *w, struct bytes *b, const void *p, size_t n)
{
	size_t need, room;
	void *grown;

	if (w->failure < 0)
		return;
	if (__builtin_add_overflow(b->n, n, &need) || need > SIZE_MAX / 2) {
		w->failure = -EOVERFLOW;
		return;
	}
	if (need > b->room) {
		room = need > 4096 ? 2 * need : 4096;
		grown = realloc(b->at, room);
		if (!grown) {
			w->failure = -ENOMEM;
			return;
		}
		b->at = grown;
		b->room = room;
	}
	if (n > 0)
		memcpy(b->at + b->n, p, n);
	b->n = need;
}

static void add_u32(struct gguf_writer *w, struct bytes *b, uint32_t v)
{
	add(w, b, &v, sizeof(v));
}

static void add_u64(struct gguf_writer *w, struct bytes *b, uint64_t v)
{
	add(w, b, &v, sizeof(v));
}

static void add_string(struct gguf_writer *w, struct bytes *b, const char *text, size_t len)
{
	add_u64(w, b, len);
	add(w, b, text, len);
}

static void begin_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
	assert(w->fd < 0);
	add_string(w, &w->keys, key, strlen(key));
	add_u32(w, &w->keys, (uint32_t)type);
	w->n_keys++;
}

void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
	begin_key(w, key, GGUF_U32);
	add_u32(w, &w->keys, v);
}

void gguf_write_f32(struct gguf_writer *w, const char *key, float v)
{
	begin_key(w, key, GGUF_F32);
	add(w, &w->keys, &v, sizeof(v));
}

void gguf_write_bool(struct gguf_writer *w, const char *key, bool v)
{
	const uint8_t byte = v;

	begin_key(w, key, GGUF_BOOL);
	add(w, &w->keys, &byte, 1);
}

void gguf_write_string(struct gguf_writer *w, const char *key, const char *text, size_t len)
{
	begin_key(w, key, GGUF_STRING);
	add_string(w, &w->keys, text, len);
}

static void begin_array(struct gguf_writer *w, const char *key, enum gguf_type element, size_t n)
{
	begin_key(w, key, GGUF_ARRAY);
	add_u32(w, &w->keys, (uint32_t)element);
	add_u64(w, &w->keys, n);
}

void gguf_write_strings(struct gguf_writer *w, const char *key, const struct slice *v, size_t n)
{
	size_t i;

	begin_array(w, key, GGUF_STRING, n);
	for (i = 0; i < n; i++)
		add_string(w, &w->keys, v[i].text, v[i].len);
}

void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
	begin_array(w, key, GGUF_I32, n);
	add(w, &w->keys, v, n * sizeof(*v));
}

void gguf_write_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
	begin_array(w, key, GGUF_F32, n);
	add(w, &w->keys, v, n * sizeof(*v));
}

void gguf_write_copy(struct gguf_writer *w, const struct gguf *g, size_t i)
{
	size_t n;
	const void *bytes = gguf_key_bytes(g, i, &n);

	assert(w->fd < 0);
	add(w, &w->keys, bytes, n);
	w->n_keys++;
}

static uint64_t padded(uint64_t n)
{
	return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

uint64_t gguf_write_tensor(struct gguf_writer *w, const char *name, enum dtype dtype,
	uint32_t n_dims, const uint64_t *dims)
{
	const uint64_t offset = w->data_bytes;
	size_t bytes;
	uint32_t d;
	bool ok;

	assert(w->fd < 0 && n_dims >= 1 && n_dims <= 4);
	ok = dtype_row_bytes(dtype, dims[0], &bytes);
	assert(ok);
	add_string(w, &w->tensors, name, strlen(name));
	add_u32(w, &w->tensors, n_dims);
	for (d = 0; d < n_dims; d++) {
		add_u64(w, &w->tensors, dims[d]);
		if (d > 0 && __builtin_mul_overflow(bytes, dims[d], &bytes))
			ok = false;
	}
	add_u32(w, &w->tensors, (uint32_t)dtype);
	add_u64(w, &w->tensors, offset);
	w->n_tensors++;
	if (!ok || bytes > (uint64_t)INT64_MAX / 2 - offset)
		w->failure = -EFBIG;
	else
		w->data_bytes = padded(offset + bytes);
	return offset;
}

static int write_at(int fd, const void *bytes, size_t n, uint64_t offset)
{
	const uint8_t *p = bytes;
	ssize_t r;

	for (; n > 0; p += r, n -= (size_t)r, offset += (uint64_t)r) {
		r = pwrite(fd, p, n, (off_t)offset);
		if (r < 0 && errno == EINTR)
			r = 0;
		else if (r < 0)
			return -errno;
	}
	return 0;
}

int gguf_writer_begin(struct gguf_writer *w, int fd)
{
	struct bytes head = {0};
	uint64_t at;
	int r;

	assert(w->fd < 0 && fd >= 0);
	add(w, &head, "GGUF", 4);
	add_u32(w, &head, 3);
	add_u64(w, &head, w->n_tensors);
	add_u64(w, &head, w->n_keys);
	at = head.n + w->keys.n + w->tensors.n;
	w->data_start = padded(at);
	r = w->failure;
	if (r == 0 && ftruncate(fd, (off_t)(w->data_start + w->data_bytes)) < 0)
		r = -errno;
	if (r == 0)
		r = write_at(fd, head.at, head.n, 0);
	if (r == 0)
		r = write_at(fd, w->keys.at, w->keys.n, head.n);
	if (r == 0)
		r = write_at(fd, w->tensors.at, w->tensors.n, head.n + w->keys.n);
	free(head.at);
	if (r == 0)
		w->fd = fd;
	return r;
}

int gguf_writer_data(
	const struct gguf_writer *w, uint64_t offset, const void *bytes, size_t n_bytes)
{
	assert(w->fd >= 0 && offset <= w->data_bytes && n_bytes <= w->data_bytes - offset);
	return write_at(w->fd, bytes, n_bytes, w->data_start + offset);
}
