/* Sums and maximums over a block, in an order that is always the same. */
#pragma once

#include "kernels/cuda/ptx.cuh"

#define ROW_THREADS 256 /* of every kernel that normalises rows */
#define ROW_WARPS   (ROW_THREADS / WARP_LANES)

__device__ static __forceinline__ float warp_sum(float v)
{
#pragma unroll
	for (int i = WARP_LANES / 2; i > 0; i /= 2)
		v += __shfl_xor_sync(ALL_LANES, v, i);
	return v;
}

/* 1 / sqrt(mean(x^2) + eps) of x [dim], by all ROW_THREADS threads; `scratch` [ROW_WARPS] shared.
 * Thread t sums elements 4 t … 4 t + 3, then those 4 ROW_THREADS further on, and so forth. */
__device__ static __forceinline__ float row_scale(
	const float *x, uint32_t dim, float eps, float *scratch)
{
	const uint32_t thread = threadIdx.x;
	float s = 0, total = 0;

	if (dim % 4 == 0) {
		for (uint32_t i = 4 * thread; i < dim; i += 4 * ROW_THREADS) {
			const float4 v = load_vector<float4>(x + i);

			s = __fmaf_rn(v.x, v.x, s);
			s = __fmaf_rn(v.y, v.y, s);
			s = __fmaf_rn(v.z, v.z, s);
			s = __fmaf_rn(v.w, v.w, s);
		}
	} else {
		for (uint32_t i = 4 * thread; i < dim; i += 4 * ROW_THREADS)
			for (uint32_t k = i; k < i + 4 && k < dim; k++)
				s = __fmaf_rn(x[k], x[k], s);
	}
	s = warp_sum(s);
	__syncthreads(); /* who still reads scratch of the row before */
	if (thread % WARP_LANES == 0)
		scratch[thread / WARP_LANES] = s;
	__syncthreads();
	for (uint32_t i = 0; i < ROW_WARPS; i++)
		total += scratch[i];
	return 1.0f / sqrtf(total / (float)dim + eps);
}

/* One element normalised: the same product everywhere. */
__device__ static __forceinline__ float normalised(float x, float scale, float weight)
{
	return weight * (x * scale);
}

/* x / (1 + exp(-x)) * up */
__device__ static __forceinline__ float swiglu(float gate, float up)
{
	return gate / (1.0f + expf(-gate)) * up;
}
