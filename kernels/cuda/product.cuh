/* A product as its kernels see it, and how activations become an operand.
 *
 * The one arithmetic of y = x W^T, for any number of columns (rows of x):
 *
 *   activations  each f32 is one bf16 (ACTIVATIONS_FAST) or the sum of three (EXACT: 24 bits)
 *   weights      integers are bf16 exactly; a sub-block of 32 or 16 columns is summed by mma from
 *                zero, 16 columns at a time in ascending order, for each the terms of the
 * activations in turn, then scaled into the sum by one fused multiply-add, and with types that have
 * minimums by a second one: minimum x the sub-block's sum of activations, which comes from mma with
 * ones. 16-bit floats are one or two bf16 and are summed on. slices       a row's chunks are cut
 * into SLICES runs, summed apart and added in ascending order
 *
 * Nothing of this depends on how many columns there are: for few, eight warps have a slice each;
 * for many, a warp goes through all slices. A column never touches another. */
#pragma once

#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/reduce.cuh"

#define SLICES          8
#define PRODUCT_PARTS   3
#define COLUMNS         8 /* of one mma */
#define TERMS_MAX       3
#define FEW_COLUMNS     8  /* products read x as it is */
#define SOME_COLUMNS    64 /* activations made ready, warps share the slices out */
#define PRODUCT_THREADS 256

enum epilogue {
	EPILOGUE_STORE,  /* y = v */
	EPILOGUE_ADD,    /* y += v */
	EPILOGUE_SWIGLU, /* parts 0 and 1 are gate and up, the result goes to part 0's y */
	EPILOGUE_ROPE,   /* y = v; whoever completes a head rotates it and writes it to its page */
};

struct product_part {
	struct packed_view w;
	const float *bias; /* [rows] or NULL */
	float *y;          /* [n, rows] */
	uint32_t rows;
	uint32_t first; /* this part's first thread block along the rows */
	uint32_t head;  /* EPILOGUE_ROPE: its first among the heads of Q, K and V */
	int dtype;
};

/* Activations made ready, in the order in which lanes want them:
 * terms [n / 8][chunk][term][step / 2][lane][2 steps, 2 words]; sums of each column over
 * sub-blocks, as mma has them: sums16 [n / 8][chunk][4][8], sums32 [n / 8][chunk][2][8]. */
struct activations_view {
	const uint8_t *terms;
	const float *sums16, *sums32;
};

struct product {
	struct product_part parts[PRODUCT_PARTS];
	const float *x;    /* [n, cols] */
	const float *norm; /* [cols], or NULL: x as it is */
	struct activations_view acts;
	uint32_t n_parts, n, cols, terms, epilogue;
	float eps;
	uint32_t stages; /* of the ring, where it is not fixed */
	uint32_t none;
	/* EPILOGUE_ROPE: counters [column blocks, heads], zero before and after */
	struct rope_kv rope;
	uint32_t *counters;
};

#define TERM_BYTES (CHUNK_COLS * COLUMNS * 2) /* of one term of a chunk */

__device__ static __forceinline__ uint32_t slice_begin(uint32_t chunks, uint32_t slice)
{
	return (uint32_t)((uint64_t)chunks * slice / SLICES);
}

/* A lane's four activations of one step of one column: x[k …], zeros beyond cols and for a column
 * that is not there. */
__device__ static __forceinline__ void step_load(
	const float *x, const float *norm, float scale, uint32_t k, uint32_t cols, float v[4])
{
	v[0] = v[1] = v[2] = v[3] = 0;
	if (!x || k >= cols)
		return;
	if (cols % 4 == 0) {
		const float4 a = load_vector<float4>(x + k);

		v[0] = a.x;
		v[1] = a.y;
		v[2] = a.z;
		v[3] = a.w;
	} else {
		for (uint32_t i = 0; i < 4 && k + i < cols; i++)
			v[i] = x[k + i];
	}
	for (uint32_t i = 0; norm && i < 4 && k + i < cols; i++)
		v[i] = normalised(v[i], scale, norm[k + i]);
}

/* The next term of v: b is its operand, v what remains. */
__device__ static __forceinline__ void term_take(float v[4], uint32_t b[2])
{
	b[0] = bf16_pair(v[0], v[1]);
	b[1] = bf16_pair(v[2], v[3]);
	v[0] -= bf16_low(b[0]);
	v[1] -= bf16_high(b[0]);
	v[2] -= bf16_low(b[1]);
	v[3] -= bf16_high(b[1]);
}

#define BF16_ONES 0x3f803f80u

__device__ static __forceinline__ void mma_ones(float sum[4], const uint32_t b[2])
{
	const uint32_t ones[4] = {BF16_ONES, BF16_ONES, BF16_ONES, BF16_ONES};

	mma_bf16(sum, ones, b[0], b[1], sum);
}

/* The results of rows (first, first + 8) and columns (column, column + 1): v as mma leaves them. */
__device__ static __forceinline__ void result_store(const struct product &p,
	const struct product_part &part, uint32_t row, uint32_t column, float v, float up)
{
	float *y;

	if (row >= part.rows || column >= p.n)
		return;
	y = part.y + (size_t)column * part.rows + row;
	if (part.bias)
		v += part.bias[row];
	if (p.epilogue == EPILOGUE_ADD)
		v = *y + v;
	else if (p.epilogue == EPILOGUE_SWIGLU)
		v = swiglu(v, up);
	*y = v;
}

/* EPILOGUE_ROPE, by all threads once a thread block has stored its results: rows [first, first +
 * rows) of a part, columns [column, column + columns), whose thread block is column_block of its
 * kind. A head's rows lie in some thread blocks; the last of them to arrive has them all. */
#define ROPE_HEADS_MAX 65 /* that a thread block touches: of 128 rows, two each */

__device__ static __forceinline__ void rope_finish(const struct product &p,
	const struct product_part &part, uint32_t first, uint32_t rows, uint32_t column_block,
	uint32_t column, uint32_t columns)
{
	SHARED(uint32_t, mine, [ROPE_HEADS_MAX]);
	const uint32_t warp = threadIdx.x / WARP_LANES, dim = p.rope.head_dim;
	const uint32_t head = first / dim, last = (min(first + rows, part.rows) - 1) / dim;
	const uint32_t n = last - head + 1, all = p.rope.n_heads + 2 * p.rope.n_kv_heads;

	__threadfence();
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < n; i += PRODUCT_THREADS) {
		const uint32_t begin = (head + i) * dim;
		const uint32_t blocks = (begin + dim - 1) / rows - begin / rows + 1;
		uint32_t *counter = &p.counters[(size_t)column_block * all + part.head + head + i];

		mine[i] = atomicAdd(counter, (uint32_t)1) == blocks - 1;
		if (mine[i])
			*counter = 0;
	}
	__syncthreads();
	__threadfence();
	for (uint32_t i = warp; i < n * columns; i += PRODUCT_THREADS / WARP_LANES)
		if (mine[i / columns])
			rope_kv_head(p.rope, column + i % columns, part.head + head + i / columns);
}

__device__ static __forceinline__ uint32_t part_of(const struct product &p, uint32_t block)
{
	uint32_t i = 0;

	while (i + 1 < p.n_parts && block >= p.parts[i + 1].first)
		i++;
	return i;
}
