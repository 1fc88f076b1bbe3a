/* The values of a checked GGUF file, by key and by type.
 *
 * Writers differ in the integer types that they choose, so numbers are read by meaning: any integer
 * that fits. Everything here trusts the bounds that gguf.c has checked. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_file.h"

size_t gguf_n_tensors(const struct gguf *g)
{
	return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
	assert(i < g->n_tensors);
	return &g->tensors[i];
}

size_t gguf_file_bytes(const struct gguf *g)
{
	return g->map_bytes;
}

const void *gguf_metadata(const struct gguf *g, size_t *ret_bytes)
{
	*ret_bytes = g->metadata_bytes;
	return g->metadata;
}

size_t gguf_n_keys(const struct gguf *g)
{
	return g->n_entries;
}

struct slice gguf_key_at(const struct gguf *g, size_t i)
{
	assert(i < g->n_entries);
	return g->entries[i].key;
}

const void *gguf_key_bytes(const struct gguf *g, size_t i, size_t *ret_bytes)
{
	const uint8_t *from, *to = g->metadata + g->metadata_bytes;

	assert(i < g->n_entries);
	/* A key's length, 8 bytes, stands before it. */
	from = (const uint8_t *)g->entries[i].key.text - 8;
	if (i + 1 < g->n_entries)
		to = (const uint8_t *)g->entries[i + 1].key.text - 8;
	*ret_bytes = (size_t)(to - from);
	return from;
}

/* A number of any type: an integer as sign and magnitude, or a float. */
struct number {
	enum { NUMBER_NONE, NUMBER_INTEGER, NUMBER_FLOAT } kind;
	bool negative;
	uint64_t magnitude;
	double value;
};

static struct number integer(int64_t v)
{
	struct number n = {.kind = NUMBER_INTEGER, .negative = v < 0};

	n.magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
	n.value = (double)v;
	return n;
}

static struct number natural(uint64_t v)
{
	return (struct number){.kind = NUMBER_INTEGER, .magnitude = v, .value = (double)v};
}

#define LOAD(p, type)                                                                              \
	({                                                                                         \
		type load_;                                                                        \
		memcpy(&load_, p, sizeof(load_));                                                  \
		load_;                                                                             \
	})

static struct number number(uint32_t type, const uint8_t *p)
{
	switch (type) {
	case GGUF_U8: return natural(*p);
	case GGUF_U16: return natural(LOAD(p, uint16_t));
	case GGUF_U32: return natural(LOAD(p, uint32_t));
	case GGUF_U64: return natural(LOAD(p, uint64_t));
	case GGUF_I8: return integer(LOAD(p, int8_t));
	case GGUF_I16: return integer(LOAD(p, int16_t));
	case GGUF_I32: return integer(LOAD(p, int32_t));
	case GGUF_I64: return integer(LOAD(p, int64_t));
	case GGUF_F32:
		return (struct number){.kind = NUMBER_FLOAT, .value = (double)LOAD(p, float)};
	case GGUF_F64: return (struct number){.kind = NUMBER_FLOAT, .value = LOAD(p, double)};
	default: return (struct number){.kind = NUMBER_NONE};
	}
}

/* Bytes of an array element that number() reads. */
static size_t number_bytes(uint32_t type)
{
	switch (type) {
	case GGUF_U8:
	case GGUF_I8: return 1;
	case GGUF_U16:
	case GGUF_I16: return 2;
	case GGUF_U32:
	case GGUF_I32:
	case GGUF_F32: return 4;
	case GGUF_U64:
	case GGUF_I64:
	case GGUF_F64: return 8;
	default: return 0;
	}
}

int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *ret)
{
	const struct gguf_entry *e = gguf_entry(g, key);
	struct number n;

	if (!e)
		return -ENOENT;
	n = number(e->type, e->value);
	if (n.kind != NUMBER_INTEGER || n.negative)
		return -EINVAL;
	*ret = n.magnitude;
	return 0;
}

int gguf_get_f64(const struct gguf *g, const char *key, double *ret)
{
	const struct gguf_entry *e = gguf_entry(g, key);
	struct number n;

	if (!e)
		return -ENOENT;
	n = number(e->type, e->value);
	if (n.kind == NUMBER_NONE)
		return -EINVAL;
	*ret = n.value;
	return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *ret)
{
	const struct gguf_entry *e = gguf_entry(g, key);

	if (!e)
		return -ENOENT;
	if (e->type != GGUF_BOOL)
		return -EINVAL;
	*ret = *e->value != 0;
	return 0;
}

/* The string whose length field stands at p; *p moves behind it. */
static struct slice string_at(const uint8_t **p)
{
	uint64_t len = LOAD(*p, uint64_t);
	struct slice s = {(const char *)*p + 8, (size_t)len};

	*p += 8 + len;
	return s;
}

int gguf_get_string(const struct gguf *g, const char *key, struct slice *ret)
{
	const struct gguf_entry *e = gguf_entry(g, key);
	const uint8_t *p;

	if (!e)
		return -ENOENT;
	if (e->type != GGUF_STRING)
		return -EINVAL;
	p = e->value;
	*ret = string_at(&p);
	return 0;
}

struct gguf_strings {
	size_t n;
	struct slice at[];
};

int gguf_get_strings(const struct gguf *g, const char *key, struct gguf_strings **ret)
{
	const struct gguf_entry *e = gguf_entry(g, key);
	struct gguf_strings *a;
	const uint8_t *p;
	size_t i, bytes;

	if (!e)
		return -ENOENT;
	if (e->type != GGUF_ARRAY || e->element != GGUF_STRING)
		return -EINVAL;
	if (__builtin_mul_overflow((size_t)e->count, sizeof(a->at[0]), &bytes) ||
		__builtin_add_overflow(bytes, sizeof(*a), &bytes))
		return -ENOMEM;
	a = malloc(bytes);
	if (!a)
		return -ENOMEM;
	a->n = (size_t)e->count;
	p = e->value;
	for (i = 0; i < a->n; i++)
		a->at[i] = string_at(&p);
	*ret = a;
	return 0;
}

size_t gguf_strings_count(const struct gguf_strings *a)
{
	return a->n;
}

struct slice gguf_strings_at(const struct gguf_strings *a, size_t i)
{
	assert(i < a->n);
	return a->at[i];
}

struct gguf_strings *gguf_strings_free(struct gguf_strings *a)
{
	free(a);
	return NULL;
}

/* An array of numbers and a fresh array of as many 4-byte elements. */
static int numbers(
	const struct gguf *g, const char *key, const struct gguf_entry **ret, void **ret_to)
{
	const struct gguf_entry *e = gguf_entry(g, key);
	void *to;

	if (!e)
		return -ENOENT;
	if (e->type != GGUF_ARRAY || number_bytes(e->element) == 0)
		return -EINVAL;
	to = calloc(e->count ? e->count : 1, 4);
	if (!to)
		return -ENOMEM;
	*ret = e;
	*ret_to = to;
	return 0;
}

int gguf_get_f32s(const struct gguf *g, const char *key, float **ret, size_t *ret_n)
{
	const struct gguf_entry *e;
	const uint8_t *p;
	void *to;
	float *v;
	uint64_t i;
	int r;

	r = numbers(g, key, &e, &to);
	if (r < 0)
		return r;
	v = to;
	p = e->value;
	for (i = 0; i < e->count; i++, p += number_bytes(e->element))
		v[i] = (float)number(e->element, p).value;
	*ret = v;
	*ret_n = (size_t)e->count;
	return 0;
}

int gguf_get_i32s(const struct gguf *g, const char *key, int32_t **ret, size_t *ret_n)
{
	const struct gguf_entry *e;
	const uint8_t *p;
	struct number n;
	void *to;
	int32_t *v;
	uint64_t i;
	int r;

	r = numbers(g, key, &e, &to);
	if (r < 0)
		return r;
	v = to;
	p = e->value;
	for (i = 0; i < e->count; i++, p += number_bytes(e->element)) {
		n = number(e->element, p);
		if (n.kind != NUMBER_INTEGER || n.magnitude > (uint64_t)INT32_MAX + n.negative) {
			free(v);
			return -EINVAL;
		}
		v[i] = (int32_t)(n.negative ? -(int64_t)n.magnitude : (int64_t)n.magnitude);
	}
	*ret = v;
	*ret_n = (size_t)e->count;
	return 0;
}
