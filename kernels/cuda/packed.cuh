/* How a weight lies on the card.
 *
 * Sixteen rows are a tile, 64 columns a chunk, and a chunk of a tile is what one warp loads at
 * once. Lane (g = lane / 4, t = lane % 4) owns rows g and g + 8, and in each 16-column step of the
 * chunk the columns 4t … 4t + 3: the 16-row operand of mma.m16n8k16 with its columns permuted,
 * which the other operand is too (matmul.cuh), so a lane's numbers stand together in memory as they
 * do in a row. Three planes:
 *
 *   quants  [tile][chunk][section][lane]: sections of 16, 8 or 4 bytes a lane, so that a warp's
 * load is one run of memory. 16-bit floats: a section of 16 bytes per step, in the order of the
 *           fragment. Integers, "byte form": four bytes hold columns 4t, 4t + 2, 4t + 1, 4t + 3 of
 *           one row, unsigned (int8: signed); eight bits take a word for row g and one for row
 *           g + 8 per step; nibbles one word per step, row g low; pairs of bits one word per row, a
 *           step every two bits; single bits one word, steps of row g in bits 0-3 of each byte, of
 *           row g + 8 in bits 4-7. IQ4 types: nibbles that choose one of sixteen int8.
 *   scales  [tile][chunk][g]: what rows g and g + 8 have for each sub-block of 32 or 16 columns
 *   supers  [tile][chunk / 4][g]: K types only, the block's f16 d (and dmin) for both rows
 *
 * Rows and columns that pad the last tile and chunk have scale 0 (16-bit floats: value 0). F32
 * tensors stay as they are, [rows, cols]. */
#pragma once

#include "kernels/cuda/ptx.cuh"

#include "kernels/dtype.h"

#define TILE_ROWS    16
#define CHUNK_COLS   64
#define CHUNK_STEPS  4 /* of 16 columns */
#define SUPER_CHUNKS 4

struct packed_view {
	const uint8_t *quants, *scales, *supers;
	uint32_t tiles, chunks;
};

enum scale_kind {
	SCALE_NONE,
	SCALE_D,   /* f16 d per 32; value d q */
	SCALE_DM,  /* f16 d, m per 32; d q + m */
	SCALE_K32, /* u8 scale, minimum per 32, f16 d, dmin per 256; d s q - dmin m */
	SCALE_K16, /* i8 scale per 16, f16 d per 256; d s q */
	SCALE_K16M /* nibbles scale, minimum per 16, f16 d, dmin per 256; as K32 */
};

/* bits: 16 for floats; offset: what is subtracted from the unsigned number */
template <int D> struct packed_type;
#define PACKED_TYPE(dtype, bits, offset, kind)                                                     \
	template <> struct packed_type<dtype> {                                                    \
		enum { BITS = bits, OFFSET = offset, KIND = kind };                                \
	}
PACKED_TYPE(DTYPE_F16, 16, 0, SCALE_NONE);
PACKED_TYPE(DTYPE_BF16, 16, 0, SCALE_NONE);
PACKED_TYPE(DTYPE_Q8_0, 8, 0, SCALE_D);
PACKED_TYPE(DTYPE_Q4_0, 4, 8, SCALE_D);
PACKED_TYPE(DTYPE_Q4_1, 4, 0, SCALE_DM);
PACKED_TYPE(DTYPE_Q5_0, 5, 16, SCALE_D);
PACKED_TYPE(DTYPE_Q5_1, 5, 0, SCALE_DM);
PACKED_TYPE(DTYPE_Q2_K, 2, 0, SCALE_K16M);
PACKED_TYPE(DTYPE_Q3_K, 3, 4, SCALE_K16);
PACKED_TYPE(DTYPE_Q4_K, 4, 0, SCALE_K32);
PACKED_TYPE(DTYPE_Q5_K, 5, 0, SCALE_K32);
PACKED_TYPE(DTYPE_Q6_K, 6, 32, SCALE_K16);
PACKED_TYPE(DTYPE_IQ4_NL, 4, 0, SCALE_D);
PACKED_TYPE(DTYPE_IQ4_XS, 4, 0, SCALE_K16); /* its scale per 32 stands twice */
#undef PACKED_TYPE

/* All of them. */
#define PACKED_TYPES(X)                                                                            \
	X(DTYPE_F16)                                                                               \
	X(DTYPE_BF16)                                                                              \
	X(DTYPE_Q8_0)                                                                              \
	X(DTYPE_Q4_0)                                                                              \
	X(DTYPE_Q4_1)                                                                              \
	X(DTYPE_Q5_0)                                                                              \
	X(DTYPE_Q5_1)                                                                              \
	X(DTYPE_Q2_K)                                                                              \
	X(DTYPE_Q3_K)                                                                              \
	X(DTYPE_Q4_K)                                                                              \
	X(DTYPE_Q5_K)                                                                              \
	X(DTYPE_Q6_K)                                                                              \
	X(DTYPE_IQ4_NL)                                                                            \
	X(DTYPE_IQ4_XS)

/* Bytes of a lane in one chunk, and of a tile's chunk. */
struct packed_sizes {
	int sections16, sections8, sections4; /* in this order */
	int quants;                           /* of a lane */
	int scales, supers;                   /* of a lane; the four lanes of a row share them */
};

__host__ __device__ constexpr packed_sizes packed_sizes_of(int bits, int kind)
{
	packed_sizes s = {0, 0, 0, 0, 0, 0};

	s.sections16 = bits == 16 ? 4 : bits == 8 ? 2 : bits >= 4 ? 1 : 0;
	s.sections8 = bits == 6 || bits < 4 ? 1 : 0;
	s.sections4 = bits == 5 || bits == 3 ? 1 : 0;
	s.quants = 16 * s.sections16 + 8 * s.sections8 + 4 * s.sections4;
	s.scales = kind == SCALE_NONE ? 0 : kind == SCALE_DM ? 16 : 8;
	s.supers = kind == SCALE_K32 || kind == SCALE_K16M ? 8 : kind == SCALE_K16 ? 4 : 0;
	return s;
}

template <int D> struct packed {
	enum { BITS = packed_type<D>::BITS, OFFSET = packed_type<D>::OFFSET };
	static constexpr int KIND = packed_type<D>::KIND;
	static constexpr packed_sizes SIZES = packed_sizes_of(BITS, KIND);
	enum {
		QUANTS = SIZES.quants,
		SCALES = SIZES.scales,
		SUPERS = SIZES.supers,
		STAGE_BYTES = WARP_LANES * (QUANTS + SCALES + SUPERS), /* of a ring */
		FLOAT = BITS == 16,
		LEVELS = D == DTYPE_IQ4_NL || D == DTYPE_IQ4_XS,
		SIGNED = BITS == 8 || LEVELS, /* byte form is int8 */
		MINIMUMS = KIND == SCALE_DM || KIND == SCALE_K32 || KIND == SCALE_K16M,
		SUB_COLS = KIND == SCALE_K16 || KIND == SCALE_K16M ? 16 : 32,
		SUBS = CHUNK_COLS / SUB_COLS,
		SUB_STEPS = SUB_COLS / 16,
		TERMS = D == DTYPE_F16 ? 2 : 1, /* bf16 numbers that a weight is the sum of */
	};

	/* One lane's share of a chunk. */
	struct chunk {
		uint32_t q[QUANTS / 4], s[SCALES / 4 + 1], d[SUPERS / 4 + 1];
	};

	static __device__ __forceinline__ const uint8_t *quants_at(
		const packed_view &w, uint32_t tile, uint32_t chunk)
	{
		return w.quants + ((size_t)tile * w.chunks + chunk) * (WARP_LANES * QUANTS);
	}
	static __device__ __forceinline__ const uint8_t *scales_at(
		const packed_view &w, uint32_t tile, uint32_t chunk, uint32_t lane)
	{
		return w.scales + (((size_t)tile * w.chunks + chunk) * 8 + lane / 4) * SCALES;
	}
	static __device__ __forceinline__ const uint8_t *supers_at(
		const packed_view &w, uint32_t tile, uint32_t chunk, uint32_t lane)
	{
		const uint32_t n = (w.chunks + SUPER_CHUNKS - 1) / SUPER_CHUNKS;

		return w.supers +
		       (((size_t)tile * n + chunk / SUPER_CHUNKS) * 8 + lane / 4) * SUPERS;
	}

	/* Starts the copy of a lane's share to its own place in a ring's stage. */
	static __device__ __forceinline__ void fetch(
		uint8_t *stage, const packed_view &w, uint32_t tile, uint32_t chunk, uint32_t lane)
	{
		const uint8_t *q = quants_at(w, tile, chunk);
		uint32_t at = 0;

#pragma unroll
		for (int i = 0; i < SIZES.sections16; i++, at += WARP_LANES * 16)
			copy_async<16>(stage + at + lane * 16, q + at + lane * 16);
#pragma unroll
		for (int i = 0; i < SIZES.sections8; i++, at += WARP_LANES * 8)
			copy_async<8>(stage + at + lane * 8, q + at + lane * 8);
#pragma unroll
		for (int i = 0; i < SIZES.sections4; i++, at += WARP_LANES * 4)
			copy_async<4>(stage + at + lane * 4, q + at + lane * 4);
		if constexpr (SCALES > 0)
			copy_async<SCALES>(
				stage + at + lane * SCALES, scales_at(w, tile, chunk, lane));
		at += WARP_LANES * SCALES;
		if constexpr (SUPERS > 0)
			copy_async<SUPERS>(
				stage + at + lane * SUPERS, supers_at(w, tile, chunk, lane));
	}

	template <int BYTES>
	static __device__ __forceinline__ void words(uint32_t *to, const uint8_t *from)
	{
		if constexpr (BYTES == 16) {
			uint4 v = load_vector<uint4>(from);

			to[0] = v.x;
			to[1] = v.y;
			to[2] = v.z;
			to[3] = v.w;
		} else if constexpr (BYTES == 8) {
			uint2 v = load_vector<uint2>(from);

			to[0] = v.x;
			to[1] = v.y;
		} else if constexpr (BYTES == 4) {
			to[0] = *(const uint32_t *)from;
		}
	}

	static __device__ __forceinline__ chunk read(
		const uint8_t *quants, const uint8_t *scales, const uint8_t *supers, uint32_t lane)
	{
		chunk c;
		uint32_t at = 0, word = 0;

#pragma unroll
		for (int i = 0; i < SIZES.sections16; i++, at += WARP_LANES * 16, word += 4)
			words<16>(c.q + word, quants + at + lane * 16);
#pragma unroll
		for (int i = 0; i < SIZES.sections8; i++, at += WARP_LANES * 8, word += 2)
			words<8>(c.q + word, quants + at + lane * 8);
#pragma unroll
		for (int i = 0; i < SIZES.sections4; i++, at += WARP_LANES * 4, word += 1)
			words<4>(c.q + word, quants + at + lane * 4);
		words<SCALES>(c.s, scales);
		words<SUPERS>(c.d, supers);
		return c;
	}
	static __device__ __forceinline__ chunk read_stage(const uint8_t *stage, uint32_t lane)
	{
		const uint8_t *scales = stage + WARP_LANES * QUANTS;

		return read(stage, scales + lane * SCALES,
			scales + WARP_LANES * SCALES + lane * SUPERS, lane);
	}
	static __device__ __forceinline__ chunk read_global(
		const packed_view &w, uint32_t tile, uint32_t at, uint32_t lane)
	{
		return read(quants_at(w, tile, at), scales_at(w, tile, at, lane),
			supers_at(w, tile, at, lane), lane);
	}

	/* The levels (iq4_levels) that four nibbles choose, as bytes. */
	static __device__ __forceinline__ uint32_t levels(uint32_t nibbles)
	{
		const uint32_t at = nibbles & 0x7777;
		const uint32_t low = __byte_perm(0xbfad9881, 0xf6eaddcf, at);
		const uint32_t high = __byte_perm(0x26190d01, 0x71594535, at);

		return __byte_perm(low, high, 0x3210 | (nibbles & 0x8888) >> 1);
	}

	/* A step's integers in byte form: of row g and of row g + 8. */
	static __device__ __forceinline__ void bytes(
		const chunk &c, int step, uint32_t &low, uint32_t &high)
	{
		if constexpr (BITS == 8) {
			low = c.q[2 * step];
			high = c.q[2 * step + 1];
			return;
		}
		if constexpr (LEVELS) {
			/* of both rows in turn */
			const uint32_t first = levels(c.q[step]), second = levels(c.q[step] >> 16);

			low = __byte_perm(first, second, 0x6420);
			high = __byte_perm(first, second, 0x7531);
			return;
		}
		if constexpr (BITS >= 4 && BITS < 8) {
			low = c.q[step] & 0x0f0f0f0f;
			high = c.q[step] >> 4 & 0x0f0f0f0f;
		}
		if constexpr (BITS == 6) {
			low |= (c.q[4] >> 2 * step & 0x03030303) << 4;
			high |= (c.q[5] >> 2 * step & 0x03030303) << 4;
		}
		if constexpr (BITS == 5) {
			low |= (c.q[4] >> step & 0x01010101) << 4;
			high |= (c.q[4] >> (4 + step) & 0x01010101) << 4;
		}
		if constexpr (BITS < 4) {
			low = c.q[0] >> 2 * step & 0x03030303;
			high = c.q[1] >> 2 * step & 0x03030303;
		}
		if constexpr (BITS == 3) {
			low |= (c.q[2] >> step & 0x01010101) << 2;
			high |= (c.q[2] >> (4 + step) & 0x01010101) << 2;
		}
	}

	/* Two numbers in the low bytes of the halves of v, to bf16: 0x4300 is 128, whose unit is 1.
	 */
	static __device__ __forceinline__ uint32_t convert(uint32_t v)
	{
		if constexpr (SIGNED) /* -128, or -256 where the sign is set */
			return bf16_pair_add(
				(v & 0x007f007f) | 0x43004300, (v & 0x00800080) | 0xc300c300);
		/* 128 + OFFSET has eight bits: the numbers of bf16 there are even or whole */
		constexpr uint32_t minus = 0xc300 | OFFSET;

		return bf16_pair_add(v | 0x43004300, minus | minus << 16);
	}

	/* The step as operand of mma: as many bf16 terms as the type needs. */
	static __device__ __forceinline__ void fragment(
		const chunk &c, int step, uint32_t a[TERMS][4])
	{
		if constexpr (D == DTYPE_BF16) {
#pragma unroll
			for (int i = 0; i < 4; i++)
				a[0][i] = c.q[4 * step + i];
		} else if constexpr (D == DTYPE_F16) {
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const uint32_t v = c.q[4 * step + i];
				const float low = f16_value(v & 0xffff), high = f16_value(v >> 16);

				a[0][i] = bf16_pair(low, high);
				a[TERMS - 1][i] = bf16_pair(
					low - bf16_low(a[0][i]), high - bf16_high(a[0][i]));
			}
		} else {
			uint32_t low, high;

			bytes(c, step, low, high);
			a[0][0] = convert(low & 0x00ff00ff);
			a[0][1] = convert(high & 0x00ff00ff);
			a[0][2] = convert(low >> 8 & 0x00ff00ff);
			a[0][3] = convert(high >> 8 & 0x00ff00ff);
		}
	}

	/* The step as numbers, without scales: w[0] row g, w[1] row g + 8, columns 4t … 4t + 3. */
	static __device__ __forceinline__ void values(const chunk &c, int step, float w[2][4])
	{
		if constexpr (FLOAT) {
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const uint32_t v = c.q[4 * step + i];
				const bool f16 = D == DTYPE_F16;

				w[i % 2][i / 2 * 2] = f16 ? f16_value(v & 0xffff) : bf16_low(v);
				w[i % 2][i / 2 * 2 + 1] = f16 ? f16_value(v >> 16) : bf16_high(v);
			}
		} else {
			uint32_t v[2];

			bytes(c, step, v[0], v[1]);
#pragma unroll
			for (int h = 0; h < 2; h++)
#pragma unroll
				for (int k = 0; k < 4; k++) {
					const int shift = 8 * (k == 1 ? 2 : k == 2 ? 1 : k);
					const int n = SIGNED ? (int)(int8_t)(v[h] >> shift)
							     : (int)(v[h] >> shift & 0xff) - OFFSET;

					w[h][k] = (float)n;
				}
		}
	}

	/* Scale and minimum of a sub-block, row g + 8 half: value = scale q + minimum. */
	static __device__ __forceinline__ void scale(
		const chunk &c, int sub, int half, float &scale, float &minimum)
	{
		minimum = 0;
		if constexpr (KIND == SCALE_D) {
			scale = f16_value(c.s[half] >> 16 * sub & 0xffff);
		} else if constexpr (KIND == SCALE_DM) {
			scale = f16_value(c.s[2 * half + sub] & 0xffff);
			minimum = f16_value(c.s[2 * half + sub] >> 16);
		} else if constexpr (KIND == SCALE_K16) {
			scale = f16_value(c.d[0] >> 16 * half & 0xffff) *
				(float)(int8_t)(c.s[half] >> 8 * sub);
		} else {
			uint32_t v, s, m;

			if constexpr (KIND == SCALE_K32) {
				v = c.s[half] >> 16 * sub;
				s = v & 0xff;
				m = v >> 8 & 0xff;
			} else {
				v = c.s[half] >> 8 * sub;
				s = v & 0x0f;
				m = v >> 4 & 0x0f;
			}
			scale = f16_value(c.d[half] & 0xffff) * (float)s;
			minimum = -(f16_value(c.d[half] >> 16) * (float)m);
		}
	}
};
