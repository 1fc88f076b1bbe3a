/* The thread pool: every item runs exactly once, whatever the sizes and the scheduling. */
#include "kernels/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

struct counts {
	_Atomic uint32_t *items; /* [n] how often each ran */
	uint32_t n;
	uint32_t threads;
	uint32_t chunk;
	atomic_bool bad;
};

static void count(void *arg, struct pool_range r)
{
	struct counts *c = arg;

	if (r.begin >= r.end || r.end > c->n || r.thread >= c->threads)
		atomic_store(&c->bad, true);
	if (c->chunk != 0 && c->threads > 1 && c->n > 1 && r.end - r.begin > c->chunk)
		atomic_store(&c->bad, true);
	for (uint32_t i = r.begin; i < r.end && i < c->n; i++)
		atomic_fetch_add(&c->items[i], 1);
}

static void run_and_check(struct pool *p, uint32_t n, uint32_t chunk)
{
	struct counts c = {.n = n, .threads = pool_threads(p), .chunk = chunk};

	c.items = calloc(n + 1, sizeof(c.items[0]));
	assert_non_null(c.items);
	pool_run(p, count, &c, n, chunk);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(atomic_load(&c.items[i]), 1);
	assert_false(atomic_load(&c.bad));
	free(c.items);
}

static void each_item_runs_once(void **state)
{
	const uint32_t threads[] = {1, 2, 3, 8};
	const uint32_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 100, 1023};
	const uint32_t chunks[] = {0, 1, 2, 64, 5000};

	for (size_t t = 0; t < 4; t++) {
		struct pool *p;

		assert_int_equal(pool_new(threads[t], &p), 0);
		assert_int_equal(pool_threads(p), threads[t]);
		for (size_t s = 0; s < 9; s++)
			for (size_t c = 0; c < 5; c++)
				run_and_check(p, sizes[s], chunks[c]);
		assert_null(pool_free(p));
	}
}

/* Many short runs in a row: late workers of one run meet the publication of the next. */
static void short_runs_in_a_row_lose_nothing(void **state)
{
	struct pool *p;

	assert_int_equal(pool_new(3, &p), 0);
	for (uint32_t i = 0; i < 20000; i++)
		run_and_check(p, 2 + i % 11, i % 4);
	pool_free(p);
}

static void workers_wake_from_sleep(void **state)
{
	struct timespec pause = {.tv_nsec = 2000000}; /* well over the spinning time */
	struct pool *p;

	assert_int_equal(pool_new(4, &p), 0);
	for (uint32_t i = 0; i < 20; i++) {
		nanosleep(&pause, NULL);
		run_and_check(p, 64, 1);
	}
	pool_free(p);
}

static void slow_item(void *arg, struct pool_range r)
{
	struct timespec pause = {.tv_nsec = 3000000};
	_Atomic uint32_t *done = arg;

	if (r.begin == 63)
		nanosleep(&pause, NULL);
	atomic_fetch_add(done, r.end - r.begin);
}

static void caller_waits_for_a_slow_worker(void **state)
{
	_Atomic uint32_t done = 0;
	struct pool *p;

	assert_int_equal(pool_new(2, &p), 0);
	for (uint32_t i = 1; i <= 5; i++) {
		pool_run(p, slow_item, &done, 64, 1);
		assert_int_equal(atomic_load(&done), 64 * i);
	}
	pool_free(p);
}

static void zero_means_all_processors(void **state)
{
	struct pool *p;

	assert_int_equal(pool_new(0, &p), 0);
	assert_in_range(pool_threads(p), 1, POOL_THREADS_MAX);
	run_and_check(p, 1000, 0);
	pool_free(p);
	assert_null(pool_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_item_runs_once),
		cmocka_unit_test(short_runs_in_a_row_lose_nothing),
		cmocka_unit_test(workers_wake_from_sleep),
		cmocka_unit_test(caller_waits_for_a_slow_worker),
		cmocka_unit_test(zero_means_all_processors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
