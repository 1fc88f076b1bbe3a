/* From a file's rows to the planes of packed.cuh, on the card; and back, one row at a time, for the
 * embedding. The blocks' layouts are GGUF's, told in kernels/dequantize.c. */
#include "kernels/cuda/cuda.cuh"

#include <assert.h>

#include "kernels/cuda/packed.cuh"

__device__ static uint32_t load16(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8;
}

__device__ static uint32_t load32(const uint8_t *p)
{
	return load16(p) | load16(p + 2) << 16;
}

/* Element k of a row as its unsigned number (Q8_0: the byte; 16-bit floats: the pattern). */
__device__ static uint32_t raw_quant(int dtype, const uint8_t *row, uint32_t k)
{
	const uint32_t i = k % 32, j = k % 256, group = j / 32, part = j / 16;
	const uint8_t *p;

	switch (dtype) {
	case DTYPE_F16:
	case DTYPE_BF16: return load16(row + 2 * (size_t)k);
	case DTYPE_Q8_0: return row[(size_t)k / 32 * 34 + 2 + i];
	case DTYPE_Q4_0: p = row + (size_t)k / 32 * 18 + 2; return p[i % 16] >> i / 16 * 4 & 15;
	case DTYPE_Q4_1: p = row + (size_t)k / 32 * 20 + 4; return p[i % 16] >> i / 16 * 4 & 15;
	case DTYPE_Q5_0:
		p = row + (size_t)k / 32 * 22;
		return (p[6 + i % 16] >> i / 16 * 4 & 15) | (load32(p + 2) >> i & 1) << 4;
	case DTYPE_Q5_1:
		p = row + (size_t)k / 32 * 24;
		return (p[8 + i % 16] >> i / 16 * 4 & 15) | (load32(p + 4) >> i & 1) << 4;
	case DTYPE_Q2_K:
		p = row + (size_t)k / 256 * 84 + 16;
		return p[part / 8 * 32 + part % 2 * 16 + j % 16] >> part % 8 / 2 * 2 & 3;
	case DTYPE_Q3_K:
		p = row + (size_t)k / 256 * 110;
		return (p[32 + part / 8 * 32 + part % 2 * 16 + j % 16] >> part % 8 / 2 * 2 & 3) |
		       (p[part % 2 * 16 + j % 16] >> part / 2 & 1) << 2;
	case DTYPE_Q4_K:
		p = row + (size_t)k / 256 * 144;
		return p[16 + group / 2 * 32 + i] >> group % 2 * 4 & 15;
	case DTYPE_Q5_K:
		p = row + (size_t)k / 256 * 176;
		return (p[48 + group / 2 * 32 + i] >> group % 2 * 4 & 15) | (p[16 + i] >> group & 1)
										    << 4;
	case DTYPE_IQ4_NL: p = row + (size_t)k / 32 * 18 + 2; return p[i % 16] >> i / 16 * 4 & 15;
	case DTYPE_IQ4_XS:
		p = row + (size_t)k / 256 * 136 + 8 + group * 16;
		return p[i % 16] >> i / 16 * 4 & 15;
	default: /* DTYPE_Q6_K */
		p = row + (size_t)k / 256 * 210;
		return (p[group / 4 * 64 + group % 2 * 32 + i] >> group % 4 / 2 * 4 & 15) |
		       (p[128 + group / 4 * 32 + i] >> group % 4 * 2 & 3) << 4;
	}
}

/* Scale and minimum of a K block's group of 32, six bits each. */
__device__ static uint32_t scale_k(const uint8_t *p, uint32_t i)
{
	if (i < 4)
		return (p[i] & 63) | (uint32_t)(p[4 + i] & 63) << 8;
	return (p[4 + i] & 15) | (p[i - 4] >> 6) << 4 |
	       (uint32_t)(p[4 + i] >> 4 | (p[i] >> 6) << 4) << 8;
}

/* What a row has in the scale plane for one chunk: 4 bytes, or 8 (words[1]) with minimums in f16.
 */
__device__ static void raw_scales(
	int dtype, const uint8_t *row, uint32_t chunk, uint32_t cols, uint32_t words[2])
{
	const uint32_t k = chunk * CHUNK_COLS, super = k / 256, part = k % 256 / 16;
	const bool second = k + 32 < cols; /* legacy types may end within a chunk */
	const uint8_t *p;

	words[0] = words[1] = 0;
	switch (dtype) {
	case DTYPE_Q8_0:
	case DTYPE_Q4_0:
	case DTYPE_IQ4_NL:
	case DTYPE_Q5_0: {
		const uint32_t block = dtype == DTYPE_Q8_0 ? 34 : dtype == DTYPE_Q5_0 ? 22 : 18;

		p = row + (size_t)k / 32 * block;
		words[0] = load16(p) | (second ? load16(p + block) << 16 : 0);
		break;
	}
	case DTYPE_Q4_1:
	case DTYPE_Q5_1: {
		const uint32_t block = dtype == DTYPE_Q4_1 ? 20 : 24;

		p = row + (size_t)k / 32 * block;
		words[0] = load32(p);
		words[1] = second ? load32(p + block) : 0;
		break;
	}
	case DTYPE_Q2_K: words[0] = load32(row + (size_t)super * 84 + part); break;
	case DTYPE_Q3_K:
		p = row + (size_t)super * 110 + 96;
		for (uint32_t i = 0; i < 4; i++) {
			const uint32_t s = part + i;
			const uint32_t low = s < 8 ? p[s] & 15 : p[s - 8] >> 4;
			const uint32_t high = p[8 + s % 4] >> s / 4 * 2 & 3;

			words[0] |= (uint32_t)(uint8_t)((int)(low | high << 4) - 32) << 8 * i;
		}
		break;
	case DTYPE_Q4_K:
	case DTYPE_Q5_K:
		p = row + (size_t)super * (dtype == DTYPE_Q4_K ? 144 : 176) + 4;
		words[0] = scale_k(p, part / 2) | scale_k(p, part / 2 + 1) << 16;
		break;
	case DTYPE_IQ4_XS: /* a scale for 32 columns serves two sub-blocks of 16 */
		p = row + (size_t)super * 136;
		for (uint32_t i = 0; i < 4; i++) {
			const uint32_t s = part / 2 + i / 2, low = p[4 + s / 2] >> s % 2 * 4 & 15;
			const uint32_t high = load16(p + 2) >> 2 * s & 3;

			words[0] |= (uint32_t)(uint8_t)((int)(low | high << 4) - 32) << 8 * i;
		}
		break;
	case DTYPE_Q6_K: words[0] = load32(row + (size_t)super * 210 + 192 + part); break;
	default: break;
	}
}

/* What a row has in the super plane: d, and dmin in the high half. */
__device__ static uint32_t raw_super(int dtype, const uint8_t *row, uint32_t super)
{
	switch (dtype) {
	case DTYPE_Q2_K: return load32(row + (size_t)super * 84 + 80);
	case DTYPE_Q3_K: return load16(row + (size_t)super * 110 + 108);
	case DTYPE_Q4_K: return load32(row + (size_t)super * 144);
	case DTYPE_Q5_K: return load32(row + (size_t)super * 176);
	case DTYPE_Q6_K: return load16(row + (size_t)super * 210 + 208);
	case DTYPE_IQ4_XS: return load16(row + (size_t)super * 136);
	default: return 0;
	}
}

struct pack {
	const uint8_t *raw; /* the slice's rows */
	uint8_t *quants, *scales, *supers;
	size_t row_bytes;
	int dtype, bits;
	struct packed_sizes sizes;
	uint32_t first_row, n_rows, cols, chunks;
};

/* The place of byte form: column 4t + i stands in byte order[i]. */
__device__ static uint32_t byte_of(uint32_t i)
{
	return i == 1 ? 2 : i == 2 ? 1 : i;
}

__device__ static uint32_t quant_at(const struct pack &p, const uint8_t *row, uint32_t k)
{
	return row && k < p.cols ? raw_quant(p.dtype, row, k) : 0;
}

/* One warp packs one chunk of one tile; grid (chunks / 4, tiles), 128 threads. */
__global__ void pack_kernel(const struct pack p)
{
	const uint32_t lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
	const uint32_t chunk = blockIdx.x * 4 + threadIdx.x / WARP_LANES;
	const uint32_t tile = p.first_row / TILE_ROWS + blockIdx.y;
	const uint8_t *rows[2];
	uint32_t words[16] = {0}, n_words = (uint32_t)p.sizes.quants / 4;

	grid_wait();
	grid_release();
	if (chunk >= p.chunks)
		return;
	for (uint32_t h = 0; h < 2; h++) {
		const uint32_t row = blockIdx.y * TILE_ROWS + g + 8 * h;

		rows[h] = row < p.n_rows ? p.raw + row * p.row_bytes : NULL;
	}
	for (uint32_t step = 0; step < CHUNK_STEPS; step++)
		for (uint32_t h = 0; h < 2; h++)
			for (uint32_t i = 0; i < 4; i++) {
				const uint32_t k = chunk * CHUNK_COLS + step * 16 + 4 * t + i;
				const uint32_t v = quant_at(p, rows[h], k), shift = 8 * byte_of(i);

				if (p.bits == 16)
					words[4 * step + i / 2 * 2 + h] |= v << i % 2 * 16;
				else if (p.bits == 8)
					words[2 * step + h] |= v << shift;
				else if (p.bits >= 4)
					words[step] |= (v & 15) << (shift + 4 * h);
				if (p.bits == 6)
					words[4 + h] |= (v >> 4) << (shift + 2 * step);
				if (p.bits == 5)
					words[4] |= (v >> 4) << (shift + step + 4 * h);
				if (p.bits < 4)
					words[h] |= (v & 3) << (shift + 2 * step);
				if (p.bits == 3)
					words[2] |= (v >> 2) << (shift + step + 4 * h);
			}

	uint8_t *to = p.quants + ((size_t)tile * p.chunks + chunk) * WARP_LANES * p.sizes.quants;
	const uint32_t in16 = 4 * (uint32_t)p.sizes.sections16;
	const uint32_t in8 = in16 + 2 * (uint32_t)p.sizes.sections8;
	for (uint32_t i = 0; i < n_words; i++) {
		const uint32_t width = i < in16 ? 4 : i < in8 ? 2 : 1, first = i / width * width;

		((uint32_t *)to)[first * WARP_LANES + lane * width + i - first] = words[i];
	}

	if (t > 0 || p.sizes.scales == 0)
		return;
	const uint32_t supers = (p.chunks + SUPER_CHUNKS - 1) / SUPER_CHUNKS;
	uint32_t *s = (uint32_t *)(p.scales +
				   (((size_t)tile * p.chunks + chunk) * 8 + g) * p.sizes.scales);
	uint8_t *d = p.supers +
		     (((size_t)tile * supers + chunk / SUPER_CHUNKS) * 8 + g) * p.sizes.supers;
	for (uint32_t h = 0; h < 2; h++) {
		uint32_t scales[2] = {0, 0}, super = 0;

		if (rows[h]) {
			raw_scales(p.dtype, rows[h], chunk, p.cols, scales);
			super = raw_super(p.dtype, rows[h], chunk / SUPER_CHUNKS);
		}
		if (p.sizes.scales == 16) {
			s[2 * h] = scales[0];
			s[2 * h + 1] = scales[1];
		} else {
			s[h] = scales[0];
		}
		if (chunk % SUPER_CHUNKS != 0)
			continue;
		if (p.sizes.supers == 8)
			((uint32_t *)d)[h] = super;
		else if (p.sizes.supers == 4)
			((uint16_t *)d)[h] = (uint16_t)super;
	}
}

int cuda_pack(struct cuda *c, const struct weight *w, const uint8_t *raw, size_t row_bytes,
	uint32_t first_row, uint32_t n_rows)
{
	struct pack p = {};

	p.raw = raw;
	p.quants = w->quants;
	p.scales = w->scales;
	p.supers = w->supers;
	p.row_bytes = row_bytes;
	p.dtype = w->dtype;
	p.first_row = first_row;
	p.n_rows = n_rows;
	p.cols = w->cols;
	p.chunks = w->chunks;
	switch (w->dtype) {
#define CASE(d)                                                                                    \
	case d:                                                                                    \
		p.sizes = packed<d>::SIZES;                                                        \
		p.bits = packed<d>::BITS;                                                          \
		break;
		PACKED_TYPES(CASE)
#undef CASE
	default: break;
	}
	assert(p.bits > 0);
	return cuda_launch(c, KERNEL(pack_kernel),
		dim3(parts_of(w->chunks, 4), parts_of(n_rows, TILE_ROWS)), 128, 0, p);
}

/* The embedding */

struct embed {
	struct packed_view w;
	const float *f32; /* the table, where it is F32 */
	const int32_t *tokens;
	float *y;
	uint32_t cols, none;
};

/* y [rows, cols] = the table's rows, the very bits of dequantize_row(): scale, then minimum. */
template <int D> __global__ void embed_kernel(const struct embed p)
{
	const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; /* a step's four columns */

	grid_wait();
	grid_release();

	const uint32_t row = (uint32_t)p.tokens[blockIdx.y];
	if constexpr (D == DTYPE_F32) {
		for (uint32_t k = 4 * at; k < 4 * at + 4 && k < p.cols; k++)
			p.y[(size_t)blockIdx.y * p.cols + k] = p.f32[(size_t)row * p.cols + k];
	} else {
		using W = packed<D>;
		const uint32_t chunk = at / 16, step = at % 16 / 4, half = row % TILE_ROWS / 8;
		const uint32_t lane = row % 8 * 4 + at % 4;

		if (chunk >= p.w.chunks)
			return;
		const typename W::chunk c = W::read_global(p.w, row / TILE_ROWS, chunk, lane);
		float w[2][4], v[4];

		/* one step, chosen without indexing registers */
#pragma unroll
		for (uint32_t s = 0; s < CHUNK_STEPS; s++) {
			float scale = 1, minimum = 0;

			if (s != step)
				continue;
			W::values(c, (int)s, w);
			for (int i = 0; i < 4; i++)
				v[i] = half ? w[1][i] : w[0][i];
			if constexpr (!W::FLOAT) {
				W::scale(c, (int)s / W::SUB_STEPS, (int)half, scale, minimum);
				for (int i = 0; i < 4; i++)
					v[i] = W::MINIMUMS ? scale * v[i] + minimum : scale * v[i];
			}
		}
		for (uint32_t i = 0; i < 4; i++) {
			const uint32_t k = 4 * at + i;

			if (k < p.cols)
				p.y[(size_t)blockIdx.y * p.cols + k] = v[i];
		}
	}
}

int cuda_embed(struct backend *b, const struct batch *batch, const struct weight *table, float *y)
{
	struct cuda *c = cuda_of(b);
	struct embed p = {};
	const void *kernel = KERNEL(embed_kernel<DTYPE_F32>);

	assert(batch->n_rows == c->batch.n_rows);
	p.w = {table->quants, table->scales, table->supers, table->tiles, table->chunks};
	p.f32 = (const float *)table->quants;
	p.tokens = c->batch.tokens;
	p.y = y;
	p.cols = table->cols;
	switch (table->dtype) {
#define CASE(d)                                                                                    \
	case d: kernel = KERNEL(embed_kernel<d>); break;
		PACKED_TYPES(CASE)
#undef CASE
	default: break;
	}
	return cuda_launch(
		c, kernel, dim3(parts_of(parts_of(table->cols, 4), 128), batch->n_rows), 128, 0, p);
}
