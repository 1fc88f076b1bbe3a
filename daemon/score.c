/* A choice is scored as the model would write it: its tokens are those of a text that goes on
 * behind the prompt's last token; in a chat what the template writes before a reply comes first,
 * and the token that ends the turn follows. A struct score goes from the text worker to the
 * request and stays there until the answer. */
#include "daemon/score.h"

#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/answer.h"
#include "daemon/request.h"
#include "engine/turn.h"
#include "engine/utf8.h"

#define CHOICE_FIXED_BYTES 64 /* of one choice in a result, beside text and tokens */

struct score *score_free(struct score *s)
{
	if (!s)
		return NULL;
	for (uint32_t i = 0; i < s->n; i++)
		free(s->choices[i].tokens);
	free(s->choices);
	free(s);
	return NULL;
}

static void fail_memory(struct text_task *t)
{
	t->error = E_ENGINE;
	snprintf(t->sentence, sizeof(t->sentence), "out of memory for the request's text");
}

/* One choice's tokens; false where the task has failed. */
static bool take_choice(const struct model *m, struct text_task *t, const struct turn *turn,
	uint32_t i, struct score_choice *ret)
{
	const struct rpc_text *text = &t->call->params.choices[i];
	const struct text_span spans[] = {
		{turn->lead, turn->lead_len, true}, {text->text, text->len, false}};
	struct token_list ids;

	if (tokenizer_continue(m->tokenizer, t->tokens.ids[t->tokens.n - 1], spans, 2, &ids) < 0) {
		fail_memory(t); /* a frame's bytes are never too many for a text */
		return false;
	}
	if (ids.n == 0 && turn->end < 0) {
		token_list_done(&ids);
		t->error = E_PARAMS;
		snprintf(t->sentence, sizeof(t->sentence),
			"choices[%u]: found no token at all, wanted at least one", i);
		return false;
	}
	*ret = (struct score_choice){.tokens = ids.ids, .n_tokens = (uint32_t)ids.n};
	return true;
}

void score_text(const struct model *m, struct text_task *t)
{
	const struct params *p = &t->call->params;
	struct turn turn = {.end = -1};
	struct score *s;

	if (!m->tokenizer) {
		t->error = E_MODEL;
		snprintf(t->sentence, sizeof(t->sentence),
			"the model has no tokenizer: choices, which are text, cannot be scored");
		return;
	}
	s = t->score = calloc(1, sizeof(*s));
	if (s)
		s->choices = calloc(p->n_choices, sizeof(*s->choices));
	if (!s || !s->choices || (params_has(p, PARAM_MESSAGES) && turn_find(m, &turn) < 0)) {
		fail_memory(t);
		return;
	}
	s->end = turn.end;
	while (s->n < p->n_choices && take_choice(m, t, &turn, s->n, &s->choices[s->n]))
		s->n_tokens += s->choices[s->n++].n_tokens;
	turn_done(&turn);
}

int score_job(const struct score *s, struct job *job)
{
	bool ends = s->end >= 0;

	job->choices = calloc(s->n, sizeof(*job->choices));
	if (!job->choices)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n; i++) {
		const struct score_choice *from = &s->choices[i];
		struct choice *c = &job->choices[job->n_choices];

		c->n_tokens = from->n_tokens + ends;
		c->tokens = malloc(c->n_tokens * sizeof(*c->tokens));
		if (!c->tokens)
			return -ENOMEM;
		job->n_choices++;
		if (from->n_tokens > 0)
			memcpy(c->tokens, from->tokens, from->n_tokens * sizeof(*c->tokens));
		if (ends)
			c->tokens[from->n_tokens] = s->end;
	}
	return 0;
}

uint64_t score_bytes(const struct score *s, const struct text_task *t)
{
	uint64_t bytes = ANSWER_FIXED_BYTES;

	for (uint32_t i = 0; i < s->n; i++)
		bytes += CHOICE_FIXED_BYTES + t->call->params.choices[i].len * 3 +
			 s->choices[i].n_tokens * (uint64_t)ANSWER_TOKEN_BYTES;
	return bytes;
}

void score_event(struct score *s, const struct event *e)
{
	struct score_choice *c = &s->choices[e->index];

	c->known = true;
	c->logprob = e->score < -FLT_MAX ? -FLT_MAX : e->score; /* the protocol has no infinity */
}

static void pack_choice(
	msgpack_packer *pk, const struct rpc_text *text, const struct score_choice *c)
{
	size_t len = utf8_repair(text->text, text->len, NULL);
	char *repaired = malloc(len > 0 ? len : 1);

	msgpack_pack_map(pk, 3);
	pack_key(pk, "text");
	if (repaired)
		utf8_repair(text->text, text->len, repaired);
	pack_text(pk, repaired, repaired ? len : 0);
	free(repaired);
	pack_key(pk, "logprob");
	if (c->known)
		msgpack_pack_double(pk, c->logprob);
	else
		msgpack_pack_nil(pk);
	pack_key(pk, "tokens");
	msgpack_pack_array(pk, c->n_tokens);
	for (uint32_t k = 0; k < c->n_tokens; k++)
		msgpack_pack_int32(pk, c->tokens[k]);
}

/* The first of the likeliest, once all are known; -1. */
static int64_t best(const struct score *s)
{
	int64_t at = 0;

	for (uint32_t i = 0; i < s->n; i++) {
		if (!s->choices[i].known)
			return -1;
		if (s->choices[i].logprob > s->choices[at].logprob)
			at = i;
	}
	return s->n > 0 ? at : -1;
}

void score_answer(struct request *r, const struct event *done)
{
	static const struct score none = {.end = -1};
	const struct score *s = r->score ? r->score : &none;
	int64_t at = best(s);

	if (!r->peer)
		return;
	msgpack_packer pk = peer_packer(r->peer);
	message_pack_result(&pk, r->rpc_id);
	msgpack_pack_map(&pk, 7);
	pack_key(&pk, "choices");
	msgpack_pack_array(&pk, s->n);
	for (uint32_t i = 0; i < s->n; i++)
		pack_choice(&pk, &r->call->params.choices[i], &s->choices[i]);
	pack_key(&pk, "best");
	at < 0 ? msgpack_pack_nil(&pk) : msgpack_pack_int64(&pk, at);
	pack_key(&pk, "end");
	s->end < 0 ? msgpack_pack_nil(&pk) : msgpack_pack_int32(&pk, s->end);
	pack_key(&pk, "finish");
	pack_key(&pk, done && done->finish != FINISH_CANCELLED ? "stop" : "cancelled");
	answer_pack_ending(&pk, r, done);
}
