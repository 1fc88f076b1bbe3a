/* Each step's part of everybody: deficit round-robin over the device's time.
 *
 * The requests of a uid are two flows, interactive and batch. A step is built around one of them,
 * the base: the interactive flow that generates with the fewest rows, which so gets all that it can
 * use. For what the base costs, each other flow is owed as much, by weight; it takes part with as
 * many rows as the step grows by for that, its sequences in turn, and what is left it is owed in
 * the next step. So a crowd slows a single stream down by its share and no more, on a processor,
 * where each row costs, as on a card, where the crowd mostly rides along for nothing.
 *
 * Prompts of the base come in chunks that let a step of its own streams take GAP times as long as
 * before there was a prompt, no longer, unless the prompt is about to take more than SLOWER times
 * its time alone. Where that leaves time for a few rows only, more go through a part of the layers
 * in each step (layered.c). Prompts of others are paid for like their rows. */
#include "engine/engine_state.h"

#include <assert.h>
#include <math.h>

#define GAP    2.4
#define SLOWER 2.4

/* A late prompt makes up for a so manieth of that in a step. */
#define CATCH_UP_STEPS 16

/* Fewer rows of a prompt than these, in a step, cost more each: they are layered. */
#define LAYERED_ROWS 12

/* An interactive flow counts so many times a batch one. */
#define INTERACTIVE_WEIGHT 3

/* While an interactive prompt is all that the base has, batch flows take part only every so many
 * steps: somebody waits for a first token. */
#define PATIENCE_STEPS 8

struct share {
	struct engine *e;
	struct cost_work work; /* so far */
	uint32_t prefill;      /* prompt rows left of options.prefill_tokens */
	uint32_t echo_rows;    /* rows left whose logits can be kept for echo */
};

static double weight_of(const struct flow *f, bool batch)
{
	return f->weight * (batch ? 1.0 : INTERACTIVE_WEIGHT);
}

static bool wants(const struct flow *f)
{
	return f->n_decode > 0 || f->n_prefill > 0;
}

/* Counts who wants what; attaches what the cache has got meanwhile. */
static void count(struct engine *e)
{
	for (struct tenant *t = e->cache->tenants; t; t = t->next)
		for (int k = 0; k < 2; k++)
			t->flows[k].n_decode = t->flows[k].n_prefill = 0;
	for (struct sequence *s = e->running; s; s = s->next) {
		s->n_rows = 0;
		s->cost = 0;
		if (s->paused_usec)
			continue;
		if (sequence_in_prefill(s)) {
			if (s != e->layered.sequence)
				engine_attach(e, s, true);
			sequence_flow(s)->n_prefill++;
		} else {
			sequence_flow(s)->n_decode++;
		}
	}
	for (struct sequence *s = e->running; s; s = s->next)
		if (!sequence_in_prefill(s) && (sequence_flow(s)->n_prefill == 0 || !s->settled))
			s->settled = s->n_cached;
}

/* Is a a better base than b? */
static bool better(const struct flow *a, const struct flow *b)
{
	if (!b || (a->n_decode > 0) != (b->n_decode > 0))
		return !b || a->n_decode > 0;
	return a->n_decode != b->n_decode ? a->n_decode < b->n_decode : a->owed > b->owed;
}

static struct flow *choose_base(const struct engine *e, bool *ret_batch)
{
	struct flow *base = NULL;

	*ret_batch = false;
	if (wants(&e->cache->shared->tenant->flows[0])) /* the shared prompt: others wait for it */
		return &e->cache->shared->tenant->flows[0];
	for (int k = 0; k < 2 && !base; k++) {
		for (struct tenant *t = e->cache->tenants; t; t = t->next)
			if (wants(&t->flows[k]) && better(&t->flows[k], base))
				base = &t->flows[k];
		*ret_batch = k == 1;
	}
	return base;
}

static void take(struct share *at, struct sequence *s, uint32_t n)
{
	struct cost_work with = cost_add(&at->e->cost, at->work, s->n_cached, n);

	s->n_rows = n;
	s->cost = cost_of(&at->e->cost, with) - cost_of(&at->e->cost, at->work);
	s->served = sequence_flow(s)->served = at->e->steps;
	at->work = with;
}

/* The layered rows go on, for about usec. */
static void take_layers(struct share *at, double usec)
{
	struct engine *e = at->e;
	struct sequence *s = e->layered.sequence;

	layered_plan(e, at->work, usec);
	s->n_rows = e->layered.part.n_rows;
	s->cost = layered_cost(e, at->work, layered_now(e));
	s->served = sequence_flow(s)->served = e->steps;
}

/* All that generate, or those that the flow is owed, who waited longest first. */
static void take_decode(struct share *at, struct flow *f, bool all)
{
	struct cost *cost = &at->e->cost;

	for (;;) {
		struct sequence *next = NULL;

		for (struct sequence *s = at->e->running; s; s = s->next)
			if (sequence_flow(s) == f && !s->paused_usec && s->n_rows == 0 &&
				!sequence_in_prefill(s) && (!next || s->served < next->served))
				next = s;
		if (!next || (!all && cost_rows(cost, at->work, next->n_cached, f->owed, 1) == 0))
			return;
		take(at, next, 1);
		if (!all)
			f->owed -= next->cost;
	}
}

/* Is the sequence's next page in the making by one before it that has rows in this step? Then it
 * waits for it: the page is there after the step, and costs nothing. */
static bool made_by_another(const struct engine *e, const struct sequence *s)
{
	uint32_t at = s->n_cached;

	if (at % KV_PAGE_TOKENS != 0 || s->n_tokens - at <= KV_PAGE_TOKENS || sequence_echoes(s))
		return false;
	for (const struct sequence *o = e->running; o; o = o->next) {
		uint32_t other = o->n_cached / KV_PAGE_TOKENS * KV_PAGE_TOKENS;

		if (o != s && o->n_rows > 0 && other == at && o->n_tokens - at >= KV_PAGE_TOKENS &&
			prefix_same_way(
				e->cache, &s->place, s->tokens + at, &o->place, o->tokens + at))
			return true;
	}
	return false;
}

/* Rows that the sequence, in prefill, can have of n. */
static uint32_t chunk(const struct share *at, const struct sequence *s, uint32_t n)
{
	uint32_t pending = sequence_pending(s), untold = 0;

	n = n < pending ? n : pending;
	n = n < at->prefill ? n : at->prefill;
	if (!sequence_echoes(s))
		return n;
	if (s->n_echoed > s->n_cached + 1)
		untold = s->n_echoed - 1 - s->n_cached;
	return n < untold + at->echo_rows ? n : untold + at->echo_rows;
}

/* What a row of the prompt, at its turn, costs in a full chunk alone. */
static double row_alone_usec(const struct engine *e, const struct sequence *s)
{
	const uint32_t full = e->options.prefill_tokens;
	struct cost_work none = {0};

	return cost_of(&e->cost, cost_add(&e->cost, none, s->n_cached, full)) / full;
}

/* What the prompt may add to a step beside streams: usec, or, where it is late, as much more as
 * makes up for a part of that, up to what lets the step take GAP times what the streams take now.
 */
static double usec_beside(const struct share *at, const struct sequence *s, double usec)
{
	const struct cost *c = &at->e->cost;
	const double streams = cost_of(c, at->work), most = (GAP - 1) * streams;
	double row, rate, enough;

	if (s->late_usec <= 0)
		return usec;
	row = (cost_of(c, cost_add(c, at->work, s->n_cached, LAYERED_ROWS)) - streams) /
	      LAYERED_ROWS;
	rate = SLOWER * row_alone_usec(at->e, s) / row;
	enough = (streams + s->late_usec / CATCH_UP_STEPS) / (rate - 1);
	if (rate <= 1 || enough > most)
		enough = most;
	return enough > usec ? enough : usec;
}

/* The rows that can be added for usec, of up to n; and where that are few, as many as the same
 * time in so many steps is enough for. They then go through the layers in so many. */
static uint32_t rows_beside(const struct share *at, const struct sequence *s, double usec,
	uint32_t n, uint32_t *ret_steps)
{
	const struct engine *e = at->e;
	const bool whole = e->layered.sequence || sequence_echoes(s);
	const uint32_t most = whole ? 1 : engine_layers(e);
	uint32_t rows = 0, at_once = 0;

	for (*ret_steps = 1; *ret_steps <= most; ++*ret_steps) {
		rows = cost_rows(&e->cost, at->work, s->n_cached, *ret_steps * usec, n);
		if (rows == n || rows >= LAYERED_ROWS)
			return rows;
		if (*ret_steps == 1)
			at_once = rows;
	}
	*ret_steps = 1;
	return at_once > 0 ? at_once : 1;
}

/* At most n rows of the prompt, none of which is layered so far, and no more than usec is enough
 * for (INFINITY: whatever they cost), beside the flow's streams as rows_beside(). Returns how many.
 */
static uint32_t take_chunk(
	struct share *at, struct sequence *s, uint32_t n, double usec, bool beside)
{
	uint32_t rows = chunk(at, s, n), steps = 1;

	if (beside && rows > 0)
		rows = rows_beside(at, s, usec, rows, &steps);
	else if (usec < INFINITY)
		rows = cost_rows(&at->e->cost, at->work, s->n_cached, usec, rows);
	if (rows == 0)
		return 0;
	if (sequence_echoes(s))
		at->echo_rows -= rows < at->echo_rows ? rows : at->echo_rows;
	at->prefill -= rows;
	if (steps > 1) {
		layered_begin(at->e, s, rows);
		take_layers(at, usec);
	} else {
		take(at, s, rows);
	}
	return rows;
}

/* At most n prompt rows of the flow, by rank, for up to *usec, which is less afterwards. With
 * `beside`, the first of the prompts is one beside the flow's streams. */
static void take_prefill(struct share *at, struct flow *f, uint32_t n, double *usec, bool beside)
{
	struct engine *e = at->e;

	for (struct sequence *s = e->running; s; s = s->next) {
		double most;

		if (sequence_flow(s) != f || s->paused_usec || s->n_rows > 0 ||
			!sequence_in_prefill(s) || made_by_another(e, s))
			continue;
		most = beside ? usec_beside(at, s, *usec) : *usec;
		if (s != e->layered.sequence)
			n -= take_chunk(at, s, n, most, beside);
		else if (beside || most >= layered_cost(e, at->work, 1))
			take_layers(at, most);
		if (s->n_rows == 0)
			continue;
		beside = false;
		*usec = most - s->cost;
	}
}

/* The part of one who is not the base. */
static void take_owed(struct share *at, struct flow *f, double earned)
{
	const struct engine *e = at->e;
	struct cost_work more = cost_add(&e->cost, at->work, 0, 1);
	double most = 2 * earned + cost_of(&e->cost, more) - cost_of(&e->cost, at->work);

	f->owed += earned;
	if (e->layered.sequence && sequence_flow(e->layered.sequence) == f &&
		most < layered_cost(e, at->work, 1))
		most = layered_cost(e, at->work, 1); /* else it would never go on */
	if (f->owed > most)
		f->owed = most;
	take_decode(at, f, false);
	take_prefill(at, f, at->prefill, &f->owed, false);
}

/* What the flow's streams took in a step before there was a prompt beside them. */
static double settled_usec(const struct share *at, const struct flow *f)
{
	struct cost_work w = {0};

	for (const struct sequence *s = at->e->running; s; s = s->next)
		if (sequence_flow(s) == f && s->n_rows > 0)
			w = cost_add(&at->e->cost, w, s->settled, 1);
	return cost_of(&at->e->cost, w);
}

static void take_base(struct share *at, struct flow *f, uint32_t n_prefill)
{
	uint32_t n = n_prefill < at->prefill ? at->prefill / (n_prefill ? n_prefill : 1) : 1;
	double usec = INFINITY;

	take_decode(at, f, true);
	if (at->work.rows > 0) {
		usec = GAP * settled_usec(at, f) - cost_of(&at->e->cost, at->work);
		take_prefill(at, f, at->prefill, &usec, true);
		return;
	}
	if (at->e->layered.sequence) /* whose ever they are: they hold a part of the chunk */
		take_layers(at, INFINITY);
	take_prefill(at, f, n, &usec, false);
}

void engine_share(struct engine *e)
{
	struct share at = {e, {0}, e->options.prefill_tokens, ECHO_ROWS};
	struct flow *base;
	uint32_t n_prefill = 0;
	bool batch = false;
	double cost, weight;

	e->steps++;
	count(e);
	/* who is paused holds up nobody: its rows begin again */
	if (e->layered.sequence && e->layered.sequence->paused_usec)
		e->layered.sequence = NULL;
	if (e->layered.sequence) {
		e->layered.part.to = e->layered.from = e->layered.part.layer;
		at.prefill -= e->layered.part.n_rows;
	}
	e->base = base = choose_base(e, &batch);
	if (!base)
		return;
	/* of equal rank: they divide the chunk */
	for (struct tenant *t = e->cache->tenants; t; t = t->next)
		n_prefill += t->flows[batch].n_prefill > 0;
	take_base(&at, base, n_prefill);
	base->owed = 0;
	cost = cost_of(&e->cost, at.work) + layered_cost(e, at.work, layered_now(e));
	weight = weight_of(base, batch);
	for (int k = 0; k < 2; k++) {
		for (struct tenant *t = e->cache->tenants; t; t = t->next) {
			struct flow *f = &t->flows[k];

			if (!wants(f))
				f->owed = 0;
			else if (k == 1 && !batch && base->n_decode == 0 &&
				 e->steps - f->served < PATIENCE_STEPS)
				continue;
			else if (f != base)
				take_owed(&at, f, cost * weight_of(f, k) / weight);
		}
	}
}

void engine_note_late(struct engine *e, uint64_t step_usec)
{
	for (struct sequence *s = e->running; s; s = s->next) {
		double rows = s->n_rows;

		if (sequence_flow(s) != e->base || s->n_rows == 0 || !sequence_in_prefill(s))
			continue;
		if (s == e->layered.sequence)
			rows *= (double)layered_now(e) / engine_layers(e);
		s->late_usec += (double)step_usec - SLOWER * row_alone_usec(e, s) * rows;
	}
}
