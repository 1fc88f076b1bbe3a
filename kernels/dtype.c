/* What a tensor's element types are: names, block sizes, and the 16-bit floats. */
#include "kernels/dtype.h"

#include <string.h>
#include <strings.h>

static const struct dtype_info dtypes[DTYPE_COUNT] = {
	[DTYPE_F32] = {"f32", 1, 4},
	[DTYPE_F16] = {"f16", 1, 2},
	[DTYPE_Q4_0] = {"q4_0", 32, 2 + 16},
	[DTYPE_Q4_1] = {"q4_1", 32, 2 + 2 + 16},
	[DTYPE_Q5_0] = {"q5_0", 32, 2 + 4 + 16},
	[DTYPE_Q5_1] = {"q5_1", 32, 2 + 2 + 4 + 16},
	[DTYPE_Q8_0] = {"q8_0", 32, 2 + 32},
	[DTYPE_Q2_K] = {"q2_k", 256, 16 + 64 + 2 + 2},
	[DTYPE_Q3_K] = {"q3_k", 256, 32 + 64 + 12 + 2},
	[DTYPE_Q4_K] = {"q4_k", 256, 2 + 2 + 12 + 128},
	[DTYPE_Q5_K] = {"q5_k", 256, 2 + 2 + 12 + 32 + 128},
	[DTYPE_Q6_K] = {"q6_k", 256, 128 + 64 + 16 + 2},
	[DTYPE_IQ4_NL] = {"iq4_nl", 32, 2 + 16},
	[DTYPE_IQ4_XS] = {"iq4_xs", 256, 2 + 2 + 4 + 128},
	[DTYPE_BF16] = {"bf16", 1, 2},
};

/* Source: the format's own table, as the Python package gguf has it. */
const int8_t iq4_levels[16] = {
	-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

const struct dtype_info *dtype_info(uint32_t dtype)
{
	if (dtype >= DTYPE_COUNT || dtypes[dtype].name == NULL)
		return NULL;
	return &dtypes[dtype];
}

int dtype_from_name(const char *name)
{
	for (int i = 0; i < DTYPE_COUNT; i++)
		if (dtypes[i].name != NULL && strcasecmp(dtypes[i].name, name) == 0)
			return i;
	return -1;
}

bool dtype_row_bytes(enum dtype dtype, uint64_t elements, size_t *ret_bytes)
{
	const struct dtype_info *info = dtype_info(dtype);
	size_t bytes;

	if (info == NULL || elements % info->block_elements != 0)
		return false;
	if (__builtin_mul_overflow(elements / info->block_elements, info->block_bytes, &bytes))
		return false;
	*ret_bytes = bytes;
	return true;
}

static float from_bits(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static uint32_t to_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

/* Exponent and fraction shifted into place stand for the value times 2^-112, subnormals included:
 * one exact product puts that right for all finite values. */
float f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16;
	uint32_t rest = (uint32_t)(h & 0x7fff) << 13;

	if (rest >= 0x0f800000) /* infinity or NaN */
		return from_bits(sign | 0x70000000 | rest);
	return from_bits(sign | to_bits(from_bits(rest) * 0x1p112f));
}

uint16_t f32_to_f16(float f)
{
	uint32_t bits = to_bits(f);
	uint32_t sign = bits >> 16 & 0x8000;
	uint32_t a = bits & 0x7fffffff;

	if (a > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x477ff000) /* 65520, half a step above the largest, and more */
		return (uint16_t)(sign | 0x7c00);
	if (a < 0x38800000) /* below 2^-14: a step is 2^-24, as it is in [0.5, 1) of f32 */
		return (uint16_t)(sign | (to_bits(from_bits(a) + 0.5f) - 0x3f000000));
	a += 0xfff + (a >> 13 & 1);
	return (uint16_t)(sign | ((a >> 13) - (112 << 10)));
}

float bf16_to_f32(uint16_t h)
{
	return from_bits((uint32_t)h << 16);
}

uint16_t f32_to_bf16(float f)
{
	uint32_t bits = to_bits(f);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
