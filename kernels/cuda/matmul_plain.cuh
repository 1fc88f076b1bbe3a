/* Products without tensor cores, for cards before sm_80: f32 fused multiply-adds (16-bit weights,
 * and all weights where activations are exact), or dp4a with int8 activations.
 *
 * A block has one tile of 16 rows and 8 columns; eight warps share the slices out, and each lane
 * sums the columns of the weight that packed.cuh gives it; the four lanes of a row are added last.
 */
#pragma once

#include "kernels/cuda/product.cuh"

/* Weights and activations of the lanes that share a row are added, then the slices in order. */
__device__ static __forceinline__ void plain_store(const struct product &p, float acc[2][COLUMNS])
{
	SHARED(float, sums, [SLICES][TILE_ROWS][COLUMNS]);
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;

#pragma unroll
	for (int h = 0; h < 2; h++)
#pragma unroll
		for (int c = 0; c < COLUMNS; c++) {
			float v = acc[h][c];

			v += __shfl_xor_sync(ALL_LANES, v, 1);
			v += __shfl_xor_sync(ALL_LANES, v, 2);
			if (lane % 4 == 0)
				sums[warp][lane / 4 + 8 * h][c] = v;
		}
	__syncthreads();
	if (threadIdx.x < TILE_ROWS * COLUMNS) {
		const uint32_t row = threadIdx.x % TILE_ROWS, column = threadIdx.x / TILE_ROWS;
		float v = sums[0][row][column];

		for (uint32_t i = 1; i < SLICES; i++)
			v += sums[i][row][column];
		result_store(p, p.parts[0], blockIdx.x * TILE_ROWS + row,
			blockIdx.y * COLUMNS + column, v, 0);
	}
}

/* Grid (tiles, n / 8). One part, no norm, no SwiGLU. */
template <int D>
__global__ __launch_bounds__(PRODUCT_THREADS) void matmul_plain(const struct product p)
{
#if !PTX_SM80 || defined(ZEPH_SHIM)
	using W = packed<D>;
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	const struct packed_view &view = p.parts[0].w;
	const uint32_t end = slice_begin(view.chunks, warp + 1);
	const uint32_t first = blockIdx.y * COLUMNS;
	float acc[2][COLUMNS] = {};

	grid_wait();
	grid_release();
	for (uint32_t chunk = slice_begin(view.chunks, warp); chunk < end; chunk++) {
		const typename W::chunk w = W::read_global(view, blockIdx.x, chunk, lane);

#pragma unroll
		for (int sub = 0; sub < W::SUBS; sub++) {
			float part[2][COLUMNS] = {}, sum[COLUMNS] = {};

#pragma unroll
			for (int i = 0; i < W::SUB_STEPS; i++) {
				const int step = sub * W::SUB_STEPS + i;
				const uint32_t k = chunk * CHUNK_COLS + (uint32_t)step * 16 +
						   lane % 4 * 4;
				float values[2][4];

				W::values(w, step, values);
#pragma unroll
				for (int c = 0; c < COLUMNS; c++) {
					const uint32_t column = first + (uint32_t)c;
					const float *x = p.x + (size_t)column * p.cols;
					float v[4];

					step_load(column < p.n ? x : NULL, NULL, 0, k, p.cols, v);
					sum[c] += (v[0] + v[1]) + (v[2] + v[3]);
#pragma unroll
					for (int h = 0; h < 2; h++)
#pragma unroll
						for (int j = 0; j < 4; j++)
							part[h][c] = __fmaf_rn(
								values[h][j], v[j], part[h][c]);
				}
			}
#pragma unroll
			for (int h = 0; h < 2; h++) {
				float scale = 1, minimum = 0;

				if constexpr (!W::FLOAT)
					W::scale(w, sub, h, scale, minimum);
#pragma unroll
				for (int c = 0; c < COLUMNS; c++) {
					acc[h][c] = __fmaf_rn(scale, part[h][c], acc[h][c]);
					if constexpr (W::MINIMUMS)
						acc[h][c] = __fmaf_rn(minimum, sum[c], acc[h][c]);
				}
			}
		}
	}
	plain_store(p, acc);
#endif
}

/* Activations as int8, one scale for 32 (int8_kernel): words [n][chunk][step][t] in byte form,
 * scales [n][chunk][2]. They come as acts.terms and acts.sums32. */
template <int D>
__global__ __launch_bounds__(PRODUCT_THREADS) void matmul_int8(const struct product p)
{
#if !PTX_SM80 || defined(ZEPH_SHIM)
	using W = packed<D>;
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	const struct packed_view &view = p.parts[0].w;
	const uint32_t end = slice_begin(view.chunks, warp + 1);
	const uint32_t first = blockIdx.y * COLUMNS;
	const uint32_t *words = (const uint32_t *)p.acts.terms;
	float acc[2][COLUMNS] = {};

	grid_wait();
	grid_release();
	for (uint32_t chunk = slice_begin(view.chunks, warp); chunk < end; chunk++) {
		const typename W::chunk w = W::read_global(view, blockIdx.x, chunk, lane);

#pragma unroll
		for (int sub = 0; sub < W::SUBS; sub++) {
			int part[2][COLUMNS] = {}, sum[COLUMNS] = {};

#pragma unroll
			for (int i = 0; i < W::SUB_STEPS; i++) {
				const int step = sub * W::SUB_STEPS + i;
				uint32_t q[2];

				W::bytes(w, step, q[0], q[1]);
#pragma unroll
				for (int c = 0; c < COLUMNS; c++) {
					const size_t at =
						(size_t)(first + (uint32_t)c) * view.chunks + chunk;
					const uint32_t x =
						first + (uint32_t)c < p.n
							? words[at * 16 + (uint32_t)step * 4 +
								  lane % 4]
							: 0;

					sum[c] = dot4(x, 0x01010101, sum[c]);
					part[0][c] = dot4(q[0], x, part[0][c]);
					part[1][c] = dot4(q[1], x, part[1][c]);
				}
			}
#pragma unroll
			for (int h = 0; h < 2; h++) {
				float scale, minimum;

				W::scale(w, sub, h, scale, minimum);
#pragma unroll
				for (int c = 0; c < COLUMNS; c++) {
					const uint32_t column = first + (uint32_t)c;
					const size_t at = ((size_t)column * view.chunks + chunk) *
							  2;
					const float d =
						column < p.n ? p.acts.sums32[at + sub * 2 / W::SUBS]
							     : 0;
					const int v = part[h][c] - W::OFFSET * sum[c];

					acc[h][c] = __fmaf_rn(scale * d, (float)v, acc[h][c]);
					if constexpr (W::MINIMUMS)
						acc[h][c] = __fmaf_rn(
							minimum * d, (float)sum[c], acc[h][c]);
				}
			}
		}
	}
	plain_store(p, acc);
#endif
}
