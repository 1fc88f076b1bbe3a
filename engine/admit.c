/* Who runs: the queue and the slots.
 *
 * Uids take turns in the queue, interactive requests before batch ones. A sequence is admitted when
 * a slot is free and the pool has room for its prompt and a little of its reply: the rest comes
 * page by page (schedule.c). Where there is no slot or no room, somebody who runs may have to give
 * way: who reads slowly, batch for interactive, a uid over its share for one within. It waits
 * again; its whole pages stay cached as long as there is room, so that it mostly goes on where it
 * was. */
#include "engine/engine_state.h"

#include <assert.h>

/* Tokens of the reply that admission wants room for. */
#define AHEAD_TOKENS 64

/* A reader that has been slow for so long must not keep pages from others. */
#define PAUSED_USEC 10000000

/* Who has waited so long at its turn is waited for. */
#define HOLD_USEC 10000000

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
	if (s->arrival == 0) {
		struct flow *f = sequence_flow(s);
		double now = e->turns[s->job->batch_priority];

		/* start-time fair queueing (Goyal, Vin and Chen 1996), a request a unit */
		s->arrival = ++e->arrivals;
		f->weight = s->job->weight ? s->job->weight : 1;
		s->turn = f->turn > now ? f->turn : now;
		f->turn = s->turn + 1.0 / f->weight;
	}
	s->queued_usec = engine_now_usec();
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
	if (s == e->layered.sequence)
		e->layered.sequence = NULL;
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
		sequence_flow(s)->n_running--;
	} else {
		unlink_sequence(&e->queue, s);
		e->n_queued--;
	}
	e->queue_moved = true;
}

/* Back to the queue: somebody before it lacks a page. */
void engine_preempt(struct engine *e, struct sequence *s)
{
	prefix_want(e->cache, &s->place);
	sequence_tenant(s)->gave_way = true;
	engine_withdraw(e, s);
	engine_enqueue(e, s);
	e->stats.preempted++;
}

void engine_attach(struct engine *e, struct sequence *s, bool restore)
{
	uint32_t n = s->n_tokens + (s->job->n_choices > 0); /* its last page need not run */

	if (sequence_echoes(s)) /* the rows that are to be told must run */
		n = s->n_echoed < n ? s->n_echoed : n;
	if (n > s->n_cached)
		s->n_cached = prefix_attach(
			e->cache, &s->place, s->slot, s->tokens, n, s->n_cached, restore);
	if (restore)
		prefix_unwant(e->cache, &s->place);
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
	bool alone = true;

	for (const struct sequence *r = e->running; r; r = r->next) {
		pages += wanted(e, r);
		alone = alone && r->paused_usec;
	}
	return pages <= prefix_room(e->cache, s->place.root, alone);
}

/* Into a slot, if there is one and room; else everything is as before. */
static bool try(struct engine *e, struct sequence *s)
{
	uint32_t seen = s->n_seen, reused = s->n_reused;

	if (e->n_running == e->options.max_sequences)
		return false;
	take_slot(e, s);
	engine_attach(e, s, false); /* what is to be copied has room, or is not copied */
	if (!fits(e, s)) {
		leave_slot(e, s);
		s->n_seen = seen;
		s->n_reused = reused;
		return false;
	}
	unlink_sequence(&e->queue, s);
	e->n_queued--;
	e->queue_moved = true;
	insert(&e->running, s);
	e->n_running++;
	sequence_flow(s)->n_running++;
	s->told_position = UINT32_MAX;
	if (s->turn > e->turns[s->job->batch_priority])
		e->turns[s->job->batch_priority] = s->turn;
	if (s->started_usec == 0)
		s->started_usec = engine_now_usec();
	return true;
}

static uint32_t n_running(const struct tenant *t)
{
	return t->flows[0].n_running + t->flows[1].n_running;
}

/* A uid's share of slots, or pages, among those who run and the sequence's own. */
static uint32_t share(const struct engine *e, const struct sequence *s, bool slots)
{
	uint32_t n = 0;

	for (const struct tenant *t = e->cache->tenants; t; t = t->next)
		n += !t->shared && (n_running(t) > 0 || t == sequence_tenant(s));
	if (n == 0)
		n = 1;
	return (slots ? e->options.max_sequences
		      : e->kv->n_pages - e->cache->shared->tenant->pages) /
	       n;
}

static uint32_t shown(const struct tenant *t)
{
	return t->pages - t->n_idle;
}

/* Has the sequence's uid more slots, or pages, than its share? */
bool engine_over(const struct engine *e, const struct sequence *s, bool slots)
{
	const struct tenant *t = sequence_tenant(s);

	return !s->held && (slots ? n_running(t) : shown(t)) > share(e, s, slots);
}

/* Would the sequence's uid be within its share with it? */
static bool under(const struct engine *e, const struct sequence *s, bool slots)
{
	const struct tenant *t = sequence_tenant(s);

	if (slots)
		return n_running(t) + 1 <= share(e, s, true);
	return shown(t) + engine_pages_for(&e->weights->model->config, &e->options,
				  (uint64_t)s->n_tokens + AHEAD_TOKENS) <=
	       share(e, s, false);
}

bool engine_paused_long(const struct sequence *s)
{
	return s->paused_usec && engine_now_usec() - s->paused_usec > PAUSED_USEC;
}

/* Does the running o make room for s, which waits: a slow reader, batch for interactive, a uid over
 * its share for one within? */
static bool yields(
	const struct engine *e, const struct sequence *o, const struct sequence *s, bool slots)
{
	if (engine_paused_long(o))
		return true;
	if (o->job->batch_priority != s->job->batch_priority)
		return o->job->batch_priority;
	return sequence_tenant(o) != sequence_tenant(s) && under(e, s, slots) &&
	       engine_over(e, o, slots);
}

/* Who makes room: a slow reader, else the last by rank. NULL: nobody, or it would not be enough. */
static struct sequence *who_yields(const struct engine *e, const struct sequence *s)
{
	bool slots = e->n_running == e->options.max_sequences;
	struct sequence *last = NULL;
	uint64_t need, room;

	need = engine_pages_for(
		&e->weights->model->config, &e->options, (uint64_t)s->n_tokens + AHEAD_TOKENS);
	room = prefix_room(e->cache, s->place.root, false);
	for (struct sequence *o = e->running; o; o = o->next) {
		if (!yields(e, o, s, slots)) {
			need += wanted(e, o);
			continue;
		}
		room += e->kv->slot_pages[o->slot] - e->kv->slot_first[o->slot];
		if (!last || !engine_paused_long(last))
			last = o;
	}
	return need <= room ? last : NULL;
}

/* By rank, but nobody waits for another uid's lack of pages; who has waited long is waited for. */
static void admit(struct engine *e)
{
	uint32_t most = e->options.max_per_uid;
	struct sequence *s, *next;

	for (struct tenant *t = e->cache->tenants; t; t = t->next) {
		t->passed_over = most > 0 && n_running(t) >= most;
		t->gave_way = false;
	}
	for (s = e->queue; s; s = next) {
		struct tenant *t = sequence_tenant(s);
		bool in = false;

		if (s->paused_usec) { /* it would have no use for it */
			next = s->next;
			continue;
		}
		in = !t->passed_over && try(e, s);
		while (!in && !t->passed_over) {
			struct sequence *v = who_yields(e, s);

			if (!v)
				break;
			engine_preempt(e, v);
			in = try(e, s);
		}
		next = e->queue;
		while (next && !sequence_before(s, next))
			next = next->next;
		if (in) {
			t->passed_over = most > 0 && n_running(t) >= most;
			continue;
		}
		if (!t->passed_over && engine_now_usec() - s->queued_usec > HOLD_USEC) {
			s->held = true;
			break;
		}
		t->passed_over = true;
	}
}

/* Tells whoever waits its place, when places have changed; not a reader that takes nothing. */
static void tell_places(struct engine *e)
{
	uint32_t position = 0;

	if (!e->queue_moved)
		return;
	e->queue_moved = false;
	for (struct sequence *s = e->queue; s; s = s->next, position++) {
		struct event *event;

		if (s->told_position == position || s->paused_usec || s->job->id == ENGINE_OWN_JOB)
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
