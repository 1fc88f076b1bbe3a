/* The host as a device: its name, its memory, and allocations that say why they failed. */
#include "kernels/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#define ALIGNMENT 64

static uint64_t memory_bytes(int which)
{
	long pages = sysconf(which), page = sysconf(_SC_PAGESIZE);

	return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

/* "model name	: AMD EPYC" on x86; other processors have other words or none. */
static void processor_name(char *name, size_t size)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(name, size, "processor");
	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL) {
		char *colon = strchr(line, ':');

		if (colon == NULL ||
			(strncmp(line, "model name", 10) != 0 && strncmp(line, "Model", 5) != 0))
			continue;
		colon++;
		colon += strspn(colon, " \t");
		colon[strcspn(colon, "\n")] = '\0';
		if (colon[0] != '\0')
			snprintf(name, size, "%.*s", (int)size - 1, colon);
		break;
	}
	fclose(f);
}

/* Leaf 7, EDX: bit 22 bf16, bit 24 the registers. */
bool host_amx(void)
{
#if defined(__x86_64__)
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) &&
	       syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
	return false;
#endif
}

void host_describe(struct backend_device *device)
{
	processor_name(device->name, sizeof(device->name));
	device->memory_bytes = memory_bytes(_SC_PHYS_PAGES);
}

void *host_alloc(size_t count, size_t size, const char *what, char *error, size_t error_size)
{
	size_t bytes, padded;
	void *p = NULL;

	if (__builtin_mul_overflow(count, size, &bytes) ||
		__builtin_add_overflow(bytes, ALIGNMENT, &padded)) {
		snprintf(error, error_size, "%s of %zu x %zu bytes is more than an address holds",
			what, count, size);
		return NULL;
	}
	padded = padded / ALIGNMENT * ALIGNMENT;
	if (posix_memalign(&p, ALIGNMENT, padded) != 0) {
		snprintf(error, error_size, "no memory for %s: %zu bytes wanted, %llu free", what,
			bytes, (unsigned long long)memory_bytes(_SC_AVPHYS_PAGES));
		return NULL;
	}
	memset(p, 0, padded);
	return p;
}
