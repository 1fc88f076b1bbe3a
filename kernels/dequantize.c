/* From a row of blocks to the numbers that it stands for: the meaning of every tensor type.
 *
 * The layouts are GGUF's. Within a block the order of the operations is the format's own (d * sc,
 * then times q, then minus), so that the results are the bits that other readers get. Numbers lie
 * little-endian and unaligned. */
#include "kernels/dtype.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blocks are read in the host's order");

static uint16_t load16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static float load_f16(const uint8_t *p)
{
	return f16_to_f32(load16(p));
}

static void row_f16(const uint8_t *p, float *y, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = f16_to_f32(load16(p + 2 * i));
}

static void row_bf16(const uint8_t *p, float *y, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = bf16_to_f32(load16(p + 2 * i));
}

/* d f16, 32 x i8 */
static void block_q8_0(const uint8_t *p, float *y)
{
	float d = load_f16(p);

	for (int i = 0; i < 32; i++)
		y[i] = (float)(int8_t)p[2 + i] * d;
}

/* d f16, 16 bytes: element i in the low, i + 16 in the high nibble of byte i; all minus 8 */
static void block_q4_0(const uint8_t *p, float *y)
{
	float d = load_f16(p);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)((p[2 + i] & 15) - 8);
		y[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
	}
}

/* d f16, m f16, nibbles as above without an offset */
static void block_q4_1(const uint8_t *p, float *y)
{
	float d = load_f16(p), m = load_f16(p + 2);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)(p[4 + i] & 15) + m;
		y[i + 16] = d * (float)(p[4 + i] >> 4) + m;
	}
}

/* d f16, u32 of fifth bits (element i is bit i), nibbles; all minus 16 */
static void block_q5_0(const uint8_t *p, float *y)
{
	float d = load_f16(p);
	uint32_t high = load32(p + 2);

	for (int i = 0; i < 16; i++) {
		int lo = (p[6 + i] & 15) | (int)(high >> i & 1) << 4;
		int hi = (p[6 + i] >> 4) | (int)(high >> (i + 16) & 1) << 4;

		y[i] = d * (float)(lo - 16);
		y[i + 16] = d * (float)(hi - 16);
	}
}

static void block_q5_1(const uint8_t *p, float *y)
{
	float d = load_f16(p), m = load_f16(p + 2);
	uint32_t high = load32(p + 4);

	for (int i = 0; i < 16; i++) {
		int lo = (p[8 + i] & 15) | (int)(high >> i & 1) << 4;
		int hi = (p[8 + i] >> 4) | (int)(high >> (i + 16) & 1) << 4;

		y[i] = d * (float)lo + m;
		y[i + 16] = d * (float)hi + m;
	}
}

/* 16 bytes of (scale, minimum) nibbles, one for 16 elements; 64 bytes of 2-bit numbers: byte i of
 * a half's 32 holds elements i, i + 32, i + 64, i + 96 from the low bits up; d, dmin f16 */
static void block_q2_k(const uint8_t *p, float *y)
{
	const uint8_t *scales = p, *q = p + 16;
	float d = load_f16(p + 80), dmin = load_f16(p + 82);

	for (int s = 0; s < 16; s++) {
		float dl = d * (float)(scales[s] & 15), ml = dmin * (float)(scales[s] >> 4);
		const uint8_t *qs = q + s / 8 * 32 + s % 2 * 16;
		int shift = s % 8 / 2 * 2;

		for (int i = 0; i < 16; i++)
			y[16 * s + i] = dl * (float)(qs[i] >> shift & 3) - ml;
	}
}

/* 32 bytes of high bits (element i: bit i / 32 of byte i % 32, clear: minus 4), 64 bytes of 2-bit
 * numbers as in Q2_K, 16 signed 6-bit scales in 12 bytes, d f16 */
static void block_q3_k(const uint8_t *p, float *y)
{
	const uint8_t *high = p, *q = p + 32, *scales = p + 96;
	float d = load_f16(p + 108);

	for (int s = 0; s < 16; s++) {
		int low4 = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
		int high2 = scales[8 + s % 4] >> (s / 4 * 2) & 3;
		float dl = d * (float)((low4 | high2 << 4) - 32);
		const uint8_t *qs = q + s / 8 * 32 + s % 2 * 16;
		const uint8_t *hs = high + s % 2 * 16;
		int shift = s % 8 / 2 * 2;

		for (int i = 0; i < 16; i++) {
			int v = (qs[i] >> shift & 3) - (hs[i] >> (s / 2) & 1 ? 0 : 4);
			y[16 * s + i] = dl * (float)v;
		}
	}
}

/* Eight 6-bit scales and minimums in 12 bytes: the first four of each whole in bytes 0-3 and 4-7,
 * whose two high bits complete the nibbles of bytes 8-11 to the last four. */
static void scales_k(const uint8_t *p, int i, int *ret_scale, int *ret_min)
{
	if (i < 4) {
		*ret_scale = p[i] & 63;
		*ret_min = p[4 + i] & 63;
	} else {
		*ret_scale = (p[4 + i] & 15) | (p[i - 4] >> 6) << 4;
		*ret_min = p[4 + i] >> 4 | (p[i] >> 6) << 4;
	}
}

/* d, dmin f16, scales, 128 bytes: 32 bytes hold sub-block 2 k in the low and 2 k + 1 in the high
 * nibbles */
static void block_q4_k(const uint8_t *p, float *y)
{
	float d = load_f16(p), dmin = load_f16(p + 2);

	for (int s = 0; s < 8; s++) {
		const uint8_t *q = p + 16 + s / 2 * 32;
		int shift = s % 2 * 4, scale, min;

		scales_k(p + 4, s, &scale, &min);
		float dl = d * (float)scale, ml = dmin * (float)min;
		for (int i = 0; i < 32; i++)
			y[32 * s + i] = dl * (float)(q[i] >> shift & 15) - ml;
	}
}

/* as Q4_K, with 32 bytes of fifth bits before the nibbles: sub-block s is bit s */
static void block_q5_k(const uint8_t *p, float *y)
{
	float d = load_f16(p), dmin = load_f16(p + 2);
	const uint8_t *high = p + 16;

	for (int s = 0; s < 8; s++) {
		const uint8_t *q = p + 48 + s / 2 * 32;
		int shift = s % 2 * 4, scale, min;

		scales_k(p + 4, s, &scale, &min);
		float dl = d * (float)scale, ml = dmin * (float)min;
		for (int i = 0; i < 32; i++) {
			int v = (q[i] >> shift & 15) | (high[i] >> s & 1) << 4;
			y[32 * s + i] = dl * (float)v - ml;
		}
	}
}

/* 128 bytes of low nibbles (64 bytes for each half: elements 0-63 low, 64-127 high), 64 bytes of
 * two high bits (32 for each half, four groups of 32 from the low bits up), 16 i8 scales, d f16;
 * all minus 32 */
static void block_q6_k(const uint8_t *p, float *y)
{
	const int8_t *scales = (const int8_t *)p + 192;
	float d = load_f16(p + 208);

	for (int g = 0; g < 8; g++) {
		const uint8_t *low = p + g / 4 * 64 + g % 2 * 32;
		const uint8_t *high = p + 128 + g / 4 * 32;
		int low_shift = g % 4 / 2 * 4, high_shift = g % 4 * 2;

		for (int i = 0; i < 32; i++) {
			int v = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
			float dl = d * (float)scales[2 * g + i / 16];

			y[32 * g + i] = dl * (float)(v - 32);
		}
	}
}

/* 16 bytes: level of element i in the low, of i + 16 in the high nibble of byte i */
static void levels_iq4(const uint8_t *q, float d, float *y)
{
	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)iq4_levels[q[i] & 15];
		y[i + 16] = d * (float)iq4_levels[q[i] >> 4];
	}
}

/* d f16, levels */
static void block_iq4_nl(const uint8_t *p, float *y)
{
	levels_iq4(p + 2, load_f16(p), y);
}

/* d f16, 2 bytes with the two high and 4 bytes with the four low bits of 8 scales (all minus 32),
 * 16 bytes of levels for each of 8 sub-blocks */
static void block_iq4_xs(const uint8_t *p, float *y)
{
	float d = load_f16(p);
	unsigned high = load16(p + 2);

	for (int s = 0; s < 8; s++) {
		int low = p[4 + s / 2] >> (s % 2 * 4) & 15;
		int scale = low | (int)(high >> (2 * s) & 3) << 4;

		levels_iq4(p + 8 + 16 * s, d * (float)(scale - 32), y + 32 * s);
	}
}

void dequantize_row(enum dtype dtype, const void *row, float *y, size_t elements)
{
	const struct dtype_info *info = dtype_info(dtype);
	void (*block)(const uint8_t *p, float *y) = NULL;

	assert(info != NULL && elements % info->block_elements == 0);
	switch (dtype) {
	case DTYPE_F32: memcpy(y, row, elements * sizeof(float)); return;
	case DTYPE_F16: row_f16(row, y, elements); return;
	case DTYPE_BF16: row_bf16(row, y, elements); return;
	case DTYPE_Q8_0: block = block_q8_0; break;
	case DTYPE_Q4_0: block = block_q4_0; break;
	case DTYPE_Q4_1: block = block_q4_1; break;
	case DTYPE_Q5_0: block = block_q5_0; break;
	case DTYPE_Q5_1: block = block_q5_1; break;
	case DTYPE_Q2_K: block = block_q2_k; break;
	case DTYPE_Q3_K: block = block_q3_k; break;
	case DTYPE_Q4_K: block = block_q4_k; break;
	case DTYPE_Q5_K: block = block_q5_k; break;
	case DTYPE_Q6_K: block = block_q6_k; break;
	case DTYPE_IQ4_NL: block = block_iq4_nl; break;
	case DTYPE_IQ4_XS: block = block_iq4_xs; break;
	}

	const uint8_t *p = row;
	for (size_t i = 0; i < elements; i += info->block_elements, p += info->block_bytes)
		block(p, y + i);
}
