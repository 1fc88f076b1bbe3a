/* Sixteen lanes in AVX2, FMA and F16C: two registers each; with LANES_VNNI the dot products are
 * vpdpbusd. See lanes_generic.h for what every function means. */
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifdef LANES_VNNI
#define LANES_NAME LANES_VNNI
#define BYTE_ZERO  128 /* bytes are stored unsigned: vpdpbusd takes them as they are */
#else
#define LANES_NAME avx2
#define BYTE_ZERO  0 /* bytes are stored signed: vpmaddubsw would saturate on larger ones */
#endif

#define LANE        static inline __attribute__((always_inline))
#define TILE_COLS   4
#define LINES_HELD  0
#define TILE_GROUPS 1
#define TILE_RUN    2
#define TILE_WIDE   1
#define TILE_DIMS   2
#define TILE_HEADS  2
#define SCORE_PAGES 2
#define SCORE_SUMS  4

struct vf {
	__m256 lo, hi;
};

struct vi {
	__m256i lo, hi;
};

#define BOTH_PS(op, a, b)                                                                          \
	(struct vf)                                                                                \
	{                                                                                          \
		op((a).lo, (b).lo), op((a).hi, (b).hi)                                             \
	}

LANE struct vf vf_set1(float x)
{
	return (struct vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

LANE struct vf vf_load(const float *p)
{
	return (struct vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

LANE void vf_store(float *p, struct vf a)
{
	_mm256_storeu_ps(p, a.lo);
	_mm256_storeu_ps(p + 8, a.hi);
}

LANE struct vf vf_load_n(const float *p, uint32_t n)
{
	float t[16] = {0};

	memcpy(t, p, n * sizeof(float));
	return vf_load(t);
}

LANE void vf_store_n(float *p, struct vf a, uint32_t n)
{
	float t[16];

	vf_store(t, a);
	memcpy(p, t, n * sizeof(float));
}

LANE struct vf vf_add(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_add_ps, a, b);
}

LANE struct vf vf_sub(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_sub_ps, a, b);
}

LANE struct vf vf_mul(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_mul_ps, a, b);
}

LANE struct vf vf_div(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_div_ps, a, b);
}

LANE struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
	return (struct vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

LANE struct vf vf_max(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_max_ps, a, b);
}

LANE struct vf vf_min(struct vf a, struct vf b)
{
	return BOTH_PS(_mm256_min_ps, a, b);
}

LANE struct vf vf_abs(struct vf a)
{
	const __m256 sign = _mm256_set1_ps(-0.0f);

	return (struct vf){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

LANE struct vf vf_from_vi(struct vi a)
{
	return (struct vf){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

LANE struct vi vi_from_vf(struct vf a)
{
	return (struct vi){_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}

LANE struct vf vf_load_f16(const uint16_t *p)
{
	return (struct vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
		_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

LANE __m256 avx2_bf16(const uint16_t *p)
{
	const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

	return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

LANE struct vf vf_load_bf16(const uint16_t *p)
{
	return (struct vf){avx2_bf16(p), avx2_bf16(p + 8)};
}

LANE struct vf vf_load_u8(const uint8_t *p)
{
	const __m128i b = _mm_loadu_si128((const __m128i *)p);

	return (struct vf){_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
		_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))};
}

LANE struct vf vf_load_s8(const uint8_t *p)
{
	const __m128i b = _mm_loadu_si128((const __m128i *)p);

	return (struct vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
		_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)))};
}

LANE __m256 avx2_window(__m256 a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	const __m256i i = _mm256_add_epi32(
		_mm256_set1_epi32((int)base), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
	const __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)lo), i),
		_mm256_cmpgt_epi32(i, _mm256_set1_epi32((int)hi - 1)));

	return _mm256_blendv_ps(a, _mm256_set1_ps(fill), _mm256_castsi256_ps(out));
}

LANE struct vf vf_window(struct vf a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	return (struct vf){
		avx2_window(a.lo, base, lo, hi, fill), avx2_window(a.hi, base + 8, lo, hi, fill)};
}

LANE __m256 avx2_scale2(__m256 a, __m256 n)
{
	return _mm256_castsi256_ps(_mm256_add_epi32(
		_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

LANE struct vf vf_scale2(struct vf a, struct vf n)
{
	return BOTH_PS(avx2_scale2, a, n);
}

LANE struct vf vf_round(struct vf a)
{
	return (struct vf){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
		_mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

LANE struct vi vi_zero(void)
{
	return (struct vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

LANE struct vi vi_set1(int32_t x)
{
	return (struct vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

LANE struct vi vi_load(const void *p)
{
	return (struct vi){
		_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}

LANE struct vi vi_load_in_order(const void *p)
{
	return vi_load(p);
}

LANE void vi_store(void *p, struct vi a)
{
	_mm256_storeu_si256((__m256i *)p, a.lo);
	_mm256_storeu_si256((__m256i *)p + 1, a.hi);
}

LANE struct vi vi_and_byte(struct vi a, uint8_t mask)
{
	const __m256i m = _mm256_set1_epi8((char)mask);

	return (struct vi){_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}

LANE struct vi vi_merge(struct vi a, struct vi b, uint8_t mask)
{
	b = vi_and_byte(b, mask);
	return (struct vi){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}

LANE struct vi vi_level(struct vi a, const int8_t table[16])
{
	const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));

	return (struct vi){_mm256_shuffle_epi8(t, a.lo), _mm256_shuffle_epi8(t, a.hi)};
}

LANE struct vi vi_flip_sign(struct vi a)
{
	const __m256i m = _mm256_set1_epi8((char)0x80);

	return (struct vi){_mm256_xor_si256(a.lo, m), _mm256_xor_si256(a.hi, m)};
}

LANE struct vf vf_from_bits(struct vi a)
{
	return (struct vf){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}

LANE struct vi vi_shl(struct vi a, int n)
{
	return (struct vi){_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}

LANE struct vi vi_shr(struct vi a, int n)
{
	return (struct vi){_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}

LANE void vi_store_low_bytes(void *p, struct vi a)
{
	uint8_t *b = p;
	uint32_t t[16];

	vi_store(t, a);
	for (int i = 0; i < 16; i++)
		b[i] = (uint8_t)t[i];
}

LANE float vf_sum(struct vf a)
{
	const __m256 s = _mm256_add_ps(a.lo, a.hi);
	__m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

	t = _mm_add_ps(t, _mm_movehl_ps(t, t));
	return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}

LANE float vf_top(struct vf a)
{
	const __m256 m = _mm256_max_ps(a.lo, a.hi);
	__m128 t = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));

	t = _mm_max_ps(t, _mm_movehl_ps(t, t));
	return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

LANE int32_t vi_sum(struct vi a)
{
	const __m256i s = _mm256_add_epi32(a.lo, a.hi);
	__m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));

	t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
	return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

#ifdef LANES_VNNI
/* The same instruction in VEX (AVX-VNNI) and in EVEX (AVX-512 VNNI and VL). */
#ifdef __AVXVNNI__
#define avx2_dot _mm256_dpbusd_avx_epi32
#else
#define avx2_dot _mm256_dpbusd_epi32
#endif
#else
/* Weights below 64 keep the 16-bit sums of vpmaddubsw far from saturation. */
LANE __m256i avx2_dot(__m256i sum, __m256i w, __m256i x)
{
	return _mm256_add_epi32(
		sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
#endif

LANE struct vi vi_dot(struct vi sum, struct vi w, int32_t x)
{
	const __m256i b = _mm256_set1_epi32(x);

	return (struct vi){avx2_dot(sum.lo, w.lo, b), avx2_dot(sum.hi, w.hi, b)};
}

LANE struct vi vi_dot_byte(struct vi sum, struct vi w, int32_t x)
{
#ifdef LANES_VNNI
	return vi_dot(sum, w, x);
#else
	/* |w| <= 128 times |x| <= 127, twice: 32512 still fits */
	const __m256i b = _mm256_set1_epi32(x);

	return (struct vi){avx2_dot(sum.lo, _mm256_abs_epi8(w.lo), _mm256_sign_epi8(b, w.lo)),
		avx2_dot(sum.hi, _mm256_abs_epi8(w.hi), _mm256_sign_epi8(b, w.hi))};
#endif
}

LANE __m256 avx2_byte(__m256i a, int i)
{
	return _mm256_cvtepi32_ps(
		_mm256_and_si256(_mm256_srli_epi32(a, 8 * i), _mm256_set1_epi32(0xff)));
}

LANE struct vf vf_from_byte(struct vi a, int i)
{
	return (struct vf){avx2_byte(a.lo, i), avx2_byte(a.hi, i)};
}

LANE void vf_store_f16(uint16_t *p, struct vf a)
{
	_mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
	_mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
