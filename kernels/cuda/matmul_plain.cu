/* What products need beside the kernels of a weight type: F32 weights, and activations made ready
 * (bf16 terms in the tensor cores' order, or int8 for dp4a). */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/matmul_launch.cuh"

/* F32 weights, [rows, cols] as in the file. A warp has one row and 8 columns; grid (rows / 8, n /
 * 8); lane l sums elements 4 l … 4 l + 3, then those 128 further on. One part, no norm, no SwiGLU.
 */
__global__ __launch_bounds__(PRODUCT_THREADS) void matmul_f32(const struct product p)
{
	const uint32_t lane = threadIdx.x % WARP_LANES;
	const uint32_t row = blockIdx.x * SLICES + threadIdx.x / WARP_LANES;
	const uint32_t first = blockIdx.y * COLUMNS;
	const float *w = (const float *)p.parts[0].w.quants + (size_t)row * p.cols;
	float acc[COLUMNS] = {};

	grid_wait();
	grid_release();
	if (row >= p.parts[0].rows)
		return;
	for (uint32_t k = 4 * lane; k < p.cols; k += 4 * WARP_LANES) {
		float a[4];

		step_load(w, NULL, 0, k, p.cols, a);
#pragma unroll
		for (int c = 0; c < COLUMNS; c++) {
			const uint32_t column = first + (uint32_t)c;
			const float *x = p.x + (size_t)column * p.cols;
			float v[4];

			step_load(column < p.n ? x : NULL, NULL, 0, k, p.cols, v);
#pragma unroll
			for (int i = 0; i < 4; i++)
				acc[c] = __fmaf_rn(a[i], v[i], acc[c]);
		}
	}
#pragma unroll
	for (int c = 0; c < COLUMNS; c++) {
		const float v = warp_sum(acc[c]);

		if (lane == 0)
			result_store(p, p.parts[0], row, first + (uint32_t)c, v, 0);
	}
}

struct acts {
	const float *x, *norm; /* as in struct product */
	uint8_t *terms;
	float *sums16, *sums32;
	uint32_t n, cols, chunks, n_terms;
	float eps;
	uint32_t none;
};

/* Grid (n / 8, any): a block has 8 columns and every gridDim.y-th group of 8 chunks. */
__global__ __launch_bounds__(PRODUCT_THREADS) void activations_kernel(const struct acts p)
{
#if PTX_SM80
	SHARED(float, scratch, [ROW_WARPS]);
	SHARED(float, row_scales, [COLUMNS]);
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	const uint32_t g = lane / 4, t = lane % 4, first = blockIdx.x * COLUMNS;

	grid_wait();
	grid_release();
	for (uint32_t c = 0; p.norm && c < COLUMNS && first + c < p.n; c++) {
		const float s = row_scale(
			p.x + (size_t)(first + c) * p.cols, p.cols, p.eps, scratch);

		if (threadIdx.x == 0)
			row_scales[c] = s;
	}
	__syncthreads();

	const bool here = first + g < p.n;
	const float *x = here ? p.x + (size_t)(first + g) * p.cols : NULL;
	const float scale = p.norm && here ? row_scales[g] : 0;
	for (uint32_t chunk = blockIdx.y * SLICES + warp; chunk < p.chunks;
		chunk += gridDim.y * SLICES) {
		const size_t tile = (size_t)blockIdx.x * p.chunks + chunk;
		float sum32[4] = {0, 0, 0, 0};

		for (uint32_t step = 0; step < CHUNK_STEPS; step++) {
			float v[4], sum16[4] = {0, 0, 0, 0};

			if (step % 2 == 0)
				sum32[0] = sum32[1] = sum32[2] = sum32[3] = 0;
			step_load(x, p.norm, scale, chunk * CHUNK_COLS + step * 16 + 4 * t, p.cols,
				v);
			for (uint32_t term = 0; term < p.n_terms; term++) {
				uint8_t *to = p.terms + (tile * p.n_terms + term) * TERM_BYTES +
					      (step / 2 * WARP_LANES + lane) * 16 + step % 2 * 8;
				uint32_t b[2];

				term_take(v, b);
				store_vector<uint2>(to, make_uint2(b[0], b[1]));
				mma_ones(sum16, b);
				mma_ones(sum32, b);
			}
			if (lane < 4) {
				float *to = p.sums16 + (tile * 4 + step) * COLUMNS + 2 * t;

				store_vector<float2>(to, make_float2(sum16[0], sum16[1]));
				to = p.sums32 + (tile * 2 + step / 2) * COLUMNS + 2 * t;
				if (step % 2 == 1)
					store_vector<float2>(to, make_float2(sum32[0], sum32[1]));
			}
		}
	}
#endif
}

/* int8 of 32 activations: a warp has them. Grid (chunks / 4, n); 8 warps. */
__global__ __launch_bounds__(PRODUCT_THREADS) void int8_kernel(const struct acts p)
{
	const uint32_t lane = threadIdx.x % WARP_LANES;
	const uint32_t part = blockIdx.x * SLICES + threadIdx.x / WARP_LANES;
	const uint32_t k = part * 32 + lane, row = blockIdx.y;
	const size_t at = (size_t)row * p.chunks * 2 + part;

	grid_wait();
	grid_release();
	if (part >= p.chunks * 2)
		return;

	const float x = k < p.cols ? p.x[(size_t)row * p.cols + k] : 0;
	float most = fabsf(x);
#pragma unroll
	for (int i = WARP_LANES / 2; i > 0; i /= 2)
		most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, i));

	/* word lane / 4, in byte form */
	const uint32_t i = lane % 4, byte = i == 1 ? 2 : i == 2 ? 1 : i;
	const float inverse = most > 0 ? 127.0f / most : 0.0f;
	p.terms[at * 32 + lane / 4 * 4 + byte] = (uint8_t)(int8_t)__float2int_rn(x * inverse);
	if (lane == 0)
		p.sums32[at] = most / 127.0f;
}

int matmul_f32_launch(struct cuda *c, const struct product &p)
{
	return cuda_launch(c, KERNEL(matmul_f32),
		dim3(parts_of(p.parts[0].rows, SLICES), parts_of(p.n, COLUMNS)), PRODUCT_THREADS, 0,
		p);
}

/* The places in the arena; a column tile that is not full is there as a whole. */
static int activations_new(
	struct cuda *c, struct product *p, uint32_t chunks, uint32_t terms, struct acts *ret)
{
	const size_t nts = parts_of(p->n, COLUMNS), tiles = nts * chunks;
	const size_t term_bytes = tiles * terms * TERM_BYTES;
	const size_t sums16 = tiles * 4 * COLUMNS * sizeof(float), sums32 = sums16 / 2;
	int r = arena_grow(c, &c->acts, term_bytes + sums16 + sums32, false, "activations");

	if (r < 0)
		return r;
	*ret = {};
	ret->x = p->x;
	ret->norm = p->norm;
	ret->terms = c->acts.data;
	ret->sums16 = (float *)(c->acts.data + term_bytes);
	ret->sums32 = (float *)(c->acts.data + term_bytes + sums16);
	ret->n = p->n;
	ret->cols = p->cols;
	ret->chunks = chunks;
	ret->n_terms = terms;
	ret->eps = p->eps;
	p->acts.terms = ret->terms;
	p->acts.sums16 = ret->sums16;
	p->acts.sums32 = ret->sums32;
	return 0;
}

int activations_launch(struct cuda *c, struct product *p)
{
	const uint32_t chunks = parts_of(p->cols, CHUNK_COLS), nts = parts_of(p->n, COLUMNS);
	struct acts a;
	uint32_t split = 1;
	int r = activations_new(c, p, chunks, p->terms, &a);

	if (r < 0)
		return r;
	while (nts * split < c->processors && split * SLICES < chunks)
		split *= 2;
	return cuda_launch(c, KERNEL(activations_kernel), dim3(nts, split), PRODUCT_THREADS, 0, a);
}

int int8_launch(struct cuda *c, struct product *p)
{
	const uint32_t chunks = parts_of(p->cols, CHUNK_COLS);
	struct acts a;
	int r = activations_new(c, p, chunks, 1, &a);

	if (r < 0)
		return r;
	return cuda_launch(c, KERNEL(int8_kernel), dim3(parts_of(chunks * 2, SLICES), p->n),
		PRODUCT_THREADS, 0, a);
}
