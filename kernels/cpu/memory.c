/* Memory of the CPU backend: large blocks come from the kernel on huge pages, so that a pass over
 * the weights does not spend its time on page tables. */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define MAP_AT ((size_t)1 << 20) /* from here on by mmap */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; libc's headers may be older */
#endif

void *cpu_memory_new(size_t bytes)
{
	void *p;

	if (bytes < MAP_AT) {
		const size_t size = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;

		p = aligned_alloc(64, size);
		if (p)
			memset(p, 0, size);
		return p;
	}
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE); /* advice: an old kernel's refusal changes nothing */
	return p;
}

void cpu_memory_free(void *p, size_t bytes)
{
	if (!p)
		return;
	if (bytes < MAP_AT)
		free(p);
	else
		munmap(p, bytes);
}

bool cpu_memory_touch(size_t block_bytes, void *p, size_t bytes)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	const size_t before = (uintptr_t)p % page;

	return block_bytes >= MAP_AT &&
	       madvise((uint8_t *)p - before, bytes + before, MADV_POPULATE_WRITE) == 0;
}

int cpu_no_memory(struct cpu *cpu, const char *what, size_t bytes)
{
	struct sysinfo info = {0};

	sysinfo(&info);
	snprintf(cpu->base.error, sizeof(cpu->base.error),
		"no memory for %s: %zu bytes wanted, %llu free", what, bytes,
		(unsigned long long)info.freeram * info.mem_unit);
	return -ENOMEM;
}

/* Replaces a block by one of at least `bytes`, half as much again to spare. */
static int grow(struct cpu *cpu, const char *what, uint8_t **block, size_t *have, size_t bytes)
{
	size_t size;
	uint8_t *p;

	if (bytes <= *have)
		return 0;
	if (__builtin_add_overflow(bytes, bytes / 2, &size))
		return cpu_no_memory(cpu, what, bytes);
	p = cpu_memory_new(size);
	if (!p)
		return cpu_no_memory(cpu, what, size);
	cpu_memory_free(*block, *have);
	*block = p;
	*have = size;
	return 0;
}

int cpu_arena(struct cpu *cpu, size_t bytes)
{
	return grow(cpu, "activations", &cpu->arena, &cpu->arena_bytes, bytes);
}

int cpu_scratch(struct cpu *cpu, size_t bytes)
{
	const size_t each = (bytes + bytes / 2 + 127) / 128 * 128;
	size_t total;
	uint8_t *p;

	if (bytes <= cpu->scratch_bytes)
		return 0;
	if (__builtin_mul_overflow(each, cpu->threads, &total))
		return cpu_no_memory(cpu, "scratch", bytes);
	p = cpu_memory_new(total);
	if (!p)
		return cpu_no_memory(cpu, "scratch", total);
	cpu_memory_free(cpu->scratch, cpu->scratch_bytes * cpu->threads);
	cpu->scratch = p;
	cpu->scratch_bytes = each;
	return 0;
}
