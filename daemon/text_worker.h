/* The text worker: templates and tokens on a thread of their own, so that a long text delays nobody
 * else's frames. It reads the immutable model and what is remembered of replies, nothing else. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/call.h"
#include "daemon/history.h"
#include "daemon/reply_memory.h"
#include "daemon/score.h"
#include "engine/digest.h"
#include "engine/model.h"

/* A piece of work: the call goes in, the result comes back in the same struct. */
struct text_task {
	struct text_task *next;
	uint64_t id; /* the request's */
	struct call *call;
	uint32_t uid;
	struct history history; /* the session's, before the call's messages */

	enum rpc_error error; /* RPC_OK: what follows is there */
	char sentence[512];
	struct token_list
		tokens;      /* chat, complete, score: the prompt; tokenize, template: the result */
	struct score *score; /* score: the choices' tokens, beside the prompt's */
	char *text;          /* detokenize, template: valid UTF-8, [text_len] */
	size_t text_len;
	/* with a prompt: SHA-256 of the ids as little-endian 32-bit integers */
	uint8_t prompt_digest[DIGEST_BYTES];
	char prompt_hash[65];
	uint8_t place[DIGEST_BYTES]; /* chat, template: where the reply will stand (reply_ids.h) */
};
struct text_task *text_task_free(struct text_task *t); /* accepts NULL, returns NULL */

struct text_worker;
/* 0 or a negative errno. The memory outlives the worker. */
int text_worker_new(const struct model *m, struct reply_memory *memory, struct text_worker **ret);
/* Finishes the task at hand, drops the others. Accepts NULL, returns NULL. */
struct text_worker *text_worker_free(struct text_worker *w);
int text_worker_fd(const struct text_worker *w);                     /* readable: results */
void text_worker_submit(struct text_worker *w, struct text_task *t); /* takes it over */
struct text_task *text_worker_collect(struct text_worker *w);        /* a list, the caller's */
