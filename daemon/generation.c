/* What a request leaves open is decided here, once, and what it asks for is checked against the
 * model that is loaded. Owns nothing. */
#include "daemon/generation.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/answer.h"
#include "daemon/identity.h"
#include "engine/utf8.h"

int generation_seed(uint64_t *ret)
{
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return -EIO;
	*ret = seed & SAFE_INTEGER_MAX;
	return 0;
}

void generation_resolve(const struct params *p, const struct params *d,
	const struct model_defaults *model, struct generation *ret)
{
	struct generation g = {
		.temperature = 0.7f,
		.top_k = 50,
		.top_p = 0.95f,
		.typical_p = 1,
		.repetition_penalty = 1,
	};
	bool sample = true;

	if (!isnan(model->temperature))
		g.temperature = model->temperature;
	if (!isnan(model->top_p))
		g.top_p = model->top_p;
	if (!isnan(model->min_p))
		g.min_p = model->min_p;
	if (!isnan(model->typical_p))
		g.typical_p = model->typical_p;
	if (!isnan(model->repetition_penalty))
		g.repetition_penalty = model->repetition_penalty;
	if (model->top_k >= 0)
		g.top_k = (uint32_t)model->top_k;

	const struct params *layers[] = {d, p};
	for (int i = 0; i < 2; i++) {
		const struct params *l = layers[i];

		if (params_has(l, PARAM_DO_SAMPLE))
			sample = l->do_sample;
		if (params_has(l, PARAM_TEMPERATURE))
			g.temperature = (float)l->temperature;
		if (params_has(l, PARAM_TOP_K))
			g.top_k = (uint32_t)l->top_k;
		if (params_has(l, PARAM_TOP_P))
			g.top_p = (float)l->top_p;
		if (params_has(l, PARAM_MIN_P))
			g.min_p = (float)l->min_p;
		if (params_has(l, PARAM_TYPICAL_P))
			g.typical_p = (float)l->typical_p;
		if (params_has(l, PARAM_REPETITION_PENALTY))
			g.repetition_penalty = (float)l->repetition_penalty;
		if (params_has(l, PARAM_PRESENCE_PENALTY))
			g.presence_penalty = (float)l->presence_penalty;
		if (params_has(l, PARAM_FREQUENCY_PENALTY))
			g.frequency_penalty = (float)l->frequency_penalty;
		if (params_has(l, PARAM_PENALTY_WINDOW))
			g.penalty_window = (uint32_t)l->penalty_window;
	}
	if (!sample)
		g.temperature = 0;
	g.logprobs = params_has(p, PARAM_LOGPROBS);
	g.n_top = g.logprobs ? (uint32_t)p->logprobs : 0;
	g.echo = g.logprobs && params_has(p, PARAM_ECHO) && p->echo;
	*ret = g;
}

bool generation_tokens(int64_t asked, uint32_t room, int64_t limit, uint64_t reply_bytes,
	uint64_t fixed_bytes, uint64_t token_bytes, uint32_t *ret)
{
	uint64_t fits = fixed_bytes < reply_bytes ? (reply_bytes - fixed_bytes) / token_bytes : 0;
	int64_t n = asked >= 0 && asked < room ? asked : room;

	if (limit > 0 && n > limit)
		n = limit;
	if ((uint64_t)n > fits) {
		*ret = (uint32_t)fits;
		return asked < 0 && fits > 0;
	}
	*ret = (uint32_t)n;
	return true;
}

/* Each token once, the last word about it counts, as in the mappings that clients make of it. */
static int take_bias(const struct params *p, uint32_t vocab, struct job *job, char *sentence,
	size_t sentence_size)
{
	job->bias = calloc(p->n_logit_bias ? p->n_logit_bias : 1, sizeof(*job->bias));
	if (!job->bias)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->n_logit_bias; i++) {
		const struct rpc_bias *b = &p->logit_bias[i];
		uint32_t at = 0;

		if (b->token < 0 || b->token >= vocab) {
			snprintf(sentence, sentence_size,
				"logit_bias[%u][0]: found %lld, wanted a token id from 0 to %u", i,
				(long long)b->token, vocab - 1);
			return -EINVAL;
		}
		while (at < job->n_bias && job->bias[at].token != b->token)
			at++;
		job->bias[at] = (struct sample_bias){(int32_t)b->token, (float)b->bias};
		job->n_bias += at == job->n_bias;
	}
	return 0;
}

static int take_stops(const struct params *p, struct job *job)
{
	job->stops = calloc(p->n_stop ? p->n_stop : 1, sizeof(*job->stops));
	if (!job->stops)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->n_stop; i++) {
		size_t len = utf8_repair(p->stop[i].text, p->stop[i].len, NULL);

		job->stops[i].text = malloc(len + 1);
		if (!job->stops[i].text)
			return -ENOMEM;
		utf8_repair(p->stop[i].text, p->stop[i].len, job->stops[i].text);
		job->stops[i].text[len] = 0;
		job->stops[i].len = len;
		job->n_stops++;
	}
	return 0;
}

/* How long the reply may become; E_TOO_LARGE before it runs where it cannot be kept. */
static enum rpc_error bound(struct request *r, const struct params *p, char *sentence, size_t size)
{
	const struct engine_report *report = &r->server->report;
	const struct config *c = &r->server->config;
	int64_t limit = request_quota(r)->max_new_tokens;
	uint32_t context = report->stats.context;
	struct generation *g = &r->generation;
	uint64_t logprob_bytes, token_bytes, fixed_bytes;
	int64_t asked = -1;

	if (r->prompt_tokens >= context) {
		snprintf(sentence, size,
			"the prompt has %u tokens and the context holds %u, the reply included",
			r->prompt_tokens, context);
		return E_TOO_LARGE;
	}
	if (params_has(p, PARAM_MAX_NEW_TOKENS))
		asked = p->max_new_tokens;
	else if (params_has(&c->defaults, PARAM_MAX_NEW_TOKENS))
		asked = c->defaults.max_new_tokens;
	if (params_has(p, PARAM_MAX_NEW_TOKENS) && limit && asked > limit) {
		snprintf(sentence, size, "max_new_tokens: found %lld, wanted at most %lld",
			(long long)asked, (long long)limit);
		return E_PARAMS;
	}
	logprob_bytes = g->logprobs ? (1 + (uint64_t)g->n_top) *
					      (ANSWER_LOGPROB_BYTES + report->piece_bytes)
				    : 0;
	token_bytes = ANSWER_TOKEN_BYTES + report->piece_bytes + logprob_bytes;
	fixed_bytes = ANSWER_FIXED_BYTES + (g->echo ? r->prompt_tokens * logprob_bytes : 0);
	if (!generation_tokens(asked, context - r->prompt_tokens, limit,
		    (uint64_t)c->limits.reply_bytes, fixed_bytes, token_bytes,
		    &g->max_new_tokens)) {
		snprintf(sentence, size,
			"the reply could exceed %lld bytes: with these logprobs and echo, at most %u "
			"new tokens fit",
			(long long)c->limits.reply_bytes, g->max_new_tokens);
		return E_TOO_LARGE;
	}
	return RPC_OK;
}

struct job *generation_job(struct request *r, struct text_task *t, enum rpc_error *ret_error,
	char *sentence, size_t sentence_size)
{
	const struct model *m = r->server->report.model;
	const struct params *p = &t->call->params;
	enum rpc_error error;
	struct job *job = NULL;
	int code;

	r->prompt_tokens = (uint32_t)t->tokens.n;
	memcpy(r->prompt_hash, t->prompt_hash, sizeof(r->prompt_hash));
	generation_resolve(p, &r->server->config.defaults, &m->defaults, &r->generation);
	r->echo = r->generation.echo;
	error = bound(r, p, sentence, sentence_size);
	if (error == RPC_OK && t->score &&
		score_bytes(t->score, t) > (uint64_t)r->server->config.limits.reply_bytes) {
		error = E_TOO_LARGE;
		snprintf(sentence, sentence_size, "the result could exceed %lld bytes",
			(long long)r->server->config.limits.reply_bytes);
	}
	if (error != RPC_OK)
		goto refuse;
	error = E_ENGINE;
	snprintf(sentence, sentence_size, "out of memory for the request");
	if (params_has(p, PARAM_SEED))
		r->generation.seed = (uint64_t)p->seed;
	else if (generation_seed(&r->generation.seed) < 0)
		goto refuse;
	job = job_new();
	if (!job)
		goto refuse;
	code = take_bias(p, m->config.vocab, job, sentence, sentence_size);
	if (code == -EINVAL)
		error = E_PARAMS;
	if (code < 0 || take_stops(p, job) < 0)
		goto refuse;
	if (t->score && score_job(t->score, job) < 0)
		goto refuse;
	job->id = r->id;
	job->uid = r->user->uid;
	if (r->user->uid == UID_OVERFLOW && r->peer) /* it may be many people */
		job->cache_key = r->peer->number;
	job->batch_priority = params_has(p, PARAM_PRIORITY) && p->batch_priority;
	job->weight = (uint32_t)request_quota(r)->weight;
	job->generation = r->generation;
	job->prompt = t->tokens.ids;
	job->n_prompt = r->prompt_tokens;
	job->arrived_usec = r->arrived_usec;
	t->tokens = (struct token_list){}; /* consumed */
	return job;

refuse:
	job_free(job);
	*ret_error = error;
	return NULL;
}
