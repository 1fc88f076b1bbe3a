/* Inside quantize_row(): the types that search for their scales, and what the searches share.
 *
 * The K types' blocks of 256 elements: x and weights [256]; weights may be NULL; p takes the type's
 * block bytes. */
#pragma once

#include <string.h>

#include "kernels/dtype.h"

#define QUANTIZE_INLINE static inline __attribute__((always_inline)) /* into VECTOR_CLONES */
#define QUANTIZE_LANES  8 /* partial sums: loops vectorise without reordering anything */

void quantize_block_q2_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q3_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q4_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q5_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q6_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_iq4_xs(const float *x, const float *weights, uint8_t *p);

/* The same for a block of 32. */
void quantize_block_iq4_nl(const float *x, const float *weights, uint8_t *p);

/* Rounds to the nearest integer, |v| < 2^22, in a form that vectorises. */
QUANTIZE_INLINE float quantize_nearest(float v)
{
	const float magic = 12582912.0f; /* 1.5 * 2^23 */

	return (v + magic) - magic;
}

QUANTIZE_INLINE float quantize_clamp(float v, float min, float max)
{
	v = v < min ? min : v;
	return v > max ? max : v;
}

QUANTIZE_INLINE float quantize_sum(const float *lanes)
{
	float sum = 0;

	for (int i = 0; i < QUANTIZE_LANES; i++)
		sum += lanes[i];
	return sum;
}

QUANTIZE_INLINE float quantize_mean_square(const float *x, int n)
{
	float sum[QUANTIZE_LANES] = {0};

	for (int i = 0; i < n; i += QUANTIZE_LANES)
		for (int l = 0; l < QUANTIZE_LANES; l++)
			sum[l] += x[i + l] * x[i + l];
	return quantize_sum(sum) / (float)n;
}

static inline void quantize_store_f16(uint8_t *p, float v)
{
	uint16_t h = f32_to_f16(v);

	memcpy(p, &h, sizeof(h));
}

static inline float quantize_load_f16(const uint8_t *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return f16_to_f32(h);
}
