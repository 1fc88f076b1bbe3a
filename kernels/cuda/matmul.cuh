/* The tensor-core kernels of one weight type: few, some and many columns. What they compute stands
 * in product.cuh, how weights lie in packed.cuh.
 *
 * matmul_split: eight warps share the slices of MT tiles of 16 rows out; each lane copies its part
 * of the weights through a ring of its own in shared memory (no barrier: nobody else reads it), and
 * the warps' sums are added at the end. FEW: up to 8 columns, activations read and made ready in
 * place; otherwise up to 64, made ready by activations_kernel. matmul_wide: a block has 128 rows
 * and 128 columns; 4 x 2 warps of 32 x 64 go through all slices. */
#pragma once

#include "kernels/cuda/matmul_plain.cuh"
#include "kernels/cuda/product.cuh"

#define WIDE_TILES   8  /* of 16 rows, in a block */
#define WIDE_COLUMNS 16 /* of 8, in a block */
#define WARP_COLUMNS 8  /* of 8, of a warp: both with many and with some columns */

/* Blocks on a processor at once: what registers and shared memory leave room for. */
constexpr int split_blocks(int mt, int nt)
{
	return nt > 1 ? 1 : mt > 1 ? 2 : 3;
}

/* Shared memory of matmul_split. */
template <int D, int MT, int NT> __host__ __device__ constexpr size_t split_ring_bytes(int stages)
{
	return (size_t)SLICES * stages * MT * packed<D>::STAGE_BYTES;
}
template <int MT, int NT> __host__ __device__ constexpr size_t split_sums_bytes(void)
{
	return (size_t)SLICES * MT * TILE_ROWS * NT * COLUMNS * sizeof(float);
}
/* Enough to have a few KB under way in each warp. */
template <int D, int MT> __host__ __device__ constexpr int split_stages(void)
{
	return MT * packed<D>::STAGE_BYTES > 2048 ? 3 : 4;
}
template <int D, int MT, int NT> __host__ __device__ constexpr size_t split_shared_bytes(void)
{
	const size_t ring = split_ring_bytes<D, MT, NT>(split_stages<D, MT>());
	const size_t sums = split_sums_bytes<MT, NT>();

	return ring > sums ? ring : sums;
}

/* acc += W x over one chunk of 16-bit floats. `b(step, term, ret)` gives the operand of column tile
 * nt. */
template <int D, int MT, int NT, class B>
__device__ static __forceinline__ void chunk_floats(const typename packed<D>::chunk w[MT],
	uint32_t terms, uint32_t nts, float acc[MT][NT][4], B b)
{
	using W = packed<D>;
	/* unrolled where the terms lie in registers */
	[[maybe_unused]] constexpr int UNROLL = NT == 1 ? TERMS_MAX : 1;

#pragma unroll
	for (int step = 0; step < CHUNK_STEPS; step++) {
		uint32_t a[MT][W::TERMS][4];

#pragma unroll
		for (int m = 0; m < MT; m++)
			W::fragment(w[m], step, a[m]);
#pragma unroll
		for (int nt = 0; nt < NT; nt++) {
			if (nt >= (int)nts)
				continue;
#pragma unroll(UNROLL)
			for (int term = 0; term < TERMS_MAX; term++) {
				uint32_t x[2];

				if (term >= (int)terms)
					continue;
				b(nt, step, term, x);
#pragma unroll
				for (int m = 0; m < MT; m++)
#pragma unroll
					for (int i = 0; i < W::TERMS; i++)
						mma_bf16(acc[m][nt], a[m][i], x[0], x[1],
							acc[m][nt]);
			}
		}
	}
}

/* acc += scale (q x) + minimum sum(x) over one chunk of integers. `sums(nt, sub, ret)` gives the
 * sums of columns 2t and 2t + 1. */
template <int D, int MT, int NT, class B, class S>
__device__ static __forceinline__ void chunk_quants(const typename packed<D>::chunk w[MT],
	uint32_t terms, uint32_t nts, float acc[MT][NT][4], B b, S sums)
{
	using W = packed<D>;
	/* unrolled where the terms lie in registers */
	[[maybe_unused]] constexpr int UNROLL = NT == 1 ? TERMS_MAX : 1;

#pragma unroll
	for (int sub = 0; sub < W::SUBS; sub++) {
		uint32_t a[MT][W::SUB_STEPS][1][4];
		float scale[MT][2], minimum[MT][2];

#pragma unroll
		for (int m = 0; m < MT; m++) {
#pragma unroll
			for (int i = 0; i < W::SUB_STEPS; i++)
				W::fragment(w[m], sub * W::SUB_STEPS + i, a[m][i]);
#pragma unroll
			for (int half = 0; half < 2; half++)
				W::scale(w[m], sub, half, scale[m][half], minimum[m][half]);
		}
#pragma unroll
		for (int nt = 0; nt < NT; nt++) {
			float part[MT][4] = {};

			if (nt >= (int)nts)
				continue;
#pragma unroll
			for (int i = 0; i < W::SUB_STEPS; i++)
#pragma unroll(UNROLL)
				for (int term = 0; term < TERMS_MAX; term++) {
					uint32_t x[2];

					if (term >= (int)terms)
						continue;
					b(nt, sub * W::SUB_STEPS + i, term, x);
#pragma unroll
					for (int m = 0; m < MT; m++)
						mma_bf16(part[m], a[m][i][0], x[0], x[1], part[m]);
				}
#pragma unroll
			for (int m = 0; m < MT; m++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					acc[m][nt][i] = __fmaf_rn(
						scale[m][i / 2], part[m][i], acc[m][nt][i]);
			if constexpr (W::MINIMUMS) {
				float s[2];

				sums(nt, sub, s);
#pragma unroll
				for (int m = 0; m < MT; m++)
#pragma unroll
					for (int i = 0; i < 4; i++)
						acc[m][nt][i] = __fmaf_rn(
							minimum[m][i / 2], s[i % 2], acc[m][nt][i]);
			}
		}
	}
}

template <int D, int MT, int NT, class B, class S>
__device__ static __forceinline__ void chunk_product(const typename packed<D>::chunk w[MT],
	uint32_t terms, uint32_t nts, float acc[MT][NT][4], B b, S sums)
{
	if constexpr (packed<D>::FLOAT)
		chunk_floats<D, MT, NT>(w, terms, nts, acc, b);
	else
		chunk_quants<D, MT, NT>(w, terms, nts, acc, b, sums);
}

template <int D, int MT, int NT>
__device__ static __forceinline__ void split_block(const struct product &p, uint8_t *shared)
{
	using W = packed<D>;
	constexpr bool FEW = NT == 1;
	constexpr int STAGES = split_stages<D, MT>();
	SHARED(float, scratch, [ROW_WARPS]);
	SHARED(float, row_scales, [COLUMNS]);
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	const uint32_t g = lane / 4, t = lane % 4;
	const bool pair = p.epilogue == EPILOGUE_SWIGLU; /* tile 0 is gate's, tile 1 is up's */
	const uint32_t at = pair ? 0 : part_of(p, blockIdx.x);
	const uint32_t first = (blockIdx.x - p.parts[at].first) * (pair ? 1 : MT);
	const uint32_t chunks = p.parts[at].w.chunks, nts = (p.n + COLUMNS - 1) / COLUMNS;
	const uint32_t begin = slice_begin(chunks, warp), end = slice_begin(chunks, warp + 1);
	uint8_t *ring = shared + warp * (STAGES * MT * W::STAGE_BYTES);
	struct packed_view views[MT];
	uint32_t tiles[MT];
	float acc[MT][NT][4] = {};

#pragma unroll
	for (int m = 0; m < MT; m++) {
		const uint32_t tile = pair ? first : first + (uint32_t)m;

		views[m] = p.parts[pair ? m : at].w;
		/* a tile that is not there is computed as the last one, and not stored */
		tiles[m] = tile < views[m].tiles ? tile : views[m].tiles - 1;
	}
	auto fetch = [&](uint32_t chunk) {
		uint8_t *stage = ring + chunk % STAGES * (MT * W::STAGE_BYTES);

		if (chunk < end) {
#pragma unroll
			for (int m = 0; m < MT; m++)
				W::fetch(stage + m * W::STAGE_BYTES, views[m], tiles[m], chunk,
					lane);
		}
		copy_async_commit();
	};
#pragma unroll
	for (int i = 0; i < STAGES - 1; i++)
		fetch(begin + (uint32_t)i);

	/* Weights are on their way; from here on what other kernels wrote is read. */
	grid_wait();
	grid_release();
	if constexpr (FEW) {
		if (p.norm)
			for (uint32_t c = 0; c < p.n; c++) {
				const float s = row_scale(
					p.x + (size_t)c * p.cols, p.cols, p.eps, scratch);

				if (threadIdx.x == 0)
					row_scales[c] = s;
			}
		__syncthreads();
	}
	const float *x = FEW && g < p.n ? p.x + (size_t)g * p.cols : NULL;
	const float x_scale = FEW && p.norm && g < p.n ? row_scales[g] : 0;

	for (uint32_t chunk = begin; chunk < end; chunk++) {
		const uint8_t *stage = ring + chunk % STAGES * (MT * W::STAGE_BYTES);
		typename W::chunk w[MT];

		copy_async_wait<STAGES - 2>();
#pragma unroll
		for (int m = 0; m < MT; m++)
			w[m] = W::read_stage(stage + m * W::STAGE_BYTES, lane);
		fetch(chunk + STAGES - 1);
		if constexpr (FEW) {
			uint32_t terms[CHUNK_STEPS][TERMS_MAX][2];

#pragma unroll
			for (int step = 0; step < CHUNK_STEPS; step++) {
				float v[4];

				step_load(x, p.norm, x_scale,
					chunk * CHUNK_COLS + (uint32_t)step * 16 + 4 * t, p.cols,
					v);
#pragma unroll
				for (int i = 0; i < TERMS_MAX; i++)
					if (i < (int)p.terms)
						term_take(v, terms[step][i]);
			}
			auto b = [&](int, int step, int term, uint32_t ret[2]) {
				ret[0] = terms[step][term][0];
				ret[1] = terms[step][term][1];
			};
			auto sums = [&](int, int sub, float ret[2]) {
				float sum[4] = {0, 0, 0, 0};

#pragma unroll
				for (int i = 0; i < W::SUB_STEPS; i++)
#pragma unroll
					for (int term = 0; term < TERMS_MAX; term++)
						if (term < (int)p.terms)
							mma_ones(sum, terms[sub * W::SUB_STEPS + i]
									   [term]);
				ret[0] = sum[0];
				ret[1] = sum[1];
			};
			chunk_product<D, MT, NT>(w, p.terms, nts, acc, b, sums);
		} else {
			auto b = [&](int nt, int step, int term, uint32_t ret[2]) {
				const size_t tile = ((size_t)nt * chunks + chunk) * p.terms +
						    (uint32_t)term;
				const uint2 v = load_vector<uint2>(
					p.acts.terms + tile * TERM_BYTES +
					(step / 2 * WARP_LANES + lane) * 16 + step % 2 * 8);

				ret[0] = v.x;
				ret[1] = v.y;
			};
			auto sums = [&](int nt, int sub, float ret[2]) {
				const float *from = W::SUB_COLS == 16 ? p.acts.sums16
								      : p.acts.sums32;
				const float2 v = load_vector<float2>(
					from +
					(((size_t)nt * chunks + chunk) * W::SUBS + sub) * COLUMNS +
					2 * t);

				ret[0] = v.x;
				ret[1] = v.y;
			};
			chunk_product<D, MT, NT>(w, p.terms, nts, acc, b, sums);
		}
	}

	/* sums [warp][MT x 16 rows][NT x 8 columns], in the ring's place */
	float *sums = (float *)shared;
	copy_async_wait<0>();
	__syncthreads();
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int nt = 0; nt < NT; nt++)
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const uint32_t row = (uint32_t)m * TILE_ROWS + g + i / 2 * 8;
				const uint32_t column = (uint32_t)nt * COLUMNS + 2 * t + i % 2;

				sums[(warp * MT * TILE_ROWS + row) * (NT * COLUMNS) + column] =
					acc[m][nt][i];
			}
	__syncthreads();
	auto total = [&](uint32_t row, uint32_t column) {
		float v = sums[row * (NT * COLUMNS) + column];

		for (uint32_t i = 1; i < SLICES; i++)
			v += sums[(i * MT * TILE_ROWS + row) * (NT * COLUMNS) + column];
		return v;
	};
	const uint32_t rows = pair ? TILE_ROWS : MT * TILE_ROWS;
	for (uint32_t i = threadIdx.x; i < rows * NT * COLUMNS; i += PRODUCT_THREADS) {
		/* neighbouring threads have neighbouring rows, which lie together in y */
		const uint32_t row = i % rows, column = i / rows;

		if (column < p.n)
			result_store(p, p.parts[at], first * TILE_ROWS + row, column,
				total(row, column), pair ? total(TILE_ROWS + row, column) : 0);
	}
	if (p.epilogue == EPILOGUE_ROPE)
		rope_finish(p, p.parts[at], first * TILE_ROWS, MT * TILE_ROWS, 0, 0, p.n);
}

/* Grid: MT tiles of 16 rows each, over all parts; PRODUCT_THREADS threads. */
template <int D, int MT, int NT>
__global__ __launch_bounds__(PRODUCT_THREADS, split_blocks(MT, NT)) void matmul_split(
	const struct product p)
{
#if PTX_SM80
	SHARED_DYNAMIC(shared);
	split_block<D, MT, NT>(p, shared);
#endif
}

/* The same for few columns where some parts are of type D and the others of type E. */
template <int D, int E>
__global__ __launch_bounds__(PRODUCT_THREADS, 2) void matmul_mixed(const struct product p)
{
#if PTX_SM80
	SHARED_DYNAMIC(shared);
	if (p.parts[part_of(p, blockIdx.x)].dtype == D)
		split_block<D, 1, 1>(p, shared);
	else
		split_block<E, 1, 1>(p, shared);
#endif
}

/* Bytes of a stage: weights of 8 tiles, activations of 16 column tiles. */
template <int D> __host__ __device__ constexpr size_t wide_stage_bytes(uint32_t terms)
{
	return WIDE_TILES * packed<D>::STAGE_BYTES + (size_t)WIDE_COLUMNS * terms * TERM_BYTES;
}

__device__ static __forceinline__ void wait_stages(uint32_t left)
{
	if (left >= 2)
		copy_async_wait<2>();
	else if (left == 1)
		copy_async_wait<1>();
	else
		copy_async_wait<0>();
}

/* Grid (128 columns, 128 rows over all parts); PRODUCT_THREADS threads. */
template <int D>
__global__ __launch_bounds__(PRODUCT_THREADS, 1) void matmul_wide(const struct product p)
{
#if PTX_SM80
	using W = packed<D>;
	constexpr int MT = 2, NT = WARP_COLUMNS;
	SHARED_DYNAMIC(shared);
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	const uint32_t g = lane / 4, t = lane % 4, warp_m = warp / 2, warp_n = warp % 2;
	const bool pair = p.epilogue == EPILOGUE_SWIGLU;
	const uint32_t at = pair ? 0 : part_of(p, blockIdx.y);
	/* Tile i of the block: gate and up in turn, or one after the other. */
	const uint32_t first = (blockIdx.y - p.parts[at].first) *
			       (pair ? WIDE_TILES / 2 : WIDE_TILES);
	const uint32_t chunks = p.parts[at].w.chunks;
	const uint32_t all_nts = (p.n + COLUMNS - 1) / COLUMNS,
		       first_nt = blockIdx.x * WIDE_COLUMNS;
	const uint32_t block_nts = min((uint32_t)WIDE_COLUMNS, all_nts - first_nt);
	const uint32_t my_nt = warp_n * WARP_COLUMNS;
	const uint32_t nts = block_nts > my_nt ? min((uint32_t)NT, block_nts - my_nt) : 0;
	const size_t stage_bytes = wide_stage_bytes<D>(p.terms);
	const struct packed_view copied = p.parts[pair ? warp % 2 : at].w;
	const uint32_t copied_tile = min(first + (pair ? warp / 2 : warp), copied.tiles - 1);
	float acc[MT][NT][4], total[MT][NT][4];

	auto fetch = [&](uint32_t chunk) {
		uint8_t *stage = shared + chunk % p.stages * stage_bytes;
		uint8_t *terms = stage + WIDE_TILES * W::STAGE_BYTES;

		if (chunk < chunks) {
			W::fetch(stage + warp * W::STAGE_BYTES, copied, copied_tile, chunk, lane);
			for (uint32_t i = threadIdx.x; i < block_nts * p.terms * (TERM_BYTES / 16);
				i += PRODUCT_THREADS) {
				const uint32_t nt = i / (p.terms * (TERM_BYTES / 16));
				const uint32_t unit = i % (p.terms * (TERM_BYTES / 16));
				const size_t from = ((size_t)(first_nt + nt) * chunks + chunk) *
						    p.terms * TERM_BYTES;

				copy_async<16>(
					terms + (size_t)i * 16, p.acts.terms + from + unit * 16);
			}
		}
		copy_async_commit();
	};
	grid_wait();
	grid_release();
	for (uint32_t i = 0; i + 1 < p.stages; i++)
		fetch(i);
	for (uint32_t slice = 0; slice < SLICES; slice++) {
		const uint32_t end = slice_begin(chunks, slice + 1);

#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int nt = 0; nt < NT; nt++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					acc[m][nt][i] = 0;
		for (uint32_t chunk = slice_begin(chunks, slice); chunk < end; chunk++) {
			const uint8_t *stage = shared + chunk % p.stages * stage_bytes;
			const uint8_t *terms = stage + WIDE_TILES * W::STAGE_BYTES;
			typename W::chunk w[MT];

			if (p.stages == 1) {
				__syncthreads();
				fetch(chunk);
				wait_stages(0);
				__syncthreads();
			} else {
				wait_stages(p.stages - 2);
				__syncthreads();
				fetch(chunk + p.stages - 1);
			}
#pragma unroll
			for (int m = 0; m < MT; m++)
				w[m] = W::read_stage(
					stage + (warp_m * MT + (uint32_t)m) * W::STAGE_BYTES, lane);
			auto b = [&](int nt, int step, int term, uint32_t ret[2]) {
				const uint2 v = load_vector<uint2>(
					terms +
					((my_nt + (uint32_t)nt) * p.terms + (uint32_t)term) *
						TERM_BYTES +
					(step / 2 * WARP_LANES + lane) * 16 + step % 2 * 8);

				ret[0] = v.x;
				ret[1] = v.y;
			};
			auto sums = [&](int nt, int sub, float ret[2]) {
				const float *from = W::SUB_COLS == 16 ? p.acts.sums16
								      : p.acts.sums32;
				const size_t tile =
					(size_t)(first_nt + my_nt + (uint32_t)nt) * chunks + chunk;
				const float2 v = load_vector<float2>(
					from + (tile * W::SUBS + sub) * COLUMNS + 2 * t);

				ret[0] = v.x;
				ret[1] = v.y;
			};
			chunk_product<D, MT, NT>(w, p.terms, nts, acc, b, sums);
		}
#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int nt = 0; nt < NT; nt++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					total[m][nt][i] = slice == 0
								  ? acc[m][nt][i]
								  : total[m][nt][i] + acc[m][nt][i];
	}
	copy_async_wait<0>();
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int nt = 0; nt < NT; nt++)
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const uint32_t tile = first +
						      (pair ? warp_m : warp_m * MT + (uint32_t)m);
				const uint32_t row = tile * TILE_ROWS + g + i / 2 * 8;
				const uint32_t column =
					(first_nt + my_nt + (uint32_t)nt) * COLUMNS + 2 * t + i % 2;

				if (pair && m == 1)
					continue;
				result_store(p, p.parts[at], row, column, total[m][nt][i],
					pair ? total[1][nt][i] : 0);
			}
	if (p.epilogue == EPILOGUE_ROPE)
		rope_finish(p, p.parts[at], first * TILE_ROWS, WIDE_TILES * TILE_ROWS, blockIdx.x,
			first_nt * COLUMNS,
			min((uint32_t)WIDE_COLUMNS * COLUMNS, p.n - first_nt * COLUMNS));
#endif
}

/* What matmul.cu picks from. */
struct product_kernels {
	const void *few, *few_pair, *some, *wide; /* pair: gate and up at once, for SwiGLU */
	size_t few_bytes, few_pair_bytes, some_bytes;
	size_t wide_weights_bytes; /* of a stage, beside the activations */
	const void *plain;         /* matmul_plain.cuh */
	const void *int8;
};

#define PRODUCT_KERNELS(d)                                                                         \
	{                                                                                          \
		KERNEL((matmul_split<d, 1, 1>)), KERNEL((matmul_split<d, 2, 1>)),                  \
			KERNEL((matmul_split<d, 2, WARP_COLUMNS>)), KERNEL((matmul_wide<d>)),      \
			split_shared_bytes<d, 1, 1>(), split_shared_bytes<d, 2, 1>(),              \
			split_shared_bytes<d, 2, WARP_COLUMNS>(),                                  \
			WIDE_TILES *(size_t)packed<d>::STAGE_BYTES, KERNEL((matmul_plain<d>)),     \
			INT8_KERNEL(d)                                                             \
	}

/* Few columns, weights of two types in one launch; NULL: there is no such kernel. */
const void *matmul_mixed_kernel(int d, int e, size_t *ret_shared_bytes);
bool matmul_float_kernels(int dtype, struct product_kernels *ret);
bool matmul_legacy_kernels(int dtype, struct product_kernels *ret);
bool matmul_k_kernels(int dtype, struct product_kernels *ret);
