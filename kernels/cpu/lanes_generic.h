/* Sixteen lanes in plain C: what every function of a lanes header means.
 *
 * A lane is an output row, a position or an element; kernels never add across lanes except through
 * the fixed tree of vf_sum. Values are single precision, vf_fma rounds once where the instruction
 * set has a fused multiply-add and twice here: results differ between instruction sets, never
 * within one. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#define LANES_NAME  generic
#define LANE        static inline __attribute__((always_inline))
#define TILE_COLS   2 /* columns of a matmul tile */
#define TILE_GROUPS 1 /* row groups of a tile of unpacked weights */
#define TILE_RUN    1 /* row groups side by side at one column */
#define TILE_WIDE   1 /* the same at more columns */
#define TILE_DIMS   2 /* vectors of a value row x queries of an attention tile */
#define TILE_HEADS  2
#define SCORE_PAGES 1 /* pages of keys side by side at most, and their sums */
#define SCORE_SUMS  1
#define LINES_HELD  0 /* 1: at one column a block of a K type is loaded whole, in order */
#define BYTE_ZERO   0 /* bytes are stored signed */

/* gcc's and clang's vectors, which they cut into what the processor has. */
#define LANES_OF(type) type __attribute__((vector_size(16 * sizeof(type))))

struct vf {
	LANES_OF(float) v;
};

/* Sixteen 32-bit lanes of four bytes each: byte k of a lane is element k of its row's group. */
struct vi {
	LANES_OF(uint32_t) v;
};

#define EACH_LANE(i) for (int i = 0; i < 16; i++)

/* Each lane converted, and each lane's bits taken as another type of its size. */
#define LANES_CONVERT(type, x) __builtin_convertvector(x, LANES_OF(type))
#define LANES_BITS(type, x)    ((LANES_OF(type))(x))

LANE struct vf vf_set1(float x)
{
	return (struct vf){x - (LANES_OF(float)){0}};
}

LANE struct vf vf_load(const float *p)
{
	struct vf r;

	memcpy(&r.v, p, sizeof(r.v));
	return r;
}

LANE void vf_store(float *p, struct vf a)
{
	memcpy(p, &a.v, sizeof(a.v));
}

/* The first n < 16 lanes, zeros above. */
LANE struct vf vf_load_n(const float *p, uint32_t n)
{
	struct vf r = {{0}};

	memcpy(&r.v, p, n * sizeof(float));
	return r;
}

LANE void vf_store_n(float *p, struct vf a, uint32_t n)
{
	memcpy(p, &a.v, n * sizeof(float));
}

LANE struct vf vf_add(struct vf a, struct vf b)
{
	a.v += b.v;
	return a;
}

LANE struct vf vf_sub(struct vf a, struct vf b)
{
	a.v -= b.v;
	return a;
}

LANE struct vf vf_mul(struct vf a, struct vf b)
{
	a.v *= b.v;
	return a;
}

LANE struct vf vf_div(struct vf a, struct vf b)
{
	a.v /= b.v;
	return a;
}

/* a * b + c */
LANE struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
	c.v += a.v * b.v;
	return c;
}

/* Where `which` is set a, elsewhere b. */
LANE struct vf vf_choose(LANES_OF(int32_t) which, struct vf a, struct vf b)
{
	return (struct vf){LANES_BITS(
		float, (LANES_BITS(int32_t, a.v) & which) | (LANES_BITS(int32_t, b.v) & ~which))};
}

/* b where a is not a number, as x86 has it. */
LANE struct vf vf_max(struct vf a, struct vf b)
{
	return vf_choose(a.v > b.v, a, b);
}

LANE struct vf vf_min(struct vf a, struct vf b)
{
	return vf_choose(a.v < b.v, a, b);
}

LANE struct vf vf_abs(struct vf a)
{
	a.v = LANES_BITS(float, LANES_BITS(uint32_t, a.v) & 0x7fffffffu);
	return a;
}

LANE struct vf vf_from_vi(struct vi a)
{
	return (struct vf){LANES_CONVERT(float, LANES_BITS(int32_t, a.v))};
}

/* The nearest integer, ties to even; |a| < 2^22 (beyond, any integer). */
LANE struct vi vi_from_vf(struct vf a)
{
	/* 1.5 x 2^23 makes the integer the low bits of the sum */
	return (struct vi){LANES_BITS(uint32_t, a.v + 12582912.0f) - 0x4b400000u};
}

LANE struct vf vf_load_f16(const uint16_t *p)
{
	/* exact: the exponent is moved by a multiplication, which also serves subnormals */
	LANES_OF(uint16_t) h;
	LANES_OF(uint32_t) x, rest;
	LANES_OF(float) f;

	memcpy(&h, p, sizeof(h));
	x = LANES_CONVERT(uint32_t, h);
	rest = (x & 0x7fff) << 13;
	f = LANES_BITS(float, rest) * 0x1p112f;
	rest = LANES_BITS(uint32_t, rest >= 0x0f800000u) & 0x7f800000u;
	return (struct vf){LANES_BITS(float, LANES_BITS(uint32_t, f) | (x & 0x8000) << 16 | rest)};
}

LANE struct vf vf_load_bf16(const uint16_t *p)
{
	LANES_OF(uint16_t) h;

	memcpy(&h, p, sizeof(h));
	return (struct vf){LANES_BITS(float, LANES_CONVERT(uint32_t, h) << 16)};
}

LANE struct vf vf_load_u8(const uint8_t *p)
{
	LANES_OF(uint8_t) b;

	memcpy(&b, p, sizeof(b));
	return (struct vf){LANES_CONVERT(float, b)};
}

LANE struct vf vf_load_s8(const uint8_t *p)
{
	LANES_OF(int8_t) b;

	memcpy(&b, p, sizeof(b));
	return (struct vf){LANES_CONVERT(float, b)};
}

/* Lanes i with lo <= base + i < hi keep a, the others take fill. */
LANE struct vf vf_window(struct vf a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	static const LANES_OF(uint32_t)
		index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	const LANES_OF(uint32_t) at = index + base;

	return vf_choose((at >= lo) & (at < hi), a, vf_set1(fill));
}

/* a * 2^n for integers n that keep the result normal */
LANE struct vf vf_scale2(struct vf a, struct vf n)
{
	const LANES_OF(uint32_t) bits = LANES_BITS(uint32_t, a.v) + (vi_from_vf(n).v << 23);

	return (struct vf){LANES_BITS(float, bits)};
}

/* To the nearest integer, ties to even; |a| < 2^22. */
LANE struct vf vf_round(struct vf a)
{
	a.v = (a.v + 12582912.0f) - 12582912.0f;
	return a;
}

LANE struct vi vi_zero(void)
{
	return (struct vi){{0}};
}

LANE struct vi vi_set1(int32_t x)
{
	return (struct vi){(uint32_t)x - (LANES_OF(uint32_t)){0}};
}

LANE struct vi vi_load(const void *p)
{
	struct vi r;

	memcpy(&r.v, p, sizeof(r.v));
	return r;
}

/* vi_load() where the program stands, among others like it: the compiler does not move it. A set of
 * few registers may leave that to chance. */
LANE struct vi vi_load_in_order(const void *p)
{
	return vi_load(p);
}

LANE void vi_store(void *p, struct vi a)
{
	memcpy(p, &a.v, sizeof(a.v));
}

/* Every byte of every lane and-ed with mask. */
LANE struct vi vi_and_byte(struct vi a, uint8_t mask)
{
	a.v &= mask * 0x01010101u;
	return a;
}

/* Every byte of every lane: a, or-ed with b and-ed with mask. */
LANE struct vi vi_merge(struct vi a, struct vi b, uint8_t mask)
{
	a.v |= b.v & mask * 0x01010101u;
	return a;
}

/* Every byte, 0 … 15, replaced by the table's entry. Not inlined: it is large, and in many places.
 */
static __attribute__((noinline)) struct vi vi_level(struct vi a, const int8_t table[16])
{
	uint8_t b[64];

	memcpy(b, &a.v, sizeof(b));
	for (int i = 0; i < 64; i++)
		b[i] = (uint8_t)table[b[i]];
	memcpy(&a.v, b, sizeof(b));
	return a;
}

/* Every byte of every lane with its top bit flipped: signed to unsigned + 128 and back. */
LANE struct vi vi_flip_sign(struct vi a)
{
	a.v ^= 0x80808080u;
	return a;
}

/* The lanes' bits taken as floats. */
LANE struct vf vf_from_bits(struct vi a)
{
	return (struct vf){LANES_BITS(float, a.v)};
}

LANE struct vi vi_shl(struct vi a, int n)
{
	a.v <<= n;
	return a;
}

LANE struct vi vi_shr(struct vi a, int n)
{
	a.v >>= n;
	return a;
}

LANE void vi_store_low_bytes(void *p, struct vi a)
{
	uint8_t *b = p;

	EACH_LANE(i)
	b[i] = (uint8_t)a.v[i];
}

/* Lanes 0…15 to one number, always by the same tree: (i, i + 8), (i, i + 4) … */
LANE float vf_sum(struct vf a)
{
	for (int half = 8; half >= 1; half /= 2)
		for (int i = 0; i < half; i++)
			a.v[i] += a.v[i + half];
	return a.v[0];
}

/* The largest lane. */
LANE float vf_top(struct vf a)
{
	float top = a.v[0];

	for (int i = 1; i < 16; i++)
		top = a.v[i] > top ? a.v[i] : top;
	return top;
}

/* The lanes' sum, of integers: in any order. */
LANE int32_t vi_sum(struct vi a)
{
	int32_t sum = 0;

	EACH_LANE(i)
	sum += (int32_t)a.v[i];
	return sum;
}

/* Each lane: sum + the dot product of its four unsigned bytes, all below 64, with the four signed
 * bytes of x. */
LANE struct vi vi_dot(struct vi sum, struct vi w, int32_t x)
{
	const LANES_OF(int32_t) b = LANES_BITS(int32_t, w.v);
	LANES_OF(int32_t) dot = (b & 0xff) * (int8_t)x;

	dot += (b >> 8 & 0xff) * (int8_t)(x >> 8);
	dot += (b >> 16 & 0xff) * (int8_t)(x >> 16);
	dot += (b >> 24 & 0xff) * (int8_t)(x >> 24);
	sum.v += LANES_BITS(uint32_t, dot);
	return sum;
}

/* The same for full bytes: signed where BYTE_ZERO is 0, else unsigned and BYTE_ZERO too high. */
LANE struct vi vi_dot_byte(struct vi sum, struct vi w, int32_t x)
{
	const LANES_OF(int32_t) b = LANES_BITS(int32_t, w.v);
	LANES_OF(int32_t) dot = (LANES_BITS(int32_t, w.v << 24) >> 24) * (int8_t)x;

	dot += (LANES_BITS(int32_t, w.v << 16) >> 24) * (int8_t)(x >> 8);
	dot += (LANES_BITS(int32_t, w.v << 8) >> 24) * (int8_t)(x >> 16);
	dot += (b >> 24) * (int8_t)(x >> 24);
	sum.v += LANES_BITS(uint32_t, dot);
	return sum;
}

/* Byte i of each lane, unsigned. */
LANE struct vf vf_from_byte(struct vi a, int i)
{
	return (struct vf){LANES_CONVERT(float, a.v >> (8 * i) & 0xff)};
}

LANE void vf_store_f16(uint16_t *p, struct vf a)
{
	EACH_LANE(i)
	p[i] = f32_to_f16(a.v[i]);
}
