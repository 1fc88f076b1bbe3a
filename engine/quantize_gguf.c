/* GGUF in, GGUF out: metadata byte for byte, tensors converted one at a time, so that memory holds
 * one of them and not the model. */
#include "engine/quantize_gguf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/convert.h"

#define QUANTIZATION_VERSION 2 /* of the block formats: ggml's GGML_QNT_VERSION */

struct plan {
	const struct gguf_tensor *from;
	char name[128];
	enum dtype to;
	size_t bytes;
	uint64_t offset;
};

/* Everything but what tells how the tensors are stored, and then that. */
static void write_metadata(
	struct gguf_writer *w, const struct gguf *g, const struct quantize_mix *mix)
{
	static const char *const own[] = {
		"general.file_type", "general.quantization_version", "general.alignment"};

	for (size_t i = 0; i < gguf_n_keys(g); i++) {
		const struct slice key = gguf_key_at(g, i);
		bool copy = true;

		for (size_t k = 0; k < sizeof(own) / sizeof(*own); k++)
			if (key.len == strlen(own[k]) && memcmp(key.text, own[k], key.len) == 0)
				copy = false;
		if (copy)
			gguf_write_copy(w, g, i);
	}
	gguf_write_u32(w, "general.file_type", mix->file_type);
	gguf_write_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
}

static void plan_tensors(struct gguf_writer *w, const struct model *m, const struct gguf *g,
	const struct quantize_options *o, struct plan *plans, struct quantize_result *result)
{
	const struct model_config *c = &m->config;
	const struct quantize_shape shape = {
		c->n_layers, c->attention.n_heads, c->attention.n_kv_heads, c->tied};
	struct quantize_standins standins = {0};

	for (size_t i = 0; i < gguf_n_tensors(g); i++) {
		struct plan *p = &plans[i];
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		struct quantize_source source = {.dtype = t->dtype, .cols = t->dims[0]};
		enum dtype wanted;
		size_t row_bytes = 0;
		bool ok;

		/* model_open() has accepted the name and the shape. */
		assert(t->name.len < sizeof(p->name));
		memcpy(p->name, t->name.text, t->name.len);
		p->from = t;
		source.role = quantize_role_of(p->name, &source.layer);
		p->to = quantize_mix_type(o->mix, &shape, &source, o->again, &wanted);
		quantize_standins_add(&standins, wanted, p->to, t->dims[0]);
		ok = dtype_row_bytes(p->to, t->dims[0], &row_bytes);
		assert(ok);
		p->bytes = row_bytes * t->dims[1];
		p->offset = gguf_write_tensor(w, p->name, p->to, t->n_dims, t->dims);
		result->bytes += p->bytes;
	}
	quantize_standins_say(&standins, result->standins, sizeof(result->standins));
}

static int write_tensor(struct gguf_writer *w, struct pool *pool, const struct plan *p, void *room,
	char *error, size_t error_size)
{
	const struct gguf_tensor *t = p->from;
	const struct tensor from = {
		.name = p->name,
		.dtype = t->dtype,
		.rows = (uint32_t)t->dims[1],
		.cols = (uint32_t)t->dims[0],
		.data = t->data,
		.bytes = t->bytes,
	};
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	const uintptr_t begin = ((uintptr_t)t->data + page - 1) & ~(page - 1);
	const uintptr_t end = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
	const void *bytes = t->data;
	int r = 0;

	if (p->to != t->dtype) {
		r = convert_tensor(pool, &from, p->to, room, error, error_size);
		bytes = room;
	}
	if (r < 0)
		return r;
	r = gguf_writer_data(w, p->offset, bytes, p->bytes);
	if (r < 0)
		snprintf(error, error_size, "writing tensor %s: %s", p->name, strerror(-r));
	if (begin < end)
		(void)madvise((void *)begin, end - begin, MADV_DONTNEED);
	return r;
}

static int write_tensors(struct gguf_writer *w, const struct plan *plans, size_t n,
	const struct quantize_options *o, uint64_t total, char *error, size_t error_size)
{
	struct pool *pool = NULL;
	uint64_t done = 0;
	size_t largest = 1, i;
	void *room;
	int r;

	for (i = 0; i < n; i++)
		largest = plans[i].bytes > largest ? plans[i].bytes : largest;
	room = malloc(largest);
	r = room ? pool_new(o->threads, &pool) : -ENOMEM;
	if (r < 0)
		snprintf(error, error_size, "no memory or threads to convert %zu bytes: %s",
			largest, strerror(-r));
	for (i = 0; i < n && r == 0; i++) {
		r = write_tensor(w, pool, &plans[i], room, error, error_size);
		done += plans[i].bytes;
		if (r == 0 && o->progress && o->progress(o->userdata, done, total) != 0) {
			snprintf(error, error_size, "cancelled");
			r = -ECANCELED;
		}
	}
	pool_free(pool);
	free(room);
	return r;
}

int quantize_gguf(const struct model *m, const struct gguf *g, const struct quantize_options *o,
	int fd, struct quantize_result *ret, char *error, size_t error_size)
{
	const size_t n = gguf_n_tensors(g);
	struct gguf_writer *w = gguf_writer_new();
	struct plan *plans = calloc(n, sizeof(*plans));
	struct quantize_result result = {0};
	int r = -ENOMEM;

	if (w && plans) {
		write_metadata(w, g, o->mix);
		plan_tensors(w, m, g, o, plans, &result);
		r = gguf_writer_begin(w, fd);
	}
	if (r < 0)
		snprintf(error, error_size, "writing the header: %s", strerror(-r));
	else
		r = write_tensors(w, plans, n, o, result.bytes, error, error_size);
	if (r == 0)
		*ret = result;
	free(plans);
	gguf_writer_free(w);
	return r;
}
