/* Measures memory bandwidth and dot-product peaks with the instructions that the kernels would use.
 * Each figure is the total of all threads over the time of the slowest. */
#include "kernels/probe.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/tiles_amx.h"
#include "kernels/host.h"
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define ROUNDS 4000000 /* times 12 independent accumulators: about 0.05 s */

/* What a thread takes at a time. Memory comes at full speed only some KiB after the place where
 * reading began: in pieces of 256 KiB two threads measured a tenth too little. */
#define PIECE_BYTES ((size_t)4 << 20)
#define READ_BYTES  ((uint64_t)512 << 20)
#define READ_AHEAD  3072 /* bytes, where the processor's own prefetch is helped */

struct prober {
	uint32_t n_threads;
	struct probe_range *pieces;
	size_t n_pieces;
	size_t n_reads;     /* pieces of one round: some times all of them */
	atomic_size_t next; /* of those, not yet taken */
	bool early;         /* lines are asked for before they are read */
};

/* What one thread does and how much work that was. */
struct probe_task {
	struct prober *prober;
	double (*work)(struct prober *p);
	atomic_int *go; /* 0: wait; 1: start; -1: give up */
	double amount, seconds;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void read_plain(const void *data, size_t bytes)
{
	const uint64_t *p = data;
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (size_t i = 0; i + 3 < bytes / sizeof(*p); i += 4) {
		a ^= p[i];
		b ^= p[i + 1];
		c ^= p[i + 2];
		d ^= p[i + 3];
	}
	a ^= b ^ c ^ d;
	__asm__ volatile("" : : "r"(a));
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void read_avx512(
	const void *data, size_t bytes, bool early)
{
	const char *p = data;
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;

	for (size_t i = 0; i + 255 < bytes; i += 256) {
		for (size_t at = 0; early && at < 256; at += 64)
			__builtin_prefetch(p + i + READ_AHEAD + at);
		a = _mm512_xor_si512(a, _mm512_load_si512(p + i));
		b = _mm512_xor_si512(b, _mm512_load_si512(p + i + 64));
		c = _mm512_xor_si512(c, _mm512_load_si512(p + i + 128));
		d = _mm512_xor_si512(d, _mm512_load_si512(p + i + 192));
	}
	a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
	__asm__ volatile("" : : "v"(a));
}
#endif

/* Pieces in turn, as they are left: a thread that was not scheduled delays nobody. */
static double read_pieces(struct prober *p)
{
	double amount = 0;
	size_t i;

	while ((i = atomic_fetch_add(&p->next, 1)) < p->n_reads) {
		const struct probe_range *piece = &p->pieces[i % p->n_pieces];

#if defined(__x86_64__)
		if (__builtin_cpu_supports("avx512f"))
			read_avx512(piece->data, piece->bytes, p->early);
		else
#endif
			read_plain(piece->data, piece->bytes);
		amount += (double)piece->bytes;
	}
	return amount;
}

#if defined(__x86_64__)
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
	__attribute__((target(features))) static double name(struct prober *p)                     \
	{                                                                                          \
		(void)p;                                                                           \
		__asm__ volatile(CLEAR : : : CLOBBERED);                                           \
		for (long i = 0; i < ROUNDS; i++)                                                  \
			__asm__ volatile(chain : : : CLOBBERED);                                   \
		return 12.0 * ROUNDS * (per_instruction);                                          \
	}

#if defined(__x86_64__)
/* Four chains of products of tiles of 16 rows and 64 bytes, which start as zero, too. */
#define FOUR_TILES                                                                                 \
	"tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm6, %tmm5, %tmm1\n\t"                       \
	"tdpbf16ps %tmm7, %tmm4, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3"

static double bf16_amx(struct prober *p)
{
	const struct tile_config config = tile_config_whole();

	(void)p;
	TILE_CONFIG(&config);
	for (long i = 0; i < ROUNDS / 4; i++)
		__asm__ volatile(FOUR_TILES);
	TILE_RELEASE();
	return 4.0 * (ROUNDS / 4) * (2 * 16 * 16 * 32);
}

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

	if (t->work != read_pieces)
		t->work(t->prober); /* warms the clock */
	while ((go = atomic_load(t->go)) == 0)
		sched_yield();
	if (go < 0)
		return NULL;
	begin = now();
	t->amount = t->work(t->prober);
	t->seconds = now() - begin;
	return NULL;
}

/* All threads at once; work per second, or 0 where a thread could not be started. */
static double rate(struct prober *p, double (*work)(struct prober *p))
{
	struct probe_task *tasks = calloc(p->n_threads, sizeof(*tasks));
	pthread_t *threads = calloc(p->n_threads, sizeof(*threads));
	double amount = 0, seconds = 0, result = 0;
	uint32_t started = 0;
	atomic_int go = 0;

	if (!tasks || !threads)
		goto out;
	atomic_store(&p->next, 0);
	for (; started < p->n_threads; started++) {
		tasks[started] = (struct probe_task){.prober = p, .work = work, .go = &go};
		if (pthread_create(&threads[started], NULL, probe_thread, &tasks[started]) != 0)
			break;
	}
	atomic_store(&go, started == p->n_threads ? 1 : -1);
	for (uint32_t i = 0; i < started; i++) {
		pthread_join(threads[i], NULL);
		amount += tasks[i].amount;
		seconds = tasks[i].seconds > seconds ? tasks[i].seconds : seconds;
	}
	if (started == p->n_threads && seconds > 0)
		result = amount / seconds;
out:
	free(tasks);
	free(threads);
	return result;
}

/* Cuts the ranges into pieces, neighbours in memory as one; returns their number. pieces: NULL, or
 * room for them. */
static size_t cut(const struct probe_range *ranges, size_t n, struct probe_range *pieces)
{
	size_t n_pieces = 0;

	for (size_t i = 0; i < n;) {
		const char *at = ranges[i].data;
		size_t left = ranges[i].bytes;

		for (i++; i < n && ranges[i].data == at + left; i++)
			left += ranges[i].bytes;
		while (left > 0) {
			const size_t bytes = left < PIECE_BYTES ? left : PIECE_BYTES;

			if (pieces)
				pieces[n_pieces] = (struct probe_range){at, bytes};
			n_pieces++;
			at += bytes;
			left -= bytes;
		}
	}
	return n_pieces;
}

int prober_new(
	uint32_t threads, const struct probe_range *ranges, size_t n_ranges, struct prober **ret)
{
	struct prober *p = calloc(1, sizeof(*p));
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t bytes = 0;

	if (!p)
		return -ENOMEM;
	p->n_threads = threads ? threads : online > 0 ? (uint32_t)online : 1;
	p->n_pieces = cut(ranges, n_ranges, NULL);
	p->pieces = calloc(p->n_pieces + 1, sizeof(*p->pieces));
	if (!p->pieces) {
		free(p);
		return -ENOMEM;
	}
	cut(ranges, n_ranges, p->pieces);
	for (size_t i = 0; i < n_ranges; i++)
		bytes += ranges[i].bytes;
	p->n_reads = bytes ? p->n_pieces * ((READ_BYTES + bytes - 1) / bytes) : 0;
	*ret = p;
	return 0;
}

struct prober *prober_free(struct prober *p)
{
	if (p)
		free(p->pieces);
	free(p);
	return NULL;
}

void prober_run(struct prober *p, struct probe *ret)
{
	*ret = (struct probe){0};
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512vnni"))
		ret->int8_tops = rate(p, int8_vnni512) * 1e-12;
	if (host_amx())
		ret->bf16_tflops = rate(p, bf16_amx) * 1e-12;
	else if (__builtin_cpu_supports("avx512bf16"))
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
	p->early = false;
	ret->read_gbps = rate(p, read_pieces) * 1e-9;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f")) {
		double early;

		p->early = true;
		early = rate(p, read_pieces) * 1e-9;
		ret->read_gbps = early > ret->read_gbps ? early : ret->read_gbps;
	}
#endif
}
