/* From a file's blocks to the interleaved groups of layout.h. The block formats are those of the
 * GGUF specification; values and scales are moved, never changed. */
#include "kernels/cpu/layout.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Eight bytes at a time, byte i of a number being column i of eight. */
#define BYTES(x) (UINT64_C(0x0101010101010101) * (x))

static uint64_t eight(const uint8_t *p)
{
	uint64_t x;

	memcpy(&x, p, sizeof(x));
	return le64toh(x);
}

/* Bit i of the byte as byte i, 0 or 1. */
static uint64_t spread(uint8_t bits)
{
	const uint64_t each = BYTES(bits) & UINT64_C(0x8040201008040201);

	return (each + BYTES(0x7f)) >> 7 & BYTES(1);
}

/* 32 columns whose nibbles stand in 16 bytes: all low ones, then all high ones. */
ALWAYS_INLINE void low_high(const uint8_t *nibbles, uint64_t v[4])
{
	for (int i = 0; i < 2; i++) {
		v[i] = eight(nibbles + 8 * i) & BYTES(15);
		v[2 + i] = eight(nibbles + 8 * i) >> 4 & BYTES(15);
	}
}

ALWAYS_INLINE void fifth_bits(const uint8_t *bits, uint64_t v[4])
{
	for (int i = 0; i < 4; i++)
		v[i] |= spread(bits[i]) << 4;
}

/* The 32 stored values, unsigned, of block number i (0 … 7) of 256, or of a whole block of 32. */
ALWAYS_INLINE void values_read(
	const enum dtype dtype, const uint8_t *p, uint32_t i, uint32_t zero, uint64_t v[4])
{
	const uint32_t half = i / 4, quarter = i % 4;
	const uint8_t *low, *high;

	switch (dtype) {
	case DTYPE_Q4_0: low_high(p + 2, v); return;
	case DTYPE_Q4_1: low_high(p + 4, v); return;
	case DTYPE_Q5_0:
		low_high(p + 6, v);
		fifth_bits(p + 2, v);
		return;
	case DTYPE_Q5_1:
		low_high(p + 8, v);
		fifth_bits(p + 4, v);
		return;
	case DTYPE_IQ4_NL: low_high(p + 2, v); return;
	case DTYPE_IQ4_XS: low_high(p + 8 + 16 * i, v); return;
	case DTYPE_Q8_0: /* + 128 is the top bit */
		for (int k = 0; k < 4; k++)
			v[k] = eight(p + 2 + 8 * k) ^ BYTES(zero);
		return;
	case DTYPE_Q2_K:
		for (int k = 0; k < 4; k++)
			v[k] = eight(p + 16 + 32 * half + 8 * k) >> 2 * quarter & BYTES(3);
		return;
	case DTYPE_Q3_K:
		for (int k = 0; k < 4; k++)
			v[k] = (eight(p + 32 + 32 * half + 8 * k) >> 2 * quarter & BYTES(3)) |
			       (eight(p + 8 * k) >> i & BYTES(1)) << 2;
		return;
	case DTYPE_Q4_K:
		for (int k = 0; k < 4; k++)
			v[k] = eight(p + 16 + 32 * (i / 2) + 8 * k) >> i % 2 * 4 & BYTES(15);
		return;
	case DTYPE_Q5_K:
		for (int k = 0; k < 4; k++)
			v[k] = (eight(p + 48 + 32 * (i / 2) + 8 * k) >> i % 2 * 4 & BYTES(15)) |
			       (eight(p + 16 + 8 * k) >> i & BYTES(1)) << 4;
		return;
	case DTYPE_Q6_K:
		low = p + 64 * half + 32 * (quarter % 2);
		high = p + 128 + 32 * half;
		for (int k = 0; k < 4; k++)
			v[k] = (eight(low + 8 * k) >> quarter / 2 * 4 & BYTES(15)) |
			       (eight(high + 8 * k) >> 2 * quarter & BYTES(3)) << 4;
		return;
	default: assert(!"a type with no blocks");
	}
}

/* Four bytes to lane r of a vector. */
static void put_lane(uint8_t *vector, uint32_t r, uint64_t four)
{
	const uint32_t x = htole32((uint32_t)four);

	memcpy(vector + 4 * r, &x, sizeof(x));
}

/* The 32 values of lane r to the planes of layout.h. Number p of v has the columns of vectors 2p
 * (its low half) and 2p + 1. */
ALWAYS_INLINE void planes_write(
	const enum cpu_values values, const uint64_t v[4], uint32_t r, uint8_t *block)
{
	const int low_bits = values == VALUES_Q2 || values == VALUES_Q3 ? 2 : 4;
	uint8_t *more = block + (low_bits == 2 ? 128 : 256);
	uint8_t *crumbs = low_bits == 2 ? block : more;
	uint64_t fours[2] = {0}, ones = 0;

	for (uint32_t p = 0; p < 4; p++) {
		const uint64_t low = v[p] & BYTES(15), bit = v[p] >> low_bits & BYTES(1);
		const uint64_t two = v[p] >> (low_bits == 2 ? 0 : 4) & BYTES(3);

		if (values == VALUES_Q8) {
			put_lane(block + 128 * p, r, v[p]);
			put_lane(block + 128 * p + 64, r, v[p] >> 32);
		} else if (low_bits == 4) {
			put_lane(block + 64 * p, r, low | low >> 28);
		}
		fours[p / 2] |= (two | two >> 30) << p % 2 * 4;
		ones |= (bit | bit >> 31) << 2 * p;
	}
	for (uint32_t p = 0; p < 2 && (low_bits == 2 || values == VALUES_Q6); p++)
		put_lane(crumbs + 64 * p, r, fours[p]);
	if (values == VALUES_Q3 || values == VALUES_Q5)
		put_lane(more, r, ones);
}

static void put16(uint8_t *to, uint32_t r, const uint8_t *from)
{
	memcpy(to + 2 * r, from, 2);
}

/* The eight 6-bit scales and minimums of Q4_K and Q5_K. */
static void k4_scales(const uint8_t s[12], uint32_t i, uint8_t *scale, uint8_t *min)
{
	if (i < 4) {
		*scale = s[i] & 63;
		*min = s[i + 4] & 63;
	} else {
		*scale = (uint8_t)((s[i + 4] & 15) | s[i - 4] >> 6 << 4);
		*min = (uint8_t)(s[i + 4] >> 4 | s[i] >> 6 << 4);
	}
}

/* Lane r of the scales of block b. `to` is the group's scales of those 32 or 256 columns. */
ALWAYS_INLINE void scales_write(const enum dtype dtype, const uint8_t *p, uint32_t r, uint8_t *to)
{
	switch (dtype) {
	case DTYPE_Q4_1:
	case DTYPE_Q5_1:
		put16(to, r, p);
		put16(to + 32, r, p + 2);
		return;
	case DTYPE_Q4_K:
	case DTYPE_Q5_K:
		put16(to, r, p);
		put16(to + 32, r, p + 2);
		for (uint32_t i = 0; i < 8; i++)
			k4_scales(p + 4, i, &to[64 + 32 * i + r], &to[64 + 32 * i + 16 + r]);
		return;
	case DTYPE_Q2_K:
		put16(to, r, p + 80);
		put16(to + 32, r, p + 82);
		for (uint32_t i = 0; i < 16; i++) {
			to[64 + 32 * i + r] = p[i] & 15;
			to[64 + 32 * i + 16 + r] = p[i] >> 4;
		}
		return;
	case DTYPE_Q3_K:
		put16(to, r, p + 108);
		for (uint32_t i = 0; i < 16; i++) {
			const uint32_t low = p[96 + i % 8] >> (i / 8 * 4) & 15;
			const uint32_t high = p[96 + 8 + i % 4] >> (i / 4 * 2) & 3;

			to[32 + 16 * i + r] = (uint8_t)((low | high << 4) - 32);
		}
		return;
	case DTYPE_Q6_K:
		put16(to, r, p + 208);
		for (uint32_t i = 0; i < 16; i++)
			to[32 + 16 * i + r] = p[192 + i];
		return;
	case DTYPE_IQ4_XS:
		put16(to, r, p);
		for (uint32_t i = 0; i < 8; i++) {
			const uint32_t low = p[4 + i / 2] >> (i % 2 * 4) & 15;
			const uint32_t high = p[2 + i / 4] >> (i % 4 * 2) & 3;

			to[32 + 16 * i + r] = (uint8_t)((low | high << 4) - 32);
		}
		return;
	default: put16(to, r, p); return;
	}
}

ALWAYS_INLINE void quants_pack(const enum dtype dtype, const enum cpu_values values,
	const enum cpu_scales scales, const struct weight *w, const uint8_t *rows, size_t row_bytes,
	uint32_t n, uint8_t *group)
{
	const uint32_t per = SCALES_BLOCKS(scales) == 8 ? 8 : 1; /* of the file's blocks */
	const size_t block_bytes = dtype_info(dtype)->block_bytes;

	for (uint32_t b = 0; b < w->cols / 32; b++) {
		uint8_t *s = group + (layout_record(values, scales, group, b) - group);
		uint8_t *block = group + (layout_block(values, scales, group, b) - group);

		if (scales == SCALES_D)
			s += b % 2 * 32;
		for (uint32_t r = 0; r < n; r++) {
			const uint8_t *p = rows + r * row_bytes + b / per * block_bytes;
			uint64_t v[4];

			values_read(dtype, p, b % per, w->layout.zero, v);
			planes_write(values, v, r, block);
			if (b % per == 0)
				scales_write(dtype, p, r, s);
		}
	}
}

#define QUANTS(type, values, scales)                                                               \
	case type: quants_pack(type, values, scales, w, rows, row_bytes, n, group); return;

/* A loop for each type. */
static void quants_dispatch(
	const struct weight *w, const uint8_t *rows, size_t row_bytes, uint32_t n, uint8_t *group)
{
	switch (w->dtype) {
		QUANTS(DTYPE_Q4_0, VALUES_Q4, SCALES_D)
		QUANTS(DTYPE_Q4_1, VALUES_Q4, SCALES_DM)
		QUANTS(DTYPE_Q5_0, VALUES_Q5, SCALES_D)
		QUANTS(DTYPE_Q5_1, VALUES_Q5, SCALES_DM)
		QUANTS(DTYPE_Q8_0, VALUES_Q8, SCALES_D)
		QUANTS(DTYPE_Q2_K, VALUES_Q2, SCALES_K16M)
		QUANTS(DTYPE_Q3_K, VALUES_Q3, SCALES_K16)
		QUANTS(DTYPE_Q4_K, VALUES_Q4, SCALES_K32M)
		QUANTS(DTYPE_Q5_K, VALUES_Q5, SCALES_K32M)
		QUANTS(DTYPE_Q6_K, VALUES_Q6, SCALES_K16)
		QUANTS(DTYPE_IQ4_NL, VALUES_IQ4, SCALES_D)
		QUANTS(DTYPE_IQ4_XS, VALUES_IQ4, SCALES_K32)
	default: assert(!"a type with no blocks");
	}
}

/* Rows of `bytes` bytes as they are, in units side by side: [bytes / unit][16][unit]. A cache line
 * of each row at a time: rows are often a power of two apart, and would push each other out. */
ALWAYS_INLINE void units_pack(const size_t unit, size_t bytes, const uint8_t *rows,
	size_t row_bytes, uint32_t n, uint8_t *group)
{
	for (size_t at = 0; at < bytes; at += 64) {
		const size_t end = bytes - at < 64 ? bytes : at + 64;

		for (uint32_t r = 0; r < n; r++) {
			const uint8_t *row = rows + r * row_bytes;
			uint8_t *to = group + r * unit;
			size_t u = at;

			for (; u + unit <= end; u += unit)
				memcpy(to + u * GROUP_ROWS, row + u, unit);
			if (u < end)
				memcpy(to + u * GROUP_ROWS, row + u, end - u);
		}
	}
}

void layout_pack(struct weight *w, const void *data, size_t row_bytes, uint32_t g)
{
	uint8_t *group = layout_group(w, g);
	const uint8_t *rows = (const uint8_t *)data + (size_t)g * GROUP_ROWS * row_bytes;
	const uint32_t left = w->rows - g * GROUP_ROWS;
	const uint32_t n = left < GROUP_ROWS ? left : GROUP_ROWS;

	switch (w->layout.family) {
	case FAMILY_VECTOR: dequantize_row(w->dtype, rows, (float *)group, w->cols); return;
	case FAMILY_QUANTS: quants_dispatch(w, rows, row_bytes, n, group); return;
	case FAMILY_F32: units_pack(4, 4 * (size_t)w->cols, rows, row_bytes, n, group); return;
	case FAMILY_F16: units_pack(2, 2 * (size_t)w->cols, rows, row_bytes, n, group); return;
	case FAMILY_BF16: units_pack(4, 2 * (size_t)w->cols, rows, row_bytes, n, group); return;
	}
}
