/* From numbers to blocks: the types whose blocks stand alone, and the choice among all types.
 *
 * The legacy types round as the Python package `gguf` does, bit for bit; the K types search
 * (quantize_k.c). */
#include "kernels/quantize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static void store16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void row_f16(const float *x, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		store16(p + 2 * i, f32_to_f16(x[i]));
}

static void row_bf16(const float *x, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		store16(p + 2 * i, f32_to_bf16(x[i]));
}

/* The first of 32 elements with the largest magnitude, its sign kept. */
static float extreme(const float *x)
{
	float best = x[0];

	for (int i = 1; i < 32; i++)
		if (fabsf(x[i]) > fabsf(best))
			best = x[i];
	return best;
}

static float inverse(float d)
{
	return d == 0 ? 0 : 1 / d;
}

/* Truncates and clips to 0 … max. A value that is no number becomes 0. */
static uint8_t clip(float v, int max)
{
	if (!(v > 0))
		return 0;
	return v >= (float)max ? (uint8_t)max : (uint8_t)v;
}

static void block_q8_0(const float *x, uint8_t *p)
{
	float d = fabsf(extreme(x)) / 127, id = inverse(d);

	store16(p, f32_to_f16(d));
	for (int i = 0; i < 32; i++) {
		float v = x[i] * id;

		/* halves go away from zero */
		p[2 + i] = (uint8_t)(int8_t)copysignf(floorf(fabsf(v) + 0.5f), v);
	}
}

/* Writes the low four bits of 32 numbers as pairs (i, i + 16); returns their fifth bits. */
static uint32_t pack_nibbles(const uint8_t *q, uint8_t *p)
{
	uint32_t high = 0;

	for (int i = 0; i < 16; i++)
		p[i] = (uint8_t)((q[i] & 15) | q[i + 16] << 4);
	for (int i = 0; i < 32; i++)
		high |= (uint32_t)(q[i] >> 4 & 1) << i;
	return high;
}

static void store32(uint8_t *p, uint32_t v)
{
	store16(p, (uint16_t)v);
	store16(p + 2, (uint16_t)(v >> 16));
}

/* d and 32 numbers around `half`: the largest magnitude takes the level that only one sign has. */
static void symmetric(const float *x, int half, uint8_t *p, uint8_t q[32])
{
	float d = extreme(x) / (float)-half, id = inverse(d);

	store16(p, f32_to_f16(d));
	for (int i = 0; i < 32; i++)
		q[i] = clip(x[i] * id + ((float)half + 0.5f), 2 * half - 1);
}

/* d, m and 32 numbers from the minimum up to `levels`. */
static void asymmetric(const float *x, int levels, uint8_t *p, uint8_t q[32])
{
	float min = x[0], max = x[0], d, id;

	for (int i = 1; i < 32; i++) {
		min = x[i] < min ? x[i] : min;
		max = x[i] > max ? x[i] : max;
	}
	d = (max - min) / (float)levels;
	id = inverse(d);
	store16(p, f32_to_f16(d));
	store16(p + 2, f32_to_f16(min));
	for (int i = 0; i < 32; i++)
		q[i] = clip((x[i] - min) * id + 0.5f, levels);
}

static void block_q4_0(const float *x, uint8_t *p)
{
	uint8_t q[32];

	symmetric(x, 8, p, q);
	pack_nibbles(q, p + 2);
}

static void block_q4_1(const float *x, uint8_t *p)
{
	uint8_t q[32];

	asymmetric(x, 15, p, q);
	pack_nibbles(q, p + 4);
}

static void block_q5_0(const float *x, uint8_t *p)
{
	uint8_t q[32];

	symmetric(x, 16, p, q);
	store32(p + 2, pack_nibbles(q, p + 6));
}

static void block_q5_1(const float *x, uint8_t *p)
{
	uint8_t q[32];

	asymmetric(x, 31, p, q);
	store32(p + 4, pack_nibbles(q, p + 8));
}

void quantize_row(
	enum dtype dtype, const float *x, const float *weights, void *row, size_t elements)
{
	const struct dtype_info *info = dtype_info(dtype);
	void (*block)(const float *x, uint8_t *p) = NULL;
	void (*block_k)(const float *x, const float *weights, uint8_t *p) = NULL;
	uint8_t *p = row;

	assert(info != NULL && elements % info->block_elements == 0);
	switch (dtype) {
	case DTYPE_F32: memcpy(row, x, elements * sizeof(float)); return;
	case DTYPE_F16: row_f16(x, row, elements); return;
	case DTYPE_BF16: row_bf16(x, row, elements); return;
	case DTYPE_Q8_0: block = block_q8_0; break;
	case DTYPE_Q4_0: block = block_q4_0; break;
	case DTYPE_Q4_1: block = block_q4_1; break;
	case DTYPE_Q5_0: block = block_q5_0; break;
	case DTYPE_Q5_1: block = block_q5_1; break;
	case DTYPE_Q2_K: block_k = quantize_block_q2_k; break;
	case DTYPE_Q3_K: block_k = quantize_block_q3_k; break;
	case DTYPE_Q4_K: block_k = quantize_block_q4_k; break;
	case DTYPE_Q5_K: block_k = quantize_block_q5_k; break;
	case DTYPE_Q6_K: block_k = quantize_block_q6_k; break;
	case DTYPE_IQ4_NL: block_k = quantize_block_iq4_nl; break;
	case DTYPE_IQ4_XS: block_k = quantize_block_iq4_xs; break;
	}
	for (size_t i = 0; i < elements; i += info->block_elements, p += info->block_bytes) {
		if (block)
			block(x + i, p);
		else
			block_k(x + i, weights ? weights + i : NULL, p);
	}
}
