/* Memory of weights: small ones side by side on huge pages. A model of a hundred million parameters
 * has hundreds of matrices smaller than a huge page, and read from pages of 4 KiB they come at half
 * the speed of memory.
 *
 * The backend owns the slab that is being filled; every weight holds a reference on its slab, and
 * the last one gives it back. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define SLAB_BYTES ((size_t)32 << 20)

struct cpu_slab {
	uint8_t *map;
	size_t map_bytes;
	uint8_t *at, *end; /* what is not handed out yet */
	uint32_t refs;
};

static struct cpu_slab *slab_new(size_t bytes)
{
	struct cpu_slab *s;
	size_t whole, map_bytes;
	uintptr_t start;

	if (__builtin_add_overflow(bytes, HUGE_BYTES - 1, &whole))
		return NULL;
	whole = whole / HUGE_BYTES * HUGE_BYTES;
	whole = whole > SLAB_BYTES ? whole : SLAB_BYTES;
	if (__builtin_add_overflow(whole, HUGE_BYTES, &map_bytes))
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->map == MAP_FAILED) {
		free(s);
		return NULL;
	}
	s->map_bytes = map_bytes;
	start = ((uintptr_t)s->map + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
	s->at = s->map + (start - (uintptr_t)s->map);
	s->end = s->at + whole;
	madvise(s->at, whole, MADV_HUGEPAGE); /* advice: an old kernel's refusal changes nothing */
	s->refs = 1;
	return s;
}

struct cpu_slab *cpu_slab_unref(struct cpu_slab *s)
{
	if (!s)
		return NULL;
	assert(s->refs > 0);
	if (--s->refs == 0) {
		munmap(s->map, s->map_bytes);
		free(s);
	}
	return NULL;
}

void *cpu_slab_take(struct cpu *cpu, size_t bytes, struct cpu_slab **ret)
{
	struct cpu_slab *s = cpu->slab;
	uint8_t *p;

	if (bytes > SIZE_MAX - 63)
		return NULL;
	bytes = (bytes + 63) / 64 * 64;
	if (!s || bytes > (size_t)(s->end - s->at)) {
		s = slab_new(bytes);
		if (!s)
			return NULL;
		cpu_slab_unref(cpu->slab);
		cpu->slab = s;
	}
	p = s->at;
	s->at += bytes;
	s->refs++;
	*ret = s;
	return p;
}
