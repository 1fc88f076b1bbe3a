/* IQ4_NL and IQ4_XS: each number is one of sixteen fixed levels, denser around zero, times a scale.
 *
 * The levels are not symmetric, so a scale is looked for with the largest magnitude near the lowest
 * level and near the highest; for each guess the levels are held fixed and the scale that fits them
 * best is solved for by weighted least squares. */
#include "kernels/quantize.h"

#include <math.h>

#include "kernels/clones.h"

#define BLOCK 32
#define SUPER 256

/* Where one level ends and the next begins. */
static const float borders[15] = {
	-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};

QUANTIZE_INLINE void default_weights(const float *x, const float *weights, int n, float *w)
{
	float mean;

	if (weights) {
		memcpy(w, weights, (size_t)n * sizeof(*w));
		return;
	}
	mean = quantize_mean_square(x, n);
	for (int i = 0; i < n; i++)
		w[i] = x[i] * x[i] + mean;
}

/* The levels nearest to x * inverse, summed up from the steps that each has passed: border by
 * border, so that the loops over the block vectorise. */
QUANTIZE_INLINE void levels_of(const float *x, float inverse, float *levels)
{
	float v[BLOCK];

	for (int k = 0; k < BLOCK; k++) {
		v[k] = x[k] * inverse;
		levels[k] = iq4_levels[0];
	}
	for (int i = 0; i < 15; i++) {
		const float border = borders[i];
		const float step = (float)(iq4_levels[i + 1] - iq4_levels[i]);

		for (int k = 0; k < BLOCK; k++)
			levels[k] += v[k] > border ? step : 0.0f;
	}
}

QUANTIZE_INLINE int number_of(float v)
{
	int q = 0;

	for (int i = 0; i < 15; i++)
		q += v > borders[i];
	return q;
}

/* The scale, of either sign, for 32 elements. */
QUANTIZE_INLINE float fit_scale(const float *x, const float *w)
{
	float extreme = 0, best = 0, best_gain = 0;

	for (int i = 0; i < BLOCK; i++)
		extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
	if (extreme == 0)
		return 0;
	for (int step = -8; step <= 8; step++) {
		/* about -127, then about 113 */
		const float top = step <= 0 ? -127.0f + 4.0f * (float)(step + 4)
					    : 113.0f + 4.0f * (float)(step - 4);
		const float inverse = top / extreme;
		float swlx[QUANTIZE_LANES] = {0}, swll[QUANTIZE_LANES] = {0}, wlx, wll;
		float levels[BLOCK];

		levels_of(x, inverse, levels);
		for (int i = 0; i < BLOCK; i += QUANTIZE_LANES)
			for (int l = 0; l < QUANTIZE_LANES; l++) {
				const float level = levels[i + l];

				swlx[l] += w[i + l] * level * x[i + l];
				swll[l] += w[i + l] * level * level;
			}
		wlx = quantize_sum(swlx);
		wll = quantize_sum(swll);
		/* the error falls by (sum w level x)^2 / sum w level^2 */
		if (wll > 0 && wlx * wlx > best_gain * wll) {
			best_gain = wlx * wlx / wll;
			best = wlx / wll;
		}
	}
	return best;
}

QUANTIZE_INLINE void pack(const float *x, float scale, uint8_t *q)
{
	const float inverse = scale != 0 ? 1 / scale : 0;

	for (int i = 0; i < 16; i++)
		q[i] = (uint8_t)(number_of(x[i] * inverse) | number_of(x[i + 16] * inverse) << 4);
}

VECTOR_CLONES void quantize_block_iq4_nl(const float *x, const float *weights, uint8_t *p)
{
	float w[BLOCK];

	default_weights(x, weights, BLOCK, w);
	quantize_store_f16(p, fit_scale(x, w));
	pack(x, quantize_load_f16(p), p + 2);
}

VECTOR_CLONES void quantize_block_iq4_xs(const float *x, const float *weights, uint8_t *p)
{
	float w[SUPER], scales[8], extreme = 0, d;
	unsigned high = 0;

	default_weights(x, weights, SUPER, w);
	for (int s = 0; s < 8; s++) {
		scales[s] = fit_scale(x + BLOCK * s, w + BLOCK * s);
		extreme = fabsf(scales[s]) > fabsf(extreme) ? scales[s] : extreme;
	}
	quantize_store_f16(p, extreme / -32);
	d = quantize_load_f16(p);
	memset(p + 4, 0, 4);
	for (int s = 0; s < 8; s++) {
		const float v = d != 0 ? quantize_nearest(scales[s] / d) : 0;
		const int scale = (int)quantize_clamp(v, -32, 31);
		const unsigned stored = (unsigned)(scale + 32);

		p[4 + s / 2] |= (uint8_t)((stored & 15) << (s % 2 * 4));
		high |= (stored >> 4) << (2 * s);
		pack(x + BLOCK * s, d * (float)scale, p + 8 + 16 * s);
	}
	p[2] = (uint8_t)high;
	p[3] = (uint8_t)(high >> 8);
}
