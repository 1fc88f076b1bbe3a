/* A step's plan: who takes part (share.c), and the pages for it.
 *
 * Where the pool has no page for a sequence's rows, the weakest of the running gives way: a slow
 * reader, batch before interactive, a uid over its share of the pages before one within, then who
 * came last. The strongest never gives way and may, with nobody else running, take every page that
 * no sequence shows: it always gets on, so everybody does. */
#include "engine/engine_state.h"

#include <assert.h>
#include <errno.h>

/* Does o give way to s where pages are short? */
static bool weaker(const struct engine *e, const struct sequence *o, const struct sequence *s)
{
	bool over_o, over_s;

	if (engine_paused_long(o) != engine_paused_long(s))
		return engine_paused_long(o);
	if (o->job->batch_priority != s->job->batch_priority)
		return o->job->batch_priority;
	over_o = engine_over(e, o, false);
	over_s = engine_over(e, s, false);
	return over_o != over_s ? over_o : sequence_before(s, o);
}

/* The weakest of those who give way to s, or, with nobody else about, who is paused. */
static struct sequence *victim(const struct engine *e, const struct sequence *s, bool *ret_alone)
{
	struct sequence *weakest = NULL, *paused = NULL;

	*ret_alone = true;
	for (struct sequence *o = e->running; o; o = o->next) {
		if (o == s)
			continue;
		if (weaker(e, o, s) && (!weakest || weaker(e, o, weakest)))
			weakest = o;
		if (o->paused_usec)
			paused = o;
		else
			*ret_alone = false;
	}
	return weakest || !*ret_alone ? weakest : paused;
}

/* Makes the pages for the sequence's rows, from whoever gives way to it; where nobody does, it
 * waits again itself. */
static int secure(struct engine *e, struct sequence *s)
{
	kv_pool_slide(e->kv, s->slot, s->n_cached, e->cache->window);
	for (;;) {
		struct sequence *v;
		uint32_t n = s->n_cached + s->n_rows;
		bool alone;
		int r;

		r = prefix_extend(e->cache, &s->place, s->slot, n, false);
		if (r != -ENOSPC)
			return r;
		v = victim(e, s, &alone);
		if (!v && alone) {
			r = prefix_extend(e->cache, &s->place, s->slot, n, true);
			assert(r != -ENOSPC); /* the pool holds a context */
			return r;
		}
		engine_preempt(e, v ? v : s);
		if (!v)
			return 0;
	}
}

/* What a page of a prompt's beginning costs in a full chunk; 0: not known. */
static double page_usec(const struct engine *e)
{
	const struct cost *c = &e->cost;
	uint32_t n = e->options.prefill_tokens;
	struct cost_work one = cost_add(c, (struct cost_work){0}, 0, 1);

	if (c->points[0].rows == 0)
		return 0;
	return (cost_of(c, cost_add(c, one, 0, n)) - cost_of(c, one)) * KV_PAGE_TOKENS / n;
}

static struct cost_work with_rows_of(
	const struct engine *e, struct cost_work w, const struct sequence *s)
{
	return s == e->layered.sequence ? w : cost_add(&e->cost, w, s->n_cached, s->n_rows);
}

/* Divides the step's cost: a flow is charged as its rows alone would cost, each of its sequences as
 * its part of them. */
static void charge(struct engine *e)
{
	const struct cost_work none = {0};

	for (struct tenant *t = e->cache->tenants; t; t = t->next)
		t->flows[0].work = t->flows[1].work = none;
	e->work = none;
	e->batch_only = true;
	for (const struct sequence *s = e->running; s; s = s->next) {
		sequence_flow(s)->work = with_rows_of(e, sequence_flow(s)->work, s);
		e->work = with_rows_of(e, e->work, s);
		if (s->n_rows > 0 && !s->job->batch_priority)
			e->batch_only = false;
	}
	for (struct sequence *s = e->running; s; s = s->next) {
		const struct cost_work flow = sequence_flow(s)->work;

		s->cost = s == e->layered.sequence
				  ? layered_cost(e, flow, layered_now(e))
				  : cost_part(&e->cost, flow, with_rows_of(e, none, s));
	}
}

int engine_plan(struct engine *e)
{
	e->cache->compute_usec = page_usec(e);
	engine_share(e);
	for (struct sequence *s = e->running; s;) {
		int r;

		if (s->n_rows == 0 || s->secured == e->steps) {
			s = s->next;
			continue;
		}
		s->secured = e->steps;
		r = secure(e, s);
		if (r < 0)
			return r;
		s = e->running; /* it may have gone, and others */
	}
	charge(e);
	for (const struct sequence *s = e->running; s; s = s->next)
		if (s->n_rows > 0)
			return 1;
	return 0;
}
