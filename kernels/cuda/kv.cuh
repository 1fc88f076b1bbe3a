/* Where a position's key and value lie in one layer, and in what form. */
#pragma once

#include "kernels/cuda/cuda.cuh"

struct kv_view {
	uint8_t *data; /* of the layer: [n_pages, 2 (keys, values), n_kv_heads, 16, head_dim] */
	size_t page_bytes, row_bytes;
	uint32_t n_kv_heads, none;
};

static inline struct kv_view kv_view_of(const struct kv *kv, uint32_t layer)
{
	struct kv_view v = {};

	v.data = kv->data + (size_t)layer * kv->shape.n_pages * kv->page_bytes;
	v.page_bytes = kv->page_bytes;
	v.row_bytes = kv->row_bytes;
	v.n_kv_heads = kv->shape.n_kv_heads;
	return v;
}

__device__ static __forceinline__ uint32_t kv_page(
	const struct batch_view &b, uint32_t slot, uint32_t position)
{
	return b.table[(size_t)slot * b.stride + position / KV_PAGE_TOKENS];
}

__device__ static __forceinline__ uint8_t *kv_row(
	const struct kv_view &kv, uint32_t page, uint32_t position, uint32_t head, bool value)
{
	const uint32_t rows = (head + (value ? kv.n_kv_heads : 0)) * KV_PAGE_TOKENS +
			      position % KV_PAGE_TOKENS;

	return kv.data + page * kv.page_bytes + rows * kv.row_bytes;
}

/* Element i of a row. */
template <int D> __device__ static __forceinline__ float kv_load(const void *row, uint32_t i)
{
	if constexpr (D == DTYPE_F32)
		return ((const float *)row)[i];
	else if constexpr (D == DTYPE_F16)
		return f16_value(((const uint16_t *)row)[i]);
	else
		return bf16_value(((const uint16_t *)row)[i]);
}

/* The four (F32) or eight elements of 16 bytes. */
template <int D> __device__ static __forceinline__ void kv_unit(const uint4 &unit, float *ret)
{
	const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};

#pragma unroll
	for (int i = 0; i < 4; i++)
		if constexpr (D == DTYPE_F32) {
			ret[i] = __uint_as_float(words[i]);
		} else if constexpr (D == DTYPE_F16) {
			ret[2 * i] = f16_value(words[i] & 0xffff);
			ret[2 * i + 1] = f16_value(words[i] >> 16);
		} else {
			ret[2 * i] = bf16_low(words[i]);
			ret[2 * i + 1] = bf16_high(words[i]);
		}
}

template <int D> __device__ static __forceinline__ void kv_store(void *row, uint32_t i, float x)
{
	if constexpr (D == DTYPE_F32)
		((float *)row)[i] = x;
	else if constexpr (D == DTYPE_F16)
		((uint16_t *)row)[i] = f16_bits(x);
	else
		((uint16_t *)row)[i] = bf16_bits(x);
}
