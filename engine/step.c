/* One step of the engine: forms the batch, runs it, and gives each sequence what it brought. */
#include "engine/engine_state.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Adds the sequence's next n rows to the batch. */
static void add_rows(struct engine *e, const struct sequence *s, uint32_t n, uint32_t *n_rows)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t row = (*n_rows)++;

		e->tokens[row] = s->tokens[s->n_cached + i];
		e->slots[row] = s->slot;
		e->positions[row] = s->n_cached + i;
	}
}

/* Asks for the logits of those of the sequence's rows that need them: the last row of what it has,
 * and with echo every prompt row. first_row is its first row in the batch. */
static void add_logits(struct engine *e, struct sequence *s, uint32_t first_row, uint32_t *n_logits)
{
	bool echo = sequence_echoes(s);

	s->first_logit = *n_logits;
	for (uint32_t i = 0; i < s->n_rows; i++) {
		uint32_t position = s->n_cached + i;
		bool draws = position + 1 == s->n_tokens && s->job->generation.max_new_tokens > 0;
		bool echoes = echo && position + 1 < s->job->n_prompt &&
			      position + 1 >= s->n_echoed;

		if (draws || echoes)
			e->logit_rows[(*n_logits)++] = first_row + i;
	}
	s->n_logits = *n_logits - s->first_logit;
}

/* Forms the step's batch as it was planned. Layered rows come first, also where they wait; their
 * logits mean nothing until they are through, which the step's clock may bring sooner or later. */
static void gather_batch(struct engine *e, uint32_t *ret_rows, uint32_t *ret_logits)
{
	struct layered *l = &e->layered;

	*ret_rows = *ret_logits = 0;
	if (l->sequence)
		add_rows(e, l->sequence, l->part.n_rows, ret_rows);
	for (struct sequence *s = e->running; s; s = s->next) {
		uint32_t first = s == l->sequence ? 0 : *ret_rows;

		s->n_logits = 0;
		if (s->n_rows == 0)
			continue;
		if (s != l->sequence)
			add_rows(e, s, s->n_rows, ret_rows);
		add_logits(e, s, first, ret_logits);
	}
}

/* Fills the sampler's rows of the step. The counts of all rows lie in one array, made large enough
 * first. */
static int prepare_sampling(struct engine *e)
{
	size_t wanted = 0, used = 0;

	for (struct sequence *s = e->running; s; s = s->next)
		wanted += s->n_logits > 0 ? s->n_tokens : 0;
	if (wanted > e->counts_size) {
		struct sample_count *grown = realloc(e->counts, 2 * wanted * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		e->counts = grown;
		e->counts_size = 2 * wanted;
	}
	for (struct sequence *s = e->running; s; s = s->next) {
		const struct generation *g = &s->job->generation;

		for (uint32_t i = 0; i < s->n_logits; i++) {
			uint32_t k = s->first_logit + i;
			uint32_t position = e->positions[e->logit_rows[k]];
			bool draws = position + 1 == s->n_tokens && g->max_new_tokens > 0;
			struct sample_row *row = &e->rows[k];

			*row = (struct sample_row){
				.bias = s->job->bias,
				.n_bias = s->job->n_bias,
				.repetition_penalty = g->repetition_penalty,
				.presence_penalty = g->presence_penalty,
				.frequency_penalty = g->frequency_penalty,
				.temperature = g->temperature,
				.top_k = g->top_k,
				.top_p = g->top_p,
				.min_p = g->min_p,
				.typical_p = g->typical_p,
				.seed = g->seed,
				.step = s->n_generated,
				.forced = draws ? -1 : s->tokens[position + 1],
				.want_logprob = g->logprobs,
				.n_top = g->logprobs ? g->n_top : 0,
			};
			if (draws) {
				row->counts = e->counts + used;
				row->n_counts = sequence_counts(s, e->counts + used, e->mark);
				used += row->n_counts;
			}
			e->results[k] = (struct sample_result){
				.top = row->n_top ? e->tops + (size_t)k * SAMPLE_TOP_MAX : NULL,
			};
		}
	}
	return 0;
}

/* The rows before `end` have run: the last of them has told the token there. */
static void note_echoed(struct sequence *s, uint32_t end)
{
	uint32_t n = end < s->job->n_prompt ? end + 1 : s->job->n_prompt;

	if (n > s->n_echoed)
		s->n_echoed = n;
}

/* The logprobs of the prompt's tokens that this step's rows gave. */
static int tell_echo(struct engine *e, struct sequence *s)
{
	uint32_t end = s->n_cached + s->n_rows;
	struct event *event;

	if (!sequence_echoes(s))
		return 0;
	if (s->parent) {
		for (uint32_t i = 0; i < s->n_logits; i++)
			engine_score_row(s, &e->results[s->first_logit + i]);
		note_echoed(s, end);
		return 0;
	}
	event = event_new(EVENT_ECHO, s->job->id);
	if (!event)
		return -ENOMEM;
	if (s->n_echoed == 0) {
		/* Nothing stands before the first token. */
		struct sample_result first = {.token = s->tokens[0], .logprob = NAN};

		if (event_add_logprob(event, &first) < 0)
			goto no_memory;
	}
	for (uint32_t i = 0; i < s->n_logits; i++) {
		uint32_t k = s->first_logit + i;

		if (e->rows[k].forced >= 0 && event_add_logprob(event, &e->results[k]) < 0)
			goto no_memory;
	}
	note_echoed(s, end);
	engine_emit(e, event);
	return 0;

no_memory:
	event_free(event);
	return -ENOMEM;
}

void engine_tell_prefill(struct engine *e, struct sequence *s, uint32_t done)
{
	struct event *event;

	if (done > s->job->n_prompt)
		done = s->job->n_prompt;
	if (done <= s->n_told)
		return;
	event = event_new(EVENT_PREFILL, s->job->id);
	if (!event)
		return; /* a courtesy, not a promise */
	event->done = s->n_told = done;
	event->total = s->job->n_prompt;
	engine_emit(e, event);
}

/* Takes a drawn token into the sequence. Returns false when the sequence has ended (and is gone).
 */
static bool take_token(struct engine *e, struct sequence *s, const struct sample_result *result)
{
	const struct generation *g = &s->job->generation;
	struct event *event = NULL;
	int32_t stop = -1;
	int r;

	if (s->n_generated == 0)
		s->first_token_usec = engine_now_usec();
	if (result->token < 0) {
		engine_finish(e, s, FAILURE_ENGINE, "no token has a finite logit", FINISH_STOP);
		return false;
	}
	s->n_generated++;
	if (model_ends(e->weights->model, result->token) && !g->ignore_end) {
		engine_finish(e, s, FAILURE_NONE, NULL, FINISH_STOP);
		return false;
	}
	r = sequence_append(s, result->token);
	if (r == 0)
		r = reply_push(&s->reply, s->job->id, result->token, g->logprobs ? result : NULL,
			&event, &stop);
	if (r < 0) {
		engine_finish(e, s, FAILURE_MEMORY, "no memory for the reply", FINISH_STOP);
		return false;
	}
	if (event)
		engine_emit(e, event);
	if (r == 2) {
		s->job->done->stop = stop;
		engine_finish(e, s, FAILURE_NONE, NULL, FINISH_STOP);
		return false;
	}
	if (s->n_generated == g->max_new_tokens || s->n_tokens == e->options.context) {
		engine_finish(e, s, FAILURE_NONE, NULL, FINISH_LENGTH);
		return false;
	}
	return true;
}

/* Gives each sequence what the step of n_rows rows brought it, and its share of the time. */
static void distribute(struct engine *e, uint32_t n_rows, uint64_t step_usec)
{
	uint32_t n_sequences = 0, bucket = 0;
	struct layered *l = &e->layered;
	struct sequence *next;
	double cost = 0;

	layered_note(e, step_usec);
	engine_note_late(e, step_usec);
	for (struct sequence *s = e->running; s; s = s->next) {
		cost += s->n_rows > 0 ? s->cost : 0;
		n_sequences += s->n_rows > 0;
	}
	while (bucket + 1 < ENGINE_BATCH_BUCKETS && n_sequences > 1u << bucket)
		bucket++;
	e->stats.batches[bucket]++;
	e->stats.step_sequences += n_sequences;
	for (struct sequence *s = e->running; s; s = next) {
		bool prefill = sequence_in_prefill(s);
		uint32_t n = s->n_rows;

		next = s->next;
		if (n == 0)
			continue;
		/* its part of the cost, as far as that is known */
		s->device_usec += cost > 0 ? (uint64_t)((double)step_usec * s->cost / cost)
					   : step_usec * n / n_rows;
		if (s == l->sequence) {
			if (l->part.to < engine_layers(e))
				continue;
			l->sequence = NULL;
		}
		if (tell_echo(e, s) < 0) {
			engine_finish(
				e, s, FAILURE_MEMORY, "no memory for the logprobs", FINISH_STOP);
			continue;
		}
		if (s->n_cached < s->n_seen)
			e->stats.recomputed_tokens += s->n_seen - s->n_cached < n
							      ? s->n_seen - s->n_cached
							      : n;
		s->n_cached += n;
		if (s->n_cached > s->n_seen)
			s->n_seen = s->n_cached;
		prefix_advance(e->cache, &s->place, s->slot, s->tokens, s->n_cached);
		if (prefill) {
			e->stats.prompt_tokens += n;
			engine_tell_prefill(e, s, s->n_cached);
			if (s->n_cached < s->n_tokens || s->job->n_choices > 0)
				continue;
			if (s->prefilled_usec == 0)
				s->prefilled_usec = engine_now_usec();
		}
		if (s->job->generation.max_new_tokens == 0)
			engine_finish(e, s, FAILURE_NONE, NULL, FINISH_LENGTH);
		else
			take_token(e, s, &e->results[s->first_logit + s->n_logits - 1]);
	}
}

/* The device is lost: everybody is told, and nothing is taken any more. */
static int fail_all(struct engine *e, const struct backend *b, int error)
{
	char reason[256];

	snprintf(reason, sizeof(reason), "%s: %.200s", b ? b->ops->name : "engine",
		b && b->error[0] ? b->error : strerror(-error));
	e->failed = true;
	while (e->scoring)
		engine_finish(e, e->scoring, FAILURE_ENGINE, reason, FINISH_STOP);
	while (e->running)
		engine_finish(e, e->running, FAILURE_ENGINE, reason, FINISH_STOP);
	while (e->queue)
		engine_finish(e, e->queue, FAILURE_ENGINE, reason, FINISH_STOP);
	return error;
}

static int before_layer(void *userdata, uint32_t layer)
{
	struct engine *e = userdata;
	int r = layered_watch(e, layer);

	if (r < 0)
		return r;
	return e->stop_asked && e->stop_asked(e->stop_userdata) ? -EINTR : 0;
}

int engine_step(struct engine *e)
{
	struct backend *b = e->weights->output_backend;
	uint32_t vocab = e->weights->model->config.vocab, n_rows = 0, n_logits = 0;
	const struct forward_watch watch = {before_layer, e};
	uint64_t began_usec, preempted;
	uint32_t planned;
	struct batch batch;
	int r;

	if (e->failed)
		return -EIO;
	preempted = e->stats.preempted;
	engine_admit(e);
	while (engine_score(e))
		engine_admit(e);
	r = engine_plan(e);
	if (r < 0)
		return fail_all(e, NULL, r);
	if (r == 0) /* who had a part may just have given way to those who had none */
		return e->stats.preempted != preempted;
	gather_batch(e, &n_rows, &n_logits);
	batch = (struct batch){
		.n_rows = n_rows,
		.tokens = e->tokens,
		.slots = e->slots,
		.positions = e->positions,
		.page_table = e->kv->page_table,
		.n_slots = e->kv->n_slots,
		.page_table_stride = e->kv->table_stride,
	};
	began_usec = e->clock();
	r = prepare_sampling(e);
	if (r < 0)
		return fail_all(e, NULL, r);
	planned = layered_now(e);
	r = forward(e->weights, e->kv, e->workspace, &batch,
		e->layered.sequence ? &e->layered.part : NULL, e->logit_rows, n_logits, &watch, &b);
	if (r == -EINTR)
		return 1;
	if (r == 0 && n_logits > 0) {
		b = e->weights->output_backend;
		r = b->ops->sample(b, n_logits, vocab, e->workspace->logits, e->rows, e->results);
	}
	for (uint32_t i = 0; i < e->weights->n_backends && r == 0; i++) {
		b = e->weights->backends[i];
		r = b->ops->sync(b);
	}
	if (r < 0)
		return fail_all(e, b, r);
	if (planned > 0)
		e->layered.sequence->cost *= (double)layered_now(e) / planned;
	distribute(e, n_rows, e->clock() - began_usec);
	return 1;
}
