/* A conversation so far: messages that are immutable and shared, so that a fork, a request on its
 * way through the text worker and a file being written all read the same ones. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/reply_ids.h"
#include "proto/params.h"

struct history_message {
	atomic_uint refs;
	bool begins;                   /* the first message of a turn: what one request added */
	uint32_t tokens;               /* a reply: its prompt's and its own; others: 0 */
	struct reply_ids *ids;         /* a reply's, or NULL */
	struct rpc_text role, content; /* valid UTF-8, in the bytes that follow */
	char text[];
};

struct history {
	struct history_message **messages; /* [n] */
	uint32_t n, size;
	size_t bytes; /* of texts and ids, and what each message costs beside them */
};

/* Appends a message; its text is repaired to UTF-8, `ids` gets a reference of its own. 0 or
 * -ENOMEM. */
int history_add(struct history *h, const struct rpc_text *role, const struct rpc_text *content,
	bool begins, uint32_t tokens, struct reply_ids *ids);
/* What such a message would add to bytes. */
size_t history_message_bytes(
	const struct rpc_text *role, const struct rpc_text *content, uint32_t n_ids);

/* The same messages in another history, which must be empty. 0 or -ENOMEM. */
int history_copy(const struct history *h, struct history *ret);
/* Forgets all but the first n messages. */
void history_cut(struct history *h, uint32_t n);
void history_done(struct history *h); /* safe to call twice */

uint32_t history_turns(const struct history *h);
/* The index of the first message of the last `turns` turns, of which there are so many. */
uint32_t history_turn_start(const struct history *h, uint32_t turns);
/* Tokens of the conversation as its last reply left it. */
uint32_t history_tokens(const struct history *h);
