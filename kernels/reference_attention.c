/* The reference backend's memory of a sequence: KV pages, RoPE and attention.
 *
 * A page of a layer holds its keys, then its values; a row reaches the rows it may see only through
 * its slot's page table. Each 128-position block gets a maximum, a sum and an output of its own,
 * merged in ascending order. */
#include "kernels/reference.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/host.h"

/* data [n_layers, n_pages, 2 (keys, values), n_kv_heads, 16, head_dim] */
struct kv {
	struct kv_shape shape;
	size_t row_bytes;  /* head_dim elements */
	size_t page_bytes; /* of one layer */
	uint8_t *data;
};

/* Of one thread: a block's scores, a key or value as f32, the block's output. */
static size_t attention_scratch(uint32_t head_dim)
{
	return ATTENTION_BLOCK + 2 * (size_t)head_dim;
}

static int grow_scratch(struct reference *ref, size_t floats)
{
	struct backend *b = &ref->backend;
	float *p;

	if (floats <= ref->scratch_floats)
		return 0;
	floats = (floats + 15) / 16 * 16; /* whole cache lines */
	p = host_alloc(pool_threads(ref->pool), floats * sizeof(float), "attention's scratch",
		b->error, sizeof(b->error));
	if (p == NULL)
		return -ENOMEM;
	free(ref->scratch);
	ref->scratch = p;
	ref->scratch_floats = floats;
	return 0;
}

int reference_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret)
{
	struct kv *kv;
	size_t pages;

	kv = calloc(1, sizeof(*kv));
	if (kv == NULL)
		return reference_no_memory(b);
	kv->shape = *shape;
	if (!dtype_row_bytes(shape->dtype, shape->head_dim, &kv->row_bytes) ||
		__builtin_mul_overflow(kv->row_bytes,
			(size_t)2 * KV_PAGE_TOKENS * shape->n_kv_heads, &kv->page_bytes) ||
		__builtin_mul_overflow((size_t)shape->n_layers, shape->n_pages, &pages)) {
		snprintf(b->error, sizeof(b->error), "the KV cache is too large to address");
		free(kv);
		return -ENOMEM;
	}
	kv->data = host_alloc(pages, kv->page_bytes, "the KV cache", b->error, sizeof(b->error));
	if (kv->data == NULL) {
		free(kv);
		return -ENOMEM;
	}
	*ret = kv;
	return 0;
}

void reference_kv_free(struct backend *b, struct kv *kv)
{
	if (kv == NULL)
		return;
	free(kv->data);
	free(kv);
}

static uint8_t *kv_page(const struct kv *kv, uint32_t layer, uint32_t page)
{
	assert(layer < kv->shape.n_layers && page < kv->shape.n_pages);
	return kv->data + ((size_t)layer * kv->shape.n_pages + page) * kv->page_bytes;
}

/* The key or value row [head_dim] of one position. */
static uint8_t *kv_row(const struct kv *kv, uint32_t layer, const struct batch *batch,
	uint32_t slot, uint32_t position, uint32_t head, bool value)
{
	uint32_t entry = position / KV_PAGE_TOKENS, row = position % KV_PAGE_TOKENS;
	uint32_t page;

	assert(slot < batch->n_slots && entry < batch->page_table_stride);
	page = batch->page_table[(size_t)slot * batch->page_table_stride + entry];
	head += value ? kv->shape.n_kv_heads : 0;
	return kv_page(kv, layer, page) + ((size_t)head * KV_PAGE_TOKENS + row) * kv->row_bytes;
}

int reference_kv_zero(struct backend *b, struct kv *kv, uint32_t page)
{
	for (uint32_t l = 0; l < kv->shape.n_layers; l++)
		memset(kv_page(kv, l, page), 0, kv->page_bytes);
	return 0;
}

int reference_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host)
{
	memcpy(host, kv_page(kv, layer, page), kv->page_bytes);
	return 0;
}

size_t reference_kv_page_bytes(const struct kv *kv)
{
	return kv->shape.n_layers * kv->page_bytes;
}

int reference_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host)
{
	for (uint32_t l = 0; l < kv->shape.n_layers; l++)
		memcpy((uint8_t *)host + l * kv->page_bytes, kv_page(kv, l, page), kv->page_bytes);
	return 0;
}

int reference_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host)
{
	for (uint32_t l = 0; l < kv->shape.n_layers; l++)
		memcpy(kv_page(kv, l, page), (const uint8_t *)host + l * kv->page_bytes,
			kv->page_bytes);
	return 0;
}

static void kv_store(const struct kv *kv, const float *x, uint8_t *row)
{
	quantize_row(kv->shape.dtype, x, NULL, row, kv->shape.head_dim);
}

/* The row as f32: itself, or its copy in `scratch`. */
static const float *kv_load(const struct kv *kv, const uint8_t *row, float *scratch)
{
	if (kv->shape.dtype == DTYPE_F32)
		return (const float *)row;
	dequantize_row(kv->shape.dtype, row, scratch, kv->shape.head_dim);
	return scratch;
}

/* RoPE and attention */

/* x [head_dim] in place; cosines, then sines, rope_dim / 2 each */
static void rotate(const struct attention_shape *shape, const float *cos_sin, float *x)
{
	uint32_t half = shape->rope_dim / 2;

	for (uint32_t i = 0; i < half; i++) {
		bool halves = shape->rope_layout == ROPE_HALVES;
		float *a = halves ? &x[i] : &x[2 * i];
		float *b = halves ? &x[i + half] : &x[2 * i + 1];
		float c = cos_sin[i], s = cos_sin[half + i], a0 = *a, b0 = *b;

		*a = a0 * c - b0 * s;
		*b = b0 * c + a0 * s;
	}
}

int reference_rope_kv(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const struct weight *rope, float *q, const float *k,
	const float *v, struct kv *kv, uint32_t layer)
{
	struct reference *ref = reference_of(b);
	uint32_t dim = shape->head_dim;
	float *rotated;
	int r = grow_scratch(ref, attention_scratch(shape->head_dim));

	if (r < 0)
		return r;
	assert(dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	assert(shape->rope_dim == rope->cols && shape->rope_dim <= dim);
	rotated = ref->scratch;
	for (size_t i = 0; i < batch->n_rows; i++) {
		uint32_t position = batch->positions[i], slot = batch->slots[i];

		assert(position < rope->rows);
		const float *cos_sin = rope->data + (size_t)position * rope->cols;

		for (size_t h = 0; h < shape->n_heads; h++)
			rotate(shape, cos_sin, q + (i * shape->n_heads + h) * dim);
		for (uint32_t h = 0; h < shape->n_kv_heads; h++) {
			size_t at = (i * shape->n_kv_heads + h) * dim;

			memcpy(rotated, k + at, dim * sizeof(float));
			rotate(shape, cos_sin, rotated);
			kv_store(kv, rotated, kv_row(kv, layer, batch, slot, position, h, false));
			kv_store(kv, v + at, kv_row(kv, layer, batch, slot, position, h, true));
		}
	}
	return 0;
}

struct attention_job {
	struct reference *ref;
	const struct batch *batch;
	const struct attention_shape *shape;
	const float *q;
	const struct kv *kv;
	uint32_t layer;
	float *y;
};

VECTOR_CLONES
static void add_scaled(float scale, const float *x, float *y, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] += scale * x[i];
}

/* One query head over the positions of one block: its maximum, its sum and its output by itself,
 * then merged into (max, sum, out) so far. */
static void attend_block(const struct attention_job *job, size_t row, uint32_t head, uint32_t begin,
	uint32_t end, float *scratch, float *max, float *sum, float *out)
{
	const struct batch *batch = job->batch;
	const struct attention_shape *shape = job->shape;
	uint32_t slot = batch->slots[row], dim = shape->head_dim;
	uint32_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
	const float *q = job->q + (row * shape->n_heads + head) * dim;
	float *scores = scratch, *loaded = scores + ATTENTION_BLOCK, *block_out = loaded + dim;
	float block_max = -INFINITY, block_sum = 0;

	for (uint32_t p = begin; p < end; p++) {
		const uint8_t *k = kv_row(job->kv, job->layer, batch, slot, p, kv_head, false);
		float s = reference_dot(q, kv_load(job->kv, k, loaded), dim) * shape->scale;

		scores[p - begin] = s;
		block_max = s > block_max ? s : block_max;
	}
	memset(block_out, 0, dim * sizeof(float));
	for (uint32_t p = begin; p < end; p++) {
		const uint8_t *v = kv_row(job->kv, job->layer, batch, slot, p, kv_head, true);
		float e = expf(scores[p - begin] - block_max);

		block_sum += e;
		add_scaled(e, kv_load(job->kv, v, loaded), block_out, dim);
	}

	float new_max = block_max > *max ? block_max : *max;
	float old_scale = expf(*max - new_max), block_scale = expf(block_max - new_max);
	for (uint32_t i = 0; i < dim; i++)
		out[i] = out[i] * old_scale + block_out[i] * block_scale;
	*sum = *sum * old_scale + block_sum * block_scale;
	*max = new_max;
}

/* Items are (row, query head). */
static void attend(void *arg, struct pool_range range)
{
	const struct attention_job *job = arg;
	const struct attention_shape *shape = job->shape;
	uint32_t dim = shape->head_dim;
	float *scratch = job->ref->scratch + range.thread * job->ref->scratch_floats;

	for (size_t item = range.begin; item < range.end; item++) {
		size_t row = item / shape->n_heads;
		uint32_t head = (uint32_t)(item % shape->n_heads);
		uint32_t end = job->batch->positions[row] + 1;
		uint32_t begin = shape->window > 0 && end > shape->window ? end - shape->window : 0;
		float max = -INFINITY, sum = 0, *y = job->y + item * dim;

		memset(y, 0, dim * sizeof(float));
		while (begin < end) {
			uint32_t next = (begin / ATTENTION_BLOCK + 1) * ATTENTION_BLOCK;

			next = next < end ? next : end;
			attend_block(job, row, head, begin, next, scratch, &max, &sum, y);
			begin = next;
		}
		for (uint32_t i = 0; i < dim; i++)
			y[i] /= sum;
	}
}

int reference_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	struct reference *ref = reference_of(b);
	struct attention_job job = {
		.ref = ref,
		.batch = batch,
		.shape = shape,
		.q = q,
		.kv = kv,
		.layer = layer,
		.y = y,
	};
	int r = grow_scratch(ref, attention_scratch(shape->head_dim));

	if (r < 0)
		return r;
	assert(shape->n_heads % shape->n_kv_heads == 0);
	assert(shape->head_dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	pool_run(ref->pool, attend, &job, batch->n_rows * shape->n_heads, 1);
	return 0;
}
