/* The part of CUDA's runtime and device language that kernels/cuda uses, on the CPU. See shim.h. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ZEPH_SHIM      1
#define CUDART_VERSION 13000

/* The language */

#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 {
	unsigned x, y, z;
};
struct dim3 {
	unsigned x, y, z;
	constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
	{
	}
};

#define SHIM_VECTORS(T, name)                                                                      \
	struct alignas(2 * sizeof(T)) name##2                                                      \
	{                                                                                          \
		T x, y;                                                                            \
	};                                                                                         \
	struct alignas(4 * sizeof(T)) name##4                                                      \
	{                                                                                          \
		T x, y, z, w;                                                                      \
	};                                                                                         \
	static inline name##2 make_##name##2(T x, T y)                                             \
	{                                                                                          \
		return {x, y};                                                                     \
	}                                                                                          \
	static inline name##4 make_##name##4(T x, T y, T z, T w)                                   \
	{                                                                                          \
		return {x, y, z, w};                                                               \
	}
SHIM_VECTORS(float, float)
SHIM_VECTORS(int, int)
SHIM_VECTORS(unsigned, uint)
#undef SHIM_VECTORS

namespace shim
{
enum { WARP = 32 };

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One CUDA thread: where it is, and what it hands over at an exchange of its warp. */
struct lane {
	uint3 thread;
	unsigned index, number, warp; /* in the block; in its warp; the warp */
	alignas(16) uint8_t in[48], out[16];
};
extern lane *self;
extern dim3 grid, block;
extern uint3 block_index;

void barrier(const char *file, int line);

/* Waits until all lanes of the mask are here, in the same kind of exchange of the same line; the
 * last one calls `run` on the warp's 32 lanes (NULL where there is none). */
void exchange(const char *kind, unsigned mask, const char *file, int line,
	void (*run)(lane **lanes, unsigned mask, unsigned arg), unsigned arg);

/* Shared memory of the running block: the launch's, or what belongs to `key` (fresh: NaN). */
void *shared_dynamic(void);
void *shared_static(const void *key, size_t bytes);

void check_aligned(const void *p, size_t alignment, const char *what);
void copy_async(void *shared, const void *global, size_t bytes);
void copy_async_commit(void);
void copy_async_wait(unsigned groups_left);

/* A kernel takes one struct by value; this is how it is called from the bytes of it. */
struct kernel {
	void (*call)(const void *args);
	size_t args_bytes;
	const char *name;
};
template <auto K> struct kernel_of;
template <class A, void (*K)(A)> struct kernel_of<K> {
	static void call(const void *args)
	{
		K(*(const A *)args);
	}
	static const kernel *get()
	{
		static const kernel k = {call, sizeof(A), __PRETTY_FUNCTION__};
		return &k;
	}
};

void shfl_run(lane **lanes, unsigned mask, unsigned arg);
void ballot_run(lane **lanes, unsigned mask, unsigned arg);

enum shfl { SHFL_INDEX, SHFL_UP, SHFL_DOWN, SHFL_XOR };

template <class T>
T shfl(shfl how, unsigned mask, T value, unsigned operand, unsigned width, const char *file,
	int line)
{
	struct {
		uint64_t value;
		uint32_t operand, width;
	} in = {0, operand, width};
	T out;

	static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
	memcpy(&in.value, &value, sizeof(T));
	memcpy(self->in, &in, sizeof(in));
	exchange("shuffle", mask, file, line, shfl_run, how);
	memcpy(&out, self->out, sizeof(T));
	return out;
}

static inline unsigned ballot(unsigned mask, bool predicate, const char *file, int line)
{
	unsigned out;

	self->in[0] = predicate;
	exchange("ballot", mask, file, line, ballot_run, 0);
	memcpy(&out, self->out, sizeof(out));
	return out;
}
} // namespace shim

#define threadIdx (shim::self->thread)
#define warpSize  32
inline const uint3 &blockIdx = shim::block_index;
inline const dim3 &blockDim = shim::block, &gridDim = shim::grid;

#define __syncthreads()   shim::barrier(__FILE__, __LINE__)
#define SHIM_MASK(a, ...) a
#define __syncwarp(...)                                                                            \
	shim::exchange("__syncwarp", SHIM_MASK(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu), __FILE__,  \
		__LINE__, NULL, 0)
#define SHIM_SHFL(how, mask, v, operand, ...)                                                      \
	shim::shfl(shim::how, mask, v, (unsigned)(operand), SHIM_MASK(__VA_ARGS__), __FILE__,      \
		__LINE__)
#define __shfl_sync(mask, v, ...)      SHIM_SHFL(SHFL_INDEX, mask, v, __VA_ARGS__, 32)
#define __shfl_up_sync(mask, v, ...)   SHIM_SHFL(SHFL_UP, mask, v, __VA_ARGS__, 32)
#define __shfl_down_sync(mask, v, ...) SHIM_SHFL(SHFL_DOWN, mask, v, __VA_ARGS__, 32)
#define __shfl_xor_sync(mask, v, ...)  SHIM_SHFL(SHFL_XOR, mask, v, __VA_ARGS__, 32)
#define __ballot_sync(mask, p)         shim::ballot(mask, (p) != 0, __FILE__, __LINE__)
#define __any_sync(mask, p)            (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p)            (__ballot_sync(mask, p) == (mask))

#define __threadfence()        ((void)0)
#define __threadfence_block()  ((void)0)
#define __threadfence_system() ((void)0)

/* Lanes run one at a time, so a plain read and write is an atomic. */
#define SHIM_ATOMIC(name, expression)                                                              \
	template <class T> static inline T name(T *p, T v)                                         \
	{                                                                                          \
		T old = *p;                                                                        \
		*p = (expression);                                                                 \
		return old;                                                                        \
	}
SHIM_ATOMIC(atomicAdd, old + v)
SHIM_ATOMIC(atomicMax, old > v ? old : v)
SHIM_ATOMIC(atomicMin, old < v ? old : v)
SHIM_ATOMIC(atomicOr, old | v)
SHIM_ATOMIC(atomicExch, v)
#undef SHIM_ATOMIC
template <class T> static inline T atomicCAS(T *p, T compare, T v)
{
	T old = *p;

	*p = old == compare ? v : old;
	return old;
}

template <class T> static inline T min(T a, T b)
{
	return b < a ? b : a;
}
template <class T> static inline T max(T a, T b)
{
	return a < b ? b : a;
}
static inline float __fmaf_rn(float a, float b, float c)
{
	return __builtin_fmaf(a, b, c);
}
static inline uint32_t __float_as_uint(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}
static inline float __uint_as_float(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}
static inline int __popc(unsigned v)
{
	return __builtin_popcount(v);
}
static inline int __clz(int v)
{
	return v == 0 ? 32 : __builtin_clz((unsigned)v);
}
static inline int __ffs(int v)
{
	return __builtin_ffs(v);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
	return (unsigned)((uint64_t)a * b >> 32);
}
/* Byte i of the result is the one of x, y that nibble i of the selector names; its sign mode, where
 * a nibble has bit 3, is not used here. */
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector)
{
	const uint64_t all = x | (uint64_t)y << 32;
	uint32_t v = 0;

	if (selector & 0x8888)
		shim::fail("__byte_perm: selector %#x asks for a sign", selector);
	for (int i = 0; i < 4; i++)
		v |= (uint32_t)(all >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
	return v;
}
static inline int __float2int_rn(float f)
{
	return (int)lrintf(f);
}
static inline int __dp4a(int a, int b, int c)
{
	for (int i = 0; i < 4; i++)
		c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
	return c;
}

/* The runtime */

enum cudaError_t {
	cudaSuccess = 0,
	cudaErrorInvalidValue = 1,
	cudaErrorMemoryAllocation = 2,
	cudaErrorInvalidConfiguration = 9,
	cudaErrorNoDevice = 100,
	cudaErrorInvalidDevice = 101,
	cudaErrorNotReady = 600,
	cudaErrorIllegalAddress = 700,
};
enum cudaMemcpyKind {
	cudaMemcpyHostToDevice = 1,
	cudaMemcpyDeviceToHost = 2,
	cudaMemcpyDeviceToDevice = 3,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };

typedef struct shim_stream *cudaStream_t;
typedef struct shim_event *cudaEvent_t;
typedef struct shim_graph *cudaGraph_t;
typedef struct shim_graph_exec *cudaGraphExec_t;

struct cudaDeviceProp {
	char name[256];
	size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
	int major, minor, multiProcessorCount, l2CacheSize;
};

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
	cudaLaunchAttributeID id;
	struct {
		int programmaticStreamSerializationAllowed;
	} val;
};
struct cudaLaunchConfig_t {
	dim3 gridDim, blockDim;
	size_t dynamicSmemBytes;
	cudaStream_t stream;
	cudaLaunchAttribute *attrs;
	unsigned numAttrs;
};

extern "C" {
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);

cudaError_t shim_malloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t shim_host_alloc(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(
	void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);

cudaError_t shim_func_set_attribute(const void *f, cudaFuncAttribute a, int value);
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **args);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(
	cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
}

template <class T> static inline cudaError_t cudaMalloc(T **p, size_t bytes)
{
	return shim_malloc((void **)p, bytes);
}
template <class T> static inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned flags)
{
	(void)flags;
	return shim_host_alloc((void **)p, bytes);
}
static inline cudaError_t cudaFuncSetAttribute(const void *f, cudaFuncAttribute a, int value)
{
	return shim_func_set_attribute(f, a, value);
}
