/* Attention in 128-position blocks, f32 throughout.
 *
 * A thread block serves up to 16 queries that share keys and values: the query heads of one KV
 * head, of consecutive rows of one sequence. Each 128-position block has a maximum, a sum and an
 * output of its own, merged in ascending order. Either one thread block walks all of them (prompts:
 * there are enough queries to fill the card), or each has a thread block and the last to arrive
 * merges (decoding). A query's arithmetic is the same in both, whoever its neighbours are:
 *
 *   score   one chain of fused multiply-adds over the head's elements, in order
 *   sum     four positions a lane (p, p + 32, p + 64, p + 96), then a tree over the lanes
 *   output  one chain per element over the block's positions, in order
 *
 * Positions that a row may not see have score -inf: they add zeros, which change no bit.
 *
 * Shared memory: queries [16, head_dim], the block's scores [16, 128], and two tiles of T positions
 * of keys or values (Q8_0: and their scales), one being copied while the other is used. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/kv.cuh"
#include "kernels/cuda/reduce.cuh"

#include <assert.h>
#include <errno.h>
#include <math.h>

#define THREADS     256
#define WARPS       (THREADS / WARP_LANES)
#define QUERIES     16
#define BLOCK       ATTENTION_BLOCK
#define PER_LANE    (BLOCK / WARP_LANES)
#define SPLIT_ROWS  64
#define T_MAX       64
#define SCORES_MAX  (QUERIES / (THREADS / T_MAX)) /* of a thread */
#define OUTPUTS_MAX 8                             /* queries of a thread, at head_dim 256 */

struct attention {
	struct batch_view batch;
	struct kv_view kv;
	const float *q;
	float *y;
	float *partials; /* [grid.x, grid.y, grid.z, queries, 2 + head_dim]; NULL: one block walks
			  */
	uint32_t *counters; /* [grid.x, grid.y], zero before and after */
	float scale;
	uint32_t window, n_heads, group, head_dim;
	uint32_t heads;    /* of a thread block, at most 16 */
	uint32_t rows;     /* of a thread block; heads x rows <= 16 */
	uint32_t row_subs; /* thread blocks along a batch tile */
	uint32_t head_subs;
	uint32_t t;          /* positions in a tile, a divisor of 128 */
	uint32_t pairs_pow2; /* head_dim / 2, rounded up to a power of two */
	uint32_t queries;    /* that a thread block has at most in this batch */
};

/* What a thread block works on. */
struct scope {
	uint32_t slot, kv_head;
	uint32_t row, n_rows, head, n_heads; /* queries: index r is row r / n_heads */
	uint32_t begin, end;                 /* positions that any of its rows sees */
	uint32_t first, last;                /* 128-position blocks of it, last included */
};

/* One tile of keys or values. */
struct item {
	uint32_t block, tile;
	bool value;
};

__device__ static uint32_t begin_of(const struct attention &p, uint32_t position)
{
	const uint32_t end = position + 1;

	return p.window > 0 && end > p.window ? end - p.window : 0;
}

__device__ static bool scope_of(const struct attention &p, struct scope &s)
{
	const struct attention_tile tile = p.batch.tiles[blockIdx.x / p.row_subs];
	const uint32_t first = blockIdx.x % p.row_subs * p.rows;
	const uint32_t head = blockIdx.y % p.head_subs * p.heads;
	uint32_t position;

	if (first >= tile.n_rows)
		return false;
	s.row = tile.row + first;
	s.n_rows = min(p.rows, tile.n_rows - first);
	s.slot = p.batch.slots[s.row];
	s.kv_head = blockIdx.y / p.head_subs;
	s.head = s.kv_head * p.group + head;
	s.n_heads = min(p.heads, p.group - head);
	position = p.batch.positions[s.row];
	s.begin = begin_of(p, position);
	s.end = position + s.n_rows;
	s.first = s.begin / BLOCK;
	s.last = (s.end - 1) / BLOCK;
	return true;
}

/* Tiles [low, high) of a block hold positions that are seen. */
__device__ static uint32_t tile_low(
	const struct attention &p, const struct scope &s, uint32_t block)
{
	return s.begin > block * BLOCK ? (s.begin - block * BLOCK) / p.t : 0;
}

__device__ static uint32_t tile_high(
	const struct attention &p, const struct scope &s, uint32_t block)
{
	const uint32_t n = min((uint32_t)BLOCK, s.end - block * BLOCK);

	return (n + p.t - 1) / p.t;
}

/* The item after this one, false after the last of `until`. */
__device__ static bool item_next(
	const struct attention &p, const struct scope &s, uint32_t until, struct item &i)
{
	if (++i.tile < tile_high(p, s, i.block))
		return true;
	i.value = !i.value;
	if (!i.value && ++i.block > until)
		return false;
	i.tile = tile_low(p, s, i.block);
	return true;
}

/* Rows of keys are read down a column of 16-byte units: the units of eight rows are spread over the
 * banks. */
__device__ static uint32_t spread(uint32_t unit, uint32_t position, uint32_t units)
{
	return units % 8 == 0 ? unit ^ (position & 7) : unit;
}

template <int BYTES>
__device__ static void item_copy(
	const struct attention &p, const struct scope &s, const struct item &i, uint8_t *tile)
{
	const uint32_t units = p.kv.row_bytes / BYTES;
	const uint32_t first = i.block * BLOCK + i.tile * p.t;

	for (uint32_t at = threadIdx.x; at < p.t * units; at += THREADS) {
		const uint32_t row = at / units, unit = at % units, position = first + row;
		const bool swap = BYTES == 16 && !i.value;
		uint8_t *to = tile + row * p.kv.row_bytes +
			      (swap ? spread(unit, row, units) : unit) * BYTES;

		if (position >= s.begin && position < s.end) {
			const uint32_t page = kv_page(p.batch, s.slot, position);

			copy_async<BYTES>(to,
				kv_row(p.kv, page, position, s.kv_head, i.value) + unit * BYTES);
		} else {
			for (int k = 0; k < BYTES / 4; k++)
				((uint32_t *)to)[k] = 0;
		}
	}
}

/* The scales of the tile's rows, f16 [t, head_dim / 32], behind them. */
__device__ static void scales_copy(
	const struct attention &p, const struct scope &s, const struct item &i, uint8_t *to)
{
	const uint32_t n = p.kv.scale_bytes / 2, first = i.block * BLOCK + i.tile * p.t;

	for (uint32_t at = threadIdx.x; at < p.t * n; at += THREADS) {
		const uint32_t position = first + at / n;
		uint16_t scale = 0;

		if (position >= s.begin && position < s.end) {
			const uint32_t page = kv_page(p.batch, s.slot, position);

			scale = ((const uint16_t *)kv_scales(
				p.kv, page, position, s.kv_head, i.value))[at % n];
		}
		((uint16_t *)to)[at] = scale;
	}
}

template <int D>
__device__ static __forceinline__ float scale_of(
	const struct attention &p, const uint8_t *tile, uint32_t row, uint32_t element)
{
	if constexpr (D != DTYPE_Q8_0)
		return 1;
	const uint8_t *scales = tile + p.t * p.kv.row_bytes + row * p.kv.scale_bytes;
	return f16_value(((const uint16_t *)scales)[element / Q8_BLOCK]);
}

__device__ static void item_fetch(
	const struct attention &p, const struct scope &s, const struct item &i, uint8_t *tile)
{
	if (p.kv.scale_bytes > 0)
		scales_copy(p, s, i, tile + p.t * p.kv.row_bytes);
	if (p.kv.row_bytes % 16 == 0)
		item_copy<16>(p, s, i, tile);
	else
		item_copy<4>(p, s, i, tile);
}

/* scores [16, 128] of a tile of keys: a thread has one position and some of the queries. */
template <int D>
__device__ static void scores_of(const struct attention &p, const struct scope &s,
	const struct item &i, const uint8_t *tile, const float *queries, float *scores)
{
	const uint32_t row = threadIdx.x % p.t, sharers = THREADS / p.t;
	const uint32_t n = s.n_rows * s.n_heads, first = threadIdx.x / p.t;
	const uint32_t at = i.tile * p.t + row, position = i.block * BLOCK + at;
	const uint8_t *key = tile + row * p.kv.row_bytes;
	float sum[SCORES_MAX] = {0};

	if (p.kv.row_bytes % 16 == 0) {
		constexpr int PER_UNIT = kv_per_unit<D>();
		const uint32_t units = p.kv.row_bytes / 16;

		for (uint32_t u = 0; u < units; u++) {
			const uint4 unit = load_vector<uint4>(key + spread(u, row, units) * 16);
			float k[PER_UNIT];

			kv_unit<D>(unit, scale_of<D>(p, tile, row, u * PER_UNIT), k);
#pragma unroll
			for (int j = 0; j < SCORES_MAX; j++) {
				const uint32_t r = first + sharers * (uint32_t)j;

				if (r >= n)
					break;
#pragma unroll
				for (int e = 0; e < PER_UNIT; e += 4) {
					const float4 q = load_vector<float4>(
						queries + r * p.head_dim + u * PER_UNIT +
						(uint32_t)e);

					sum[j] = __fmaf_rn(q.x, k[e], sum[j]);
					sum[j] = __fmaf_rn(q.y, k[e + 1], sum[j]);
					sum[j] = __fmaf_rn(q.z, k[e + 2], sum[j]);
					sum[j] = __fmaf_rn(q.w, k[e + 3], sum[j]);
				}
			}
		}
	} else {
		for (uint32_t e = 0; e < p.head_dim; e++) {
			const float k = kv_load<D>(key, e, scale_of<D>(p, tile, row, e));

#pragma unroll
			for (int j = 0; j < SCORES_MAX; j++) {
				const uint32_t r = first + sharers * (uint32_t)j;

				if (r < n)
					sum[j] = __fmaf_rn(queries[r * p.head_dim + e], k, sum[j]);
			}
		}
	}
#pragma unroll
	for (int j = 0; j < SCORES_MAX; j++) {
		const uint32_t r = first + sharers * (uint32_t)j;

		if (r >= n)
			break;
		/* the rows' positions ascend by one, the last row's is s.end - 1 */
		const uint32_t last = s.end - s.n_rows + r / s.n_heads;
		const bool seen = position <= last && position >= begin_of(p, last);

		scores[r * BLOCK + at] = seen ? sum[j] * p.scale : -INFINITY;
	}
}

/* Scores to exp(score - maximum); a warp has a query at a time. */
__device__ static void softmax(uint32_t n, float *scores, float *maximums, float *sums)
{
	const uint32_t lane = threadIdx.x % WARP_LANES;

	for (uint32_t r = threadIdx.x / WARP_LANES; r < n; r += WARPS) {
		float *row = scores + r * BLOCK, v[PER_LANE], max = -INFINITY, sum;

#pragma unroll
		for (int j = 0; j < PER_LANE; j++) {
			v[j] = row[lane + WARP_LANES * (uint32_t)j];
			max = fmaxf(max, v[j]);
		}
#pragma unroll
		for (int i = WARP_LANES / 2; i > 0; i /= 2)
			max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, i));
#pragma unroll
		for (int j = 0; j < PER_LANE; j++) {
			v[j] = v[j] == -INFINITY ? 0.0f : expf(v[j] - max);
			row[lane + WARP_LANES * (uint32_t)j] = v[j];
		}
		sum = warp_sum((v[0] + v[1]) + (v[2] + v[3]));
		if (lane == 0) {
			maximums[r] = max;
			sums[r] = sum;
		}
	}
}

/* Two elements of the outputs of some queries: what a thread has of [16, head_dim]. */
struct outputs {
	float v[OUTPUTS_MAX][2];
};

template <int D>
__device__ static void values_add(const struct attention &p, uint32_t n, const struct item &i,
	const uint8_t *tile, const float *scores, struct outputs &out)
{
	const uint32_t pair = threadIdx.x % p.pairs_pow2, sharers = THREADS / p.pairs_pow2;
	const uint32_t first = threadIdx.x / p.pairs_pow2;

	if (2 * pair >= p.head_dim)
		return;
	for (uint32_t row = 0; row < p.t; row += 4) {
		float v[4][2];

#pragma unroll
		for (int k = 0; k < 4; k++) {
			const uint8_t *value = tile + (row + (uint32_t)k) * p.kv.row_bytes;
			const float scale = scale_of<D>(p, tile, row + (uint32_t)k, 2 * pair);

			v[k][0] = kv_load<D>(value, 2 * pair, scale);
			v[k][1] = kv_load<D>(value, 2 * pair + 1, scale);
		}
#pragma unroll
		for (int j = 0; j < OUTPUTS_MAX; j++) {
			const uint32_t r = first + sharers * (uint32_t)j;

			if (r >= n)
				break;
			const float4 e = load_vector<float4>(
				scores + r * BLOCK + i.tile * p.t + row);
			const float es[4] = {e.x, e.y, e.z, e.w};

#pragma unroll
			for (int k = 0; k < 4; k++) {
				out.v[j][0] = __fmaf_rn(es[k], v[k][0], out.v[j][0]);
				out.v[j][1] = __fmaf_rn(es[k], v[k][1], out.v[j][1]);
			}
		}
	}
}

/* How (max, sum, output) so far and those of a block become one. */
struct merge {
	float max, old_scale, block_scale;
};

__device__ static struct merge merge_of(float max, float block_max)
{
	struct merge m;

	m.max = fmaxf(max, block_max);
	m.old_scale = max == -INFINITY ? 0.0f : expf(max - m.max);
	m.block_scale = block_max == -INFINITY ? 0.0f : expf(block_max - m.max);
	return m;
}

__device__ static float merged(const struct merge &m, float old, float block)
{
	return __fmaf_rn(block, m.block_scale, old * m.old_scale);
}

/* What a thread has of its queries' outputs so far. */
struct state {
	float max[OUTPUTS_MAX], sum[OUTPUTS_MAX];
	struct outputs out;
};

__device__ static void state_merge(struct state &s, int j, float max, float sum, const float out[2])
{
	const struct merge m = merge_of(s.max[j], max);

	if (max == -INFINITY) /* the query sees nothing of this block */
		return;
	s.max[j] = m.max;
	s.sum[j] = merged(m, s.sum[j], sum);
	s.out.v[j][0] = merged(m, s.out.v[j][0], out[0]);
	s.out.v[j][1] = merged(m, s.out.v[j][1], out[1]);
}

__device__ static float *partial_of(const struct attention &p, uint32_t z, uint32_t r)
{
	const size_t at = ((size_t)blockIdx.x * gridDim.y + blockIdx.y) * gridDim.z + z;

	return p.partials + (at * p.queries + r) * (2 + p.head_dim);
}

template <int D>
__global__ __launch_bounds__(THREADS, 1) void attention_kernel(const struct attention p)
{
	SHARED_DYNAMIC(shared);
	SHARED(float, maximums, [QUERIES]);
	SHARED(float, sums, [QUERIES]);
	SHARED(uint32_t, arrived, [1]);
	float *queries = (float *)shared, *scores = queries + QUERIES * p.head_dim;
	const uint32_t pair = threadIdx.x % p.pairs_pow2, sharers = THREADS / p.pairs_pow2;
	const uint32_t first = threadIdx.x / p.pairs_pow2;
	const bool mine = 2 * pair < p.head_dim;
	const uint32_t tile_bytes = p.t * (p.kv.row_bytes + p.kv.scale_bytes);
	uint8_t *tiles = shared + (QUERIES * p.head_dim + QUERIES * BLOCK) * sizeof(float);
	struct scope s;
	struct state state;
	struct outputs block;

	grid_wait();
	grid_release();
	if (!scope_of(p, s))
		return;

	const uint32_t n = s.n_rows * s.n_heads, n_blocks = s.last - s.first + 1;
	uint32_t from = s.first, until = s.last;
	if (p.partials) {
		from += blockIdx.z;
		until = from;
		if (from > s.last)
			return;
	}
	for (uint32_t i = threadIdx.x; i < n * p.head_dim; i += THREADS) {
		const uint32_t r = i / p.head_dim, row = s.row + r / s.n_heads;
		const uint32_t head = s.head + r % s.n_heads;

		queries[i] = p.q[((size_t)row * p.n_heads + head) * p.head_dim + i % p.head_dim];
	}
#pragma unroll
	for (int j = 0; j < OUTPUTS_MAX; j++) {
		state.max[j] = -INFINITY;
		state.sum[j] = 0;
		state.out.v[j][0] = state.out.v[j][1] = 0;
		block.v[j][0] = block.v[j][1] = 0;
	}

	struct item i = {from, tile_low(p, s, from), false};
	uint32_t buffer = 0;
	bool more = true;
	item_fetch(p, s, i, tiles);
	copy_async_commit();
	while (more) {
		const struct item now = i;
		const uint32_t low = tile_low(p, s, now.block), high = tile_high(p, s, now.block);

		if (!now.value && now.tile == low)
			for (uint32_t k = threadIdx.x; k < n * BLOCK; k += THREADS)
				scores[k] = -INFINITY;
		more = item_next(p, s, until, i);
		if (more)
			item_fetch(p, s, i, tiles + (buffer ^ 1) * tile_bytes);
		copy_async_commit();
		copy_async_wait<1>();
		__syncthreads();
		if (!now.value) {
			scores_of<D>(p, s, now, tiles + buffer * tile_bytes, queries, scores);
			__syncthreads();
			if (now.tile + 1 == high)
				softmax(n, scores, maximums, sums);
		} else {
			values_add<D>(p, n, now, tiles + buffer * tile_bytes, scores, block);
		}
		buffer ^= 1;
		if (now.value && now.tile + 1 == high && mine) {
#pragma unroll
			for (int j = 0; j < OUTPUTS_MAX; j++) {
				const uint32_t r = first + sharers * (uint32_t)j;

				if (r >= n)
					break;
				if (p.partials && n_blocks > 1) {
					float *to = partial_of(p, blockIdx.z, r);

					to[0] = maximums[r];
					to[1] = sums[r];
					to[2 + 2 * pair] = block.v[j][0];
					to[3 + 2 * pair] = block.v[j][1];
				} else {
					state_merge(state, j, maximums[r], sums[r], block.v[j]);
				}
				block.v[j][0] = block.v[j][1] = 0;
			}
		}
		__syncthreads();
	}

	if (p.partials && n_blocks > 1) {
		/* The last of the blocks to arrive merges them all, in ascending order. */
		__threadfence();
		__syncthreads();
		if (threadIdx.x == 0)
			arrived[0] = atomicAdd(
				&p.counters[blockIdx.x * gridDim.y + blockIdx.y], (uint32_t)1);
		__syncthreads();
		if (arrived[0] != n_blocks - 1)
			return;
		__threadfence();
		if (threadIdx.x == 0)
			p.counters[blockIdx.x * gridDim.y + blockIdx.y] = 0;
#pragma unroll
		for (int j = 0; j < OUTPUTS_MAX; j++) {
			const uint32_t r = first + sharers * (uint32_t)j;

			for (uint32_t z = 0; mine && r < n && z < n_blocks; z++) {
				const volatile float *part = partial_of(p, z, r);
				const float out[2] = {part[2 + 2 * pair], part[3 + 2 * pair]};

				state_merge(state, j, part[0], part[1], out);
			}
		}
	}
#pragma unroll
	for (int j = 0; j < OUTPUTS_MAX; j++) {
		const uint32_t r = first + sharers * (uint32_t)j;

		if (!mine || r >= n)
			break;
		float *y = p.y +
			   ((size_t)(s.row + r / s.n_heads) * p.n_heads + s.head + r % s.n_heads) *
				   p.head_dim;

		y[2 * pair] = state.out.v[j][0] / state.sum[j];
		y[2 * pair + 1] = state.out.v[j][1] / state.sum[j];
	}
}

/* row_bytes: with scales */
static size_t shared_bytes(uint32_t head_dim, size_t row_bytes, uint32_t t)
{
	return QUERIES * (head_dim + BLOCK) * sizeof(float) + 2 * t * row_bytes;
}

/* Blocks of the longest row, to a power of two, so that a graph serves many lengths. */
static uint32_t splits_of(const struct cuda *c, uint32_t window)
{
	uint32_t most = c->last_position / BLOCK + 1, n = 1;

	if (window > 0)
		most = min(most, (window + TILE_ROWS_MAX) / BLOCK + 2);
	while (n < most)
		n *= 2;
	return n;
}

int cuda_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	struct cuda *c = cuda_of(b);
	const uint32_t dim = shape->head_dim, group = shape->n_heads / shape->n_kv_heads;
	const void *kernel = kv->shape.dtype == DTYPE_F32    ? KERNEL(attention_kernel<DTYPE_F32>)
			     : kv->shape.dtype == DTYPE_F16  ? KERNEL(attention_kernel<DTYPE_F16>)
			     : kv->shape.dtype == DTYPE_BF16 ? KERNEL(attention_kernel<DTYPE_BF16>)
							     : KERNEL(attention_kernel<DTYPE_Q8_0>);
	struct attention p = {};
	size_t row_bytes;
	dim3 grid;
	int r;

	assert(batch->n_rows == c->batch.n_rows && shape->n_heads % shape->n_kv_heads == 0);
	assert(dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	if (batch->n_rows == 0)
		return 0;
	p.batch = c->batch;
	p.kv = kv_view_of(kv, layer);
	p.q = q;
	p.y = y;
	p.scale = shape->scale;
	p.window = shape->window;
	p.n_heads = shape->n_heads;
	p.group = group;
	p.head_dim = dim;
	p.heads = min(group, (uint32_t)QUERIES);
	p.head_subs = parts_of(group, p.heads);
	p.rows = max(QUERIES / p.heads, (uint32_t)1);
	p.row_subs = parts_of(c->longest_tile, p.rows);
	p.queries = p.heads * min(p.rows, c->longest_tile);
	p.pairs_pow2 = 1;
	while (p.pairs_pow2 < dim / 2)
		p.pairs_pow2 *= 2;
	p.t = T_MAX;
	/* A tile of t positions is a multiple of 16 bytes: t of at least 8 with Q8_0's scales. */
	row_bytes = p.kv.row_bytes + p.kv.scale_bytes;
	while (p.t > 8 && shared_bytes(dim, row_bytes, p.t) >
				  min(c->shared_max_bytes - 256, (size_t)64 * 1024))
		p.t /= 2;
	if (dim > 256 || shared_bytes(dim, row_bytes, p.t) > c->shared_max_bytes - 256)
		return cuda_fail(c, -ENOTSUP, "no kernel for heads of %u elements", dim);
	grid = dim3(c->batch.n_tiles * p.row_subs, shape->n_kv_heads * p.head_subs);
	if (batch->n_rows <= SPLIT_ROWS) {
		const size_t items = (size_t)grid.x * grid.y;

		grid.z = splits_of(c, shape->window);
		r = arena_grow(c, &c->partials,
			items * grid.z * p.queries * (2 + dim) * sizeof(float), false,
			"attention's partial results");
		if (r == 0)
			r = arena_grow(c, &c->counters, items * sizeof(uint32_t), true,
				"attention's counters");
		if (r < 0)
			return r;
		p.partials = (float *)c->partials.data;
		p.counters = (uint32_t *)c->counters.data;
	}
	return cuda_launch(c, kernel, grid, THREADS, shared_bytes(dim, row_bytes, p.t), p);
}
