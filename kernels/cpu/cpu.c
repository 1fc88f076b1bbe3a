/* The CPU backend: finds the processor's best instruction set, owns the thread pool and the
 * scratch memory, and fills the table of operations. The operations are in the files named in
 * cpu.h, their inner loops in the isa_*.c. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef ZEPH_X86
#include <cpuid.h>
#endif
#ifdef ZEPH_ARM
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels/host.h"

#ifdef ZEPH_X86
static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __builtin_cpu_supports("f16c");
}

/* gcc 12 knows no name for it. Leaf 7, subleaf 1, EAX bit 4. */
static bool has_avxvnni(void)
{
	unsigned a, b, c, d;

	return has_avx2() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
	       __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("avx512vnni");
}

static bool has_amx(void)
{
	return has_avx512() && __builtin_cpu_supports("avx512bf16") && host_amx();
}

/* Zen 5: family 26. */
static bool is_zen5(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx &&
	       __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 15) + (a >> 20 & 255) == 26;
}
#endif
#ifdef ZEPH_ARM
static bool has_dotprod(void)
{
	return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
}
#endif

/* What an instruction set has beside its table. */
#ifdef ZEPH_X86
static void with_bf16(struct cpu_isa *isa)
{
	if (__builtin_cpu_supports("avx512bf16"))
		isa->matmul_bf16 = matmul_bf16_avx512;
}
#endif

/* The best table that the processor has, up to the one that ZEPH_ISA names. */
static struct cpu_isa isa_choose(void)
{
	static const struct {
		const char *name;
		const struct cpu_isa *isa;
		bool (*there)(void);
		void (*with)(struct cpu_isa *isa);
	} ascending[] = {
		{"generic", &cpu_isa_generic, NULL, NULL},
#ifdef ZEPH_X86
		{"avx2", &cpu_isa_avx2, has_avx2, NULL},
		{"avxvnni", &cpu_isa_avxvnni, has_avxvnni, NULL},
		{"avx512", &cpu_isa_avx512, has_avx512, with_bf16},
		{"amx", &cpu_isa_avx512, has_amx, with_amx},
#endif
#ifdef ZEPH_ARM
		{"neon", &cpu_isa_neon, has_dotprod, NULL},
#endif
	};
	const char *most = getenv("ZEPH_ISA");
	struct cpu_isa isa;
	size_t n = sizeof(ascending) / sizeof(ascending[0]), best = 0;

#ifdef ZEPH_X86
	__builtin_cpu_init();
#endif
	if (most && most[0] != '\0') {
		size_t named = 0; /* another name: generic */

		for (size_t i = 0; i < n; i++)
			if (strcmp(most, ascending[i].name) == 0)
				named = i;
		n = named + 1;
	}
	for (size_t i = 1; i < n; i++)
		if (ascending[i].there())
			best = i;
	isa = *ascending[best].isa;
	if (ascending[best].with)
		ascending[best].with(&isa);
	return isa;
}

static void cpu_free(struct backend *b)
{
	struct cpu *cpu = cpu_of(b);

	if (!cpu)
		return;
	pool_free(cpu->pool);
	if (cpu->samplers)
		for (uint32_t i = 0; i < cpu->threads; i++)
			sampler_free(cpu->samplers[i]);
	free(cpu->samplers);
	cpu_slab_unref(cpu->slab);
	cpu_memory_free(cpu->arena, cpu->arena_bytes);
	cpu_memory_free(cpu->scratch, cpu->scratch_bytes * cpu->threads);
	free(cpu);
}

/* A buffer's size stands in the 64 bytes before it. */
static int cpu_buffer_new(struct backend *b, size_t n_floats, float **ret)
{
	size_t bytes;
	uint8_t *p;

	if (__builtin_mul_overflow(n_floats, sizeof(float), &bytes) ||
		__builtin_add_overflow(bytes, (size_t)64, &bytes))
		return cpu_no_memory(cpu_of(b), "a buffer", SIZE_MAX);
	p = cpu_memory_new(bytes);
	if (!p)
		return cpu_no_memory(cpu_of(b), "a buffer", bytes);
	memcpy(p, &bytes, sizeof(bytes));
	*ret = (float *)(void *)(p + 64);
	return 0;
}

static void cpu_buffer_free(struct backend *b, float *buffer)
{
	uint8_t *p;
	size_t bytes;

	(void)b;
	if (!buffer)
		return;
	p = (uint8_t *)buffer - 64;
	memcpy(&bytes, p, sizeof(bytes));
	cpu_memory_free(p, bytes);
}

static int cpu_buffer_read(struct backend *b, const float *buffer, float *host, size_t n_floats)
{
	(void)b;
	memcpy(host, buffer, n_floats * sizeof(float));
	return 0;
}

static int cpu_buffer_write(struct backend *b, float *buffer, const float *host, size_t n_floats)
{
	(void)b;
	memcpy(buffer, host, n_floats * sizeof(float));
	return 0;
}

/* Nothing to prepare: every operation is given the batch that it needs. */
static int cpu_batch_begin(struct backend *b, const struct batch *batch)
{
	(void)b;
	(void)batch;
	return 0;
}

/* Operations are done when they return. */
static int cpu_sync(struct backend *b)
{
	(void)b;
	return 0;
}

static const struct backend_ops cpu_ops = {
	.name = "cpu",
	.free = cpu_free,
	.weight_put = cpu_weight_put,
	.weight_free = cpu_weight_free,
	.weight_bytes = cpu_weight_bytes,
	.weight_rows = cpu_weight_rows,
	.weight_data = cpu_weight_data,
	.weight_layout = cpu_weight_layout,
	.weight_adopt = cpu_weight_adopt,
	.buffer_new = cpu_buffer_new,
	.buffer_free = cpu_buffer_free,
	.buffer_read = cpu_buffer_read,
	.buffer_write = cpu_buffer_write,
	.kv_new = cpu_kv_new,
	.kv_free = cpu_kv_free,
	.kv_zero = cpu_kv_zero,
	.kv_read = cpu_kv_read,
	.kv_touch = cpu_kv_touch,
	.kv_page_bytes = cpu_kv_page_bytes,
	.kv_save = cpu_kv_save,
	.kv_restore = cpu_kv_restore,
	.batch_begin = cpu_batch_begin,
	.embed = cpu_embed,
	.rmsnorm = cpu_rmsnorm,
	.matmul = cpu_matmul,
	.rope_kv = cpu_rope_kv,
	.attention = cpu_attention,
	.swiglu = cpu_swiglu,
	.add = cpu_add,
	.gather = cpu_gather,
	.sample = cpu_sample,
	.sync = cpu_sync,
	.qkv = cpu_qkv,
	.gate_up = cpu_gate_up,
	.matmul_add = cpu_matmul_add,
};

int backend_new_cpu(uint32_t threads, enum activations activations, struct backend **ret)
{
	const struct cpu_isa isa = isa_choose();

	return cpu_new(&isa, threads, activations, ret);
}

int cpu_new(const struct cpu_isa *isa, uint32_t threads, enum activations activations,
	struct backend **ret)
{
	struct cpu *cpu = calloc(1, sizeof(*cpu));
	int r;

	if (!cpu)
		return -ENOMEM;
	cpu->base.ops = &cpu_ops;
	cpu->isa = *isa;
	cpu->activations = activations;
	cpu->ahead.more = 2560;
#ifdef ZEPH_X86
	/* Two that were measured (SPEED.md) ask for less of their own accord than memory gives:
	 * with K types the one, with all types the other, an Intel server. */
	if (is_zen5()) {
		cpu->ahead.one_record = cpu->ahead.more = 5120;
	} else if (host_amx()) {
		cpu->ahead.one = 3072;
		cpu->ahead.one_record = 2048;
	}
#endif
	r = pool_new(threads, &cpu->pool);
	if (r < 0) {
		free(cpu);
		return r;
	}
	cpu->threads = pool_threads(cpu->pool);
	cpu->samplers = calloc(cpu->threads, sizeof(*cpu->samplers));
	for (uint32_t i = 0; cpu->samplers && i < cpu->threads; i++) {
		cpu->samplers[i] = sampler_new();
		if (!cpu->samplers[i]) {
			cpu_free(&cpu->base);
			return -ENOMEM;
		}
	}
	if (!cpu->samplers) {
		cpu_free(&cpu->base);
		return -ENOMEM;
	}
	cpu->base.device.kind = "cpu";
	host_describe(&cpu->base.device);
	snprintf(cpu->base.device.isa, sizeof(cpu->base.device.isa), "%s", cpu->isa.name);
	cpu->base.device.threads = cpu->threads;
	*ret = &cpu->base;
	return 0;
}
