/* Blocks, warps and lanes on the CPU: fibers, barriers, exchanges, shared memory, cp.async.
 *
 * One block runs at a time. Its runnable fibers stand in a list; which one goes on is drawn from
 * the seed at every stop, so that code that relies on an order finds another one. A block whose
 * fibers all wait has a barrier that not all reach: it is told with the places where they wait.
 *
 * With SHIM_ASAN the kernels are under ASan, which is told of each switch; this file itself is not,
 * for speed. */
#include "shim_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <vector>

#include "fiber.h"

#ifdef SHIM_ASAN
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES (256 * 1024)
#else
#define STACK_BYTES (128 * 1024)
#endif

namespace shim
{
enum state { RUNNABLE, AT_BARRIER, AT_EXCHANGE, DONE };

struct copy {
	void *to;
	const void *from;
	size_t bytes;
};

struct fiber : lane {
	void *stack, *sp;
	void *fake_stack; /* ASan's */
	state at;
	const char *kind, *file; /* where it waits */
	int line;
	unsigned mask;
	std::vector<copy> copies;      /* cp.async not delivered yet, in order */
	std::vector<size_t> committed; /* group i ends before copies[committed[i]] */
};

/* Of a warp: the lanes that wait in an exchange, and those that have ended. */
struct warp_state {
	unsigned waiting, done;
};
static warp_state warps[1024 / WARP];

lane *self;
dim3 grid, block;
uint3 block_index;

/* Kept between launches, and reachable at exit. */
static std::vector<fiber *> &fibers = *new std::vector<fiber *>;
static std::vector<unsigned> runnable;
static fiber *current;
static void *scheduler_sp;
static unsigned n_threads, n_done, n_at_barrier;
static fiber *first_at_barrier;
static const kernel *running;
static const void *running_args;
static uint64_t random_state = 1;

static char *dynamic_memory;
static size_t dynamic_bytes, static_bytes, shared_limit;
static std::map<const void *, std::pair<char *, size_t>> statics;

#ifdef SHIM_ASAN
static void *scheduler_fake;
static const void *scheduler_bottom;
static size_t scheduler_size;
#endif

void fail(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "shim: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	if (running && current)
		fprintf(stderr, " (block %u,%u,%u thread %u of %s)", block_index.x, block_index.y,
			block_index.z, current->index, running->name);
	fprintf(stderr, "\n");
	fflush(stderr);
	abort();
}

uint64_t random_next(void)
{
	/* splitmix64 (Steele, Lea and Flood 2014) */
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void random_seed(uint64_t seed)
{
	random_state = seed;
}

/* Back to the scheduler until chosen again. */
static void leave(bool for_good)
{
	fiber *f = current;

#ifdef SHIM_ASAN
	__sanitizer_start_switch_fiber(
		for_good ? NULL : &f->fake_stack, scheduler_bottom, scheduler_size);
#endif
	(void)for_good;
	shim_switch(&f->sp, scheduler_sp);
#ifdef SHIM_ASAN
	__sanitizer_finish_switch_fiber(f->fake_stack, &scheduler_bottom, &scheduler_size);
#endif
}

static void resume(fiber *f)
{
	current = f;
	self = f;
#ifdef SHIM_ASAN
	__sanitizer_start_switch_fiber(&scheduler_fake, f->stack, STACK_BYTES);
#endif
	shim_switch(&scheduler_sp, f->sp);
#ifdef SHIM_ASAN
	__sanitizer_finish_switch_fiber(scheduler_fake, NULL, NULL);
#endif
	current = NULL;
	self = NULL;
}

static void entry(void)
{
#ifdef SHIM_ASAN
	__sanitizer_finish_switch_fiber(NULL, &scheduler_bottom, &scheduler_size);
#endif
	running->call(running_args);
	if (n_at_barrier > 0)
		fail("divergent barrier: a thread ended while thread %u waits at %s:%d",
			first_at_barrier->index, first_at_barrier->file, first_at_barrier->line);
	if (warps[current->warp].waiting)
		for (unsigned i = 0; i < WARP; i++) {
			const fiber *o = fibers[current->warp * WARP + i];

			if (warps[current->warp].waiting >> i & 1 && o->mask >> current->number & 1)
				fail("%s at %s:%d: lane %u of mask %08x has ended", o->kind,
					o->file, o->line, current->number, o->mask);
		}
	warps[current->warp].done |= 1u << current->number;
	current->at = DONE;
	n_done++;
	leave(true);
	fail("a thread that ended was resumed");
}

static void make_runnable(unsigned index)
{
	fibers[index]->at = RUNNABLE;
	runnable.push_back(index);
}

void barrier(const char *file, int line)
{
	fiber *f = current;

	if (n_done > 0)
		fail("divergent barrier: at %s:%d, after %u threads have ended", file, line,
			n_done);
	f->at = AT_BARRIER;
	f->file = file;
	f->line = line;
	if (n_at_barrier == 0)
		first_at_barrier = f;
	if (first_at_barrier->line != line ||
		(first_at_barrier->file != file && strcmp(first_at_barrier->file, file) != 0))
		fail("divergent barrier: at %s:%d, while thread %u waits at %s:%d", file, line,
			first_at_barrier->index, first_at_barrier->file, first_at_barrier->line);
	if (++n_at_barrier == n_threads) {
		n_at_barrier = 0;
		for (unsigned i = 0; i < n_threads; i++)
			make_runnable(i);
	}
	leave(false);
}

void exchange(const char *kind, unsigned mask, const char *file, int line,
	void (*run)(lane **lanes, unsigned mask, unsigned arg), unsigned arg)
{
	fiber *f = current;
	warp_state &w = warps[f->warp];
	const unsigned first = f->warp * WARP, me = 1u << f->number;

	if (!(mask & me))
		fail("%s at %s:%d: lane %u is not in its mask %08x", kind, file, line, f->number,
			mask);
	if (mask & w.done)
		fail("%s at %s:%d: lane %d of mask %08x is missing", kind, file, line,
			__builtin_ctz(mask & w.done), mask);
	f->at = AT_EXCHANGE;
	f->kind = kind;
	f->mask = mask;
	f->file = file;
	f->line = line;
	/* One of the lanes of the mask that wait stands for all of them. */
	if (mask & w.waiting) {
		const unsigned i = (unsigned)__builtin_ctz(mask & w.waiting);
		const fiber *o = fibers[first + i];

		if (o->mask != mask || o->line != line ||
			(o->kind != kind && strcmp(o->kind, kind) != 0))
			fail("%s at %s:%d with mask %08x, while lane %u waits in %s at %s:%d with "
			     "mask %08x",
				kind, file, line, mask, i, o->kind, o->file, o->line, o->mask);
	}
	w.waiting |= me;
	if ((w.waiting & mask) == mask) {
		if (run) {
			lane *lanes[WARP];

			for (unsigned i = 0; i < WARP; i++)
				lanes[i] = fibers[first + i];
			run(lanes, mask, arg);
		}
		w.waiting &= ~mask;
		for (unsigned rest = mask; rest != 0; rest &= rest - 1)
			make_runnable(first + (unsigned)__builtin_ctz(rest));
	}
	leave(false);
}

void shfl_run(lane **lanes, unsigned mask, unsigned how)
{
	for (unsigned i = 0; i < WARP; i++) {
		struct {
			uint64_t value;
			uint32_t operand, width;
		} in;
		unsigned from, begin;

		if (!(mask >> i & 1))
			continue;
		memcpy(&in, lanes[i]->in, sizeof(in));
		if (in.width == 0 || in.width > WARP || (in.width & (in.width - 1)) != 0)
			fail("shuffle: a width of %u", in.width);
		begin = i / in.width * in.width;
		switch (how) {
		case SHFL_INDEX: from = begin + in.operand % in.width; break;
		case SHFL_UP: from = i >= begin + in.operand ? i - in.operand : i; break;
		case SHFL_DOWN:
			from = i + in.operand < begin + in.width ? i + in.operand : i;
			break;
		default: from = i ^ in.operand; from = from < begin + in.width ? from : i;
		}
		if (!(mask >> from & 1))
			fail("shuffle: lane %u reads lane %u, which is not in the mask %08x", i,
				from, mask);
		memcpy(lanes[i]->out, lanes[from]->in, 8);
	}
}

void ballot_run(lane **lanes, unsigned mask, unsigned)
{
	unsigned all = 0;

	for (unsigned i = 0; i < WARP; i++)
		if (mask >> i & 1)
			all |= (unsigned)(lanes[i]->in[0] != 0) << i;
	for (unsigned i = 0; i < WARP; i++)
		if (mask >> i & 1)
			memcpy(lanes[i]->out, &all, sizeof(all));
}

/* Shared memory, to the byte: all ones is a NaN in f32, f16, bf16 and f64. */

static char *fresh(size_t bytes)
{
	void *p = NULL;

	if (posix_memalign(&p, 16, bytes) != 0)
		fail("no memory");
	memset(p, 0xff, bytes);
	return (char *)p;
}

void *shared_dynamic(void)
{
	if (!dynamic_memory)
		fail("dynamic shared memory is used, but the launch gives none");
	return dynamic_memory;
}

void *shared_static(const void *key, size_t bytes)
{
	auto &at = statics[key];

	if (!at.first) {
		static_bytes += bytes;
		if (static_bytes + dynamic_bytes > shared_limit)
			fail("%zu bytes of shared memory, of %zu", static_bytes + dynamic_bytes,
				shared_limit);
		at.first = fresh(bytes);
		at.second = bytes;
	}
	return at.first;
}

void check_aligned(const void *p, size_t alignment, const char *what)
{
	if ((uintptr_t)p % alignment != 0)
		fail("misaligned: %s at %p, which is no multiple of %zu", what, p, alignment);
}

void copy_async(void *to, const void *from, size_t bytes)
{
	if (bytes != 4 && bytes != 8 && bytes != 16)
		fail("cp.async of %zu bytes", bytes);
	check_aligned(to, bytes, "cp.async to shared memory");
	check_aligned(from, bytes, "cp.async from global memory");
	for (size_t i = 0; i < bytes; i++)
		(void)((const volatile char *)from)[i];
	memset(to, 0xff, bytes); /* who reads it before the wait has NaN */
	current->copies.push_back({to, from, bytes});
}

void copy_async_commit(void)
{
	current->committed.push_back(current->copies.size());
}

void copy_async_wait(unsigned groups_left)
{
	fiber *f = current;

	if (f->committed.size() <= groups_left)
		return;
	size_t groups = f->committed.size() - groups_left, n = f->committed[groups - 1];
	for (size_t i = 0; i < n; i++)
		memcpy(f->copies[i].to, f->copies[i].from, f->copies[i].bytes);
	f->copies.erase(f->copies.begin(), f->copies.begin() + (long)n);
	f->committed.erase(f->committed.begin(), f->committed.begin() + (long)groups);
	for (size_t &end : f->committed)
		end -= n;
}

static void *stack_new(void)
{
	void *p = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("no memory for a stack");
	return p;
}

static void run_block(void)
{
	runnable.clear();
	n_done = n_at_barrier = 0;
	memset(warps, 0, sizeof(warps));
	for (unsigned i = 0; i < n_threads; i++) {
		fiber *f;

		if (i == fibers.size()) {
			fibers.push_back(new fiber());
			fibers[i]->stack = stack_new();
		}
		f = fibers[i];
		f->thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
		f->index = i;
		f->number = i % WARP;
		f->warp = i / WARP;
		f->copies.clear();
		f->committed.clear();
		f->sp = fiber_prepare(f->stack, STACK_BYTES, entry);
		f->fake_stack = NULL;
		make_runnable(i);
	}
	dynamic_memory = dynamic_bytes > 0 ? fresh(dynamic_bytes) : NULL;
	static_bytes = 0;
	while (!runnable.empty()) {
		size_t pick = random_next() % runnable.size();
		unsigned index = runnable[pick];

		runnable[pick] = runnable.back();
		runnable.pop_back();
		resume(fibers[index]);
	}
	if (n_done < n_threads) {
		for (unsigned i = 0; i < n_threads; i++) {
			fiber *f = fibers[i];

			if (f->at == AT_BARRIER)
				fprintf(stderr, "shim: thread %u waits in __syncthreads at %s:%d\n",
					i, f->file, f->line);
			else if (f->at == AT_EXCHANGE)
				fprintf(stderr, "shim: thread %u waits in %s at %s:%d, mask %08x\n",
					i, f->kind, f->file, f->line, f->mask);
		}
		fail("divergent barrier: all threads of %s wait", running->name);
	}
	free(dynamic_memory);
	for (auto &s : statics)
		free(s.second.first);
	statics.clear();
}

void run_grid(const kernel *k, const void *args, dim3 g, dim3 b, size_t shared, size_t limit)
{
	std::vector<uint64_t> order((size_t)g.x * g.y * g.z);

	grid = g;
	block = b;
	n_threads = b.x * b.y * b.z;
	running = k;
	running_args = args;
	dynamic_bytes = shared;
	shared_limit = limit;
	for (size_t i = 0; i < order.size(); i++)
		order[i] = i;
	for (size_t i = order.size(); i > 1; i--)
		std::swap(order[i - 1], order[random_next() % i]);
	for (uint64_t at : order) {
		block_index = {(unsigned)(at % g.x), (unsigned)(at / g.x % g.y),
			(unsigned)(at / g.x / g.y)};
		run_block();
	}
	running = NULL;
}
} // namespace shim
