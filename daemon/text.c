/* From messages and texts to token ids and back. Runs on the text worker's thread; reads the model,
 * writes its task. What a message says is never trusted: control tokens come from the template,
 * from ids, or where `special` asks for them. */
#include "daemon/text.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/digest.h"
#include "engine/utf8.h"
#include "proto/text.h"

static void __attribute__((format(printf, 3, 4)))
fail(struct text_task *t, enum rpc_error error, const char *format, ...)
{
	va_list arguments;

	t->error = error;
	va_start(arguments, format);
	vsnprintf(t->sentence, sizeof(t->sentence), format, arguments);
	va_end(arguments);
}

static void fail_memory(struct text_task *t)
{
	fail(t, E_ENGINE, "out of memory for the request's text");
}

/* Text as it may be sent. Takes `raw` over. */
static int keep_text(struct text_task *t, char *raw, size_t len)
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

static void encode_failed(struct text_task *t, int r)
{
	if (r == -E2BIG)
		fail(t, E_TOO_LARGE, "the text has more than %u bytes", TEXT_BYTES_MAX);
	else if (r == -ENOMEM)
		fail_memory(t);
	else
		fail(t, E_ENGINE, "the text could not be tokenised: %s", strerror(-r));
}

static int encode(const struct model *m, struct text_task *t, const struct text_span *spans,
	size_t n_spans, unsigned flags)
{
	int r = tokenizer_encode(m->tokenizer, spans, n_spans, flags, &t->tokens);

	if (r < 0)
		encode_failed(t, r);
	return r;
}

/* The ids of a request, checked against the vocabulary. */
static int take_ids(
	const struct model *m, struct text_task *t, const char *key, const int64_t *ids, uint32_t n)
{
	t->tokens.ids = malloc((n ? n : 1) * sizeof(int32_t));
	if (!t->tokens.ids) {
		fail_memory(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (ids[i] < 0 || ids[i] >= m->config.vocab) {
			fail(t, E_PARAMS, "%s[%u]: found %lld, wanted a token id from 0 to %u", key,
				i, (long long)ids[i], m->config.vocab - 1);
			return -EINVAL;
		}
		t->tokens.ids[i] = (int32_t)ids[i];
	}
	t->tokens.n = n;
	return 0;
}

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
		fail(t, E_PARAMS, "messages[%u].role: found %s, wanted system, user or assistant",
			i, text_quote(role->text, role->len, found, sizeof(found)));
		return -EINVAL;
	}
	return 0;
}

static bool model_has_text(const struct model *m, struct text_task *t)
{
	if (m->tokenizer)
		return true;
	fail(t, E_MODEL, "the model has no tokenizer: only token ids can be served");
	return false;
}

/* The prompt of a conversation: its text where `keep`, and its tokens. */
static void render(const struct model *m, struct text_task *t, bool keep)
{
	const struct params *p = &t->call->params;
	struct chat_message *messages;
	struct rendering rendering = {};
	int r;

	if (!model_has_text(m, t) || check_roles(t) < 0)
		return;
	if (!m->template) {
		fail(t, E_MODEL, "the model has no chat template that can be used%s%s",
			m->template_error[0] ? ": " : "", m->template_error);
		return;
	}
	messages = calloc(p->n_messages, sizeof(*messages));
	if (!messages) {
		fail_memory(t);
		return;
	}
	for (uint32_t i = 0; i < p->n_messages; i++)
		messages[i] = (struct chat_message){
			p->messages[i].role.text,
			p->messages[i].role.len,
			p->messages[i].content.text,
			p->messages[i].content.len,
		};
	r = template_render(m->template, messages, p->n_messages, true, &rendering, t->sentence,
		sizeof(t->sentence));
	free(messages);
	if (r < 0) {
		char sentence[sizeof(t->sentence)];

		snprintf(sentence, sizeof(sentence), "%s", t->sentence);
		if (r == -EINVAL)
			fail(t, E_PARAMS, "messages: the model's template refused them: %s",
				sentence);
		else if (r == -E2BIG)
			fail(t, E_TOO_LARGE, "messages: %s", sentence);
		else if (r == -ENOMEM)
			fail_memory(t);
		else
			fail(t, E_MODEL, "the model's chat template failed: %s", sentence);
		return;
	}

	/* BOS once: a template that does not write it gets it from the tokenizer */
	r = encode(m, t, rendering.spans, rendering.n_spans, 0);
	if (r == 0 && tokenizer_adds_bos(m->tokenizer) && tokenizer_bos(m->tokenizer) >= 0 &&
		(t->tokens.n == 0 || t->tokens.ids[0] != tokenizer_bos(m->tokenizer))) {
		token_list_done(&t->tokens);
		r = encode(m, t, rendering.spans, rendering.n_spans, TOKENIZE_BOS);
	}
	if (r == 0 && keep) {
		if (keep_text(t, rendering.text, rendering.len) < 0)
			fail_memory(t);
		rendering.text = NULL; /* consumed */
	}
	rendering_done(&rendering);
}

static void detokenize(const struct model *m, struct text_task *t)
{
	const struct params *p = &t->call->params;
	char *raw;
	size_t len;
	int r;

	if (!model_has_text(m, t) || take_ids(m, t, "tokens", p->tokens, p->n_tokens) < 0)
		return;
	r = tokenizer_decode(m->tokenizer, t->tokens.ids, t->tokens.n, 0, &raw, &len);
	if (r == -EINVAL)
		fail(t, E_PARAMS, "tokens: found an id that stands for no text");
	else if (r < 0 || keep_text(t, raw, len) < 0)
		fail_memory(t);
}

/* The receipt's hash of a prompt. */
static void hash_prompt(struct text_task *t)
{
	uint32_t *ids = malloc((t->tokens.n ? t->tokens.n : 1) * sizeof(*ids));

	if (!ids) {
		fail_memory(t);
		return;
	}
	for (size_t i = 0; i < t->tokens.n; i++)
		ids[i] = htole32((uint32_t)t->tokens.ids[i]);
	if (digest_sha256(ids, t->tokens.n * sizeof(*ids), t->prompt_hash) < 0)
		fail(t, E_ENGINE, "the prompt could not be hashed");
	free(ids);
}

void text_run(const struct model *m, struct text_task *t)
{
	const struct params *p = &t->call->params;
	struct text_span span = {};

	switch (t->call->method) {
	case METHOD_CHAT:
	case METHOD_TEMPLATE: render(m, t, t->call->method == METHOD_TEMPLATE); break;
	case METHOD_COMPLETE:
		if (p->prompt_ids) {
			take_ids(m, t, "prompt", p->prompt_ids, p->n_prompt_ids);
		} else if (model_has_text(m, t)) {
			span = (struct text_span){p->prompt.text, p->prompt.len, false};
			encode(m, t, &span, 1, TOKENIZE_MODEL);
		}
		if (t->error == RPC_OK && t->tokens.n == 0)
			fail(t, E_PARAMS,
				"prompt: found no token at all, wanted at least one (the model adds "
				"none of its own)");
		break;
	case METHOD_TOKENIZE:
		if (!model_has_text(m, t))
			break;
		span = (struct text_span){
			p->text.text, p->text.len, params_has(p, PARAM_SPECIAL) && p->special};
		encode(m, t, &span, 1, params_has(p, PARAM_BOS) && p->bos ? TOKENIZE_BOS : 0);
		break;
	case METHOD_DETOKENIZE: detokenize(m, t); break;
	default: fail(t, E_METHOD, "no text method"); break;
	}
	if (t->error == RPC_OK &&
		(t->call->method == METHOD_CHAT || t->call->method == METHOD_COMPLETE))
		hash_prompt(t);
}
