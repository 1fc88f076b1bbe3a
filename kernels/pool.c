/* The thread pool of the host's backends; its owner is the backend.
 *
 * A run is published by writing the job and then one ticket per thread: the run's number in the
 * high half, the first item not yet taken of that thread's range in the low half. Taking a chunk is
 * a compare-and-swap of a ticket, so a worker that wakes late finds the run's number changed or
 * nothing left and touches nothing, and the caller waits for taken items alone, never for threads.
 *
 * The job's fields are read before the swap that proves them current: a new run first takes the old
 * number out of every ticket and only then writes the fields, so whoever read a new field fails to
 * swap an old ticket. */
#include "kernels/pool.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NSEC  40000 /* how long a thread spins before it sleeps */
#define CACHE_LINE 64

struct pool_ticket {
	_Alignas(CACHE_LINE) _Atomic uint64_t next; /* run << 32 | first item not yet taken */
	_Atomic uint32_t end;
};

struct pool_worker {
	struct pool *pool;
	uint32_t thread;
	pthread_t id;
};

struct pool {
	/* The job; stable while items are outstanding. */
	_Alignas(CACHE_LINE) void (*_Atomic fn)(void *arg, struct pool_range range);
	void *_Atomic arg;
	_Atomic uint32_t chunk;

	_Alignas(CACHE_LINE) _Atomic uint32_t run; /* futex: the number of the latest run */
	_Atomic uint32_t sleepers;                 /* workers asleep on it, or about to be */
	atomic_bool stop;

	_Alignas(CACHE_LINE) _Atomic uint32_t outstanding; /* futex: items not yet done */
	atomic_bool caller_sleeps;

	atomic_bool busy; /* a run is going on: catches misuse */
	uint32_t n_threads;
	uint32_t n_workers; /* started */
	struct pool_worker *workers;
	struct pool_ticket *tickets; /* [n_threads] */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static uint64_t now_nsec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both may return early: callers look again. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Spins until *word differs from `value`; false when the time is over. */
static bool spin_while(_Atomic uint32_t *word, uint32_t value)
{
	uint64_t until = 0;

	for (;;) {
		for (int i = 0; i < 32; i++) {
			if (atomic_load_explicit(word, memory_order_acquire) != value)
				return true;
			relax();
		}
		uint64_t now = now_nsec();
		if (until == 0)
			until = now + SPIN_NSEC;
		else if (now >= until)
			return false;
	}
}

/* Takes chunks of one thread's range until none is left. */
static void work_range(struct pool *p, uint32_t run, struct pool_ticket *t, uint32_t thread)
{
	uint64_t seen = atomic_load_explicit(&t->next, memory_order_acquire);

	while ((uint32_t)(seen >> 32) == run) {
		uint32_t begin = (uint32_t)seen;
		uint32_t end = atomic_load_explicit(&t->end, memory_order_acquire);
		uint32_t chunk = atomic_load_explicit(&p->chunk, memory_order_acquire);
		void (*fn)(void *, struct pool_range) = atomic_load_explicit(
			&p->fn, memory_order_acquire);
		void *arg = atomic_load_explicit(&p->arg, memory_order_acquire);

		if (begin >= end)
			return;
		if (chunk != 0 && chunk < end - begin)
			end = begin + chunk;
		/* Acquire on failure, too: the fields are read again behind it. */
		if (!atomic_compare_exchange_weak_explicit(&t->next, &seen,
			    (uint64_t)run << 32 | end, memory_order_acq_rel, memory_order_acquire))
			continue;

		fn(arg, (struct pool_range){.begin = begin, .end = end, .thread = thread});

		uint32_t n = end - begin;
		if (atomic_fetch_sub(&p->outstanding, n) == n && atomic_load(&p->caller_sleeps))
			futex_wake(&p->outstanding, 1);
		seen = atomic_load_explicit(&t->next, memory_order_acquire);
	}
}

static void work(struct pool *p, uint32_t run, uint32_t thread)
{
	for (uint32_t i = 0; i < p->n_threads; i++)
		work_range(p, run, &p->tickets[(thread + i) % p->n_threads], thread);
}

static void *worker_main(void *arg)
{
	struct pool_worker *w = arg;
	struct pool *p = w->pool;
	uint32_t seen = 0;

	for (;;) {
		if (!spin_while(&p->run, seen)) {
			atomic_fetch_add(&p->sleepers, 1);
			while (atomic_load(&p->run) == seen)
				futex_wait(&p->run, seen);
			atomic_fetch_sub(&p->sleepers, 1);
		}
		seen = atomic_load(&p->run);
		if (atomic_load(&p->stop))
			return NULL;
		work(p, seen, w->thread);
	}
}

/* A new number that the workers see; `stop` was written before. */
static void announce(struct pool *p, uint32_t run)
{
	atomic_store(&p->run, run);
	if (atomic_load(&p->sleepers) > 0)
		futex_wake(&p->run, INT_MAX);
}

static uint32_t processors(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
		return (uint32_t)CPU_COUNT(&set);

	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (uint32_t)n : 1;
}

/* Workers take no signals: those belong to the thread that the program chose for them. */
static int start_workers(struct pool *p)
{
	sigset_t all, old;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (uint32_t i = 0; i + 1 < p->n_threads && r == 0; i++) {
		struct pool_worker *w = &p->workers[i];

		*w = (struct pool_worker){.pool = p, .thread = i + 1};
		r = -pthread_create(&w->id, NULL, worker_main, w);
		if (r == 0) {
			p->n_workers++;
			pthread_setname_np(w->id, "zeph-compute");
		}
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

int pool_new(uint32_t threads, struct pool **ret)
{
	struct pool *p;
	int r;

	if (threads == 0)
		threads = processors();
	if (threads > POOL_THREADS_MAX)
		threads = POOL_THREADS_MAX;

	p = aligned_alloc(CACHE_LINE, sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	*p = (struct pool){.n_threads = threads};
	p->tickets = aligned_alloc(CACHE_LINE, threads * sizeof(p->tickets[0]));
	p->workers = calloc(threads, sizeof(p->workers[0]));
	if (p->tickets == NULL || p->workers == NULL) {
		pool_free(p);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < threads; i++)
		p->tickets[i] = (struct pool_ticket){0};

	r = start_workers(p);
	if (r < 0) {
		pool_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct pool *pool_free(struct pool *p)
{
	if (p == NULL)
		return NULL;

	assert(!atomic_load(&p->busy));
	atomic_store(&p->stop, true);
	announce(p, atomic_load(&p->run) + 1);
	for (uint32_t i = 0; i < p->n_workers; i++)
		pthread_join(p->workers[i].id, NULL);
	free(p->workers);
	free(p->tickets);
	free(p);
	return NULL;
}

uint32_t pool_threads(const struct pool *p)
{
	return p->n_threads;
}

static void wait_done(struct pool *p)
{
	uint32_t left;

	while ((left = atomic_load(&p->outstanding)) != 0) {
		if (spin_while(&p->outstanding, left))
			continue;
		atomic_store(&p->caller_sleeps, true);
		while ((left = atomic_load(&p->outstanding)) != 0)
			futex_wait(&p->outstanding, left);
		atomic_store(&p->caller_sleeps, false);
	}
}

void pool_run(struct pool *p, void (*fn)(void *arg, struct pool_range range), void *arg,
	uint32_t n_items, uint32_t chunk)
{
	bool was_busy = atomic_exchange(&p->busy, true);

	assert(!was_busy);
	(void)was_busy;

	if (p->n_workers == 0 || n_items <= 1) {
		if (n_items > 0)
			fn(arg, (struct pool_range){.end = n_items});
		atomic_store(&p->busy, false);
		return;
	}

	uint32_t run = atomic_load_explicit(&p->run, memory_order_relaxed) + 1;

	for (uint32_t i = 0; i < p->n_threads; i++)
		atomic_store_explicit(&p->tickets[i].next, (uint64_t)run << 32 | UINT32_MAX,
			memory_order_relaxed);
	atomic_store_explicit(&p->fn, fn, memory_order_release);
	atomic_store_explicit(&p->arg, arg, memory_order_release);
	atomic_store_explicit(&p->chunk, chunk, memory_order_release);
	atomic_store(&p->outstanding, n_items);
	for (uint32_t i = 0; i < p->n_threads; i++) {
		struct pool_ticket *t = &p->tickets[i];
		uint64_t begin = (uint64_t)n_items * i / p->n_threads;
		uint64_t end = (uint64_t)n_items * (i + 1) / p->n_threads;

		atomic_store_explicit(&t->end, (uint32_t)end, memory_order_release);
		atomic_store_explicit(&t->next, (uint64_t)run << 32 | begin, memory_order_release);
	}
	announce(p, run);
	work(p, run, 0);
	wait_done(p);
	atomic_store(&p->busy, false);
}
