/* The K types: 256 elements share one or two f16 numbers, sub-blocks of 16 or 32 have small scales
 * of their own.
 *
 * For each sub-block some grids of slightly different step are tried; for each the rounded numbers
 * are held fixed and the scale (and minimum) that fit them best are solved for by weighted least
 * squares; the best stays. Then the scales are rounded themselves, and the elements once more to
 * what is left. Errors weigh by the element's magnitude plus the block's root mean square unless
 * the caller knows better: large weights matter more, the overall error hardly grows. */
#include "kernels/quantize.h"

#include <math.h>
#include <string.h>

#include "kernels/clones.h"

#define SUPER 256
QUANTIZE_INLINE void default_weights(const float *x, const float *weights, float *w)
{
	float mean;

	if (weights) {
		memcpy(w, weights, SUPER * sizeof(*w));
		return;
	}
	mean = quantize_mean_square(x, SUPER);
	for (int i = 0; i < SUPER; i++)
		w[i] = fabsf(x[i]) + sqrtf(mean);
}

/* x ≈ scale * q - min, q from 0 to levels, min >= 0: the best scale and min for n elements. */
QUANTIZE_INLINE void fit_scale_min(
	const float *x, const float *w, int n, float levels, float *ret_scale, float *ret_min)
{
	float low = 0, high = x[0], best_scale = 0, best_min = 0, best_error = INFINITY;
	float sw[QUANTIZE_LANES] = {0}, swx[QUANTIZE_LANES] = {0}, swxx[QUANTIZE_LANES] = {0};
	float w1, wx, wxx;

	for (int i = 0; i < n; i++) {
		low = x[i] < low ? x[i] : low;
		high = x[i] > high ? x[i] : high;
	}
	*ret_scale = 0;
	*ret_min = -low;
	if (!(high > low))
		return;
	for (int i = 0; i < n; i += QUANTIZE_LANES)
		for (int l = 0; l < QUANTIZE_LANES; l++) {
			sw[l] += w[i + l];
			swx[l] += w[i + l] * x[i + l];
			swxx[l] += w[i + l] * x[i + l] * x[i + l];
		}
	w1 = quantize_sum(sw);
	wx = quantize_sum(swx);
	wxx = quantize_sum(swxx);
	for (int step = -6; step <= 3; step++) {
		float inverse = (levels + 0.2f * (float)step) / (high - low);
		float swq[QUANTIZE_LANES] = {0}, swqq[QUANTIZE_LANES] = {0},
		      swqx[QUANTIZE_LANES] = {0};
		float wq, wqq, wqx, det, scale, min, error;

		for (int i = 0; i < n; i += QUANTIZE_LANES)
			for (int l = 0; l < QUANTIZE_LANES; l++) {
				float q = quantize_clamp(
					quantize_nearest((x[i + l] - low) * inverse), 0, levels);

				swq[l] += w[i + l] * q;
				swqq[l] += w[i + l] * q * q;
				swqx[l] += w[i + l] * q * x[i + l];
			}
		wq = quantize_sum(swq);
		wqq = quantize_sum(swqq);
		wqx = quantize_sum(swqx);
		det = w1 * wqq - wq * wq;
		if (!(det > 0))
			continue;
		scale = (w1 * wqx - wq * wx) / det;
		min = (wq * wqx - wqq * wx) / det;
		if (min < 0) {
			min = 0;
			scale = wqx / wqq;
		}
		/* sum w (x - scale q + min)^2, multiplied out */
		error = wxx + scale * scale * wqq + min * min * w1 - 2 * scale * wqx +
			2 * min * wx - 2 * scale * min * wq;
		if (error < best_error && scale > 0) {
			best_error = error;
			best_scale = scale;
			best_min = min;
		}
	}
	if (best_scale > 0) {
		*ret_scale = best_scale;
		*ret_min = best_min;
	} else {
		*ret_scale = (high - low) / levels;
	}
}

/* x ≈ scale * q, q from -half to half - 1: the best scale, of either sign, for n elements. */
QUANTIZE_INLINE float fit_scale(const float *x, const float *w, int n, float half)
{
	float extreme = 0, best = 0, best_gain = 0;

	for (int i = 0; i < n; i++)
		extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
	if (extreme == 0)
		return 0;
	for (int step = -6; step <= 6; step++) {
		float inverse = -(half + 0.15f * (float)step) / extreme;
		float swqx[QUANTIZE_LANES] = {0}, swqq[QUANTIZE_LANES] = {0}, wqx, wqq;

		for (int i = 0; i < n; i += QUANTIZE_LANES)
			for (int l = 0; l < QUANTIZE_LANES; l++) {
				float q = quantize_clamp(
					quantize_nearest(x[i + l] * inverse), -half, half - 1);

				swqx[l] += w[i + l] * q * x[i + l];
				swqq[l] += w[i + l] * q * q;
			}
		wqx = quantize_sum(swqx);
		wqq = quantize_sum(swqq);
		/* the error falls by (sum w q x)^2 / sum w q^2 */
		if (wqq > 0 && wqx * wqx > best_gain * wqq) {
			best_gain = wqx * wqx / wqq;
			best = wqx / wqq;
		}
	}
	return best;
}

/* The scales and minimums of `count` sub-blocks as numbers 0 … levels of d and dmin, and every
 * element as 0 … q_levels: what Q2_K, Q4_K and Q5_K share. d and dmin are written as f16 and read
 * back. */
QUANTIZE_INLINE void quantize_scale_min(const float *x, const float *weights, int count,
	float levels, float q_levels, uint8_t *p_d, uint8_t *scale, uint8_t *min, uint8_t *q)
{
	int n = SUPER / count;
	float w[SUPER], scales[16], mins[16], max_scale = 0, max_min = 0, d, dmin;

	default_weights(x, weights, w);
	for (int s = 0; s < count; s++) {
		fit_scale_min(x + s * n, w + s * n, n, q_levels, &scales[s], &mins[s]);
		max_scale = scales[s] > max_scale ? scales[s] : max_scale;
		max_min = mins[s] > max_min ? mins[s] : max_min;
	}
	quantize_store_f16(p_d, max_scale / levels);
	quantize_store_f16(p_d + 2, max_min / levels);
	d = quantize_load_f16(p_d);
	dmin = quantize_load_f16(p_d + 2);
	for (int s = 0; s < count; s++) {
		float step, offset;

		scale[s] = (uint8_t)(d > 0 ? quantize_clamp(
						     quantize_nearest(scales[s] / d), 0, levels)
					   : 0);
		min[s] = (uint8_t)(dmin > 0 ? quantize_clamp(
						      quantize_nearest(mins[s] / dmin), 0, levels)
					    : 0);
		step = d * (float)scale[s];
		offset = dmin * (float)min[s];
		for (int i = 0; i < n; i++)
			q[s * n + i] =
				(uint8_t)(step > 0
						  ? quantize_clamp(
							    quantize_nearest(
								    (x[s * n + i] + offset) / step),
							    0, q_levels)
						  : 0);
	}
}

/* Signed scales of 16 sub-blocks as numbers -levels … levels - 1 of d, elements as -half … half - 1
 * plus half: what Q3_K and Q6_K share. */
QUANTIZE_INLINE void quantize_scale(const float *x, const float *weights, float levels, float half,
	uint8_t *p_d, int *scale, uint8_t *q)
{
	float w[SUPER], scales[16], extreme = 0, d;

	default_weights(x, weights, w);
	for (int s = 0; s < 16; s++) {
		scales[s] = fit_scale(x + s * 16, w + s * 16, 16, half);
		extreme = fabsf(scales[s]) > fabsf(extreme) ? scales[s] : extreme;
	}
	quantize_store_f16(p_d, extreme / -levels);
	d = quantize_load_f16(p_d);
	for (int s = 0; s < 16; s++) {
		float step;

		scale[s] = (int)(d != 0 ? quantize_clamp(quantize_nearest(scales[s] / d), -levels,
						  levels - 1)
					: 0);
		step = d * (float)scale[s];
		for (int i = 0; i < 16; i++)
			q[s * 16 + i] =
				(uint8_t)(half +
					  (step != 0 ? quantize_clamp(quantize_nearest(
									      x[s * 16 + i] / step),
							       -half, half - 1)
						     : 0));
	}
}

/* Element e of a half (128 elements) lies in byte e % 32, at bit 2 (e / 32). */
static void pack_two_bits(const uint8_t *q, uint8_t *p)
{
	memset(p, 0, 64);
	for (int e = 0; e < SUPER; e++)
		p[e / 128 * 32 + e % 32] |= (uint8_t)((q[e] & 3) << (e % 128 / 32 * 2));
}

VECTOR_CLONES void quantize_block_q2_k(const float *x, const float *weights, uint8_t *p)
{
	uint8_t scale[16], min[16], q[SUPER];

	quantize_scale_min(x, weights, 16, 15, 3, p + 80, scale, min, q);
	for (int s = 0; s < 16; s++)
		p[s] = (uint8_t)(scale[s] | min[s] << 4);
	pack_two_bits(q, p + 16);
}

VECTOR_CLONES void quantize_block_q3_k(const float *x, const float *weights, uint8_t *p)
{
	uint8_t q[SUPER], *scales = p + 96;
	int scale[16];

	quantize_scale(x, weights, 32, 4, p + 108, scale, q);
	memset(p, 0, 32);
	for (int e = 0; e < SUPER; e++)
		p[e % 32] |= (uint8_t)((q[e] >> 2) << (e / 32));
	pack_two_bits(q, p + 32);
	memset(scales, 0, 12);
	for (int s = 0; s < 16; s++) {
		int v = scale[s] + 32;

		scales[s % 8] |= (uint8_t)((v & 15) << (s / 8 * 4));
		scales[8 + s % 4] |= (uint8_t)((v >> 4) << (s / 4 * 2));
	}
}

/* Eight 6-bit scales and minimums in 12 bytes (dequantize.c describes them). */
static void pack_scales(const uint8_t *scale, const uint8_t *min, uint8_t *p)
{
	for (int i = 0; i < 4; i++) {
		p[i] = (uint8_t)(scale[i] | (scale[i + 4] >> 4) << 6);
		p[4 + i] = (uint8_t)(min[i] | (min[i + 4] >> 4) << 6);
		p[8 + i] = (uint8_t)((scale[i + 4] & 15) | (min[i + 4] & 15) << 4);
	}
}

/* Byte i of the k-th 32 holds sub-block 2 k in its low and 2 k + 1 in its high nibble. */
static void pack_nibbles(const uint8_t *q, uint8_t *p)
{
	for (int e = 0; e < SUPER / 2; e++) {
		const uint8_t *pair = q + e / 32 * 64 + e % 32;

		p[e] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
	}
}

VECTOR_CLONES void quantize_block_q4_k(const float *x, const float *weights, uint8_t *p)
{
	uint8_t scale[8], min[8], q[SUPER];

	quantize_scale_min(x, weights, 8, 63, 15, p, scale, min, q);
	pack_scales(scale, min, p + 4);
	pack_nibbles(q, p + 16);
}

VECTOR_CLONES void quantize_block_q5_k(const float *x, const float *weights, uint8_t *p)
{
	uint8_t scale[8], min[8], q[SUPER];

	quantize_scale_min(x, weights, 8, 63, 31, p, scale, min, q);
	pack_scales(scale, min, p + 4);
	memset(p + 16, 0, 32);
	for (int e = 0; e < SUPER; e++)
		p[16 + e % 32] |= (uint8_t)((q[e] >> 4) << (e / 32));
	pack_nibbles(q, p + 48);
}

VECTOR_CLONES void quantize_block_q6_k(const float *x, const float *weights, uint8_t *p)
{
	uint8_t q[SUPER];
	int scale[16];

	quantize_scale(x, weights, 128, 32, p + 208, scale, q);
	memset(p, 0, 192);
	for (int e = 0; e < SUPER; e++) {
		int group = e / 32, i = e % 32;

		p[group / 4 * 64 + group % 2 * 32 + i] |= (uint8_t)((q[e] & 15)
								    << (group % 4 / 2 * 4));
		p[128 + group / 4 * 32 + i] |= (uint8_t)((q[e] >> 4) << (group % 4 * 2));
	}
	for (int s = 0; s < 16; s++)
		p[192 + s] = (uint8_t)(int8_t)scale[s];
}
