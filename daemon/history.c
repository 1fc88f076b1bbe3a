/* Why: see history.h. Each history owns one reference to each of its messages. */
#include "daemon/history.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/utf8.h"

static struct history_message *message_unref(struct history_message *m)
{
	if (m && atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1) {
		reply_ids_unref(m->ids);
		free(m);
	}
	return NULL;
}

static size_t message_bytes(const struct history_message *m)
{
	return history_message_bytes(&m->role, &m->content, m->ids ? m->ids->n : 0);
}

size_t history_message_bytes(
	const struct rpc_text *role, const struct rpc_text *content, uint32_t n_ids)
{
	return sizeof(struct history_message) + role->len + content->len +
	       (n_ids ? sizeof(struct reply_ids) + (size_t)n_ids * sizeof(int32_t) : 0);
}

static int reserve(struct history *h, uint32_t n)
{
	uint32_t size = h->size ? h->size : 8;
	void *grown;

	if (n <= h->size)
		return 0;
	while (size < n)
		size *= 2;
	grown = reallocarray(h->messages, size, sizeof(*h->messages));
	if (!grown)
		return -ENOMEM;
	h->messages = grown;
	h->size = size;
	return 0;
}

int history_add(struct history *h, const struct rpc_text *role, const struct rpc_text *content,
	bool begins, uint32_t tokens, struct reply_ids *ids)
{
	size_t role_len = utf8_repair(role->text, role->len, NULL);
	size_t len = utf8_repair(content->text, content->len, NULL);
	struct history_message *m;

	if (reserve(h, h->n + 1) < 0)
		return -ENOMEM;
	m = calloc(1, sizeof(*m) + role_len + len + 1);
	if (!m)
		return -ENOMEM;
	atomic_init(&m->refs, 1);
	m->begins = begins;
	m->tokens = tokens;
	m->ids = ids ? reply_ids_ref(ids) : NULL;
	utf8_repair(role->text, role->len, m->text);
	utf8_repair(content->text, content->len, m->text + role_len);
	m->role = (struct rpc_text){m->text, role_len};
	m->content = (struct rpc_text){m->text + role_len, len};
	h->messages[h->n++] = m;
	h->bytes += message_bytes(m);
	return 0;
}

int history_copy(const struct history *h, struct history *ret)
{
	assert(ret->n == 0);
	if (reserve(ret, h->n) < 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < h->n; i++) {
		atomic_fetch_add_explicit(&h->messages[i]->refs, 1, memory_order_relaxed);
		ret->messages[i] = h->messages[i];
	}
	ret->n = h->n;
	ret->bytes = h->bytes;
	return 0;
}

void history_cut(struct history *h, uint32_t n)
{
	while (h->n > n) {
		h->bytes -= message_bytes(h->messages[--h->n]);
		message_unref(h->messages[h->n]);
	}
}

void history_done(struct history *h)
{
	history_cut(h, 0);
	free(h->messages);
	*h = (struct history){};
}

uint32_t history_turns(const struct history *h)
{
	uint32_t turns = 0;

	for (uint32_t i = 0; i < h->n; i++)
		turns += h->messages[i]->begins;
	return turns;
}

uint32_t history_turn_start(const struct history *h, uint32_t turns)
{
	uint32_t at = h->n;

	while (turns > 0) {
		assert(at > 0);
		turns -= h->messages[--at]->begins;
	}
	return at;
}

uint32_t history_tokens(const struct history *h)
{
	for (uint32_t i = h->n; i > 0; i--)
		if (h->messages[i - 1]->tokens)
			return h->messages[i - 1]->tokens;
	return 0;
}
