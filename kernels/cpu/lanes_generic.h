/* Sixteen lanes in plain C: what every function of a lanes header means.
 *
 * A lane is an output row, a position or an element; kernels never add across lanes except through
 * the fixed tree of lanes.h. Values are single precision, vf_fma rounds once where the instruction
 * set has a fused multiply-add and twice here: results differ between instruction sets, never
 * within one. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#define LANES_NAME generic
#define LANE       static inline __attribute__((always_inline))
#define TILE_COLS  4 /* columns of a matmul tile */
#define TILE_FUSED 2 /* up to here weights are unpacked straight into the dot products */
#define TILE_RUN   1 /* row groups side by side at one column */
#define TILE_WIDE  1 /* the same at more columns */
#define TILE_DIMS  2 /* vectors of a value row x queries of an attention tile */
#define TILE_HEADS 2
#define BYTE_ZERO  0 /* bytes are stored signed */

struct vf {
	float v[16];
};

/* Sixteen 32-bit lanes of four bytes each: byte k of a lane is element k of its row's group. */
struct vi {
	uint32_t v[16];
};

#define EACH_LANE(i) for (int i = 0; i < 16; i++)

LANE struct vf vf_set1(float x)
{
	struct vf r;

	EACH_LANE(i)
	r.v[i] = x;
	return r;
}

LANE struct vf vf_load(const float *p)
{
	struct vf r;

	memcpy(r.v, p, sizeof(r.v));
	return r;
}

LANE void vf_store(float *p, struct vf a)
{
	memcpy(p, a.v, sizeof(a.v));
}

/* The first n < 16 lanes, zeros above. */
LANE struct vf vf_load_n(const float *p, uint32_t n)
{
	struct vf r = {{0}};

	memcpy(r.v, p, n * sizeof(float));
	return r;
}

LANE void vf_store_n(float *p, struct vf a, uint32_t n)
{
	memcpy(p, a.v, n * sizeof(float));
}

LANE struct vf vf_add(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] += b.v[i];
	return a;
}

LANE struct vf vf_sub(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] -= b.v[i];
	return a;
}

LANE struct vf vf_mul(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] *= b.v[i];
	return a;
}

LANE struct vf vf_div(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] /= b.v[i];
	return a;
}

/* a * b + c */
LANE struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
	EACH_LANE(i)
	c.v[i] += a.v[i] * b.v[i];
	return c;
}

/* b where a is not a number, as x86 has it. */
LANE struct vf vf_max(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
	return a;
}

LANE struct vf vf_min(struct vf a, struct vf b)
{
	EACH_LANE(i)
	a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
	return a;
}

LANE struct vf vf_abs(struct vf a)
{
	EACH_LANE(i)
	a.v[i] = fabsf(a.v[i]);
	return a;
}

LANE struct vf vf_from_vi(struct vi a)
{
	struct vf r;

	EACH_LANE(i)
	r.v[i] = (float)(int32_t)a.v[i];
	return r;
}

/* The nearest integer, ties to even; |a| < 2^22 (beyond, any integer). */
LANE struct vi vi_from_vf(struct vf a)
{
	struct vi r;

	EACH_LANE(i)
	{
		const float magic = a.v[i] + 12582912.0f; /* 1.5 x 2^23 */
		uint32_t bits;

		memcpy(&bits, &magic, sizeof(bits));
		r.v[i] = bits - 0x4b400000u;
	}
	return r;
}

LANE struct vf vf_load_f16(const uint16_t *p)
{
	struct vf r;

	EACH_LANE(i)
	{
		/* exact: the exponent is moved by a multiplication, which also serves subnormals */
		const uint32_t sign = (uint32_t)(p[i] & 0x8000) << 16;
		const uint32_t rest = (uint32_t)(p[i] & 0x7fff) << 13;
		const uint32_t two112 = (127 + 112) << 23;
		float f, k;
		uint32_t bits;

		memcpy(&f, &rest, sizeof(f));
		memcpy(&k, &two112, sizeof(k));
		f *= k;
		memcpy(&bits, &f, sizeof(bits));
		bits |= sign | (rest >= 0x0f800000u ? 0x7f800000u : 0);
		memcpy(&r.v[i], &bits, sizeof(bits));
	}
	return r;
}

LANE struct vf vf_load_bf16(const uint16_t *p)
{
	struct vf r;

	EACH_LANE(i)
	{
		const uint32_t bits = (uint32_t)p[i] << 16;

		memcpy(&r.v[i], &bits, sizeof(bits));
	}
	return r;
}

LANE struct vf vf_load_u8(const uint8_t *p)
{
	struct vf r;

	EACH_LANE(i)
	r.v[i] = (float)p[i];
	return r;
}

LANE struct vf vf_load_s8(const uint8_t *p)
{
	struct vf r;

	EACH_LANE(i)
	r.v[i] = (float)(int8_t)p[i];
	return r;
}

/* Lanes i with lo <= base + i < hi keep a, the others take fill. */
LANE struct vf vf_window(struct vf a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	EACH_LANE(i)
	{
		const uint32_t at = base + (uint32_t)i;

		a.v[i] = at >= lo && at < hi ? a.v[i] : fill;
	}
	return a;
}

/* a * 2^n for integers n that keep the result normal */
LANE struct vf vf_scale2(struct vf a, struct vf n)
{
	const struct vi e = vi_from_vf(n);

	EACH_LANE(i)
	{
		uint32_t bits;

		memcpy(&bits, &a.v[i], sizeof(bits));
		bits += e.v[i] << 23;
		memcpy(&a.v[i], &bits, sizeof(bits));
	}
	return a;
}

/* To the nearest integer, ties to even; |a| < 2^22. */
LANE struct vf vf_round(struct vf a)
{
	EACH_LANE(i)
	a.v[i] = (a.v[i] + 12582912.0f) - 12582912.0f;
	return a;
}

LANE struct vi vi_zero(void)
{
	return (struct vi){{0}};
}

LANE struct vi vi_set1(int32_t x)
{
	struct vi r;

	EACH_LANE(i)
	r.v[i] = (uint32_t)x;
	return r;
}

LANE struct vi vi_load(const void *p)
{
	struct vi r;

	memcpy(r.v, p, sizeof(r.v));
	return r;
}

LANE void vi_store(void *p, struct vi a)
{
	memcpy(p, a.v, sizeof(a.v));
}

LANE struct vi vi_or(struct vi a, struct vi b)
{
	EACH_LANE(i)
	a.v[i] |= b.v[i];
	return a;
}

/* Every byte of every lane and-ed with mask. */
LANE struct vi vi_and_byte(struct vi a, uint8_t mask)
{
	EACH_LANE(i)
	a.v[i] &= mask * 0x01010101u;
	return a;
}

/* Every byte of every lane with its top bit flipped: signed to unsigned + 128 and back. */
LANE struct vi vi_flip_sign(struct vi a)
{
	EACH_LANE(i)
	a.v[i] ^= 0x80808080u;
	return a;
}

/* The lanes' bits taken as floats. */
LANE struct vf vf_from_bits(struct vi a)
{
	struct vf r;

	memcpy(r.v, a.v, sizeof(r.v));
	return r;
}

LANE struct vi vi_shl(struct vi a, int n)
{
	EACH_LANE(i)
	a.v[i] <<= n;
	return a;
}

LANE struct vi vi_shr(struct vi a, int n)
{
	EACH_LANE(i)
	a.v[i] >>= n;
	return a;
}

LANE void vi_store_low_bytes(void *p, struct vi a)
{
	uint8_t *b = p;

	EACH_LANE(i)
	b[i] = (uint8_t)a.v[i];
}

/* Each lane: sum + the dot product of its four unsigned bytes, all below 64, with the four signed
 * bytes of x. */
LANE struct vi vi_dot(struct vi sum, struct vi w, int32_t x)
{
	const int32_t x0 = (int8_t)x, x1 = (int8_t)(x >> 8);
	const int32_t x2 = (int8_t)(x >> 16), x3 = (int8_t)(x >> 24);

	EACH_LANE(i)
	{
		const uint32_t b = w.v[i];

		sum.v[i] += (uint32_t)((int32_t)(b & 0xff) * x0 + (int32_t)(b >> 8 & 0xff) * x1 +
				       (int32_t)(b >> 16 & 0xff) * x2 + (int32_t)(b >> 24) * x3);
	}
	return sum;
}

/* The same for full bytes: signed where BYTE_ZERO is 0, else unsigned and BYTE_ZERO too high. */
LANE struct vi vi_dot_byte(struct vi sum, struct vi w, int32_t x)
{
	const int32_t x0 = (int8_t)x, x1 = (int8_t)(x >> 8);
	const int32_t x2 = (int8_t)(x >> 16), x3 = (int8_t)(x >> 24);

	EACH_LANE(i)
	{
		const uint32_t b = w.v[i];

		sum.v[i] += (uint32_t)((int8_t)b * x0 + (int8_t)(b >> 8) * x1 +
				       (int8_t)(b >> 16) * x2 + (int8_t)(b >> 24) * x3);
	}
	return sum;
}

/* Byte i of each lane, unsigned. */
LANE struct vf vf_from_byte(struct vi a, int i)
{
	struct vf r;

	EACH_LANE(l)
	r.v[l] = (float)(a.v[l] >> (8 * i) & 0xff);
	return r;
}

LANE void vf_store_f16(uint16_t *p, struct vf a)
{
	EACH_LANE(i)
	p[i] = f32_to_f16(a.v[i]);
}
