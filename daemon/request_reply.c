/* The reply that a request gathers as its events come, charged to its user, and what of it is kept
 * for prompts to come. The buffers are the request's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/answer.h"
#include "daemon/request.h"

void request_charge(struct request *r, size_t bytes)
{
	r->charged_bytes += bytes;
	r->user->bytes += bytes;
}

static int grow(void **array, uint32_t n, uint32_t *size, size_t item)
{
	if (n <= *size)
		return 0;
	uint32_t larger = n * 2;
	void *p = reallocarray(*array, larger, item);

	if (!p)
		return -ENOMEM;
	*array = p;
	*size = larger;
	return 0;
}

int request_keep_logprobs(struct request *r, const struct event *e)
{
	struct reply_buffer *b = &r->reply;
	size_t before = b->logprobs.size;
	msgpack_packer pk;

	msgpack_packer_init(&pk, &b->logprobs, msgpack_sbuffer_write);
	for (uint32_t i = 0; i < e->n_logprobs; i++)
		answer_pack_logprob(&pk, r->server->report.model, &e->logprobs[i], true);
	b->n_logprobs += e->n_logprobs;
	request_charge(r, b->logprobs.size - before);
	return e->n_logprobs && b->logprobs.size == before ? -ENOMEM : 0;
}

int request_keep_tokens(struct request *r, const struct event *e)
{
	struct reply_buffer *b = &r->reply;
	void *tokens = b->tokens;

	if (b->len + e->text_len + 1 > b->size) {
		size_t size = (b->len + e->text_len + 1) * 2;
		char *text = realloc(b->text, size);

		if (!text)
			return -ENOMEM;
		b->text = text;
		b->size = size;
	}
	if (grow(&tokens, b->n_tokens + e->n_tokens, &b->tokens_size, sizeof(*b->tokens)) < 0)
		return -ENOMEM;
	b->tokens = tokens;
	if (e->text_len)
		memcpy(b->text + b->len, e->text, e->text_len);
	b->len += e->text_len;
	if (e->n_tokens)
		memcpy(b->tokens + b->n_tokens, e->tokens, e->n_tokens * sizeof(*e->tokens));
	b->n_tokens += e->n_tokens;
	request_charge(r, e->text_len + e->n_tokens * sizeof(*e->tokens));
	return 0;
}

struct reply_ids *request_reply_ids(const struct request *r)
{
	const struct reply_buffer *b = &r->reply;
	const struct model *m = r->server->report.model;
	uint8_t key[DIGEST_BYTES];
	uint32_t n;

	if (r->method != METHOD_CHAT || !m->tokenizer || r->user->uid == UID_OVERFLOW)
		return NULL;
	n = reply_ids_cover(m->tokenizer, b->tokens, b->n_tokens, b->text, b->len);
	if (n == 0 || reply_ids_key(r->place, b->text, b->len, key) < 0)
		return NULL;
	return reply_ids_new(key, r->prompt_digest, b->tokens, n);
}
