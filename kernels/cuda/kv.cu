/* Keys and values: pages on the card, and the kernel that rotates queries and keys and writes them.
 *
 * A page of a layer holds its keys, then its values, as kv_read() gives them, but that Q8_0's
 * scales lie apart; kv.cuh knows it. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/kv.cuh"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 128

int cuda_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret)
{
	struct cuda *c = cuda_of(b);
	struct kv *kv = (struct kv *)calloc(1, sizeof(*kv));
	size_t row, pages, bytes; /* row: with its scales */
	int r;

	if (!kv)
		return cuda_fail(c, -ENOMEM, "no memory for the KV cache's description");
	kv->shape = *shape;
	kv->row_bytes = shape->head_dim * (shape->dtype == DTYPE_F32           ? 4u
						  : shape->dtype == DTYPE_Q8_0 ? 1u
									       : 2u);
	if (!dtype_row_bytes(shape->dtype, shape->head_dim, &row) ||
		__builtin_mul_overflow(
			row, (size_t)2 * KV_PAGE_TOKENS * shape->n_kv_heads, &kv->page_bytes) ||
		__builtin_mul_overflow((size_t)shape->n_layers, (size_t)shape->n_pages, &pages) ||
		__builtin_mul_overflow(pages, kv->page_bytes, &bytes)) {
		free(kv);
		return cuda_fail(c, -ENOMEM, "the KV cache is too large to address");
	}
	r = cuda_flush(c);
	if (r == 0)
		r = cuda_alloc(c, bytes, "the KV cache", &kv->data);
	if (r == 0)
		r = cuda_check(
			c, cudaMemsetAsync(kv->data, 0, bytes, c->stream), "clearing the KV cache");
	if (r < 0) {
		cuda_kv_free(b, kv);
		return r;
	}
	*ret = kv;
	return 0;
}

void cuda_kv_free(struct backend *b, struct kv *kv)
{
	if (!kv)
		return;
	cuda_release(cuda_of(b), kv->data);
	free(kv);
}

static uint8_t *page_of(const struct kv *kv, uint32_t layer, uint32_t page)
{
	assert(layer < kv->shape.n_layers && page < kv->shape.n_pages);
	return kv->data + ((size_t)layer * kv->shape.n_pages + page) * kv->page_bytes;
}

int cuda_kv_zero(struct backend *b, struct kv *kv, uint32_t page)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	for (uint32_t l = 0; l < kv->shape.n_layers && r == 0; l++)
		r = cuda_check(c,
			cudaMemsetAsync(page_of(kv, l, page), 0, kv->page_bytes, c->stream),
			"clearing a page");
	return r;
}

/* A page of Q8_0 from the card's form, rows and then scales, to blocks with their scales in front.
 */
static void page_unpack(const struct kv *kv, const uint8_t *from, uint8_t *to)
{
	const size_t dim = kv->shape.head_dim, blocks = dim / Q8_BLOCK;

	for (uint32_t head = 0; head < 2 * kv->shape.n_kv_heads; head++) {
		const uint8_t *scales = from + KV_PAGE_TOKENS * dim;

		for (size_t i = 0; i < KV_PAGE_TOKENS * blocks; i++, to += 2 + Q8_BLOCK) {
			memcpy(to, scales + 2 * i, 2);
			memcpy(to + 2, from + i * Q8_BLOCK, Q8_BLOCK);
		}
		from = scales + KV_PAGE_TOKENS * blocks * 2;
	}
}

int cuda_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host)
{
	struct cuda *c = cuda_of(b);
	uint8_t *copy = NULL;
	int r = cuda_flush(c);

	if (r == 0 && kv->shape.dtype == DTYPE_Q8_0) {
		copy = (uint8_t *)malloc(kv->page_bytes);
		if (!copy)
			return cuda_fail(
				c, -ENOMEM, "no memory for a page of %zu bytes", kv->page_bytes);
	}
	if (r == 0)
		r = cuda_check(c,
			cudaMemcpyAsync(copy ? copy : (uint8_t *)host, page_of(kv, layer, page),
				kv->page_bytes, cudaMemcpyDeviceToHost, c->stream),
			"reading a page");
	if (r == 0)
		r = cuda_finish(c);
	if (r == 0 && copy)
		page_unpack(kv, copy, (uint8_t *)host);
	free(copy);
	return r;
}

size_t cuda_kv_page_bytes(const struct kv *kv)
{
	return kv->shape.n_layers * kv->page_bytes;
}

int cuda_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	for (uint32_t l = 0; l < kv->shape.n_layers && r == 0; l++)
		r = cuda_check(c,
			cudaMemcpyAsync((uint8_t *)host + l * kv->page_bytes, page_of(kv, l, page),
				kv->page_bytes, cudaMemcpyDeviceToHost, c->stream),
			"saving a page");
	return r == 0 ? cuda_finish(c) : r;
}

int cuda_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	for (uint32_t l = 0; l < kv->shape.n_layers && r == 0; l++)
		r = cuda_check(c,
			cudaMemcpyAsync(page_of(kv, l, page),
				(const uint8_t *)host + l * kv->page_bytes, kv->page_bytes,
				cudaMemcpyHostToDevice, c->stream),
			"restoring a page");
	return r == 0 ? cuda_finish(c) : r; /* the host's bytes may go */
}

struct rope_kv rope_kv_of(const struct cuda *c, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, const struct kv *kv,
	uint32_t layer)
{
	struct rope_kv p = {};

	assert(shape->head_dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	assert(shape->rope_dim == rope->cols && rope->dtype == DTYPE_F32);
	p.batch = c->batch;
	p.kv = kv_view_of(kv, layer);
	p.rope = (const float *)rope->quants;
	p.q = q;
	p.k = k;
	p.v = v;
	p.n_heads = shape->n_heads;
	p.n_kv_heads = shape->n_kv_heads;
	p.head_dim = shape->head_dim;
	p.rope_dim = shape->rope_dim;
	p.halves = shape->rope_layout == ROPE_HALVES;
	return p;
}

/* Grid (heads / 4, rows): a warp has a head. */
__global__ void rope_kv_kernel(const struct rope_kv p)
{
	const uint32_t head = blockIdx.x * (THREADS / WARP_LANES) + threadIdx.x / WARP_LANES;

	grid_wait();
	grid_release();
	if (head < p.n_heads + 2 * p.n_kv_heads)
		rope_kv_head(p, blockIdx.y, head);
}

int rope_kv_launch(struct cuda *c, const struct rope_kv &p, uint32_t n_rows)
{
	const uint32_t heads = p.n_heads + 2 * p.n_kv_heads;

	return cuda_launch(c, KERNEL(rope_kv_kernel),
		dim3(parts_of(heads, THREADS / WARP_LANES), n_rows), THREADS, 0, p);
}

int cuda_rope_kv(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, struct kv *kv,
	uint32_t layer)
{
	struct cuda *c = cuda_of(b);

	assert(batch->n_rows == c->batch.n_rows);
	return rope_kv_launch(c, rope_kv_of(c, shape, rope, q, k, v, kv, layer), batch->n_rows);
}
