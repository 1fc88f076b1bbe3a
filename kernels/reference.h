/* Inside the `reference` backend: what its two files share. */
#pragma once

#include "kernels/backend.h"
#include "kernels/clones.h"
#include "kernels/pool.h"

struct weight {
	uint32_t rows, cols;
	float *data; /* [rows, cols] */
};

struct reference {
	struct backend backend;
	struct pool *pool;
	struct sampler *sampler;
	float *scratch;        /* [threads, scratch_floats] */
	size_t scratch_floats; /* enough for attention over any KV seen so far */
};

static inline struct reference *reference_of(struct backend *b)
{
	return (struct reference *)b;
}

/* The sum of a[i] * b[i], in 16 partial sums. */
float reference_dot(const float *a, const float *b, size_t n);

/* -ENOMEM, and a sentence in the backend. */
int reference_no_memory(struct backend *b);

/* The slots kv_new … attention of the operation table. */
int reference_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret);
void reference_kv_free(struct backend *b, struct kv *kv);
int reference_kv_zero(struct backend *b, struct kv *kv, uint32_t page);
int reference_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host);
size_t reference_kv_page_bytes(const struct kv *kv);
int reference_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host);
int reference_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host);
int reference_rope_kv(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const struct weight *rope, float *q, const float *k,
	const float *v, struct kv *kv, uint32_t layer);
int reference_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y);
