/* A conversation's prompt. The template's text is tokenised in pieces: where a reply stands in it
 * unchanged, behind the same text with the same ids as when the model wrote it, its own ids are put
 * there instead; so the prompt of a turn begins with prompt and reply of the turn before, id by id.
 * Ids come from the session's messages or from what the daemon remembers for the uid. */
#include "daemon/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/history.h"
#include "daemon/identity.h"
#include "daemon/reply_memory.h"
#include "engine/source.h"
#include "proto/text.h"

#define SAMPLE_BYTES 256 /* of a tensor, for the model's identity */

static bool is_role(const struct rpc_text *t, const char *role)
{
	return t->len == strlen(role) && memcmp(t->text, role, t->len) == 0;
}

static int check_roles(struct text_task *t)
{
	const struct params *p = &t->call->params;

	for (uint32_t i = 0; i < p->n_messages; i++) {
		const struct rpc_text *role = &p->messages[i].role;
		char found[96];

		if (is_role(role, "system") || is_role(role, "user") || is_role(role, "assistant"))
			continue;
		text_fail(t, E_PARAMS,
			"messages[%u].role: found %s, wanted system, user or assistant", i,
			text_quote(role->text, role->len, found, sizeof(found)));
		return -EINVAL;
	}
	return 0;
}

static struct chat_message chat_message(const struct rpc_text *role, const struct rpc_text *content)
{
	return (struct chat_message){role->text, role->len, content->text, content->len};
}

/* The session's messages, then the request's, as the template writes them. */
static int render(const struct model *m, struct text_task *t, struct rendering *ret)
{
	const struct params *p = &t->call->params;
	char sentence[sizeof(t->sentence)];
	struct chat_message *messages;
	uint32_t n = 0;
	int r;

	messages = calloc(t->history.n + p->n_messages + 1, sizeof(*messages));
	if (!messages) {
		text_fail_memory(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < t->history.n; i++)
		messages[n++] = chat_message(
			&t->history.messages[i]->role, &t->history.messages[i]->content);
	for (uint32_t i = 0; i < p->n_messages; i++)
		messages[n++] = chat_message(&p->messages[i].role, &p->messages[i].content);
	r = template_render(m->template, messages, n, true, ret, sentence, sizeof(sentence));
	free(messages);
	if (r == -EINVAL)
		text_fail(t, E_PARAMS, "messages: the model's template refused them: %s", sentence);
	else if (r == -E2BIG)
		text_fail(t, E_TOO_LARGE, "messages: %s", sentence);
	else if (r == -ENOMEM)
		text_fail_memory(t);
	else if (r < 0)
		text_fail(t, E_MODEL, "the model's chat template failed: %s", sentence);
	return r;
}

/* A prompt on its way from spans to ids. */
struct prompt {
	const struct text_tools *tools;
	struct text_task *task;
	size_t span;         /* the first that has no ids yet */
	struct digest *text; /* identity and rendered text, up to the span looked at */
	struct digest *ids;  /* of what has ids */
	bool lost;           /* a known reply stands behind other ids: the rest is text */
};

static int append(struct text_task *t, const int32_t *ids, size_t n)
{
	int32_t *grown = reallocarray(t->tokens.ids, t->tokens.n + n + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	t->tokens.ids = grown;
	if (n)
		memcpy(grown + t->tokens.n, ids, n * sizeof(*ids));
	t->tokens.n += n;
	return 0;
}

/* BOS once: a template that does not write it gets it from the tokenizer. */
static int encode_start(
	const struct tokenizer *z, const struct text_span *spans, size_t n, struct token_list *ret)
{
	int r = tokenizer_encode(z, spans, n, 0, ret);

	if (r == 0 && tokenizer_adds_bos(z) && tokenizer_bos(z) >= 0 &&
		(ret->n == 0 || ret->ids[0] != tokenizer_bos(z))) {
		token_list_done(ret);
		r = tokenizer_encode(z, spans, n, TOKENIZE_BOS, ret);
	}
	return r;
}

/* The ids of the spans that have none yet, up to `end`. */
static int encode(
	const struct prompt *p, const struct rendering *text, size_t end, struct token_list *ret)
{
	const struct tokenizer *z = p->tools->model->tokenizer;
	const struct text_span *spans = text->spans + p->span;

	return p->span == 0 ? encode_start(z, spans, end, ret)
			    : tokenizer_encode(z, spans, end - p->span, TOKENIZE_CONTINUE, ret);
}

static struct reply_ids *known(const struct prompt *p, const uint8_t key[DIGEST_BYTES])
{
	const struct history *h = &p->task->history;

	for (uint32_t i = 0; i < h->n; i++)
		if (h->messages[i]->ids && memcmp(h->messages[i]->ids->key, key, DIGEST_BYTES) == 0)
			return reply_ids_ref(h->messages[i]->ids);
	return p->task->uid == UID_OVERFLOW
		       ? NULL
		       : reply_memory_find(p->tools->memory, p->task->uid, key);
}

/* Puts the reply's ids for span `at`, and for the `lead` bytes before it, behind those of the text
 * before, if these are the ones that the reply was written behind. */
static int put(struct prompt *p, const struct rendering *text, size_t at, size_t lead,
	struct reply_ids *reply)
{
	const struct text_span *span = &text->spans[at];
	struct token_list before = {};
	uint8_t digest[DIGEST_BYTES];
	int r;

	/* ids come from files, too */
	if (reply_ids_cover(p->tools->model->tokenizer, reply->ids, reply->n, span->text - lead,
		    span->len + lead) != reply->n)
		return 0;
	if (lead)
		text->spans[at - 1].len -= lead;
	r = encode(p, text, at, &before);
	if (lead)
		text->spans[at - 1].len += lead;
	if (r == 0)
		r = text_digest_ids(p->ids, before.ids, before.n, digest);
	if (r == 0 && memcmp(digest, reply->prompt, DIGEST_BYTES) != 0)
		p->lost = true;
	if (r == 0 && !p->lost)
		r = append(p->task, before.ids, before.n);
	if (r == 0 && !p->lost)
		r = append(p->task, reply->ids, reply->n);
	if (r == 0 && !p->lost) {
		r = text_digest_ids(p->ids, reply->ids, reply->n, digest);
		p->span = at + 1;
	}
	token_list_done(&before);
	return r;
}

/* Is span `at`, with the `lead` bytes before it, a reply at this place whose ids are known? */
static int try(struct prompt *p, const struct rendering *text, size_t at, size_t lead,
	const uint8_t place[DIGEST_BYTES])
{
	const struct text_span *span = &text->spans[at];
	uint8_t key[DIGEST_BYTES];
	struct reply_ids *reply;
	int r;

	r = reply_ids_key(place, span->text - lead, span->len + lead, key);
	reply = r == 0 ? known(p, key) : NULL;
	if (reply)
		r = put(p, text, at, lead, reply);
	reply_ids_unref(reply);
	return r;
}

/* Looks at each stretch that came from a message, also with the space that a template puts in front
 * of it: SentencePiece's models write that space themselves, and then the message is without it. */
static int put_replies(struct prompt *p, const struct rendering *text)
{
	uint8_t place[DIGEST_BYTES], before_space[DIGEST_BYTES];
	bool space = false; /* the span before ends in one, at that place */
	int r = 0;

	for (size_t i = 0; r == 0 && i < text->n_spans; i++) {
		const struct text_span *span = &text->spans[i];

		if (!span->trusted && !p->lost) {
			r = digest_now(p->text, place);
			if (r == 0)
				r = try(p, text, i, 0, place);
			if (r == 0 && space && !p->lost && p->span <= i)
				r = try(p, text, i, 1, before_space);
		}
		space = span->trusted && span->text[span->len - 1] == ' ';
		if (r == 0)
			r = digest_add(p->text, span->text, span->len - space);
		if (r == 0 && space)
			r = digest_now(p->text, before_space);
		if (r == 0 && space)
			r = digest_add(p->text, " ", 1);
	}
	return r;
}

static int tokenize(const struct text_tools *tools, struct text_task *t, struct rendering *text)
{
	struct prompt p = {tools, t, .text = digest_new(), .ids = digest_new()};
	struct token_list rest = {};
	int r;

	r = p.text && p.ids ? digest_add(p.text, tools->identity, DIGEST_BYTES) : -ENOMEM;
	if (r == 0)
		r = put_replies(&p, text);
	if (r == 0)
		r = encode(&p, text, text->n_spans, &rest);
	if (r == 0)
		r = append(t, rest.ids, rest.n);
	if (r == 0)
		r = digest_now(p.text, t->place);
	token_list_done(&rest);
	digest_free(p.text);
	digest_free(p.ids);
	return r;
}

void text_chat(const struct text_tools *tools, struct text_task *t)
{
	const struct model *m = tools->model;
	struct rendering rendering = {};
	int r;

	if (!text_possible(m, t) || check_roles(t) < 0)
		return;
	if (!m->template) {
		text_fail(t, E_MODEL, "the model has no chat template that can be used%s%s",
			m->template_error[0] ? ": " : "", m->template_error);
		return;
	}
	if (render(m, t, &rendering) < 0)
		return;
	r = tokenize(tools, t, &rendering);
	if (r < 0) {
		text_encode_failed(t, r);
	} else if (t->call->method == METHOD_TEMPLATE) {
		if (text_keep(t, rendering.text, rendering.len) < 0)
			text_fail_memory(t);
		rendering.text = NULL; /* consumed */
	}
	rendering_done(&rendering);
}

int text_identity(const struct model *m, uint8_t ret[DIGEST_BYTES])
{
	const struct model_source *s = m->source;
	const char *quantize = m->quantize ? m->quantize->name : "", *text;
	struct digest *d = digest_new();
	size_t len = 0;
	int r = d ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < s->n_metadata; i++)
		r = digest_add(d, s->metadata[i].text, s->metadata[i].len);
	for (size_t i = 0; r == 0 && i < s->n_tensors; i++) {
		const struct source_tensor *t = &s->tensors[i];

		r = digest_add(d, t->name.text, t->name.len);
		if (r == 0)
			r = digest_add(d, &t->dtype, sizeof(t->dtype));
		if (r == 0)
			r = digest_add(d, t->dims, sizeof(t->dims));
		if (r == 0)
			r = digest_add(
				d, t->data, t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES);
	}
	if (r == 0 && m->template) {
		text = template_source(m->template, &len);
		r = digest_add(d, text, len);
	}
	if (r == 0)
		r = digest_add(d, quantize, strlen(quantize));
	if (r == 0)
		r = digest_now(d, ret);
	digest_free(d);
	return r;
}
