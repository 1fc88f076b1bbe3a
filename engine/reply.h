/* The text of one reply as its tokens come: what may be shown now and what must wait.
 *
 * Text waits while its last bytes could still become a character, or a stop text. It is released at
 * token borders, so that each release is whole tokens with exactly their text. */
#pragma once

#include "engine/engine.h"

struct reply {
	const struct tokenizer *tokenizer; /* NULL: tokens have no text */
	const struct stop_text *stops;     /* [n_stops], not owned */
	uint32_t n_stops;

	struct event *held; /* tokens and logprobs not yet released, or NULL */
	uint32_t held_size; /* tokens that held->tokens has room for */
	char *bytes;        /* [n_bytes] the held tokens' bytes */
	size_t n_bytes, size;
	size_t *ends; /* [held->n_tokens] where each held token's bytes end */
	uint32_t ends_size;
	uint32_t n_tokens; /* tokens pushed so far */
};

void reply_init(struct reply *r, const struct tokenizer *t, const struct job *job);
void reply_done(struct reply *r); /* frees what is held; safe to call twice */

/* Adds one token; result carries its logprob where the job wants it, else NULL. Returns 1 with an
 * event in *ret where text or tokens became free, 0 where all waits, 2 where a stop text is
 * complete: *ret_stop is its index, and reply_finish() gives what stands before it. -ENOMEM. */
int reply_push(struct reply *r, uint64_t job, int32_t token, const struct sample_result *result,
	struct event **ret, int32_t *ret_stop);

/* Everything still held, for the end of the reply: bytes that never became a character as U+FFFD.
 * NULL in *ret where there is nothing. -ENOMEM. */
int reply_finish(struct reply *r, struct event **ret);
