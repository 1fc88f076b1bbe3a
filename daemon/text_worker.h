/* The text worker: templates and tokens on a thread of their own, so that a long text delays nobody
 * else's frames. It reads the immutable model and nothing else. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/call.h"
#include "engine/model.h"

/* A piece of work: the call goes in, the result comes back in the same struct. */
struct text_task {
	struct text_task *next;
	uint64_t id; /* the request's */
	struct call *call;

	enum rpc_error error; /* RPC_OK: what follows is there */
	char sentence[512];
	struct token_list tokens; /* chat, complete: the prompt; tokenize, template: the result */
	char *text;               /* detokenize, template: valid UTF-8, [text_len] */
	size_t text_len;
	char prompt_hash[65]; /* chat, complete: of the ids as little-endian 32-bit integers */
};
struct text_task *text_task_free(struct text_task *t); /* accepts NULL, returns NULL */

struct text_worker;
int text_worker_new(const struct model *m, struct text_worker **ret); /* 0 or a negative errno */
/* Finishes the task at hand, drops the others. Accepts NULL, returns NULL. */
struct text_worker *text_worker_free(struct text_worker *w);
int text_worker_fd(const struct text_worker *w);                     /* readable: results */
void text_worker_submit(struct text_worker *w, struct text_task *t); /* takes it over */
struct text_task *text_worker_collect(struct text_worker *w);        /* a list, the caller's */
