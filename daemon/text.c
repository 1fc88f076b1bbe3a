/* From texts to token ids and back (conversations: text_chat.c). Runs on the text worker's thread;
 * reads the model, writes its task. What a message says is never trusted: control tokens come from
 * the template, from ids, or where `special` asks for them. */
#include "daemon/text.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/utf8.h"
#include "proto/text.h"

void text_fail(struct text_task *t, enum rpc_error error, const char *format, ...)
{
	va_list arguments;

	t->error = error;
	va_start(arguments, format);
	vsnprintf(t->sentence, sizeof(t->sentence), format, arguments);
	va_end(arguments);
}

void text_fail_memory(struct text_task *t)
{
	text_fail(t, E_ENGINE, "out of memory for the request's text");
}

int text_keep(struct text_task *t, char *raw, size_t len)
{
	if (!utf8_valid(raw, len)) {
		size_t size = utf8_repair(raw, len, NULL);
		char *repaired = malloc(size + 1);

		if (!repaired) {
			free(raw);
			return -ENOMEM;
		}
		utf8_repair(raw, len, repaired);
		repaired[size] = 0;
		free(raw);
		raw = repaired;
		len = size;
	}
	t->text = raw;
	t->text_len = len;
	return 0;
}

void text_encode_failed(struct text_task *t, int r)
{
	if (r == -E2BIG)
		text_fail(t, E_TOO_LARGE, "the text has more than %u bytes", TEXT_BYTES_MAX);
	else if (r == -ENOMEM)
		text_fail_memory(t);
	else
		text_fail(t, E_ENGINE, "the text could not be tokenised: %s", strerror(-r));
}

static int encode(
	const struct model *m, struct text_task *t, const struct text_span *span, unsigned flags)
{
	int r = tokenizer_encode(m->tokenizer, span, 1, flags, &t->tokens);

	if (r < 0)
		text_encode_failed(t, r);
	return r;
}

int text_digest_ids(struct digest *d, const int32_t *ids, size_t n, uint8_t ret[DIGEST_BYTES])
{
	struct digest *own = d ? NULL : digest_new();
	uint32_t block[1024];
	int r = 0;

	if (!d && !own)
		return -ENOMEM;
	d = d ? d : own;
	for (size_t i = 0; r == 0 && i < n;) {
		size_t k = 0;

		for (; k < 1024 && i < n; k++, i++)
			block[k] = htole32((uint32_t)ids[i]);
		r = digest_add(d, block, k * sizeof(*block));
	}
	if (r == 0)
		r = digest_now(d, ret);
	digest_free(own);
	return r;
}

/* The ids of a request, checked against the vocabulary. */
static int take_ids(
	const struct model *m, struct text_task *t, const char *key, const int64_t *ids, uint32_t n)
{
	t->tokens.ids = malloc((n ? n : 1) * sizeof(int32_t));
	if (!t->tokens.ids) {
		text_fail_memory(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (ids[i] < 0 || ids[i] >= m->config.vocab) {
			text_fail(t, E_PARAMS, "%s[%u]: found %lld, wanted a token id from 0 to %u",
				key, i, (long long)ids[i], m->config.vocab - 1);
			return -EINVAL;
		}
		t->tokens.ids[i] = (int32_t)ids[i];
	}
	t->tokens.n = n;
	return 0;
}

bool text_possible(const struct model *m, struct text_task *t)
{
	if (m->tokenizer)
		return true;
	text_fail(t, E_MODEL, "the model has no tokenizer: only token ids can be served");
	return false;
}

static void detokenize(const struct model *m, struct text_task *t)
{
	const struct params *p = &t->call->params;
	char *raw;
	size_t len;
	int r;

	if (!text_possible(m, t) || take_ids(m, t, "tokens", p->tokens, p->n_tokens) < 0)
		return;
	r = tokenizer_decode(m->tokenizer, t->tokens.ids, t->tokens.n, 0, &raw, &len);
	if (r == -EINVAL)
		text_fail(t, E_PARAMS, "tokens: found an id that stands for no text");
	else if (r < 0 || text_keep(t, raw, len) < 0)
		text_fail_memory(t);
}

/* The receipt's hash of a prompt. */
static void hash_prompt(struct text_task *t)
{
	if (text_digest_ids(NULL, t->tokens.ids, t->tokens.n, t->prompt_digest) < 0) {
		text_fail(t, E_ENGINE, "the prompt could not be hashed");
		return;
	}
	for (size_t i = 0; i < DIGEST_BYTES; i++)
		snprintf(t->prompt_hash + 2 * i, 3, "%02x", t->prompt_digest[i]);
}

/* A prompt that is no conversation. */
static void take_prompt(const struct model *m, struct text_task *t)
{
	const struct params *p = &t->call->params;
	const struct text_span span = {p->prompt.text, p->prompt.len, false};

	if (p->prompt_ids)
		take_ids(m, t, "prompt", p->prompt_ids, p->n_prompt_ids);
	else if (text_possible(m, t))
		encode(m, t, &span, TOKENIZE_MODEL);
	if (t->error == RPC_OK && t->tokens.n == 0)
		text_fail(t, E_PARAMS,
			"prompt: found no token at all, wanted at least one (the model adds none "
			"of its own)");
}

void text_run(const struct text_tools *tools, struct text_task *t)
{
	const struct model *m = tools->model;
	const struct params *p = &t->call->params;
	struct text_span span = {};

	switch (t->call->method) {
	case METHOD_CHAT:
	case METHOD_TEMPLATE: text_chat(tools, t); break;
	case METHOD_COMPLETE: take_prompt(m, t); break;
	case METHOD_SCORE:
		if (params_has(p, PARAM_MESSAGES))
			text_chat(tools, t);
		else
			take_prompt(m, t);
		if (t->error == RPC_OK)
			score_text(m, t);
		break;
	case METHOD_TOKENIZE:
		if (!text_possible(m, t))
			break;
		span = (struct text_span){
			p->text.text, p->text.len, params_has(p, PARAM_SPECIAL) && p->special};
		encode(m, t, &span, params_has(p, PARAM_BOS) && p->bos ? TOKENIZE_BOS : 0);
		break;
	case METHOD_DETOKENIZE: detokenize(m, t); break;
	default: text_fail(t, E_METHOD, "no text method"); break;
	}
	if (t->error == RPC_OK &&
		(t->call->method == METHOD_CHAT || t->call->method == METHOD_COMPLETE ||
			t->call->method == METHOD_SCORE))
		hash_prompt(t);
}
