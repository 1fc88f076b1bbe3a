/* Layered prefill: see struct layered. What it costs, how far it goes in a step, what was learnt.
 */
#include "engine/engine_state.h"

/* So much longer a step may be where that brings the layered rows through. */
#define TO_BE_THROUGH 1.07

uint32_t engine_layers(const struct engine *e)
{
	return e->weights->model->config.n_layers;
}

uint32_t layered_now(const struct engine *e)
{
	return e->layered.sequence ? e->layered.part.to - e->layered.from : 0;
}

double layered_cost(const struct engine *e, struct cost_work work, uint32_t n_layers)
{
	const struct layered *l = &e->layered;
	struct cost_work with;

	if (n_layers == 0)
		return 0;
	with = cost_add(&e->cost, work, l->sequence->n_cached, l->part.n_rows);
	return (cost_of(&e->cost, with) - cost_of(&e->cost, work)) * n_layers / engine_layers(e);
}

void layered_begin(struct engine *e, struct sequence *s, uint32_t n_rows)
{
	e->layered.sequence = s;
	e->layered.part = (struct forward_part){.n_rows = n_rows};
	e->layered.from = 0;
	e->layered.n_begun++;
}

void layered_plan(struct engine *e, struct cost_work work, double usec)
{
	struct layered *l = &e->layered;
	/* none where a pass was stopped before the output */
	const uint32_t left = engine_layers(e) - l->from;
	double layers = usec / layered_cost(e, work, 1) + 0.5;

	if (layers < 1)
		layers = 1;
	l->usec = usec;
	l->part.to = l->from + (layers < left ? (uint32_t)layers : left);
}

/* After a layer with the layered rows: do they go through the next as well? As it was planned, but
 * where the step is behind its time by now, not, and where it is ahead, rather. */
static void go_on_or_not(struct engine *e, uint32_t layer)
{
	struct layered *l = &e->layered;
	const uint32_t all = engine_layers(e);
	const double streams = cost_of(&e->cost, e->work), one = layered_cost(e, e->work, 1);
	const double so_far = (double)(l->with_usec + l->without_usec);
	const double end = streams + l->usec;
	double without = (streams - (double)l->output_usec) / all; /* usec of a layer */
	double rest;

	if (l->from > 0 && (double)l->without_usec > without * l->from)
		without = (double)l->without_usec / l->from; /* they are slower than told */
	rest = without * (all - layer) + (double)l->output_usec;
	if (so_far + rest + one * (all - layer) <= TO_BE_THROUGH * end)
		l->part.to = all;
	else if (so_far + rest + one / 2 > end)
		l->part.to = layer;
	else if (l->part.to == layer)
		l->part.to = layer + 1;
}

int layered_watch(struct engine *e, uint32_t layer)
{
	struct layered *l = &e->layered;
	const bool with = layer > l->from && layer == l->part.layer; /* so was the one before it */
	int r = 0;

	if (layered_now(e) == 0)
		return 0;
	if (layer == 0) {
		l->with_usec = l->without_usec = 0;
		l->mark_usec = e->clock();
	} else if (with || layer == l->from || layer == engine_layers(e)) {
		struct backend *b = e->weights->layers[layer - 1].backend;
		uint64_t now;

		r = b->ops->sync(b);
		now = e->clock();
		*(with ? &l->with_usec : &l->without_usec) += now - l->mark_usec;
		l->mark_usec = now;
		if (with)
			go_on_or_not(e, layer);
	}
	return r;
}

void layered_note(struct engine *e, uint64_t step_usec)
{
	struct layered *l = &e->layered;
	const uint32_t all = engine_layers(e), n = layered_now(e);

	if (n == 0) {
		cost_note(&e->cost, e->work, step_usec);
		return;
	}
	l->output_usec = step_usec - l->with_usec - l->without_usec;
	if (4 * n >= all)
		cost_note(&e->cost,
			cost_add(&e->cost, e->work, l->sequence->n_cached, l->part.n_rows),
			l->output_usec + l->with_usec * all / n);
}
