/* Sixteen lanes in NEON with the dot product of ARMv8.2: four registers each. See lanes_generic.h
 * for what every function means. */
#pragma once

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define LANES_NAME  neon
#define LANE        static inline __attribute__((always_inline))
#define TILE_COLS   2 /* 8 registers of sums, dots and scaled dots each: 24 of 32 */
#define TILE_GROUPS 1
#define TILE_RUN    4
#define TILE_WIDE   2
#define TILE_DIMS   2
#define TILE_HEADS  2
#define SCORE_PAGES 2
#define SCORE_SUMS  4
#define LINES_HELD  0
#define BYTE_ZERO   0 /* bytes are stored signed: sdot takes them as they are */

struct vf {
	float32x4_t a, b, c, d;
};

struct vi {
	uint32x4_t a, b, c, d;
};

/* f of each quarter of one, two or three operands */
#define FOUR(type, f, x) ((struct type){f((x).a), f((x).b), f((x).c), f((x).d)})
#define FOUR_2(type, f, x, y)                                                                      \
	((struct type){f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)})
#define FOUR_3(type, f, x, y, z)                                                                   \
	((struct type){f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c),     \
		f((x).d, (y).d, (z).d)})

LANE struct vf vf_set1(float x)
{
	const float32x4_t v = vdupq_n_f32(x);

	return (struct vf){v, v, v, v};
}

LANE struct vf vf_load(const float *p)
{
	return (struct vf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

LANE void vf_store(float *p, struct vf a)
{
	vst1q_f32(p, a.a);
	vst1q_f32(p + 4, a.b);
	vst1q_f32(p + 8, a.c);
	vst1q_f32(p + 12, a.d);
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
	return FOUR_2(vf, vaddq_f32, a, b);
}

LANE struct vf vf_sub(struct vf a, struct vf b)
{
	return FOUR_2(vf, vsubq_f32, a, b);
}

LANE struct vf vf_mul(struct vf a, struct vf b)
{
	return FOUR_2(vf, vmulq_f32, a, b);
}

LANE struct vf vf_div(struct vf a, struct vf b)
{
	return FOUR_2(vf, vdivq_f32, a, b);
}

LANE struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
	return FOUR_3(vf, vfmaq_f32, c, a, b);
}

/* b where a is not a number, as everywhere. */
LANE struct vf vf_max(struct vf a, struct vf b)
{
	return FOUR_2(vf, vmaxnmq_f32, a, b);
}

LANE struct vf vf_min(struct vf a, struct vf b)
{
	return FOUR_2(vf, vminnmq_f32, a, b);
}

LANE struct vf vf_abs(struct vf a)
{
	return FOUR(vf, vabsq_f32, a);
}

LANE float32x4_t neon_float(uint32x4_t a)
{
	return vcvtq_f32_s32(vreinterpretq_s32_u32(a));
}

LANE struct vf vf_from_vi(struct vi a)
{
	return FOUR(vf, neon_float, a);
}

LANE uint32x4_t neon_nearest(float32x4_t a)
{
	return vreinterpretq_u32_s32(vcvtnq_s32_f32(a));
}

LANE struct vi vi_from_vf(struct vf a)
{
	return FOUR(vi, neon_nearest, a);
}

LANE float32x4_t neon_f16(const uint16_t *p)
{
	return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

LANE struct vf vf_load_f16(const uint16_t *p)
{
	return (struct vf){neon_f16(p), neon_f16(p + 4), neon_f16(p + 8), neon_f16(p + 12)};
}

LANE float32x4_t neon_bf16(const uint16_t *p)
{
	return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

LANE struct vf vf_load_bf16(const uint16_t *p)
{
	return (struct vf){neon_bf16(p), neon_bf16(p + 4), neon_bf16(p + 8), neon_bf16(p + 12)};
}

LANE struct vf vf_load_u8(const uint8_t *p)
{
	const uint8x16_t v = vld1q_u8(p);
	const uint16x8_t lo = vmovl_u8(vget_low_u8(v)), hi = vmovl_high_u8(v);

	return (struct vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))),
		vcvtq_f32_u32(vmovl_high_u16(lo)), vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))),
		vcvtq_f32_u32(vmovl_high_u16(hi))};
}

LANE struct vf vf_load_s8(const uint8_t *p)
{
	const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(p));
	const int16x8_t lo = vmovl_s8(vget_low_s8(v)), hi = vmovl_high_s8(v);

	return (struct vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))),
		vcvtq_f32_s32(vmovl_high_s16(lo)), vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))),
		vcvtq_f32_s32(vmovl_high_s16(hi))};
}

LANE float32x4_t neon_window(float32x4_t a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	static const uint32_t index[] = {0, 1, 2, 3};
	const uint32x4_t i = vaddq_u32(vdupq_n_u32(base), vld1q_u32(index));
	const uint32x4_t in = vandq_u32(
		vcgeq_u32(i, vdupq_n_u32(lo)), vcltq_u32(i, vdupq_n_u32(hi)));

	return vbslq_f32(in, a, vdupq_n_f32(fill));
}

LANE struct vf vf_window(struct vf a, uint32_t base, uint32_t lo, uint32_t hi, float fill)
{
	return (struct vf){neon_window(a.a, base, lo, hi, fill),
		neon_window(a.b, base + 4, lo, hi, fill), neon_window(a.c, base + 8, lo, hi, fill),
		neon_window(a.d, base + 12, lo, hi, fill)};
}

LANE float32x4_t neon_scale2(float32x4_t a, float32x4_t n)
{
	return vreinterpretq_f32_u32(vreinterpretq_u32_f32(a) + (neon_nearest(n) << 23));
}

LANE struct vf vf_scale2(struct vf a, struct vf n)
{
	return FOUR_2(vf, neon_scale2, a, n);
}

LANE struct vf vf_round(struct vf a)
{
	return FOUR(vf, vrndnq_f32, a);
}

LANE struct vi vi_set1(int32_t x)
{
	const uint32x4_t v = vdupq_n_u32((uint32_t)x);

	return (struct vi){v, v, v, v};
}

LANE struct vi vi_zero(void)
{
	return vi_set1(0);
}

LANE uint32x4_t neon_load(const uint8_t *p)
{
	return vreinterpretq_u32_u8(vld1q_u8(p));
}

LANE struct vi vi_load(const void *p)
{
	const uint8_t *b = p;

	return (struct vi){neon_load(b), neon_load(b + 16), neon_load(b + 32), neon_load(b + 48)};
}

LANE struct vi vi_load_in_order(const void *p)
{
	return vi_load(p);
}

LANE void vi_store(void *p, struct vi a)
{
	memcpy(p, &a, sizeof(a));
}

LANE struct vi vi_and_byte(struct vi a, uint8_t mask)
{
	const struct vi m = vi_set1((int32_t)(mask * 0x01010101u));

	return FOUR_2(vi, vandq_u32, a, m);
}

LANE struct vi vi_merge(struct vi a, struct vi b, uint8_t mask)
{
	return FOUR_2(vi, vorrq_u32, a, vi_and_byte(b, mask));
}

LANE struct vi vi_level(struct vi a, const int8_t table[16])
{
	const int8x16_t t = vld1q_s8(table);

#define LEVEL(x) vreinterpretq_u32_s8(vqtbl1q_s8(t, vreinterpretq_u8_u32(x)))
	return FOUR(vi, LEVEL, a);
#undef LEVEL
}

LANE struct vi vi_flip_sign(struct vi a)
{
	const struct vi m = vi_set1((int32_t)0x80808080u);

	return FOUR_2(vi, veorq_u32, a, m);
}

LANE struct vf vf_from_bits(struct vi a)
{
	return FOUR(vf, vreinterpretq_f32_u32, a);
}

LANE struct vi vi_shl(struct vi a, int n)
{
	return (struct vi){a.a << n, a.b << n, a.c << n, a.d << n};
}

LANE struct vi vi_shr(struct vi a, int n)
{
	return (struct vi){a.a >> n, a.b >> n, a.c >> n, a.d >> n};
}

LANE void vi_store_low_bytes(void *p, struct vi a)
{
	const uint16x8_t lo = vcombine_u16(vmovn_u32(a.a), vmovn_u32(a.b));
	const uint16x8_t hi = vcombine_u16(vmovn_u32(a.c), vmovn_u32(a.d));

	vst1q_u8(p, vcombine_u8(vmovn_u16(lo), vmovn_u16(hi)));
}

LANE float vf_sum(struct vf a)
{
	const float32x4_t t = vaddq_f32(vaddq_f32(a.a, a.c), vaddq_f32(a.b, a.d));
	const float32x2_t s = vadd_f32(vget_low_f32(t), vget_high_f32(t));

	return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}

LANE float vf_top(struct vf a)
{
	return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.a, a.b), vmaxq_f32(a.c, a.d)));
}

LANE int32_t vi_sum(struct vi a)
{
	const uint32x4_t t = vaddq_u32(vaddq_u32(a.a, a.b), vaddq_u32(a.c, a.d));

	return (int32_t)vaddvq_u32(t);
}

LANE struct vi vi_dot(struct vi sum, struct vi w, int32_t x)
{
	const int8x16_t b = vreinterpretq_s8_s32(vdupq_n_s32(x));

#define DOT(s, v)                                                                                  \
	vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(s), vreinterpretq_s8_u32(v), b))
	return FOUR_2(vi, DOT, sum, w);
#undef DOT
}

LANE struct vi vi_dot_byte(struct vi sum, struct vi w, int32_t x)
{
	return vi_dot(sum, w, x);
}

LANE struct vf vf_from_byte(struct vi a, int i)
{
	return vf_from_vi(vi_shr(vi_shl(a, 24 - 8 * i), 24));
}

LANE void vf_store_f16(uint16_t *p, struct vf a)
{
	vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.a)));
	vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(a.b)));
	vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(a.c)));
	vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(a.d)));
}
