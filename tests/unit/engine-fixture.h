/* A tiny random model on a backend that runs everything, made in memory, and somebody who hears
 * what the engine says of each job. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/engine_state.h"

#define VOCAB 97
#define DIM   32
#define FFN   64
#ifndef LAYERS
#define LAYERS 2
#endif
#ifndef HEAD_DIM
#define HEADS    4
#define KV_HEADS 2
#define HEAD_DIM 8
#endif
#ifndef CONTEXT
#define CONTEXT 512
#endif
#define JOBS_MAX 64

/* The model, made here: no file, no tokenizer. */
struct fixture {
	struct model model;
	struct weights weights;
	struct backend *backend;
	enum dtype dtype; /* of matrices; vectors are F32 */
	uint32_t drawn;   /* random numbers used */
};

static struct weight *random_weight(
	struct fixture *f, uint32_t rows, uint32_t cols, float scale, float mean)
{
	enum dtype dtype = rows > 1 ? f->dtype : DTYPE_F32;
	float *values = malloc((size_t)rows * cols * sizeof(*values));
	size_t row_bytes = 0;
	struct weight *w = NULL;
	uint8_t *data;

	assert_true(dtype_row_bytes(dtype, cols, &row_bytes));
	data = malloc(rows * row_bytes);
	assert_non_null(values);
	assert_non_null(data);
	for (uint32_t i = 0; i < rows * cols; i++)
		values[i] = mean + scale * (philox_uniform(11, f->drawn++) * 2 - 1);
	for (uint32_t i = 0; i < rows; i++)
		quantize_row(dtype, values + (size_t)i * cols, NULL, data + i * row_bytes, cols);
	assert_int_equal(f->backend->ops->weight_put(f->backend,
				 &(struct tensor){.name = "t",
					 .dtype = dtype,
					 .rows = rows,
					 .cols = cols,
					 .data = data,
					 .bytes = rows * row_bytes},
				 &w),
		0);
	free(values);
	free(data);
	return w;
}

/* On a backend, which it takes over; matrices of that type. */
static struct fixture *fixture_new_on(struct backend *b, uint32_t window, enum dtype dtype)
{
	struct fixture *f = calloc(1, sizeof(*f));
	float *table;

	assert_non_null(f);
	f->backend = b;
	f->dtype = dtype;
	f->model.config = (struct model_config){
		.n_layers = LAYERS,
		.dim = DIM,
		.ffn_dim = FFN,
		.vocab = VOCAB,
		.context = CONTEXT,
		.rms_eps = 1e-5f,
		.rope.theta = 10000,
		.attention = {.n_heads = HEADS,
			.n_kv_heads = KV_HEADS,
			.head_dim = HEAD_DIM,
			.rope_dim = HEAD_DIM,
			.rope_layout = ROPE_INTERLEAVED,
			.window = window,
			.scale = 1 / sqrtf(HEAD_DIM)},
	};
	f->weights = (struct weights){
		.model = &f->model,
		.layers = calloc(LAYERS, sizeof(struct layer_weights)),
		.embed_backend = f->backend,
		.output_backend = f->backend,
		.backends = &f->backend,
		.n_backends = 1,
		.ropes = calloc(1, sizeof(struct weight *)),
	};
	f->weights.embed = random_weight(f, VOCAB, DIM, 1, 0);
	f->weights.output_norm = random_weight(f, 1, DIM, 0.1f, 1);
	f->weights.output = random_weight(f, VOCAB, DIM, 0.7f, 0);
	table = malloc(CONTEXT * HEAD_DIM * sizeof(*table));
	assert_non_null(table);
	rope_table(table, CONTEXT, HEAD_DIM, &(struct rope){.theta = 10000}, NULL);
	assert_int_equal(f->backend->ops->weight_put(f->backend,
				 &(struct tensor){.name = "rope",
					 .dtype = DTYPE_F32,
					 .rows = CONTEXT,
					 .cols = HEAD_DIM,
					 .data = table,
					 .bytes = CONTEXT * HEAD_DIM * sizeof(*table)},
				 &f->weights.ropes[0]),
		0);
	free(table);
	for (uint32_t i = 0; i < LAYERS; i++)
		f->weights.layers[i] = (struct layer_weights){
			.backend = f->backend,
			.kv_layer = i,
			.rope = f->weights.ropes[0],
			.attn_norm = random_weight(f, 1, DIM, 0.1f, 1),
			.wq = random_weight(f, HEADS * HEAD_DIM, DIM, 0.5f, 0),
			.wk = random_weight(f, KV_HEADS * HEAD_DIM, DIM, 0.5f, 0),
			.wv = random_weight(f, KV_HEADS * HEAD_DIM, DIM, 0.5f, 0),
			.wo = random_weight(f, DIM, HEADS * HEAD_DIM, 0.5f, 0),
			.ffn_norm = random_weight(f, 1, DIM, 0.1f, 1),
			.gate = random_weight(f, FFN, DIM, 0.5f, 0),
			.up = random_weight(f, FFN, DIM, 0.5f, 0),
			.down = random_weight(f, DIM, FFN, 0.3f, 0),
		};
	return f;
}

static inline struct fixture *fixture_new(uint32_t window)
{
	struct backend *b;

	assert_int_equal(backend_new_reference(1, &b), 0);
	return fixture_new_on(b, window, DTYPE_F32);
}

static void fixture_free(struct fixture *f)
{
	const struct backend_ops *ops = f->backend->ops;

	for (uint32_t i = 0; i < LAYERS; i++) {
		struct layer_weights *l = &f->weights.layers[i];
		struct weight *all[] = {l->attn_norm, l->wq, l->wk, l->wv, l->wo, l->ffn_norm,
			l->gate, l->up, l->down};

		for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++)
			ops->weight_free(f->backend, all[k]);
	}
	ops->weight_free(f->backend, f->weights.embed);
	ops->weight_free(f->backend, f->weights.output_norm);
	ops->weight_free(f->backend, f->weights.output);
	ops->weight_free(f->backend, f->weights.ropes[0]);
	free(f->weights.ropes);
	free(f->weights.layers);
	backend_free(f->backend);
	free(f);
}

/* What came out of the engine for one job. */
struct heard {
	int32_t tokens[CONTEXT];
	float logprobs[CONTEXT];
	uint32_t n_tokens, n_logprobs;
	int32_t echo[CONTEXT];
	float echo_logprobs[CONTEXT];
	uint32_t n_echo;
	uint32_t prefill_done, n_prefills;
	uint32_t places[JOBS_MAX], n_places;
	bool done;
	enum failure failure;
	enum finish finish;
	char reason[256];
	uint32_t prompt_tokens, completion_tokens, cached_tokens;
	double scores[64];
	uint32_t n_scores;
};

struct listener {
	struct heard heard[JOBS_MAX];
};

static void hear(void *userdata, struct event *e)
{
	struct listener *l = userdata;
	struct heard *h = &l->heard[e->job];

	assert_true(e->job < JOBS_MAX);
	assert_false(h->done);
	switch (e->kind) {
	case EVENT_QUEUED:
		if (h->n_places < JOBS_MAX)
			h->places[h->n_places++] = e->position;
		break;
	case EVENT_PREFILL:
		assert_true(e->done > h->prefill_done && e->done <= e->total);
		h->prefill_done = e->done;
		h->n_prefills++;
		break;
	case EVENT_ECHO:
		for (uint32_t i = 0; i < e->n_logprobs; i++) {
			h->echo[h->n_echo] = e->logprobs[i].token;
			h->echo_logprobs[h->n_echo++] = e->logprobs[i].logprob;
		}
		break;
	case EVENT_TOKENS:
		assert_int_equal(e->index, h->n_tokens);
		memcpy(h->tokens + h->n_tokens, e->tokens, e->n_tokens * sizeof(int32_t));
		h->n_tokens += e->n_tokens;
		for (uint32_t i = 0; i < e->n_logprobs; i++)
			h->logprobs[h->n_logprobs++] = e->logprobs[i].logprob;
		break;
	case EVENT_SCORE:
		assert_true(e->index < 64 && h->scores[e->index] == 0);
		h->scores[e->index] = e->score;
		h->n_scores++;
		break;
	case EVENT_DROPPED: fail(); break;
	case EVENT_DONE:
		h->done = true;
		h->failure = e->failure;
		h->finish = e->finish;
		h->prompt_tokens = e->prompt_tokens;
		h->cached_tokens = e->cached_tokens;
		h->completion_tokens = e->completion_tokens;
		memcpy(h->reason, e->reason, sizeof(h->reason));
		break;
	}
	event_free(e);
}

static struct engine *engine_of(
	struct fixture *f, struct listener *l, const struct engine_options *options)
{
	struct engine_sink sink = {hear, l};
	struct engine *e = NULL;
	char error[256];

	assert_int_equal(engine_new(&f->weights, options, &sink, &e, error, sizeof(error)), 0);
	return e;
}

static inline struct engine *engine_for(struct fixture *f, struct listener *l, uint32_t sequences,
	uint32_t chunk, uint64_t kv_bytes)
{
	struct engine_options o;

	engine_options_default(&o);
	o.kv_dtype = DTYPE_F32;
	o.max_sequences = sequences;
	o.prefill_tokens = chunk;
	o.kv_bytes = kv_bytes;
	return engine_of(f, l, &o);
}

/* A job with a prompt of n tokens that depends on the id. */
static struct job *job_for(uint64_t id, uint32_t n, uint32_t max_new)
{
	struct job *job = job_new();

	assert_non_null(job);
	job->id = id;
	job->prompt = malloc(n * sizeof(*job->prompt));
	assert_non_null(job->prompt);
	for (uint32_t i = 0; i < n; i++)
		job->prompt[i] = (int32_t)(philox_uniform(id + 100, i) * VOCAB);
	job->n_prompt = n;
	job->generation = (struct generation){
		.max_new_tokens = max_new,
		.temperature = 1,
		.top_p = 1,
		.typical_p = 1,
		.repetition_penalty = 1.1f,
		.presence_penalty = 0.1f,
		.seed = 1000 + id,
		.logprobs = true,
	};
	return job;
}

static void run(struct engine *e)
{
	int r;

	do {
		r = engine_step(e);
		assert_true(r >= 0);
	} while (r > 0);
}

static void all_given_back(const struct engine *e)
{
	struct engine_stats stats;

	engine_stats(e, &stats);
	assert_int_equal(stats.running, 0);
	assert_int_equal(stats.queued, 0);
	assert_int_equal(stats.pages_used, 0);
}

/* The reply of job `id` alone, in one piece. */
static inline void alone(
	struct fixture *f, uint64_t id, uint32_t n, uint32_t max_new, struct heard *ret)
{
	static struct listener l;
	struct engine *e;

	memset(&l, 0, sizeof(l));
	e = engine_for(f, &l, 1, CONTEXT, 0);
	engine_submit(e, job_for(id, n, max_new));
	run(e);
	all_given_back(e);
	*ret = l.heard[id];
	engine_free(e);
}

static inline void same_reply(const struct heard *a, const struct heard *b)
{
	assert_int_equal(a->n_tokens, b->n_tokens);
	assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof(*a->tokens));
	assert_int_equal(a->n_logprobs, b->n_logprobs);
	assert_memory_equal(a->logprobs, b->logprobs, a->n_logprobs * sizeof(*a->logprobs));
}

/* Stops every pass whose countdown is over. */
static inline bool countdown(void *userdata)
{
	int *left = userdata;

	return --*left < 0;
}
