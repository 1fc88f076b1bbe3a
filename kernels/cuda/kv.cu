/* Keys and values: pages on the card, and the kernel that rotates queries and keys and writes them.
 *
 * A page of a layer holds its keys, then its values, as kv_read() gives them; kv.cuh knows it. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/kv.cuh"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define THREADS 128

int cuda_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret)
{
	struct cuda *c = cuda_of(b);
	struct kv *kv = (struct kv *)calloc(1, sizeof(*kv));
	size_t pages, bytes;
	int r;

	assert(shape->dtype == DTYPE_F32 || shape->dtype == DTYPE_F16 ||
		shape->dtype == DTYPE_BF16);
	if (!kv)
		return cuda_fail(c, -ENOMEM, "no memory for the KV cache's description");
	kv->shape = *shape;
	kv->row_bytes = (size_t)shape->head_dim * (shape->dtype == DTYPE_F32 ? 4 : 2);
	if (__builtin_mul_overflow(kv->row_bytes, (size_t)2 * KV_PAGE_TOKENS * shape->n_kv_heads,
		    &kv->page_bytes) ||
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

int cuda_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	if (r == 0)
		r = cuda_check(c,
			cudaMemcpyAsync(host, page_of(kv, layer, page), kv->page_bytes,
				cudaMemcpyDeviceToHost, c->stream),
			"reading a page");
	return r == 0 ? cuda_finish(c) : r;
}

struct rope_kv {
	struct batch_view batch;
	struct kv_view kv;
	const float *rope; /* [positions, rope_dim] */
	float *q;
	const float *k, *v;
	uint32_t n_heads, n_kv_heads, head_dim, rope_dim;
	uint32_t halves, none; /* halves: the layout of pairs */
};

/* Elements (first, second) of a head x rotated by the pair's angle. */
__device__ static void rotate(const struct rope_kv &p, const float *x, const float *cos_sin,
	uint32_t pair, uint32_t at[2], float ret[2])
{
	const uint32_t half = p.rope_dim / 2;
	const float c = cos_sin[pair], s = cos_sin[half + pair];

	at[0] = p.halves ? pair : 2 * pair;
	at[1] = p.halves ? pair + half : 2 * pair + 1;
	ret[0] = x[at[0]] * c - x[at[1]] * s;
	ret[1] = x[at[1]] * c + x[at[0]] * s;
}

/* Grid (heads: queries, keys, values; rows); a thread has a pair of elements at a time. */
template <int D> __global__ void rope_kv_kernel(const struct rope_kv p)
{
	const uint32_t row = blockIdx.y, half = p.rope_dim / 2, pairs = p.head_dim / 2;
	uint32_t head = blockIdx.x;

	grid_wait();
	grid_release();

	const uint32_t position = p.batch.positions[row], slot = p.batch.slots[row];
	const float *cos_sin = p.rope + (size_t)position * p.rope_dim;
	const bool query = head < p.n_heads, value = head >= p.n_heads + p.n_kv_heads;
	head -= query ? 0 : value ? p.n_heads + p.n_kv_heads : p.n_heads;

	const size_t row_heads = query ? p.n_heads : p.n_kv_heads;
	const float *x = (query ? p.q : value ? p.v : p.k) + (row * row_heads + head) * p.head_dim;
	void *stored = NULL;
	if (!query)
		stored = kv_row(p.kv, kv_page(p.batch, slot, position), position, head, value);
	for (uint32_t i = threadIdx.x; i < pairs; i += THREADS) {
		uint32_t at[2] = {2 * i, 2 * i + 1};
		float y[2];

		if (!value && i < half) {
			rotate(p, x, cos_sin, i, at, y);
		} else {
			y[0] = x[at[0]];
			y[1] = x[at[1]];
		}
		for (int k = 0; k < 2; k++)
			if (query)
				p.q[(row * row_heads + head) * p.head_dim + at[k]] = y[k];
			else
				kv_store<D>(stored, at[k], y[k]);
	}
}

int cuda_rope_kv(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, struct kv *kv,
	uint32_t layer)
{
	struct cuda *c = cuda_of(b);
	struct rope_kv p = {};
	const void *kernel = kv->shape.dtype == DTYPE_F32   ? KERNEL(rope_kv_kernel<DTYPE_F32>)
			     : kv->shape.dtype == DTYPE_F16 ? KERNEL(rope_kv_kernel<DTYPE_F16>)
							    : KERNEL(rope_kv_kernel<DTYPE_BF16>);

	assert(batch->n_rows == c->batch.n_rows);
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
	return cuda_launch(c, kernel, dim3(shape->n_heads + 2 * shape->n_kv_heads, batch->n_rows),
		THREADS, 0, p);
}
