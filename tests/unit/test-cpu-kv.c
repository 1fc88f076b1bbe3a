/* kernels/cpu/kv: that the memory of pages is found when it is asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "kernels/backend.h"

static long faults(void)
{
	struct rusage usage;

	assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
	return usage.ru_minflt;
}

/* Zeroes the pages; returns how often the system had to find memory for it. */
static long faults_of_writing(struct backend *b, struct kv *kv, uint32_t n_pages)
{
	long before = faults();

	for (uint32_t page = 0; page < n_pages; page++)
		assert_int_equal(b->ops->kv_zero(b, kv, page), 0);
	return faults() - before;
}

/* Whether the system finds memory when it is asked to (an old kernel, an emulator do not); and
 * whether faults then tell of it, which they do not where a sanitizer's own memory is found. */
static void memory_can_be_found(bool *ret_asked, bool *ret_told)
{
	const size_t bytes = (size_t)4 << 20;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long before;

	assert_true(p != MAP_FAILED);
	*ret_asked = madvise(p, bytes, 23 /* MADV_POPULATE_WRITE */) == 0;
	before = faults();
	memset(p, 1, bytes);
	*ret_told = faults() - before < 2;
	munmap(p, bytes);
}

static void touched_pages_are_there_and_as_they_were(void **state)
{
	/* 8 KiB a page and layer: 256 of them, or what is left of those asked for, at a time */
	const struct kv_shape shape = {4, 896, 2, 64, DTYPE_F16};
	struct backend *b = NULL;
	uint8_t *wanted, *got;
	struct kv *kv;
	bool asked, told;
	size_t bytes;
	int calls = 0;

	(void)state;
	memory_can_be_found(&asked, &told);
	assert_int_equal(backend_new_cpu(1, ACTIVATIONS_FAST, &b), 0);
	assert_int_equal(b->ops->kv_new(b, &shape, &kv), 0);
	assert_true(faults_of_writing(b, kv, 500) > 5);
	b->ops->kv_free(b, kv);

	assert_int_equal(b->ops->kv_new(b, &shape, &kv), 0);
	bytes = b->ops->kv_page_bytes(kv);
	wanted = malloc(bytes);
	got = calloc(1, bytes);
	assert_non_null(wanted);
	assert_non_null(got);
	for (size_t i = 0; i < bytes; i++)
		wanted[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(b->ops->kv_restore(b, kv, 3, wanted), 0);
	while (b->ops->kv_touch(b, kv, 500))
		calls++;
	assert_int_equal(calls, asked ? 2 * 4 : 0);
	assert_int_equal(b->ops->kv_save(b, kv, 3, got), 0);
	assert_memory_equal(got, wanted, bytes);
	assert_true(faults_of_writing(b, kv, 500) < 2 || !told);
	while (b->ops->kv_touch(b, kv, 896))
		calls++;
	assert_int_equal(calls, asked ? 4 * 4 : 0);
	assert_true(faults_of_writing(b, kv, 896) < 2 || !told);
	free(wanted);
	free(got);
	b->ops->kv_free(b, kv);
	backend_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(touched_pages_are_there_and_as_they_were),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
