/* Where a position's key and value lie in one layer, in what form, and how they get there: rotated.
 *
 * Q8_0 keeps int8 in rows that 16-byte loads may read, and the scales apart; a number times its
 * scale is exact in f32, so whoever reads them goes on as with the other types. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#define Q8_BLOCK 32

struct kv_view {
	uint8_t *data; /* of the layer: [n_pages, 2 (keys, values), n_kv_heads] heads */
	size_t page_bytes, head_bytes;
	uint32_t row_bytes;   /* of 16 in a head */
	uint32_t scale_bytes; /* of a row, behind all rows; 0 but for Q8_0 */
	uint32_t n_kv_heads;
	int dtype;
};

static inline struct kv_view kv_view_of(const struct kv *kv, uint32_t layer)
{
	struct kv_view v = {};

	v.data = kv->data + (size_t)layer * kv->shape.n_pages * kv->page_bytes;
	v.page_bytes = kv->page_bytes;
	v.head_bytes = kv->page_bytes / 2 / kv->shape.n_kv_heads;
	v.row_bytes = (uint32_t)kv->row_bytes;
	v.scale_bytes = (uint32_t)(v.head_bytes / KV_PAGE_TOKENS) - v.row_bytes;
	v.n_kv_heads = kv->shape.n_kv_heads;
	v.dtype = kv->shape.dtype;
	return v;
}

__device__ static __forceinline__ uint32_t kv_page(
	const struct batch_view &b, uint32_t slot, uint32_t position)
{
	return b.table[(size_t)slot * b.stride + position / KV_PAGE_TOKENS];
}

__device__ static __forceinline__ uint8_t *kv_head(
	const struct kv_view &kv, uint32_t page, uint32_t head, bool value)
{
	return kv.data + page * kv.page_bytes +
	       (head + (value ? kv.n_kv_heads : 0)) * kv.head_bytes;
}

__device__ static __forceinline__ uint8_t *kv_row(
	const struct kv_view &kv, uint32_t page, uint32_t position, uint32_t head, bool value)
{
	return kv_head(kv, page, head, value) + position % KV_PAGE_TOKENS * kv.row_bytes;
}

/* The scales of a row, f16 [head_dim / 32]. */
__device__ static __forceinline__ uint8_t *kv_scales(
	const struct kv_view &kv, uint32_t page, uint32_t position, uint32_t head, bool value)
{
	return kv_head(kv, page, head, value) + KV_PAGE_TOKENS * kv.row_bytes +
	       position % KV_PAGE_TOKENS * kv.scale_bytes;
}

/* Element i of a row; scale: of its block (Q8_0). */
template <int D>
__device__ static __forceinline__ float kv_load(const void *row, uint32_t i, float scale)
{
	if constexpr (D == DTYPE_F32)
		return ((const float *)row)[i];
	else if constexpr (D == DTYPE_F16)
		return f16_value(((const uint16_t *)row)[i]);
	else if constexpr (D == DTYPE_BF16)
		return bf16_value(((const uint16_t *)row)[i]);
	else
		return scale * (float)((const int8_t *)row)[i];
}

/* Elements in 16 bytes. */
template <int D> __host__ __device__ constexpr int kv_per_unit(void)
{
	return D == DTYPE_F32 ? 4 : D == DTYPE_Q8_0 ? 16 : 8;
}

template <int D>
__device__ static __forceinline__ void kv_unit(const uint4 &unit, float scale, float *ret)
{
	const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};

#pragma unroll
	for (int i = 0; i < 4; i++)
		if constexpr (D == DTYPE_F32) {
			ret[i] = __uint_as_float(words[i]);
		} else if constexpr (D == DTYPE_F16) {
			ret[2 * i] = f16_value(words[i] & 0xffff);
			ret[2 * i + 1] = f16_value(words[i] >> 16);
		} else if constexpr (D == DTYPE_BF16) {
			ret[2 * i] = bf16_low(words[i]);
			ret[2 * i + 1] = bf16_high(words[i]);
		} else {
#pragma unroll
			for (int k = 0; k < 4; k++)
				ret[4 * i + k] = scale * (float)(int8_t)(words[i] >> 8 * k);
		}
}

/* Rotation and write of one batch. */
struct rope_kv {
	struct batch_view batch;
	struct kv_view kv;
	const float *rope; /* [positions, rope_dim]; NULL in a product without it */
	float *q;          /* [rows, n_heads, head_dim], rotated in place */
	const float *k, *v;
	uint32_t n_heads, n_kv_heads, head_dim, rope_dim;
	uint32_t halves, none; /* halves: the layout of pairs */
};

int rope_kv_launch(struct cuda *c, const struct rope_kv &p, uint32_t n_rows);
struct rope_kv rope_kv_of(const struct cuda *c, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, const struct kv *kv,
	uint32_t layer);

/* Element i of a head x: rotated (values are not). What other blocks of the same launch may have
 * written is read past L1. */
__device__ static __forceinline__ float rope_element(const struct rope_kv &p,
	const volatile float *x, const float *cos_sin, uint32_t i, bool value)
{
	const uint32_t half = p.rope_dim / 2, pair = p.halves ? i % half : i / 2;
	const bool first = p.halves ? i < half : i % 2 == 0;

	if (value || i >= p.rope_dim)
		return x[i];
	const float other = x[p.halves ? (first ? i + half : i - half) : i ^ 1];
	const float c = cos_sin[pair], s = cos_sin[half + pair];
	return first ? x[i] * c - other * s : x[i] * c + other * s;
}

/* One warp rotates and writes one head of one row; heads: queries, keys, values. */
__device__ static inline void rope_kv_head(const struct rope_kv &p, uint32_t row, uint32_t head)
{
	const uint32_t lane = threadIdx.x % WARP_LANES, half = p.rope_dim / 2;
	const uint32_t position = p.batch.positions[row], slot = p.batch.slots[row];
	const float *cos_sin = p.rope + (size_t)position * p.rope_dim;
	const bool value = head >= p.n_heads + p.n_kv_heads;

	if (head < p.n_heads) {
		volatile float *x = p.q + ((size_t)row * p.n_heads + head) * p.head_dim;

		for (uint32_t i = lane; i < half; i += WARP_LANES) {
			const uint32_t a = p.halves ? i : 2 * i,
				       b = p.halves ? i + half : 2 * i + 1;
			const float c = cos_sin[i], s = cos_sin[half + i], u = x[a], v = x[b];

			x[a] = u * c - v * s;
			x[b] = v * c + u * s;
		}
		return;
	}
	head -= value ? p.n_heads + p.n_kv_heads : p.n_heads;

	const volatile float *x = (value ? p.v : p.k) +
				  ((size_t)row * p.n_kv_heads + head) * p.head_dim;
	const uint32_t page = kv_page(p.batch, slot, position);
	uint8_t *to = kv_row(p.kv, page, position, head, value);
	for (uint32_t i = lane; i < p.head_dim; i += WARP_LANES) {
		const float y = rope_element(p, x, cos_sin, i, value);

		if (p.kv.dtype == DTYPE_F32) {
			((float *)to)[i] = y;
		} else if (p.kv.dtype == DTYPE_F16) {
			((uint16_t *)to)[i] = f16_bits(y);
		} else if (p.kv.dtype == DTYPE_BF16) {
			((uint16_t *)to)[i] = bf16_bits(y);
		} else { /* as quantize_row() does it; head_dim is a multiple of the block */
			float most = fabsf(y);

#pragma unroll
			for (int k = WARP_LANES / 2; k > 0; k /= 2)
				most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, k));
			const float d = most / 127, v = d == 0 ? 0.0f : y * (1 / d);
			/* halves go away from zero */
			const float q = copysignf(floorf(fabsf(v) + 0.5f), v);

			((int8_t *)to)[i] = (int8_t)q;
			if (lane == 0)
				((uint16_t *)kv_scales(p.kv, page, position, head,
					value))[i / Q8_BLOCK] = f16_bits(d);
		}
	}
}
