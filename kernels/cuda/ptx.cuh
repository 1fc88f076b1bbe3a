/* Every instruction that CUDA C++ has no word for, as one small function each.
 *
 * Each has a twin for the tests' shim (ZEPH_SHIM), which compiles the kernels as C++; nothing else
 * in this folder holds assembly or asks which of the two it is. Kernels are built from sm_61 on:
 * what needs sm_80 is empty below it and never called there (matmul.cu picks by the card). */
#pragma once

#include <cuda_runtime.h>

#include <stdint.h>
#include <string.h>

/* A kernel takes one struct by value; KERNEL names it for cuda_launch(). */
#ifdef ZEPH_SHIM
#define KERNEL(k) ((const void *)shim::kernel_of<(k)>::get())
#define SHARED(type, name, dims)                                                                   \
	static char name##_key;                                                                    \
	using name##_type = type dims;                                                             \
	name##_type &name = *(name##_type *)shim::shared_static(&name##_key, sizeof(name##_type))
#define SHARED_DYNAMIC(name) uint8_t *const name = (uint8_t *)shim::shared_dynamic()
#else
#define KERNEL(k)                ((const void *)(k))
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define SHARED_DYNAMIC(name)     extern __shared__ __align__(16) uint8_t name[]
#endif

#if defined(__clang__) && defined(__CUDA__)
/* clang has these for the card alone. */
template <class T> __host__ static inline T min(T a, T b)
{
	return b < a ? b : a;
}

template <class T> __host__ static inline T max(T a, T b)
{
	return a < b ? b : a;
}
#endif

#define WARP_LANES 32
#define ALL_LANES  0xffffffffu

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define PTX_SM80 1
#elif defined(ZEPH_SHIM)
#define PTX_SM80 1
#else
#define PTX_SM80 0
#endif

/* Vector accesses: what the alignment of 16 (8) bytes promises. */

template <class V> __device__ static __forceinline__ V load_vector(const void *p)
{
#ifdef ZEPH_SHIM
	shim::check_aligned(p, sizeof(V), "a vector load");
#endif
	return *(const V *)p;
}

template <class V> __device__ static __forceinline__ void store_vector(void *p, V v)
{
#ifdef ZEPH_SHIM
	shim::check_aligned(p, sizeof(V), "a vector store");
#endif
	*(V *)p = v;
}

/* Sixteen-bit floats. Patterns in the low bits; conversions round to nearest even. */

__device__ static __forceinline__ float f16_value(uint32_t h)
{
#ifdef ZEPH_SHIM
	uint32_t magnitude = (h & 0x7fff) << 13, sign = (h & 0x8000) << 16;

	if ((h & 0x7c00) == 0x7c00)
		return __uint_as_float(sign | magnitude | 0x7f800000);
	/* 2^112 moves the exponent's zero, subnormals included */
	return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
#else
	float f;

	asm("{ .reg .b16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(f) : "h"((uint16_t)h));
	return f;
#endif
}

__device__ static __forceinline__ uint16_t f16_bits(float f)
{
#ifdef ZEPH_SHIM
	uint32_t u = __float_as_uint(f), sign = u >> 16 & 0x8000, m = u & 0x7fffffff;

	if (m > 0x7f800000)
		return (uint16_t)(sign | 0x7e00);
	if (m >= 0x477ff000)
		return (uint16_t)(sign | 0x7c00);
	if (m < 0x38800000) /* subnormal: the sum's unit is 2^-24 */
		return (uint16_t)(sign | (__float_as_uint(__uint_as_float(m) + 0.5f) -
						 __float_as_uint(0.5f)));
	m += 0xfff + (m >> 13 & 1);
	return (uint16_t)(sign | (m - 0x38000000) >> 13);
#else
	uint16_t h;

	asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
	return h;
#endif
}

__device__ static __forceinline__ float bf16_value(uint32_t h)
{
	return __uint_as_float(h << 16);
}

__device__ static __forceinline__ uint16_t bf16_bits(float f)
{
	uint32_t u = __float_as_uint(f);

	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Two bf16 in one word, `low` in the low half. */
__device__ static __forceinline__ uint32_t bf16_pair(float low, float high)
{
#if PTX_SM80 && !defined(ZEPH_SHIM)
	uint32_t d;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
	return d;
#else
	return bf16_bits(low) | (uint32_t)bf16_bits(high) << 16;
#endif
}

__device__ static __forceinline__ float bf16_low(uint32_t pair)
{
	return __uint_as_float(pair << 16);
}

__device__ static __forceinline__ float bf16_high(uint32_t pair)
{
	return __uint_as_float(pair & 0xffff0000);
}

/* Both halves: a + b, rounded once. */
__device__ static __forceinline__ uint32_t bf16_pair_add(uint32_t a, uint32_t b)
{
#if PTX_SM80 && !defined(ZEPH_SHIM)
	uint32_t d;

	asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f803f80u), "r"(b));
	return d;
#else
	return bf16_pair(bf16_low(a) + bf16_low(b), bf16_high(a) + bf16_high(b));
#endif
}

/* The tensor cores: d [16, 8] = a [16, 16] b [16, 8] + c, bf16 in, f32 out. With g = lane / 4 and
 * t = lane % 4 a lane holds a (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..);
 * b (2t.., g), (2t + 8.., g); c and d (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). */
#ifdef ZEPH_SHIM
struct mma_in {
	uint32_t a[4], b[2];
	float c[4];
};

static inline void mma_run(shim::lane **lanes, unsigned, unsigned)
{
	float a[16][16], b[8][16];

	for (int l = 0; l < 32; l++) {
		mma_in in;
		int g = l / 4, t = l % 4;

		memcpy(&in, lanes[l]->in, sizeof(in));
		for (int i = 0; i < 4; i++) {
			int row = g + i % 2 * 8, k = 2 * t + i / 2 * 8;

			a[row][k] = bf16_low(in.a[i]);
			a[row][k + 1] = bf16_high(in.a[i]);
		}
		for (int i = 0; i < 2; i++) {
			b[g][2 * t + 8 * i] = bf16_low(in.b[i]);
			b[g][2 * t + 8 * i + 1] = bf16_high(in.b[i]);
		}
	}
	for (int l = 0; l < 32; l++) {
		mma_in in;
		float d[4];

		memcpy(&in, lanes[l]->in, sizeof(in));
		for (int i = 0; i < 4; i++) {
			const float *x = a[l / 4 + i / 2 * 8], *y = b[l % 4 * 2 + i % 2];
			double sum = in.c[i];

			for (int k = 0; k < 16; k++)
				sum += (double)x[k] * y[k];
			d[i] = (float)sum;
		}
		memcpy(lanes[l]->out, d, sizeof(d));
	}
}
#endif

__device__ static __forceinline__ void mma_bf16(
	float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4])
{
#ifdef ZEPH_SHIM
	mma_in in = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};

	memcpy(shim::self->in, &in, sizeof(in));
	shim::exchange("mma", ALL_LANES, __FILE__, __LINE__, mma_run, 0);
	memcpy(d, shim::self->out, 4 * sizeof(float));
#elif PTX_SM80
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
	    "{%8, %9}, {%10, %11, %12, %13};"
		: "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]),
		"f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

/* Copies to shared memory that are not waited for: 16 bytes past L1 (streams), 4 and 8 through it.
 * Below sm_80 they are plain copies. */
template <int BYTES>
__device__ static __forceinline__ void copy_async(void *shared, const void *global)
{
#ifdef ZEPH_SHIM
	shim::copy_async(shared, global, BYTES);
#elif PTX_SM80
	uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);

	if (BYTES == 16)
		asm volatile(
			"cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(global)
			: "memory");
	else
		asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global),
			     "n"(BYTES)
			     : "memory");
#else
	for (int i = 0; i < BYTES / 4; i++)
		((uint32_t *)shared)[i] = ((const uint32_t *)global)[i];
#endif
}

__device__ static __forceinline__ void copy_async_commit(void)
{
#ifdef ZEPH_SHIM
	shim::copy_async_commit();
#elif PTX_SM80
	asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until at most GROUPS_LEFT of the groups committed last are under way. */
template <int GROUPS_LEFT> __device__ static __forceinline__ void copy_async_wait(void)
{
#ifdef ZEPH_SHIM
	shim::copy_async_wait(GROUPS_LEFT);
#elif PTX_SM80
	asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
#endif
}

__device__ static __forceinline__ int dot4(uint32_t a, uint32_t b, int c)
{
	return __dp4a((int)a, (int)b, c);
}

/* Programmatic dependent launch (sm_90): a kernel may start before the one ahead of it has ended,
 * and touches nothing but weights until grid_wait(). Every kernel calls both. */
__device__ static __forceinline__ void grid_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ static __forceinline__ void grid_release(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
