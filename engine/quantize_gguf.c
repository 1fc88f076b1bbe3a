/* A model in, a GGUF out: tensors converted one at a time, so that memory holds one of them and not
 * the model. A GGUF's metadata is copied byte for byte; a directory's is put in a GGUF's words
 * (gguf_model.c), its tensors get a GGUF's names, and the rows of the queries and keys, which stand
 * in halves of a head there, stand in pairs here.
 *
 * struct work owns the plans and the rooms; the sources' bytes are the model's. */
#include "engine/quantize_gguf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/convert.h"
#include "engine/gguf_model.h"
#include "engine/source_gguf.h"

struct plan {
	const struct source_tensor *from;
	char name[128];
	enum dtype to;
	size_t bytes;
	uint64_t offset;
	bool halves; /* of each head's rows: to be interleaved */
};

struct work {
	const struct model *m;
	const struct quantize_options *o;
	struct gguf_writer *w;
	struct pool *pool;
	struct plan *plans; /* [n] */
	size_t n;
	uint64_t total_bytes;
	struct quantize_standins standins;
	struct source_tensor rope; /* Llama 3's divisors */
	void *room, *turned;       /* a converted tensor; one with its rows in pairs */
	struct model_refusal why;
};

/* ---- metadata ---- */

/* Everything but what tells how the tensors are stored, and then that. */
static void copy_metadata(const struct work *k)
{
	static const char *const own[] = {
		"general.file_type", "general.quantization_version", "general.alignment"};
	const struct gguf *g = k->m->source->gguf;

	for (size_t i = 0; i < gguf_n_keys(g); i++) {
		const struct slice key = gguf_key_at(g, i);
		bool copy = true;

		for (size_t n = 0; n < sizeof(own) / sizeof(*own); n++)
			if (key.len == strlen(own[n]) && memcmp(key.text, own[n], key.len) == 0)
				copy = false;
		if (copy)
			gguf_write_copy(k->w, g, i);
	}
	gguf_write_storage(k->w, k->o->mix);
}

/* What ends a reply: GGUF has three keys, of which the tokenizer's own eos has had the first, and
 * makes their tokens control. */
static int write_end_ids(const struct work *k)
{
	static const char *const keys[] = {"tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
	const struct model_source *s = k->m->source;
	const int32_t eos = s->tokenizer.n > 0 ? s->tokenizer.eos : -1;
	size_t n = eos >= 0;

	for (uint32_t i = 0; i < s->n_end_ids; i++) {
		const int32_t id = s->end_ids[i];

		if (id == eos)
			continue;
		if (n == sizeof(keys) / sizeof(*keys))
			return model_refuse(&k->why, -ENOTSUP,
				"eos_token_id: %u tokens end a reply; GGUF has keys for three",
				s->n_end_ids);
		if ((uint32_t)id < s->tokenizer.n && s->tokenizer.tokens[id].kind != TOKEN_CONTROL)
			return model_refuse(&k->why, -ENOTSUP,
				"eos_token_id: token %d is an ordinary one, which could not be "
				"text in a GGUF if it ended a reply",
				id);
		gguf_write_u32(k->w, keys[n++], (uint32_t)id);
	}
	return 0;
}

static int write_metadata(const struct work *k)
{
	const struct model_source *s = k->m->source;
	int r;

	if (s->gguf) {
		copy_metadata(k);
		return 0;
	}
	r = gguf_write_config(k->w, &k->m->config, k->o->mix, &k->why);
	if (r == 0)
		r = gguf_write_tokenizer(k->w, &s->tokenizer, k->m->config.vocab, &k->why);
	if (r == 0)
		r = write_end_ids(k);
	gguf_write_defaults(k->w, &k->m->defaults);
	if (s->chat_template.len > 0)
		gguf_write_string(k->w, "tokenizer.chat_template", s->chat_template.text,
			s->chat_template.len);
	return r;
}

/* ---- which tensors there will be ---- */

/* The plan's name and tensor stand; vectors of a directory become f32. */
static void plan_tensor(struct work *k)
{
	const struct model_config *c = &k->m->config;
	const struct quantize_shape shape = {
		c->n_layers, c->attention.n_heads, c->attention.n_kv_heads, c->tied};
	struct plan *p = &k->plans[k->n++];
	const struct source_tensor *t = p->from;
	struct quantize_source source = {.dtype = t->dtype, .cols = t->dims[0]};
	uint32_t n_dims = t->n_dims;
	enum dtype wanted;
	size_t row_bytes = 0;
	bool ok;

	source.role = quantize_role_of(p->name, &source.layer);
	p->to = quantize_mix_type(k->o->mix, &shape, &source, k->o->again, &wanted);
	quantize_standins_add(&k->standins, wanted, p->to, t->dims[0]);
	if (source.role == QUANTIZE_KEEP && !k->m->source->gguf) {
		p->to = DTYPE_F32;
		n_dims = 1; /* even if the file has [1, n] */
	}
	ok = dtype_row_bytes(p->to, t->dims[0], &row_bytes);
	assert(ok);
	p->bytes = row_bytes * t->dims[1];
	p->offset = gguf_write_tensor(k->w, p->name, p->to, n_dims, t->dims);
	k->total_bytes += p->bytes;
}

static void plan_fixed(struct work *k, enum model_tensor which, const struct source_tensor *t)
{
	struct plan *p = &k->plans[k->n];

	if (!t)
		return;
	snprintf(p->name, sizeof(p->name), "%s", gguf_names.fixed[which]);
	p->from = t;
	plan_tensor(k);
}

static void plan_layer(struct work *k, uint32_t layer)
{
	for (unsigned i = 0; i < LAYER_TENSORS; i++) {
		struct plan *p = &k->plans[k->n];

		p->from = source_layer_tensor(k->m->source, layer, (enum layer_tensor)i);
		if (!p->from)
			continue;
		snprintf(p->name, sizeof(p->name), "%s%u.%s", gguf_names.layer_prefix, layer,
			gguf_names.layer[i]);
		p->halves = i == LAYER_Q || i == LAYER_K || i == LAYER_BQ || i == LAYER_BK;
		plan_tensor(k);
	}
}

/* A directory's, in the order of the computation. */
static int plan_directory(struct work *k)
{
	const struct model_config *c = &k->m->config;
	const struct source_tensor *const *fixed = k->m->source->fixed;
	const uint32_t half = c->attention.rope_dim / 2;
	float *divisors;

	assert(c->attention.rope_layout == ROPE_HALVES);
	if (c->rope.kind == ROPE_LLAMA3) {
		divisors = calloc(half, sizeof(*divisors));
		if (!divisors)
			return -ENOMEM;
		rope_divisors(divisors, 2 * half, &c->rope);
		k->rope = (struct source_tensor){.dtype = DTYPE_F32,
			.n_dims = 1,
			.dims = {half, 1, 1, 1},
			.data = divisors,
			.bytes = half * sizeof(*divisors)};
		plan_fixed(k, TENSOR_ROPE, &k->rope);
	}
	plan_fixed(k, TENSOR_EMBED, fixed[TENSOR_EMBED]);
	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		plan_layer(k, layer);
	plan_fixed(k, TENSOR_OUTPUT_NORM, fixed[TENSOR_OUTPUT_NORM]);
	plan_fixed(k, TENSOR_OUTPUT, c->tied ? NULL : fixed[TENSOR_OUTPUT]);
	return 0;
}

static int plan_tensors(struct work *k)
{
	const struct model_source *s = k->m->source;

	k->plans = calloc(s->n_tensors + 1, sizeof(*k->plans));
	if (!k->plans)
		return -ENOMEM;
	if (!s->gguf)
		return plan_directory(k);
	for (size_t i = 0; i < s->n_tensors; i++) {
		struct plan *p = &k->plans[k->n];

		/* model_open() has accepted the name and the shape. */
		p->from = &s->tensors[i];
		assert(p->from->name.len < sizeof(p->name));
		memcpy(p->name, p->from->name.text, p->from->name.len);
		plan_tensor(k);
	}
	return 0;
}

/* ---- their data ---- */

/* Rows (or a vector's elements) of a head: the first half's and the second's take turns. */
static const void *turn(const struct work *k, const struct source_tensor *t)
{
	const size_t d = k->m->config.attention.rope_dim;
	const size_t n = t->dims[1] == 1 ? t->dims[0] : t->dims[1], bytes = t->bytes / n;
	uint8_t *to = k->turned;

	for (size_t i = 0; i < n; i++) {
		const size_t in_head = i % d;

		memcpy(to + i * bytes,
			(const uint8_t *)t->data +
				(i - in_head + in_head % 2 * (d / 2) + in_head / 2) * bytes,
			bytes);
	}
	return to;
}

/* Its whole pages may leave memory. */
static void drop_pages(const struct source_tensor *t)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	const uintptr_t begin = ((uintptr_t)t->data + page - 1) & ~(page - 1);
	const uintptr_t end = ((uintptr_t)t->data + t->bytes) & ~(page - 1);

	if (begin < end)
		(void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static int write_tensor(struct work *k, const struct plan *p)
{
	const struct source_tensor *t = p->from;
	const struct tensor from = {
		.name = p->name,
		.dtype = t->dtype,
		.rows = (uint32_t)t->dims[1],
		.cols = (uint32_t)t->dims[0],
		.data = p->halves ? turn(k, t) : t->data,
		.bytes = t->bytes,
	};
	const void *bytes = from.data;
	int r = 0;

	if (p->to != t->dtype) {
		r = convert_tensor(k->pool, &from, p->to, k->room, k->why.text, k->why.size);
		bytes = k->room;
	}
	if (r < 0)
		return r;
	r = gguf_writer_data(k->w, p->offset, bytes, p->bytes);
	if (r < 0)
		model_refuse(&k->why, r, "writing tensor %s: %s", p->name, strerror(-r));
	if (t != &k->rope)
		drop_pages(t);
	return r;
}

static int write_tensors(struct work *k)
{
	size_t largest = 1, largest_turned = 1, i;
	uint64_t done = 0;
	int r;

	for (i = 0; i < k->n; i++) {
		const struct plan *p = &k->plans[i];

		largest = p->bytes > largest ? p->bytes : largest;
		if (p->halves && p->from->bytes > largest_turned)
			largest_turned = p->from->bytes;
	}
	k->room = malloc(largest);
	k->turned = malloc(largest_turned);
	r = k->room && k->turned ? pool_new(k->o->threads, &k->pool) : -ENOMEM;
	if (r < 0)
		return model_refuse(&k->why, r, "no memory or threads to convert %zu bytes: %s",
			largest, strerror(-r));
	for (i = 0; i < k->n && r == 0; i++) {
		r = write_tensor(k, &k->plans[i]);
		done += k->plans[i].bytes;
		if (r == 0 && k->o->progress &&
			k->o->progress(k->o->userdata, done, k->total_bytes) != 0)
			r = model_refuse(&k->why, -ECANCELED, "cancelled");
	}
	return r;
}

int quantize_gguf(const struct model *m, const struct quantize_options *o, int fd,
	struct quantize_result *ret, char *error, size_t error_size)
{
	struct work k = {.m = m, .o = o, .w = gguf_writer_new(), .why = {error, error_size}};
	int r = -ENOMEM;

	error[0] = '\0';
	if (k.w && (r = write_metadata(&k)) == 0 && (r = plan_tensors(&k)) == 0)
		r = gguf_writer_begin(k.w, fd);
	if (r < 0 && !error[0])
		model_refuse(&k.why, r, "writing the header: %s", strerror(-r));
	if (r == 0)
		r = write_tensors(&k);
	if (r == 0) {
		ret->bytes = k.total_bytes;
		quantize_standins_say(&k.standins, ret->standins, sizeof(ret->standins));
	}
	pool_free(k.pool);
	free(k.room);
	free(k.turned);
	free((void *)k.rope.data);
	free(k.plans);
	gguf_writer_free(k.w);
	return r;
}
