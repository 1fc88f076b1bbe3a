/* The shapes of packed weights, and single rows read back out of them (embeddings). The packing
 * itself is in pack.c. A weight owns its data; everything here only reads sizes and bytes. */
#include "kernels/cpu/layout.h"

#include <assert.h>
#include <string.h>

bool layout_of(enum dtype dtype, uint32_t rows, uint32_t byte_zero, struct cpu_layout *ret)
{
	static const struct {
		enum dtype dtype;
		struct cpu_layout layout;
	} known[] = {
		{DTYPE_F32, {FAMILY_F32}},
		{DTYPE_F16, {FAMILY_F16}},
		{DTYPE_BF16, {FAMILY_BF16}},
		{DTYPE_Q4_0, {FAMILY_QUANTS, VALUES_Q4, SCALES_D, 8}},
		{DTYPE_Q4_1, {FAMILY_QUANTS, VALUES_Q4, SCALES_DM, 0}},
		{DTYPE_Q5_0, {FAMILY_QUANTS, VALUES_Q5, SCALES_D, 16}},
		{DTYPE_Q5_1, {FAMILY_QUANTS, VALUES_Q5, SCALES_DM, 0}},
		{DTYPE_Q8_0, {FAMILY_QUANTS, VALUES_Q8, SCALES_D, 0}},
		{DTYPE_Q2_K, {FAMILY_QUANTS, VALUES_Q2, SCALES_K16M, 0}},
		{DTYPE_Q3_K, {FAMILY_QUANTS, VALUES_Q3, SCALES_K16, 4}},
		{DTYPE_Q4_K, {FAMILY_QUANTS, VALUES_Q4, SCALES_K32M, 0}},
		{DTYPE_Q5_K, {FAMILY_QUANTS, VALUES_Q5, SCALES_K32M, 0}},
		{DTYPE_Q6_K, {FAMILY_QUANTS, VALUES_Q6, SCALES_K16, 32}},
		{DTYPE_IQ4_NL, {FAMILY_QUANTS, VALUES_IQ4, SCALES_D, 0}},
		{DTYPE_IQ4_XS, {FAMILY_QUANTS, VALUES_IQ4, SCALES_K32, 0}},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (known[i].dtype != dtype)
			continue;
		*ret = known[i].layout;
		if (ret->values == VALUES_Q8 || ret->values == VALUES_IQ4)
			ret->zero = byte_zero;
		if (rows == 1)
			ret->family = FAMILY_VECTOR;
		return true;
	}
	return false;
}

bool layout_size(struct weight *w)
{
	const struct cpu_layout *l = &w->layout;
	uint64_t bytes, records;

	w->groups = w->rows / GROUP_ROWS + (w->rows % GROUP_ROWS != 0);
	switch (l->family) {
	case FAMILY_VECTOR:
		w->groups = 1;
		bytes = (uint64_t)w->cols * sizeof(float);
		break;
	case FAMILY_F32: bytes = (uint64_t)w->cols * GROUP_ROWS * sizeof(float); break;
	case FAMILY_F16: bytes = (uint64_t)w->cols * GROUP_ROWS * sizeof(uint16_t); break;
	case FAMILY_BF16:
		bytes = ((uint64_t)w->cols + 1) / 2 * GROUP_ROWS * 2 * sizeof(uint16_t);
		break;
	default:
		records = (w->cols / 32 + SCALES_BLOCKS(l->scales) - 1) / SCALES_BLOCKS(l->scales);
		bytes = records * RECORD_BYTES(l->values, l->scales);
	}
	w->group_bytes = (bytes + 63) / 64 * 64;
	return !__builtin_mul_overflow((size_t)w->groups, w->group_bytes, &w->bytes);
}

/* The stored value of block-relative column k (0…31) of lane r. */
static uint32_t value_at(enum cpu_values values, const uint8_t *block, uint32_t r, uint32_t k)
{
	const uint32_t j = k / 4, at = 4 * r + k % 4;
	const uint8_t *nibbles = block, *crumbs, *bits;
	const uint32_t nibble = nibbles[j / 2 * 64 + at] >> (j % 2 * 4) & 15;

	switch (values) {
	case VALUES_Q4:
	case VALUES_IQ4: return nibble;
	case VALUES_Q5: bits = block + 256; return nibble | (bits[at] >> j & 1u) << 4;
	case VALUES_Q6:
		crumbs = block + 256;
		return nibble | (crumbs[j / 4 * 64 + at] >> (j % 4 * 2) & 3u) << 4;
	case VALUES_Q2: return block[j / 4 * 64 + at] >> (j % 4 * 2) & 3u;
	case VALUES_Q3:
		bits = block + 128;
		return (block[j / 4 * 64 + at] >> (j % 4 * 2) & 3u) | (bits[at] >> j & 1u) << 2;
	default: return block[j * 64 + at];
	}
}

static float f16_at(const uint8_t *p, uint32_t r)
{
	uint16_t h;

	memcpy(&h, p + 2 * r, sizeof(h));
	return f16_to_f32(h);
}

/* Scale and minimum of lane r for the 16 columns half h of block i of a record: w = d (q - zero) +
 * m.
 */
static void scales_at(enum cpu_scales scales, const uint8_t *s, uint32_t i, uint32_t h, uint32_t r,
	float *d, float *m)
{
	*d = *m = 0;
	switch (scales) {
	case SCALES_D: *d = f16_at(s + 32 * (size_t)i, r); break;
	case SCALES_DM:
		*d = f16_at(s, r);
		*m = f16_at(s + 32, r);
		break;
	case SCALES_K32M:
		*d = f16_at(s, r) * (float)s[64 + 32 * i + r];
		*m = -(f16_at(s + 32, r) * (float)s[64 + 32 * i + 16 + r]);
		break;
	case SCALES_K16: *d = f16_at(s, r) * (float)(int8_t)s[32 + 16 * (2 * i + h) + r]; break;
	case SCALES_K16M:
		*d = f16_at(s, r) * (float)s[64 + 32 * (2 * i + h) + r];
		*m = -(f16_at(s + 32, r) * (float)s[64 + 32 * (2 * i + h) + 16 + r]);
		break;
	case SCALES_K32: *d = f16_at(s, r) * (float)(int8_t)s[32 + 16 * i + r]; break;
	}
}

/* The number that a stored value stands for, before its scale. */
static int32_t number_of(const struct cpu_layout *l, uint32_t stored)
{
	if (l->values == VALUES_IQ4)
		return iq4_levels[stored];
	if (l->values == VALUES_Q8 && l->zero == 0)
		return (int8_t)stored;
	return (int32_t)stored - (int32_t)l->zero;
}

static void quants_row(const struct weight *w, const uint8_t *group, uint32_t r, float *y)
{
	const enum cpu_values values = w->layout.values;
	const enum cpu_scales scales = w->layout.scales;

	for (uint32_t b = 0; b < w->cols / 32; b++) {
		const uint8_t *s = layout_record(values, scales, group, b);
		const uint8_t *block = layout_block(values, scales, group, b);
		float d[2], m[2];

		for (uint32_t h = 0; h < 2; h++)
			scales_at(scales, s, b % SCALES_BLOCKS(scales), h, r, &d[h], &m[h]);
		for (uint32_t k = 0; k < 32; k++) {
			const uint32_t u = value_at(values, block, r, k);
			const int32_t q = number_of(&w->layout, u);

			y[32 * b + k] = d[k / 16] * (float)q + m[k / 16];
		}
	}
}

void layout_row(const struct weight *w, uint32_t row, float *y)
{
	const uint32_t r = row % GROUP_ROWS;
	const uint8_t *group = layout_group(w, row / GROUP_ROWS);

	assert(row < w->rows);
	switch (w->layout.family) {
	case FAMILY_VECTOR: memcpy(y, w->data, w->cols * sizeof(float)); return;
	case FAMILY_QUANTS: quants_row(w, group, r, y); return;
	case FAMILY_F32:
		for (uint32_t k = 0; k < w->cols; k++)
			y[k] = ((const float *)group)[(size_t)k * GROUP_ROWS + r];
		return;
	case FAMILY_F16:
		for (uint32_t k = 0; k < w->cols; k++)
			y[k] = f16_to_f32(((const uint16_t *)group)[(size_t)k * GROUP_ROWS + r]);
		return;
	case FAMILY_BF16:
		for (uint32_t k = 0; k < w->cols; k++)
			y[k] = bf16_to_f32(((const uint16_t *)
					group)[(size_t)(k / 2) * 2 * GROUP_ROWS + 2 * r + k % 2]);
		return;
	}
}
