/* What a request's client is sent: notifications on the way, one response at the end. */
#pragma once

#include "daemon/request.h"

/* Upper bounds of a result's bytes: without any token; for a token beside its text; for each token
 * and each alternative in logprobs beside its text. */
#define ANSWER_FIXED_BYTES   4096
#define ANSWER_TOKEN_BYTES   8
#define ANSWER_LOGPROB_BYTES 56

/* Notifications; only requests that stream get any. */
void answer_loading(struct request *r, uint64_t done_bytes, uint64_t total_bytes);
void answer_queued(struct request *r, uint32_t position);
void answer_prefill(struct request *r, uint32_t done, uint32_t total);
/* The event's tokens, whose packed logprobs (n_logprobs of them) the reply's buffer ends with, from
 * byte `logprobs_at`. */
void answer_tokens(struct request *r, const struct event *e, size_t logprobs_at);

/* One logprob entry, as the protocol has it. */
void answer_pack_logprob(
	msgpack_packer *pk, const struct model *m, const struct token_logprob *l, bool with_top);

/* Responses. done: the engine's last word, or NULL for a request that never reached it and was
 * cancelled by its own client. */
void answer_result(struct request *r, const struct event *done);
/* The three keys that every result of the engine ends with: usage, timing, receipt. */
void answer_pack_ending(msgpack_packer *pk, const struct request *r, const struct event *done);
void answer_text(struct request *r, const struct text_task *t);
void answer_dropped(struct request *r, uint32_t pages); /* cache.drop */
void answer_state(struct request *r);                   /* model.load, model.unload */
