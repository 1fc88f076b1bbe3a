/* The engine: takes jobs, tells their last word, and owns the KV pool, the prefix cache, the
 * workspace and all sequences. Who runs is schedule.c's to say, what a step does step.c's. */
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

uint32_t engine_pages_for(
	const struct model_config *c, const struct engine_options *o, uint64_t n_tokens)
{
	uint32_t window = c->attention.window;
	uint64_t held = n_tokens;

	/* Behind the window pages go back before the next chunk comes: one more page at each end.
	 */
	if (window > 0 && held > (uint64_t)window + o->prefill_tokens + 2 * KV_PAGE_TOKENS)
		held = (uint64_t)window + o->prefill_tokens + 2 * KV_PAGE_TOKENS;
	return kv_pages_of(held);
}

uint32_t engine_context_pages(const struct model_config *c, const struct engine_options *o)
{
	return engine_pages_for(c, o, o->context);
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
	if (engine_pages_for(c, o, o->context) > pages) {
		if (pages < 2) {
			snprintf(error, error_size,
				"a KV cache of %llu bytes holds not even two pages of %llu bytes",
				(unsigned long long)bytes, (unsigned long long)page_bytes);
			return -EINVAL;
		}
		o->context = (uint32_t)pages * KV_PAGE_TOKENS;
	}
	most = (uint64_t)engine_pages_for(c, o, o->context) * FIT_CONTEXTS_MAX;
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
	e->clock = engine_now_usec;
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
	e->cache = prefix_cache_new(e->kv, w->model->config.attention.window);
	if (!e->cache)
		goto no_memory;
	e->cache->saved_max_bytes = o->swap_bytes;
	e->cost.window = w->model->config.attention.window;
	*ret = e;
	return 0;

no_memory:
	snprintf(error, error_size, "no memory for the engine's tables");
	r = -ENOMEM;
fail:
	engine_free(e);
	return r;
}

void engine_drop(struct engine *e, struct sequence *s)
{
	if (s->parent) {
		s->parent->n_children--;
		s->parent->device_usec += s->device_usec;
	}
	engine_withdraw(e, s);
	prefix_unwant(e->cache, &s->place);
	prefix_root_put(e->cache, s->place.root);
	sequence_free(s);
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	while (e->queue)
		engine_drop(e, e->queue);
	while (e->running)
		engine_drop(e, e->running);
	while (e->scoring)
		engine_drop(e, e->scoring);
	prefix_cache_free(e->cache);
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
	if (event->job == ENGINE_OWN_JOB)
		event_free(event);
	else
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
	if (job->id == ENGINE_OWN_JOB)
		;
	else if (failure == FAILURE_CANCELLED || (!failure && finish == FINISH_CANCELLED))
		e->stats.cancelled++;
	else if (failure != FAILURE_NONE)
		e->stats.failed++;
	else
		e->stats.done++;
	engine_emit(e, done);
}

void engine_finish(struct engine *e, struct sequence *s, enum failure failure, const char *reason,
	enum finish how)
{
	struct event *rest = NULL, *done = s->job->done;

	if (s->parent) {
		engine_score_child_done(e, s, failure);
		return;
	}
	engine_score_drop(e, s);
	if (failure == FAILURE_NONE && reply_finish(&s->reply, &rest) < 0) {
		failure = FAILURE_MEMORY;
		reason = "no memory for the end of the reply";
	}
	if (rest)
		engine_emit(e, rest);
	done->queue_usec = (s->started_usec ? s->started_usec : engine_now_usec()) -
			   s->job->arrived_usec;
	if (s->prefilled_usec)
		done->prefill_usec = s->prefilled_usec - s->started_usec;
	if (s->first_token_usec)
		done->first_token_usec = s->first_token_usec - s->job->arrived_usec;
	done->completion_tokens = s->n_generated;
	done->cached_tokens = s->n_reused;
	done->device_usec = s->device_usec;
	e->stats.completion_tokens += s->n_generated;
	e->stats.cached_tokens += s->n_reused;
	report(e, s->job, failure, reason, how);
	engine_drop(e, s);
}

int engine_share_prefix(struct engine *e, const int32_t *tokens, uint32_t n)
{
	uint32_t pages = n / KV_PAGE_TOKENS, most = e->kv->n_pages / 2;
	struct sequence *s;
	struct job *job;

	if (pages > most)
		pages = most;
	if (pages > (e->options.context - 1) / KV_PAGE_TOKENS)
		pages = (e->options.context - 1) / KV_PAGE_TOKENS;
	if (pages == 0)
		return 0;
	job = job_new();
	if (!job)
		return -ENOMEM;
	job->id = ENGINE_OWN_JOB;
	job->n_prompt = pages * KV_PAGE_TOKENS;
	job->prompt = malloc(job->n_prompt * sizeof(*job->prompt));
	job->arrived_usec = engine_now_usec();
	if (job->prompt)
		memcpy(job->prompt, tokens, job->n_prompt * sizeof(*tokens));
	s = job->prompt ? sequence_new(job, NULL) : NULL;
	if (!s) {
		job_free(job);
		return -ENOMEM;
	}
	s->place.root = e->cache->shared;
	e->cache->shared->n_holds++;
	e->stats.shared_tokens = job->n_prompt;
	/* who does not begin with it must fit beside it */
	if (e->options.context > (e->kv->n_pages - pages) * KV_PAGE_TOKENS)
		e->options.context = (e->kv->n_pages - pages) * KV_PAGE_TOKENS;
	engine_enqueue(e, s);
	return 0;
}

int64_t engine_drop_cache(struct engine *e, uint32_t uid, bool all)
{
	return prefix_drop(e->cache, uid, all);
}

static bool fits_context(const struct engine *e, const struct job *job)
{
	uint32_t longest = 1;

	for (uint32_t i = 0; i < job->n_choices; i++)
		if (job->choices[i].n_tokens > longest)
			longest = job->choices[i].n_tokens;
	return job->n_prompt < e->options.context && longest <= e->options.context - job->n_prompt;
}

void engine_submit(struct engine *e, struct job *job)
{
	struct sequence *s;
	char reason[120];

	if (e->failed) {
		report(e, job, FAILURE_ENGINE, "the device has failed", FINISH_STOP);
		job_free(job);
		return;
	}
	assert(job->n_prompt > 0);
	if (!fits_context(e, job)) {
		snprintf(reason, sizeof(reason),
			"the prompt has %u tokens and the context holds %u, the %s included",
			job->n_prompt, e->options.context, job->n_choices ? "choices" : "reply");
		report(e, job, FAILURE_TOO_LARGE, reason, FINISH_STOP);
		job_free(job);
		return;
	}
	s = sequence_new(job, e->weights->model->tokenizer);
	if (s)
		s->place.root = prefix_root_get(e->cache, job->uid, job->cache_key);
	if (!s || !s->place.root) {
		if (s)
			s->job = NULL; /* still ours */
		sequence_free(s);
		report(e, job, FAILURE_MEMORY, "no memory for the request", FINISH_STOP);
		job_free(job);
		return;
	}
	if (job->n_choices > 0)
		engine_score_init(s);
	engine_enqueue(e, s);
}

static struct sequence *find(const struct engine *e, uint64_t id)
{
	for (struct sequence *s = e->running; s; s = s->next)
		if (s->job->id == id)
			return s;
	for (struct sequence *s = e->queue; s; s = s->next)
		if (s->job->id == id)
			return s;
	for (struct sequence *s = e->scoring; s; s = s->next)
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

	if (s && paused != (s->paused_usec != 0))
		s->paused_usec = paused ? engine_now_usec() : 0;
}

bool engine_runs_batch(const struct engine *e)
{
	return e->batch_only;
}

void engine_set_stop(struct engine *e, bool (*asked)(void *userdata), void *userdata)
{
	e->stop_asked = asked;
	e->stop_userdata = userdata;
}

bool engine_prepare(struct engine *e)
{
	const struct model_config *c = &e->weights->model->config;
	uint32_t used = e->kv->n_used_max, ahead = engine_context_pages(c, &e->options);

	ahead = used > ahead ? used : ahead;
	return kv_pool_touch(e->kv, ahead < e->kv->n_pages / 4 ? ahead : e->kv->n_pages / 4);
}

void engine_stats(const struct engine *e, struct engine_stats *ret)
{
	*ret = e->stats;
	ret->running = e->n_running;
	ret->queued = e->n_queued;
	ret->pages = e->kv->n_pages;
	ret->pages_used = e->kv->n_pages - e->kv->n_free - e->cache->n_idle;
	ret->pages_cached = e->cache->n_idle;
	ret->pages_swapped = e->cache->n_saved;
	ret->pages_restored = e->cache->n_restored;
	ret->swap_bytes = e->cache->saved_bytes;
	ret->context = e->options.context;
	ret->pages_evicted = e->cache->n_evicted;
}
