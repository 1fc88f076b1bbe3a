/* The bookkeeping of one sequence. Owns its job, its tokens and its reply. */
#include "engine/sequence.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct sequence *sequence_new(struct job *job, const struct tokenizer *t)
{
	struct sequence *s;

	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->size = job->n_prompt + 64;
	s->tokens = malloc(s->size * sizeof(*s->tokens));
	if (!s->tokens) {
		free(s);
		return NULL;
	}
	memcpy(s->tokens, job->prompt, job->n_prompt * sizeof(*s->tokens));
	s->n_tokens = job->n_prompt;
	s->slot = SLOT_NONE;
	s->told_position = UINT32_MAX;
	s->job = job;
	reply_init(&s->reply, t, job);
	return s;
}

struct sequence *sequence_free(struct sequence *s)
{
	if (!s)
		return NULL;
	assert(s->slot == SLOT_NONE);
	reply_done(&s->reply);
	job_free(s->job);
	free(s->tokens);
	free(s);
	return NULL;
}

int sequence_append(struct sequence *s, int32_t token)
{
	if (s->n_tokens == s->size) {
		uint32_t size = s->size * 2;
		int32_t *grown = realloc(s->tokens, size * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		s->tokens = grown;
		s->size = size;
	}
	s->tokens[s->n_tokens++] = token;
	return 0;
}

uint32_t sequence_counts(const struct sequence *s, struct sample_count *counts, uint32_t *mark)
{
	const struct generation *g = &s->job->generation;
	uint32_t from = 0, n = 0;

	if (g->repetition_penalty == 1 && g->presence_penalty == 0 && g->frequency_penalty == 0)
		return 0;
	if (g->penalty_window > 0 && s->n_tokens > g->penalty_window)
		from = s->n_tokens - g->penalty_window;
	for (uint32_t i = from; i < s->n_tokens; i++) {
		int32_t token = s->tokens[i];
		struct sample_count *c;

		if (mark[token] == 0) {
			counts[n] = (struct sample_count){.token = token};
			mark[token] = ++n;
		}
		c = &counts[mark[token] - 1];
		c->in_all++;
		c->in_reply += i >= s->job->n_prompt;
	}
	for (uint32_t i = 0; i < n; i++)
		mark[counts[i].token] = 0;
	return n;
}
