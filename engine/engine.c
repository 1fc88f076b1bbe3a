/* The engine: admits jobs, forms batches, runs them, and tells what happened.
 *
 * It owns the KV pool, the workspace and all sequences. Waiting sequences stand in one queue,
 * interactive ones before batch ones; a sequence is admitted when a slot is free and the pool can
 * promise it the pages of its longest possible reply, so that a running sequence never lacks a
 * page. */
#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine_state.h"
#include "engine/fit.h"

uint64_t engine_now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void engine_options_default(struct engine_options *o)
{
	*o = (struct engine_options){
		.kv_dtype = DTYPE_F16,
		.max_sequences = 16,
		.prefill_tokens = 256,
	};
}

/* Pages that a sequence of n_tokens can hold at once. */
static uint32_t pages_for(
	const struct model_config *c, const struct engine_options *o, uint32_t n_tokens)
{
	uint32_t window = c->attention.window;
	uint64_t held = n_tokens;

	/* Behind the window pages go back before the next chunk comes: one more page at each end.
	 */
	if (window > 0 && held > (uint64_t)window + o->prefill_tokens + 2 * KV_PAGE_TOKENS)
		held = (uint64_t)window + o->prefill_tokens + 2 * KV_PAGE_TOKENS;
	return (uint32_t)((held + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
}

uint32_t engine_context_pages(const struct model_config *c, const struct engine_options *o)
{
	return pages_for(c, o, o->context);
}

static uint32_t rows_max(const struct engine_options *o)
{
	return o->max_sequences + o->prefill_tokens;
}

static uint32_t logits_max(const struct engine_options *o)
{
	uint32_t n = o->max_sequences + ECHO_ROWS;

	return n < rows_max(o) ? n : rows_max(o);
}

uint64_t engine_workspace_bytes(const struct model_config *c, const struct engine_options *o)
{
	return workspace_bytes(c, rows_max(o), logits_max(o));
}

/* Sizes the KV pool; a context that the pool cannot hold is cut down to what it can. */
static int size_pool(struct engine *e, uint32_t *ret_pages, char *error, size_t error_size)
{
	const struct model_config *c = &e->weights->model->config;
	struct engine_options *o = &e->options;
	uint64_t page_bytes = kv_page_bytes(c, o->kv_dtype);
	uint64_t bytes = o->kv_bytes ? o->kv_bytes : FIT_HOST_KV_BYTES;
	uint64_t pages = bytes / page_bytes, most;

	if (o->context == 0 || o->context > c->context)
		o->context = c->context;
	if (pages_for(c, o, o->context) > pages) {
		if (pages < 2) {
			snprintf(error, error_size,
				"a KV cache of %llu bytes holds not even two pages of %llu bytes",
				(unsigned long long)bytes, (unsigned long long)page_bytes);
			return -EINVAL;
		}
		o->context = (uint32_t)pages * KV_PAGE_TOKENS;
	}
	most = (uint64_t)pages_for(c, o, o->context) * FIT_CONTEXTS_MAX;
	*ret_pages = (uint32_t)(pages < most ? pages : most);
	return 0;
}

int engine_new(const struct weights *w, const struct engine_options *o,
	const struct engine_sink *sink, struct engine **ret, char *error, size_t error_size)
{
	uint32_t vocab = w->model->config.vocab, pages = 0;
	struct engine *e;
	int r;

	e = calloc(1, sizeof(*e));
	if (!e)
		goto no_memory;
	e->weights = w;
	e->options = *o;
	e->sink = *sink;
	assert(o->max_sequences > 0 && o->prefill_tokens > 0);
	e->max_rows = rows_max(o);
	e->max_logits = logits_max(o);
	r = size_pool(e, &pages, error, error_size);
	if (r < 0)
		goto fail;
	e->slot_used = calloc(o->max_sequences, sizeof(*e->slot_used));
	e->tokens = calloc(e->max_rows, sizeof(*e->tokens));
	e->slots = calloc(e->max_rows, sizeof(*e->slots));
	e->positions = calloc(e->max_rows, sizeof(*e->positions));
	e->logit_rows = calloc(e->max_logits, sizeof(*e->logit_rows));
	e->rows = calloc(e->max_logits, sizeof(*e->rows));
	e->results = calloc(e->max_logits, sizeof(*e->results));
	e->tops = calloc((size_t)e->max_logits * SAMPLE_TOP_MAX, sizeof(*e->tops));
	e->mark = calloc(vocab, sizeof(*e->mark));
	if (!e->slot_used || !e->tokens || !e->slots || !e->positions || !e->logit_rows ||
		!e->rows || !e->results || !e->tops || !e->mark)
		goto no_memory;
	r = kv_pool_new(w, o->kv_dtype, pages, o->max_sequences, e->options.context, &e->kv, error,
		error_size);
	if (r == 0)
		r = workspace_new(w, e->max_rows, e->max_logits, &e->workspace, error, error_size);
	if (r < 0)
		goto fail;
	*ret = e;
	return 0;

no_memory:
	snprintf(error, error_size, "no memory for the engine's tables");
	r = -ENOMEM;
fail:
	engine_free(e);
	return r;
}

static void drop_all(struct sequence *s)
{
	while (s) {
		struct sequence *next = s->next;

		s->slot = SLOT_NONE;
		sequence_free(s);
		s = next;
	}
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	drop_all(e->queue);
	drop_all(e->running);
	workspace_free(e->weights, e->workspace);
	kv_pool_free(e->kv);
	free(e->slot_used);
	free(e->tokens);
	free(e->slots);
	free(e->positions);
	free(e->logit_rows);
	free(e->rows);
	free(e->results);
	free(e->tops);
	free(e->mark);
	free(e->counts);
	free(e);
	return NULL;
}

void engine_emit(struct engine *e, struct event *event)
{
	e->sink.emit(e->sink.userdata, event);
}

/* The job's last word: sends its DONE event. The job itself goes with its sequence. */
static void report(struct engine *e, struct job *job, enum failure failure, const char *reason,
	enum finish finish)
{
	struct event *done = job->done;

	job->done = NULL;
	done->job = job->id;
	done->failure = failure;
	snprintf(done->reason, sizeof(done->reason), "%s", reason ? reason : "");
	done->finish = finish;
	done->prompt_tokens = job->n_prompt;
	done->total_usec = engine_now_usec() - job->arrived_usec;
	if (failure != FAILURE_NONE)
		e->stats.failed += failure != FAILURE_CANCELLED;
	else if (finish != FINISH_CANCELLED)
		e->stats.done++;
	if (failure == FAILURE_CANCELLED || (!failure && finish == FINISH_CANCELLED))
		e->stats.cancelled++;
	engine_emit(e, done);
}

static void unlink_sequence(struct sequence **list, struct sequence *s)
{
	while (*list != s)
		list = &(*list)->next;
	*list = s->next;
}

void engine_finish(struct engine *e, struct sequence *s, enum failure failure, const char *reason,
	enum finish how)
{
	struct event *rest = NULL, *done = s->job->done;

	if (failure == FAILURE_NONE && reply_finish(&s->reply, &rest) < 0) {
		failure = FAILURE_MEMORY;
		reason = "no memory for the end of the reply";
	}
	if (rest)
		engine_emit(e, rest);
	if (s->slot != SLOT_NONE) {
		/* A page that cannot be zeroed means a lost device; the next step says so. */
		kv_pool_clear(e->kv, s->slot);
		e->slot_used[s->slot] = false;
		e->promised_pages -= s->pages;
		s->slot = SLOT_NONE;
		unlink_sequence(&e->running, s);
		e->n_running--;
		e->queue_moved = true;
		done->queue_usec = s->started_usec - s->job->arrived_usec;
	} else {
		unlink_sequence(&e->queue, s);
		e->n_queued--;
		e->queue_moved = true;
		done->queue_usec = engine_now_usec() - s->job->arrived_usec;
	}
	if (s->prefilled_usec)
		done->prefill_usec = s->prefilled_usec - s->started_usec;
	if (s->first_token_usec)
		done->first_token_usec = s->first_token_usec - s->job->arrived_usec;
	done->completion_tokens = s->n_generated;
	done->device_usec = s->device_usec;
	e->stats.completion_tokens += s->n_generated;
	report(e, s->job, failure, reason, how);
	sequence_free(s);
}

void engine_submit(struct engine *e, struct job *job)
{
	struct sequence *s, **at;
	char reason[120];

	if (e->failed) {
		report(e, job, FAILURE_ENGINE, "the device has failed", FINISH_STOP);
		job_free(job);
		return;
	}
	assert(job->n_prompt > 0);
	if (job->n_prompt >= e->options.context) {
		snprintf(reason, sizeof(reason),
			"the prompt has %u tokens and the context holds %u, the reply included",
			job->n_prompt, e->options.context);
		report(e, job, FAILURE_TOO_LARGE, reason, FINISH_STOP);
		job_free(job);
		return;
	}
	s = sequence_new(job, e->weights->model->tokenizer);
	if (!s) {
		report(e, job, FAILURE_MEMORY, "no memory for the request", FINISH_STOP);
		job_free(job);
		return;
	}
	at = &e->queue;
	while (*at && (job->batch_priority || !(*at)->job->batch_priority))
		at = &(*at)->next;
	s->next = *at;
	*at = s;
	e->n_queued++;
	e->queue_moved = true;
}

static struct sequence *find(const struct engine *e, uint64_t id)
{
	for (struct sequence *s = e->running; s; s = s->next)
		if (s->job->id == id)
			return s;
	for (struct sequence *s = e->queue; s; s = s->next)
		if (s->job->id == id)
			return s;
	return NULL;
}

void engine_cancel(struct engine *e, uint64_t id, enum failure failure, const char *reason)
{
	struct sequence *s = find(e, id);

	if (s)
		engine_finish(e, s, failure, reason, FINISH_CANCELLED);
}

void engine_pause(struct engine *e, uint64_t id, bool paused)
{
	struct sequence *s = find(e, id);

	if (s)
		s->paused = paused;
}

void engine_set_stop(struct engine *e, bool (*asked)(void *userdata), void *userdata)
{
	e->stop = (struct forward_stop){asked, userdata};
}

/* Positions that the sequence's longest reply takes. */
static uint32_t longest(const struct engine *e, const struct job *job)
{
	uint64_t n = (uint64_t)job->n_prompt + job->generation.max_new_tokens;

	return n < e->options.context ? (uint32_t)n : e->options.context;
}

static void admit(struct engine *e)
{
	while (e->queue && e->n_running < e->options.max_sequences) {
		struct sequence *s = e->queue, **last = &e->running;
		uint32_t pages = pages_for(
			&e->weights->model->config, &e->options, longest(e, s->job));

		if (pages > e->kv->n_pages - e->promised_pages)
			break;
		e->queue = s->next;
		e->n_queued--;
		e->queue_moved = true;
		s->next = NULL;
		while (*last)
			last = &(*last)->next;
		*last = s;
		e->n_running++;
		s->slot = 0;
		while (e->slot_used[s->slot])
			s->slot++;
		e->slot_used[s->slot] = true;
		s->pages = pages;
		e->promised_pages += pages;
		s->started_usec = engine_now_usec();
	}
}

/* Tells whoever waits its place, when places have changed. */
static void tell_places(struct engine *e)
{
	uint32_t position = 0;

	if (!e->queue_moved)
		return;
	e->queue_moved = false;
	for (struct sequence *s = e->queue; s; s = s->next, position++) {
		struct event *event;

		if (s->told_position == position)
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

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = e->stats;
	ret->running = e->n_running;
	ret->queued = e->n_queued;
	ret->pages = e->kv->n_pages;
	ret->pages_used = e->kv->n_pages - e->kv->n_free;
	ret->context = e->options.context;
}
