/* Large prompts where the administrator prefers throughput (engine.exact = false): cuBLASLt's
 * products in its own order of sums, so a row's bits depend on how many rows there are. Weights are
 * written as bf16, a panel of rows at a time, activations as one bf16; results are f32.
 *
 * One algorithm for a shape, chosen once and kept while the shape is in use; no sum is split, so
 * the same call gives the same bits again. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/inexact.cuh"
#include "kernels/cuda/reduce.cuh"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#ifdef ZEPH_SHIM /* so that small weights have several panels */
#define PANEL_BYTES ((size_t)16 << 10)
#else
#define PANEL_BYTES ((size_t)64 << 20)
#endif
#define PANEL_ROWS 64 /* a panel has a multiple of this */
#define THREADS    256

struct panel {
	struct packed_view w;
	uint16_t *to; /* [n_rows, cols] */
	uint32_t first_tile, n_rows, cols, none;
};

/* Grid (chunks / 8, tiles): a warp writes one chunk of a tile. */
template <int D> __global__ __launch_bounds__(THREADS) void panel_kernel(const struct panel p)
{
	using W = packed<D>;
	const uint32_t lane = threadIdx.x % WARP_LANES;
	const uint32_t at = blockIdx.x * (THREADS / WARP_LANES) + threadIdx.x / WARP_LANES;

	grid_wait();
	grid_release();
	if (at >= p.w.chunks)
		return;
	const typename W::chunk c = W::read_global(p.w, p.first_tile + blockIdx.y, at, lane);
#pragma unroll
	for (int step = 0; step < CHUNK_STEPS; step++) {
		const uint32_t k = at * CHUNK_COLS + (uint32_t)step * 16 + lane % 4 * 4;
		float w[2][4];

		W::values(c, step, w);
#pragma unroll
		for (int h = 0; h < 2; h++) {
			const uint32_t row = blockIdx.y * TILE_ROWS + lane / 4 + 8 * (uint32_t)h;
			float scale = 1, minimum = 0;

			if constexpr (!W::FLOAT) {
				W::scale(c, step / W::SUB_STEPS, h, scale, minimum);
#pragma unroll
				for (int i = 0; i < 4; i++)
					w[h][i] = __fmaf_rn(scale, w[h][i], minimum);
			}
			if (row < p.n_rows && k < p.cols) /* cols is a multiple of 8 */
				store_vector<uint2>(p.to + (size_t)row * p.cols + k,
					make_uint2(bf16_pair(w[h][0], w[h][1]),
						bf16_pair(w[h][2], w[h][3])));
		}
	}
}

static const void *panel_kernel_of(enum dtype dtype)
{
	switch (dtype) {
#define CASE(d)                                                                                    \
	case d: return KERNEL(panel_kernel<d>);
		PACKED_TYPES(CASE)
#undef CASE
	default: return NULL;
	}
}

struct rows_bf16 {
	const float *x, *norm; /* norm: or NULL */
	uint16_t *to;
	uint32_t cols;
	float eps;
};

/* A block has a row. */
__global__ __launch_bounds__(ROW_THREADS) void rows_bf16_kernel(const struct rows_bf16 p)
{
	SHARED(float, scratch, [ROW_WARPS]);
	const float *x = p.x + (size_t)blockIdx.x * p.cols;
	uint16_t *to = p.to + (size_t)blockIdx.x * p.cols;
	float scale = 0;

	grid_wait();
	grid_release();
	if (p.norm)
		scale = row_scale(x, p.cols, p.eps, scratch);
	for (uint32_t i = threadIdx.x; i < p.cols; i += ROW_THREADS)
		to[i] = bf16_bits(p.norm ? normalised(x[i], scale, p.norm[i]) : x[i]);
}

struct bias_add {
	const float *bias; /* [rows] */
	float *y;          /* [n, rows] */
	uint32_t rows, none;
};

__global__ void bias_add_kernel(const struct bias_add p)
{
	const uint32_t i = blockIdx.x * THREADS + threadIdx.x;

	grid_wait();
	grid_release();
	if (i < p.rows)
		p.y[(size_t)blockIdx.y * p.rows + i] += p.bias[i];
}

void inexact_open(struct cuda *c)
{
	char why[sizeof(c->base.device.note)];
	int r = -ENOTSUP;

	if (c->arch < 80)
		snprintf(why, sizeof(why), "it needs a card of sm_80 or newer");
	else if (c->activations == ACTIVATIONS_EXACT)
		snprintf(why, sizeof(why), "engine.activations is \"exact\"");
	else
		r = cublaslt_open(&c->lt, why, sizeof(why));
	if (r < 0)
		snprintf(c->base.device.note, sizeof(c->base.device.note),
			"prompts are computed exactly though engine.exact is false: %.180s", why);
	c->base.device.inexact = r == 0;
}

void inexact_close(struct cuda *c)
{
	for (uint32_t i = 0; i < INEXACT_SHAPES; i++)
		cublaslt_product_free(&c->lt, &c->shapes[i].product);
	cublaslt_close(&c->lt);
}

int inexact_begin(struct cuda *c, uint32_t n, uint32_t cols, const float *x,
	const struct weight *norm, float eps)
{
	struct rows_bf16 p = {x, norm ? (const float *)norm->quants : NULL, NULL, cols, eps};
	int r = arena_grow(c, &c->rows_bf16, (size_t)n * cols * 2, false, "activations as bf16");

	if (r == 0)
		r = arena_grow(c, &c->lt_workspace, CUBLASLT_WORKSPACE_BYTES, false,
			"cuBLASLt's workspace");
	if (r < 0)
		return r;
	p.to = (uint16_t *)c->rows_bf16.data;
	return cuda_launch(c, KERNEL(rows_bf16_kernel), dim3(n), ROW_THREADS, 0, p);
}

/* The shape's product, made once; the place that was not used for longest is taken over. NULL: the
 * library has none. */
static struct inexact_shape *shape_find(
	struct cuda *c, uint32_t n, uint32_t rows, uint32_t cols, uint32_t stride)
{
	struct inexact_shape *s = &c->shapes[0];

	for (uint32_t i = 0; i < INEXACT_SHAPES; i++) {
		struct inexact_shape *at = &c->shapes[i];

		if (at->used > 0 && at->n == n && at->rows == rows && at->cols == cols &&
			at->stride == stride) {
			at->used = ++c->shapes_used;
			return at;
		}
		s = at->used < s->used ? at : s;
	}
	cublaslt_product_free(&c->lt, &s->product);
	*s = {n, rows, cols, stride, ++c->shapes_used, {}};
	if (cublaslt_prepare(&c->lt, n, rows, cols, stride, CUDA_TYPE_F32, false, &s->product) == 0)
		return s;
	cublaslt_product_free(&c->lt, &s->product);
	*s = {};
	return NULL;
}

/* Rows of a panel. */
static uint32_t panel_rows(const struct weight *w)
{
	const uint32_t rows = (uint32_t)min(PANEL_BYTES / ((size_t)w->cols * 2), (size_t)w->rows);

	return max(rows / PANEL_ROWS * PANEL_ROWS, (uint32_t)PANEL_ROWS);
}

bool inexact_serves(struct cuda *c, uint32_t n, const struct weight *w, const float *y)
{
	/* operands at multiples of CUBLASLT_ALIGNMENT */
	if (!c->base.device.inexact || n < c->inexact_rows || c->gathering ||
		w->dtype == DTYPE_F32 || w->cols % 8 != 0 || w->rows % 8 != 0 ||
		(uintptr_t)y % CUBLASLT_ALIGNMENT != 0)
		return false;
	for (uint32_t row = 0, once = panel_rows(w); row < w->rows; row += once)
		if (!shape_find(c, n, min(once, w->rows - row), w->cols, w->rows)) {
			c->base.device.inexact = false;
			snprintf(c->base.device.note, sizeof(c->base.device.note),
				"prompts are computed exactly though engine.exact is false: "
				"cuBLASLt has no product of %u x %u x %u",
				n, w->rows, w->cols);
			return false;
		}
	return true;
}

int inexact_product(struct cuda *c, uint32_t n, const struct weight *w, const struct weight *bias,
	bool add, float *y)
{
	const void *kernel = panel_kernel_of(w->dtype);
	const uint32_t once = panel_rows(w);
	int r;

	assert(kernel);
	r = arena_grow(c, &c->panel, (size_t)once * w->cols * 2, false, "weights as bf16");
	for (uint32_t row = 0; row < w->rows && r == 0; row += once) {
		struct panel p = {{w->quants, w->scales, w->supers, w->tiles, w->chunks},
			(uint16_t *)c->panel.data, row / TILE_ROWS, min(once, w->rows - row),
			w->cols, 0};
		const struct inexact_shape *s = shape_find(c, n, p.n_rows, w->cols, w->rows);
		int status = -1;

		r = cuda_launch(c, kernel,
			dim3(parts_of(w->chunks, THREADS / WARP_LANES),
				parts_of(p.n_rows, TILE_ROWS)),
			THREADS, 0, p);
		if (r < 0)
			break;
		if (s)
			status = cublaslt_run(&c->lt, &s->product, c->panel.data, c->rows_bf16.data,
				y + row, add, c->lt_workspace.data, c->stream);
		if (status != 0) {
			c->dead = true;
			r = cuda_fail(c, -EIO,
				"the card failed: cuBLASLt's status %d for a product of %u x %u x %u",
				status, n, p.n_rows, w->cols);
		}
	}
	if (r == 0 && bias) {
		const struct bias_add p = {(const float *)bias->quants, y, w->rows, 0};

		r = cuda_launch(c, KERNEL(bias_add_kernel), dim3(parts_of(w->rows, THREADS), n),
			THREADS, 0, p);
	}
	return r;
}
