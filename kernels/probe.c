/* Measures memory bandwidth and dot-product peaks with the instructions that the kernels would use.
 * Each figure is the total of all threads over the time of the slowest. Owns the buffer that it
 * reads. */
#include "kernels/probe.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define ROUNDS 4000000 /* times 12 independent accumulators: about 0.05 s */

struct prober {
	uint32_t n_threads;
	char *buffer;
	size_t bytes; /* a multiple of 64 x n_threads */
};

/* What one thread does and how much work that was. */
struct probe_task {
	double (*work)(const char *part, size_t bytes);
	const char *part;
	size_t bytes;
	atomic_int *go; /* 0: wait; 1: start; -1: give up */
	double amount, seconds;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double read_plain(const char *part, size_t bytes)
{
	const uint64_t *p = (const uint64_t *)part;
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (size_t i = 0; i + 3 < bytes / sizeof(*p); i += 4) {
		a ^= p[i];
		b ^= p[i + 1];
		c ^= p[i + 2];
		d ^= p[i + 3];
	}
	a ^= b ^ c ^ d;
	__asm__ volatile("" : : "r"(a));
	return (double)bytes;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double read_avx512(const char *part, size_t bytes)
{
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

	for (size_t i = 0; i + 255 < bytes; i += 256) {
		a = _mm512_xor_si512(a, _mm512_load_si512(part + i));
		b = _mm512_xor_si512(b, _mm512_load_si512(part + i + 64));
		c = _mm512_xor_si512(c, _mm512_load_si512(part + i + 128));
		d = _mm512_xor_si512(d, _mm512_load_si512(part + i + 192));
	}
	a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
	__asm__ volatile("" : : "v"(a));
	return (double)bytes;
}

/* Twelve chains of the same instruction keep its units busy; asm keeps the compiler from folding
 * them. */
#define TWELVE(instruction)                                                                        \
	instruction " %%zmm12, %%zmm13, %%zmm0\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm1\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm2\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm3\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm4\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm5\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm6\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm7\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm8\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm9\n\t" instruction                                    \
		    " %%zmm12, %%zmm13, %%zmm10\n\t" instruction " %%zmm12, %%zmm13, %%zmm11\n\t"
#define TWELVE_YMM(instruction)                                                                    \
	instruction " %%ymm12, %%ymm13, %%ymm0\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm1\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm2\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm3\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm4\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm5\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm6\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm7\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm8\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm9\n\t" instruction                                    \
		    " %%ymm12, %%ymm13, %%ymm10\n\t" instruction " %%ymm12, %%ymm13, %%ymm11\n\t"
#define CLOBBERED                                                                                  \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
		"xmm11", "xmm12", "xmm13"
#define CLEAR "vzeroall"
#elif defined(__aarch64__)
#define TWELVE(instruction, sum, of)                                                               \
	".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n\t" instruction " v\\i\\()." sum            \
	", v12." of ", v13." of "\n\t.endr"
#define CLOBBERED                                                                                  \
	"v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13"
#define CLEAR ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13\n\tmovi v\\i\\().4s, 0\n\t.endr"
#endif

/* All registers start as zero: no denormals slow the sums down. */
#define PEAK(name, features, chain, per_instruction)                                               \
	__attribute__((target(features))) static double name(const char *part, size_t bytes)       \
	{                                                                                          \
		(void)part;                                                                        \
		(void)bytes;                                                                       \
		__asm__ volatile(CLEAR : : : CLOBBERED);                                           \
		for (long i = 0; i < ROUNDS; i++)                                                  \
			__asm__ volatile(chain : : : CLOBBERED);                                   \
		return 12.0 * ROUNDS * (per_instruction);                                          \
	}

#if defined(__x86_64__)
PEAK(int8_vnni512, "avx512f,avx512vnni", TWELVE("vpdpbusd"), 128)
PEAK(bf16_512, "avx512f,avx512bf16", TWELVE("vdpbf16ps"), 64)
PEAK(f32_512, "avx512f", TWELVE("vfmadd231ps"), 32)
PEAK(f32_256, "avx2,fma", TWELVE_YMM("vfmadd231ps"), 16)
#elif defined(__aarch64__)
PEAK(int8_dotprod, "arch=armv8.2-a+dotprod", TWELVE("sdot", "4s", "16b"), 32)
PEAK(f32_128, "arch=armv8-a", TWELVE("fmla", "4s", "4s"), 8)
#endif

static void *probe_thread(void *arg)
{
	struct probe_task *t = arg;
	double begin;
	int go;

	t->work(t->part, t->bytes); /* warms the clock and the pages */
	while ((go = atomic_load(t->go)) == 0)
		sched_yield();
	if (go < 0)
		return NULL;
	begin = now();
	t->amount = t->work(t->part, t->bytes);
	t->seconds = now() - begin;
	return NULL;
}

/* All threads at once; work per second, or 0 where a thread could not be started. */
static double rate(struct prober *p, double (*work)(const char *part, size_t bytes))
{
	struct probe_task *tasks = calloc(p->n_threads, sizeof(*tasks));
	pthread_t *threads = calloc(p->n_threads, sizeof(*threads));
	double amount = 0, seconds = 0, result = 0;
	uint32_t started = 0;
	atomic_int go = 0;

	if (!tasks || !threads)
		goto out;
	for (; started < p->n_threads; started++) {
		size_t part = p->bytes / p->n_threads;

		tasks[started] = (struct probe_task){
			.work = work,
			.part = p->buffer + started * part,
			.bytes = part,
			.go = &go,
		};
		if (pthread_create(&threads[started], NULL, probe_thread, &tasks[started]) != 0)
			break;
	}
	atomic_store(&go, started == p->n_threads ? 1 : -1);
	for (uint32_t i = 0; i < started; i++) {
		pthread_join(threads[i], NULL);
		amount += tasks[i].amount;
		seconds = tasks[i].seconds > seconds ? tasks[i].seconds : seconds;
	}
	if (started == p->n_threads)
		result = amount / seconds;
out:
	free(tasks);
	free(threads);
	return result;
}

int prober_new(uint32_t threads, uint64_t bytes, struct prober **ret)
{
	struct prober *p;
	long online = sysconf(_SC_NPROCESSORS_ONLN);

	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->n_threads = threads ? threads : online > 0 ? (uint32_t)online : 1;
	p->bytes = bytes / (256 * p->n_threads) * (256 * p->n_threads);
	p->buffer = mmap(
		NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->buffer == MAP_FAILED) {
		free(p);
		return -ENOMEM;
	}
	madvise(p->buffer, p->bytes, MADV_HUGEPAGE);
	for (size_t i = 0; i < p->bytes; i += 64)
		p->buffer[i] = (char)(i >> 6); /* pages of zeroes would be one page */
	*ret = p;
	return 0;
}

struct prober *prober_free(struct prober *p)
{
	if (!p)
		return NULL;
	munmap(p->buffer, p->bytes);
	free(p);
	return NULL;
}

void prober_run(struct prober *p, struct probe *ret)
{
	double (*read_memory)(const char *, size_t) = read_plain;

	*ret = (struct probe){0};
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f"))
		read_memory = read_avx512;
	if (__builtin_cpu_supports("avx512vnni"))
		ret->int8_tops = rate(p, int8_vnni512) * 1e-12;
	if (__builtin_cpu_supports("avx512bf16"))
		ret->bf16_tflops = rate(p, bf16_512) * 1e-12;
	if (__builtin_cpu_supports("avx512f"))
		ret->f32_tflops = rate(p, f32_512) * 1e-12;
	else if (__builtin_cpu_supports("fma"))
		ret->f32_tflops = rate(p, f32_256) * 1e-12;
#elif defined(__aarch64__)
	if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
		ret->int8_tops = rate(p, int8_dotprod) * 1e-12;
	ret->f32_tflops = rate(p, f32_128) * 1e-12;
#endif
	ret->read_gbps = rate(p, read_memory) * 1e-9;
}
