/* The table of rotations: one for every backend, so that they all turn by the same angles.
 *
 * transformers (modeling_rope_utils, 4.57) computes in f32: inv_freq[i] = 1 / theta^(2 i / dim),
 * scaled as rope_scaling says, angle = position * inv_freq[i], then cos and sin of that rounded
 * angle. Here each f32 step is the correctly rounded one, in the same order: what is a reciprocal
 * and a product there is that here. */
#include <assert.h>
#include <math.h>

#include "engine/model.h"

double rope_yarn_attention(double factor, double mscale)
{
	return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* Llama 3.1: long waves are stretched by `factor`, short ones kept, those between mixed. */
static float llama3(const struct rope *rope, float inv_freq)
{
	const double low = rope->original_context / rope->low_freq_factor;
	const double high = rope->original_context / rope->high_freq_factor;
	const float wavelength = 1.0f / inv_freq * (float)(2 * M_PI);
	const float factor = (float)rope->factor;
	float smooth, scaled;

	if (wavelength > (float)low)
		return inv_freq / factor;
	if (wavelength < (float)high)
		return inv_freq;
	smooth = (1.0f / wavelength * (float)rope->original_context -
			 (float)rope->low_freq_factor) /
		 (float)(rope->high_freq_factor - rope->low_freq_factor);
	scaled = (1.0f - smooth) * inv_freq / factor;
	return scaled + smooth * inv_freq;
}

/* The dimension whose wave turns that often within the original context. */
static double yarn_dimension(const struct rope *rope, double rotations, uint32_t dim)
{
	return dim * log(rope->original_context / (rotations * 2 * M_PI)) /
	       (2 * log((double)rope->theta));
}

/* YaRN (Peng et al. 2023): a ramp over the dimensions from frequencies as they are to frequencies
 * divided by `factor`. power: theta^(2 i / dim). */
static float yarn(const struct rope *rope, uint32_t i, uint32_t dim, float power)
{
	double low = yarn_dimension(rope, rope->beta_fast, dim);
	double high = yarn_dimension(rope, rope->beta_slow, dim);
	float ramp, kept;

	if (rope->truncate) {
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0);
	high = fmin(high, dim - 1.0);
	if (low == high)
		high += 0.001;
	ramp = ((float)i - (float)low) / (float)(high - low);
	ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
	kept = 1.0f - ramp;
	return 1.0f / ((float)rope->factor * power) * (1.0f - kept) + 1.0f / power * kept;
}

static float frequency(const struct rope *rope, uint32_t i, uint32_t dim)
{
	const float exponent = (float)(2 * i) / (float)dim;
	const float power = (float)pow((double)rope->theta, (double)exponent);
	const float inv_freq = 1.0f / power;

	switch (rope->kind) {
	case ROPE_LINEAR: return inv_freq / (float)rope->factor;
	case ROPE_LLAMA3: return llama3(rope, inv_freq);
	case ROPE_YARN: return yarn(rope, i, dim, power);
	case ROPE_UNSCALED: break;
	}
	return inv_freq;
}

void rope_divisors(float *divisors, uint32_t rope_dim, const struct rope *rope)
{
	const struct rope plain = {.kind = ROPE_UNSCALED, .theta = rope->theta};

	for (uint32_t i = 0; i < rope_dim / 2; i++)
		divisors[i] = frequency(&plain, i, rope_dim) / frequency(rope, i, rope_dim);
}

void rope_table(float *table, uint32_t positions, uint32_t rope_dim, const struct rope *rope,
	const float *divisors)
{
	const float scale = rope->kind == ROPE_YARN ? (float)rope->attention_factor : 1.0f;
	uint32_t half = rope_dim / 2, p, i;

	assert(rope_dim % 2 == 0);
	for (i = 0; i < half; i++) {
		float inv_freq = frequency(rope, i, rope_dim);

		if (divisors)
			inv_freq /= divisors[i];
		for (p = 0; p < positions; p++) {
			float *row = table + (size_t)p * rope_dim;
			float angle = (float)p * inv_freq;
			double sine, cosine;

			sincos((double)angle, &sine, &cosine);
			row[i] = (float)cosine * scale;
			row[half + i] = (float)sine * scale;
		}
	}
}
