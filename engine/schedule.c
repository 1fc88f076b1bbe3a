/* Who runs: the queue, the slots, the pages, and each step's part of everybody.
 *
 * A sequence is admitted when a slot is free and the pool has room for its prompt and a little of
 * its reply: the rest comes page by page. Where none is left, the last by rank among the running
 * gives up its slot and waits again; its whole pages stay cached as long as there is room, so that
 * it mostly goes on where it was. The first by rank never gives way and may take every page that no
 * sequence shows: it always gets on, so everybody does. */
#include "engine/engine_state.h"

#include <assert.h>
#include <errno.h>

/* Tokens of the reply that admission wants room for. */
#define AHEAD_TOKENS 64

/* A reader that has been slow for so long must not keep pages from others. */
#define PAUSED_USEC 10000000

static void insert(struct sequence **list, struct sequence *s)
{
	while (*list && !sequence_before(s, *list))
		list = &(*list)->next;
	s->next = *list;
	*list = s;
}

static void unlink_sequence(struct sequence **list, struct sequence *s)
{
	while (*list != s)
		list = &(*list)->next;
	*list = s->next;
}

void engine_enqueue(struct engine *e, struct sequence *s)
{
	assert(s->slot == SLOT_NONE);
	if (s->arrival == 0)
		s->arrival = ++e->arrivals;
	insert(&e->queue, s);
	e->n_queued++;
	e->queue_moved = true;
}

static void take_slot(struct engine *e, struct sequence *s)
{
	s->slot = 0;
	while (e->slot_used[s->slot])
		s->slot++;
	e->slot_used[s->slot] = true;
}

static void leave_slot(struct engine *e, struct sequence *s)
{
	prefix_release(e->cache, &s->place, s->slot);
	e->slot_used[s->slot] = false;
	s->slot = SLOT_NONE;
	s->n_cached = 0;
	s->n_rows = 0;
}

void engine_withdraw(struct engine *e, struct sequence *s)
{
	if (s->scoring) {
		unlink_sequence(&e->scoring, s);
		s->scoring = false;
	} else if (s->slot != SLOT_NONE) {
		leave_slot(e, s);
		unlink_sequence(&e->running, s);
		e->n_running--;
	} else {
		unlink_sequence(&e->queue, s);
		e->n_queued--;
	}
	e->queue_moved = true;
}

/* Back to the queue: somebody before it lacks a page. */
static void preempt(struct engine *e, struct sequence *s)
{
	engine_withdraw(e, s);
	engine_enqueue(e, s);
	e->stats.preempted++;
}

void engine_attach(struct engine *e, struct sequence *s)
{
	uint32_t n = s->n_tokens + (s->job->n_choices > 0); /* its last page need not run */

	if (sequence_echoes(s)) /* the rows that are to be told must run */
		n = s->n_echoed < n ? s->n_echoed : n;
	if (n > s->n_cached)
		s->n_cached = prefix_attach(
			e->cache, &s->place, s->slot, s->tokens, n, s->n_cached);
	if (s->n_cached > s->n_seen) {
		s->n_reused += s->n_cached - s->n_seen;
		s->n_seen = s->n_cached;
	}
}

/* Pages that the sequence wants on top of those that it shows. */
static uint32_t wanted(const struct engine *e, const struct sequence *s)
{
	const struct kv_pool *kv = e->kv;
	uint64_t n = (uint64_t)s->job->n_prompt + s->job->generation.max_new_tokens;
	uint32_t pages, shown = kv->slot_pages[s->slot] - kv->slot_first[s->slot];

	if (n > (uint64_t)s->n_tokens + AHEAD_TOKENS)
		n = (uint64_t)s->n_tokens + AHEAD_TOKENS;
	if (n > e->options.context)
		n = e->options.context;
	pages = engine_pages_for(&e->weights->model->config, &e->options, n);
	return pages > shown ? pages - shown : 0;
}

/* Is there room for the sequence, which has a slot, beside what the running ones still want? */
static bool fits(const struct engine *e, const struct sequence *s)
{
	uint64_t pages = wanted(e, s);

	for (const struct sequence *r = e->running; r; r = r->next)
		pages += wanted(e, r);
	return pages <= prefix_room(e->cache, s->place.root, e->n_running == 0);
}

static void admit(struct engine *e)
{
	while (e->queue && e->n_running < e->options.max_sequences) {
		struct sequence *s = e->queue;
		uint32_t seen = s->n_seen, reused = s->n_reused;

		take_slot(e, s);
		engine_attach(e, s);
		if (!fits(e, s)) {
			leave_slot(e, s);
			s->n_seen = seen;
			s->n_reused = reused;
			break;
		}
		e->queue = s->next;
		e->n_queued--;
		e->queue_moved = true;
		insert(&e->running, s);
		e->n_running++;
		if (s->started_usec == 0)
			s->started_usec = engine_now_usec();
	}
}

/* Tells whoever waits for the first time its place, when places have changed. */
static void tell_places(struct engine *e)
{
	uint32_t position = 0;

	if (!e->queue_moved)
		return;
	e->queue_moved = false;
	for (struct sequence *s = e->queue; s; s = s->next, position++) {
		struct event *event;

		if (s->told_position == position || s->started_usec != 0)
			continue;
		event = event_new(EVENT_QUEUED, s->job->id);
		if (!event)
			return; /* a courtesy, not a promise */
		event->position = s->told_position = position;
		engine_emit(e, event);
	}
}

void engine_admit(struct engine *e)
{
	admit(e);
	tell_places(e);
}

/* Is the sequence's next page in the making by one before it that has rows in this step? Then it
 * waits for it: the page is there after the step, and costs nothing. */
static bool made_by_another(const struct engine *e, const struct sequence *s)
{
	uint32_t at = s->n_cached;

	if (at % KV_PAGE_TOKENS != 0 || s->n_tokens - at <= KV_PAGE_TOKENS || sequence_echoes(s))
		return false;
	for (const struct sequence *o = e->running; o != s; o = o->next) {
		uint32_t other = o->n_cached / KV_PAGE_TOKENS * KV_PAGE_TOKENS;

		if (o->n_rows > 0 && other == at && o->n_tokens - at >= KV_PAGE_TOKENS &&
			prefix_same_way(
				e->cache, &s->place, s->tokens + at, &o->place, o->tokens + at))
			return true;
	}
	return false;
}

/* The rows that everybody wants in this step: one of each that generates, then prompt chunks by
 * rank, as far as the budget goes. */
static void wish(struct engine *e)
{
	uint32_t budget = e->options.prefill_tokens, echo_rows = ECHO_ROWS;

	for (struct sequence *s = e->running; s; s = s->next) {
		bool prefill;

		s->n_rows = 0;
		if (s->paused_usec)
			continue;
		prefill = sequence_in_prefill(s);
		if (prefill)
			engine_attach(e, s);
		if (prefill && made_by_another(e, s))
			continue;
		s->n_rows = sequence_pending(s);
		if (!prefill)
			continue;
		s->n_rows = s->n_rows < budget ? s->n_rows : budget;
		if (sequence_echoes(s)) {
			uint32_t untold = s->n_echoed > s->n_cached + 1
						  ? s->n_echoed - 1 - s->n_cached
						  : 0;

			if (s->n_rows > untold + echo_rows)
				s->n_rows = untold + echo_rows;
			echo_rows -= s->n_rows > untold ? s->n_rows - untold : 0;
		}
		budget -= s->n_rows;
	}
}

/* Who gives way to s: a slow reader, else the last by rank; NULL: s itself is the last. */
static struct sequence *victim(const struct engine *e, const struct sequence *s)
{
	uint64_t now = engine_now_usec();
	struct sequence *last = NULL;

	for (struct sequence *o = e->running; o; o = o->next) {
		if (o != s && o->paused_usec && now - o->paused_usec > PAUSED_USEC)
			return o;
		if (o != s && !sequence_before(o, s))
			last = o;
	}
	return last;
}

/* Makes the pages for the sequence's rows; the first of the step may take every one that nobody
 * shows. 1: it has them; 0: it had to wait again. */
static int secure(struct engine *e, struct sequence *s, bool first)
{
	int r;

	kv_pool_slide(e->kv, s->slot, s->n_cached, e->cache->window);
	for (;;) {
		struct sequence *v;

		r = prefix_extend(e->cache, &s->place, s->slot, s->n_cached + s->n_rows, first);
		if (r != -ENOSPC)
			return r < 0 ? r : 1;
		v = victim(e, s);
		preempt(e, v ? v : s);
		if (!v)
			return 0;
	}
}

int engine_plan(struct engine *e)
{
	struct sequence *s, *next;
	uint32_t n_rows = 0;

	wish(e);
	for (s = e->running; s; s = next) {
		int r = s->n_rows > 0 ? secure(e, s, n_rows == 0) : 0;

		if (r < 0)
			return r;
		next = e->running; /* those before s stay, those after it may have gone */
		while (next && !sequence_before(s, next))
			next = next->next;
		n_rows += r > 0 ? s->n_rows : 0;
	}
	return (int)n_rows;
}
