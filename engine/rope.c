/* The table of rotations: one for every backend, so that they all turn by the same angles.
 *
 * transformers (LlamaRotaryEmbedding, 4.57) computes in f32: inv_freq[i] = 1 / theta^(2 i / dim),
 * angle = position * inv_freq[i], then cos and sin of that rounded angle. Here each f32 step is the
 * correctly rounded one: computed in double, rounded once. */
#include <assert.h>
#include <math.h>

#include "engine/model.h"

void rope_table(float *table, uint32_t positions, uint32_t rope_dim, float theta)
{
	uint32_t half = rope_dim / 2, p, i;

	assert(rope_dim % 2 == 0);
	for (i = 0; i < half; i++) {
		float exponent = (float)(2 * i) / (float)rope_dim;
		float inv_freq = 1.0f / (float)pow((double)theta, (double)exponent);

		for (p = 0; p < positions; p++) {
			float *row = table + (size_t)p * rope_dim;
			float angle = (float)p * inv_freq;
			double sine, cosine;

			sincos((double)angle, &sine, &cosine);
			row[i] = (float)cosine;
			row[half + i] = (float)sine;
		}
	}
}
