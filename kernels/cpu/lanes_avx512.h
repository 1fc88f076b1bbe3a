/* Sixteen lanes in AVX-512: one register each. See lanes_generic.h for what every function means;
 * the three lanes headers define the same set, and the kernels are written once over it. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define LANES_NAME  avx512
#define LANE        static inline __attribute__((always_inline))
#define TILE_COLS   8 /* columns of a matmul tile: 8 sums, 8 dots, 8 scaled dots fit 32 registers */
#define TILE_GROUPS 2 /* row groups of a tile of unpacked weights */
#define TILE_RUN    4 /* row groups side by side at one column, to hide the latency of a sum */
#define TILE_WIDE   2 /* the same at more columns */
#define TILE_DIMS   4 /* vectors of a value row x queries of an attention tile */
#define TILE_HEADS  4
#define SCORE_PAGES 4 /* pages of keys side by side at most, and their sums */
#define SCORE_SUMS  16
#define LINES_HELD  1
#define BYTE_ZERO   128 /* bytes are stored unsigned: vpdpbusd takes them as they are */

struct vf {
	__m512 v;
};

struct vi {
	__m512i v;
};

LANE struct vf vf_set1(float x)
{
	return (struct vf){_mm512_set1_ps(x)};
}

LANE struct vf vf_load(const float *p)
{
	return (struct vf){_mm512_loadu_ps(p)};
}

LANE void vf_store(float *p, struct vf a)
{
	_mm512_storeu_ps(p, a.v);
}

LANE struct vf vf_load_n(const float *p, uint32_t n)
{
	return (struct vf){_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p)};
}

LANE void vf_store_n(float *p, struct vf a, uint32_t n)
{
	_mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a.v);
}

LANE struct vf vf_add(struct vf a, struct vf b)
{
	return (struct vf){_mm512_add_ps(a.v, b.v)};
}

LANE struct vf vf_sub(struct vf a, struct vf b)
{
	return (struct vf){_mm512_sub_ps(a.v, b.v)};
}

LANE struct vf vf_mul(struct vf a, struct vf b)
{
	return (struct vf){_mm512_mul_ps(a.v, b.v)};
}

LANE struct vf vf_div(struct vf a, struct vf b)
{
	return (struct vf){_mm512_div_ps(a.v, b.v)};
}

LANE struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
	return (struct vf){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

LANE struct vf vf_max(struct vf a, struct vf b)
{
	return (struct vf){_mm512_max_ps(a.v, b.v)};
}

LANE struct vf vf_min(struct vf a, struct vf b)
{
	return (struct vf){_mm512_min_ps(a.v, b.v)};
}

LANE struct vf vf_abs(struct vf a)
{
	return (struct vf){_mm512_abs_ps(a.v)};
}

LANE struct vf vf_from_vi(struct vi a)
{
	return (struct vf){_mm512_cvtepi32_ps(a.v)};
}

LANE struct vi vi_from_vf(struct vf a)
{
	return (struct vi){_mm512_cvtps_epi32(a.v)};
}

LANE struct vf vf_load_f16(const uint16_t *p)
{
	return (struct vf){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))};
}

LANE struct vf vf_load_bf16(const uint16_t *p)
{
	const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

	return (struct vf){_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))};
}

LANE struct vf vf_load_u8(const uint8_t *p)
{
	return (struct vf){
		_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)))};
}

LANE struct vf vf_load_s8(const uint8_t *p)
{
	return (struct vf){
		_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)))};
}

/* Lanes i with lo <= base + i < hi keep a, the others take fill. */
LANE struct vf vf_window(struct vf a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	const __m512i i = _mm512_add_epi32(_mm512_set1_epi32((int)base),
		_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
	const __mmask16 in = _mm512_cmpge_epu32_mask(i, _mm512_set1_epi32((int)lo)) &
			     _mm512_cmplt_epu32_mask(i, _mm512_set1_epi32((int)hi));

	return (struct vf){_mm512_mask_mov_ps(_mm512_set1_ps(fill), in, a.v)};
}

/* a * 2^n, n an integer in [-126, 127] */
LANE struct vf vf_scale2(struct vf a, struct vf n)
{
	return (struct vf){_mm512_castsi512_ps(_mm512_add_epi32(
		_mm512_castps_si512(a.v), _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23)))};
}

LANE struct vf vf_round(struct vf a)
{
	return (struct vf){
		_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

LANE struct vi vi_zero(void)
{
	return (struct vi){_mm512_setzero_si512()};
}

LANE struct vi vi_set1(int32_t x)
{
	return (struct vi){_mm512_set1_epi32(x)};
}

LANE struct vi vi_load(const void *p)
{
	return (struct vi){_mm512_loadu_si512(p)};
}

LANE struct vi vi_load_in_order(const void *p)
{
	struct vi r;

	__asm__ volatile("vmovdqu64 %1, %0" : "=v"(r.v) : "m"(*(const __m512i *)p));
	return r;
}

LANE void vi_store(void *p, struct vi a)
{
	_mm512_storeu_si512(p, a.v);
}

LANE struct vi vi_merge(struct vi a, struct vi b, uint8_t mask)
{
	return (struct vi){_mm512_ternarylogic_epi32(a.v, b.v, _mm512_set1_epi8((char)mask), 0xf8)};
}

LANE struct vi vi_and_byte(struct vi a, uint8_t mask)
{
	return (struct vi){_mm512_and_si512(a.v, _mm512_set1_epi8((char)mask))};
}

LANE struct vi vi_level(struct vi a, const int8_t table[16])
{
	const __m128i t = _mm_loadu_si128((const __m128i *)table);

	return (struct vi){_mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), a.v)};
}

/* Every byte of every lane with its top bit flipped: signed to unsigned + 128 and back. */
LANE struct vi vi_flip_sign(struct vi a)
{
	return (struct vi){_mm512_xor_si512(a.v, _mm512_set1_epi8((char)0x80))};
}

LANE struct vf vf_from_bits(struct vi a)
{
	return (struct vf){_mm512_castsi512_ps(a.v)};
}

LANE struct vi vi_shl(struct vi a, int n)
{
	return (struct vi){_mm512_slli_epi32(a.v, (unsigned)n)};
}

LANE struct vi vi_shr(struct vi a, int n)
{
	return (struct vi){_mm512_srli_epi32(a.v, (unsigned)n)};
}

/* The 16 low bytes of the lanes. */
LANE void vi_store_low_bytes(void *p, struct vi a)
{
	_mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a.v));
}

LANE float vf_sum(struct vf a)
{
	const __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
	__m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

	t = _mm_add_ps(t, _mm_movehl_ps(t, t));
	return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}

LANE float vf_top(struct vf a)
{
	return _mm512_reduce_max_ps(a.v);
}

LANE int32_t vi_sum(struct vi a)
{
	return _mm512_reduce_add_epi32(a.v);
}

LANE struct vi vi_dot(struct vi sum, struct vi w, int32_t x)
{
	return (struct vi){_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(x))};
}

LANE struct vi vi_dot_byte(struct vi sum, struct vi w, int32_t x)
{
	return vi_dot(sum, w, x);
}

/* Byte i of each lane, unsigned. */
LANE struct vf vf_from_byte(struct vi a, int i)
{
	return (struct vf){_mm512_cvtepi32_ps(_mm512_and_si512(
		_mm512_srli_epi32(a.v, (unsigned)(8 * i)), _mm512_set1_epi32(0xff)))};
}

LANE void vf_store_f16(uint16_t *p, struct vf a)
{
	_mm256_storeu_si256(
		(__m256i *)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
