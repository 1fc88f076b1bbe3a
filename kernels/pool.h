/* A persistent team of threads that shares the items of one loop.
 *
 * The caller is thread 0 and works too. Items 0 … n - 1 are split into one contiguous range per
 * thread; each thread works through its own range in chunks and then helps with what the others
 * have not begun, so a thread that the kernel did not schedule delays nobody. Which thread runs an
 * item is therefore open: an item's result must not depend on it. Between two runs the workers spin
 * for some tens of microseconds, then sleep. */
#pragma once

#include <stdint.h>

#define POOL_THREADS_MAX 256

struct pool;

/* Items begin … end - 1, run by thread `thread` (0 … threads - 1, for scratch memory). */
struct pool_range {
	uint32_t begin, end;
	uint32_t thread;
};

/* threads: the caller included; 0 for all processors that this process may use; at most
 * POOL_THREADS_MAX. -ENOMEM, or what pthread_create says. */
int pool_new(uint32_t threads, struct pool **ret);
struct pool *pool_free(struct pool *p); /* accepts NULL, returns NULL; no run may be going on */

uint32_t pool_threads(const struct pool *p);

/* Runs fn over n_items items and returns when all are done; their writes are then visible. `chunk`
 * is the number of items taken at a time; 0 takes a thread's whole range at once. One run at a
 * time, and none from inside fn. */
void pool_run(struct pool *p, void (*fn)(void *arg, struct pool_range range), void *arg,
	uint32_t n_items, uint32_t chunk);
