/* From a file's blocks to the interleaved groups of layout.h. The block formats are those of the
 * GGUF specification; values and scales are moved, never changed. */
#include "kernels/cpu/layout.h"

#include <assert.h>
#include <string.h>

/* Where the 32 columns of block b stand in the file's row, and which of its blocks that is. */
static const uint8_t *file_block(enum dtype dtype, const uint8_t *row, uint32_t b)
{
	const struct dtype_info *info = dtype_info(dtype);

	return row + (size_t)(b * 32ull / info->block_elements) * info->block_bytes;
}

static void low_high(const uint8_t *nibbles, uint8_t v[32])
{
	for (int i = 0; i < 16; i++) {
		v[i] = nibbles[i] & 15;
		v[16 + i] = nibbles[i] >> 4;
	}
}

static void fifth_bits(const uint8_t *bits, uint8_t v[32])
{
	for (int i = 0; i < 32; i++)
		v[i] |= (uint8_t)((bits[i / 8] >> (i % 8) & 1) << 4);
}

/* The 32 stored values, unsigned, of block number i (0 … 7) of 256, or of a whole block of 32. */
static void values_read(
	enum dtype dtype, const uint8_t *p, uint32_t i, uint32_t zero, uint8_t v[32])
{
	const uint32_t half = i / 4, quarter = i % 4;

	switch (dtype) {
	case DTYPE_Q4_0: low_high(p + 2, v); return;
	case DTYPE_Q4_1: low_high(p + 4, v); return;
	case DTYPE_Q5_0:
		low_high(p + 6, v);
		fifth_bits(p + 2, v);
		return;
	case DTYPE_Q5_1:
		low_high(p + 8, v);
		fifth_bits(p + 4, v);
		return;
	case DTYPE_IQ4_NL: low_high(p + 2, v); return;
	case DTYPE_IQ4_XS: low_high(p + 8 + 16 * i, v); return;
	case DTYPE_Q8_0:
		for (int k = 0; k < 32; k++)
			v[k] = (uint8_t)(p[2 + k] + zero);
		return;
	case DTYPE_Q2_K:
		for (int k = 0; k < 32; k++)
			v[k] = p[16 + 32 * half + k] >> (2 * quarter) & 3;
		return;
	case DTYPE_Q3_K:
		for (int k = 0; k < 32; k++)
			v[k] = (uint8_t)((p[32 + 32 * half + k] >> (2 * quarter) & 3) |
					 (p[k] >> i & 1) << 2);
		return;
	case DTYPE_Q4_K:
		for (int k = 0; k < 32; k++)
			v[k] = p[16 + 32 * (i / 2) + k] >> (i % 2 * 4) & 15;
		return;
	case DTYPE_Q5_K:
		for (int k = 0; k < 32; k++)
			v[k] = (uint8_t)((p[48 + 32 * (i / 2) + k] >> (i % 2 * 4) & 15) |
					 (p[16 + k] >> i & 1) << 4);
		return;
	case DTYPE_Q6_K:
		for (int k = 0; k < 32; k++)
			v[k] = (uint8_t)((p[64 * half + 32 * (quarter % 2) + k] >>
							 (quarter / 2 * 4) &
						 15) |
					 (p[128 + 32 * half + k] >> (2 * quarter) & 3) << 4);
		return;
	default: assert(!"a type with no blocks");
	}
}

/* Vectors of 16 rows x 4 columns as bytes, to the planes of layout.h. */
static void planes_write(enum cpu_values values, const uint8_t v[8][64], uint8_t *block)
{
	const int low_bits = values == VALUES_Q2 || values == VALUES_Q3 ? 2 : 4;
	uint8_t *more = block + (low_bits == 2 ? 128 : 256);

	if (values == VALUES_Q8) {
		memcpy(block, v, 512);
		return;
	}
	if (low_bits == 4)
		for (int p = 0; p < 4; p++)
			for (int x = 0; x < 64; x++)
				block[64 * p + x] = (uint8_t)((v[2 * p][x] & 15) | v[2 * p + 1][x]
											   << 4);
	if (low_bits == 2 || values == VALUES_Q6) {
		uint8_t *crumbs = low_bits == 2 ? block : more;
		const int shift = low_bits == 2 ? 0 : 4;

		for (int p = 0; p < 2; p++)
			for (int x = 0; x < 64; x++)
				crumbs[64 * p + x] = (uint8_t)((v[4 * p][x] >> shift & 3) |
							       (v[4 * p + 1][x] >> shift & 3) << 2 |
							       (v[4 * p + 2][x] >> shift & 3) << 4 |
							       (v[4 * p + 3][x] >> shift & 3) << 6);
	}
	if (values == VALUES_Q3 || values == VALUES_Q5) {
		memset(more, 0, 64);
		for (int j = 0; j < 8; j++)
			for (int x = 0; x < 64; x++)
				more[x] |= (uint8_t)((v[j][x] >> low_bits & 1) << j);
	}
}

static void put16(uint8_t *to, uint32_t r, const uint8_t *from)
{
	memcpy(to + 2 * r, from, 2);
}

/* The eight 6-bit scales and minimums of Q4_K and Q5_K. */
static void k4_scales(const uint8_t s[12], uint32_t i, uint8_t *scale, uint8_t *min)
{
	if (i < 4) {
		*scale = s[i] & 63;
		*min = s[i + 4] & 63;
	} else {
		*scale = (uint8_t)((s[i + 4] & 15) | s[i - 4] >> 6 << 4);
		*min = (uint8_t)(s[i + 4] >> 4 | s[i] >> 6 << 4);
	}
}

/* Lane r of the scales of block b. `to` is the group's scales of those 32 or 256 columns. */
static void scales_write(enum dtype dtype, const uint8_t *p, uint32_t r, uint8_t *to)
{
	switch (dtype) {
	case DTYPE_Q4_1:
	case DTYPE_Q5_1:
		put16(to, r, p);
		put16(to + 32, r, p + 2);
		return;
	case DTYPE_Q4_K:
	case DTYPE_Q5_K:
		put16(to, r, p);
		put16(to + 32, r, p + 2);
		for (uint32_t i = 0; i < 8; i++)
			k4_scales(p + 4, i, &to[64 + 32 * i + r], &to[64 + 32 * i + 16 + r]);
		return;
	case DTYPE_Q2_K:
		put16(to, r, p + 80);
		put16(to + 32, r, p + 82);
		for (uint32_t i = 0; i < 16; i++) {
			to[64 + 32 * i + r] = p[i] & 15;
			to[64 + 32 * i + 16 + r] = p[i] >> 4;
		}
		return;
	case DTYPE_Q3_K:
		put16(to, r, p + 108);
		for (uint32_t i = 0; i < 16; i++) {
			const uint32_t low = p[96 + i % 8] >> (i / 8 * 4) & 15;
			const uint32_t high = p[96 + 8 + i % 4] >> (i / 4 * 2) & 3;

			to[32 + 16 * i + r] = (uint8_t)((low | high << 4) - 32);
		}
		return;
	case DTYPE_Q6_K:
		put16(to, r, p + 208);
		for (uint32_t i = 0; i < 16; i++)
			to[32 + 16 * i + r] = p[192 + i];
		return;
	case DTYPE_IQ4_XS:
		put16(to, r, p);
		for (uint32_t i = 0; i < 8; i++) {
			const uint32_t low = p[4 + i / 2] >> (i % 2 * 4) & 15;
			const uint32_t high = p[2 + i / 4] >> (i % 4 * 2) & 3;

			to[32 + 16 * i + r] = (uint8_t)((low | high << 4) - 32);
		}
		return;
	default: put16(to, r, p); return;
	}
}

static void quants_pack(
	struct weight *w, const uint8_t *rows, size_t row_bytes, uint32_t n, uint8_t *group)
{
	const enum cpu_values values = w->layout.values;
	const enum cpu_scales scales = w->layout.scales;
	const uint32_t per = dtype_info(w->dtype)->block_elements / 32; /* of the file's blocks */

	for (uint32_t b = 0; b < w->cols / 32; b++) {
		uint8_t *s = group + (layout_record(values, scales, group, b) - group);
		uint8_t *block = group + (layout_block(values, scales, group, b) - group);
		uint8_t v[8][64];

		if (scales == SCALES_D)
			s += b % 2 * 32;
		memset(v, 0, sizeof(v));
		for (uint32_t r = 0; r < n; r++) {
			const uint8_t *p = file_block(w->dtype, rows + r * row_bytes, b);
			uint8_t row[32];

			values_read(w->dtype, p, b % per, w->layout.zero, row);
			for (int j = 0; j < 8; j++)
				memcpy(&v[j][4 * r], row + 4 * j, 4);
			if (b % per == 0)
				scales_write(w->dtype, p, r, s);
		}
		planes_write(values, v, block);
	}
}

void layout_pack(struct weight *w, const void *data, size_t row_bytes, uint32_t g)
{
	uint8_t *group = layout_group(w, g);
	const uint8_t *rows = (const uint8_t *)data + (size_t)g * GROUP_ROWS * row_bytes;
	const uint32_t left = w->rows - g * GROUP_ROWS;
	const uint32_t n = left < GROUP_ROWS ? left : GROUP_ROWS;

	memset(group, 0, w->group_bytes);
	switch (w->layout.family) {
	case FAMILY_VECTOR: dequantize_row(w->dtype, rows, (float *)group, w->cols); return;
	case FAMILY_QUANTS: quants_pack(w, rows, row_bytes, n, group); return;
	case FAMILY_F32:
		for (uint32_t r = 0; r < n; r++)
			for (uint32_t k = 0; k < w->cols; k++)
				memcpy(group + ((size_t)k * GROUP_ROWS + r) * 4,
					rows + r * row_bytes + (size_t)k * 4, 4);
		return;
	case FAMILY_F16:
		for (uint32_t r = 0; r < n; r++)
			for (uint32_t k = 0; k < w->cols; k++)
				memcpy(group + ((size_t)k * GROUP_ROWS + r) * 2,
					rows + r * row_bytes + (size_t)k * 2, 2);
		return;
	case FAMILY_BF16:
		for (uint32_t r = 0; r < n; r++)
			for (uint32_t k = 0; k < w->cols; k++)
				memcpy(group + ((size_t)(k / 2) * 2 * GROUP_ROWS + 2 * r + k % 2) *
							2,
					rows + r * row_bytes + (size_t)k * 2, 2);
		return;
	}
}
