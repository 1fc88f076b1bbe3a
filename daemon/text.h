/* What a text task does: pure functions over the model and what is remembered of replies. */
#pragma once

#include "daemon/text_worker.h"
#include "engine/digest.h"

/* What a task may read. */
struct text_tools {
	const struct model *model;
	struct reply_memory *memory;
	uint8_t identity[DIGEST_BYTES]; /* of the model: text_identity() */
};

/* Fills the task's result or its error. */
void text_run(const struct text_tools *tools, struct text_task *t);

/* chat, template: the conversation's prompt, with the ids that replies in it are known by. */
void text_chat(const struct text_tools *tools, struct text_task *t);

/* What tells a model from others as far as its replies' ids go: digest of its files' metadata, of
 * its tensors' names, types, shapes and first bytes, and of its template. 0 or a negative errno. */
int text_identity(const struct model *m, uint8_t ret[DIGEST_BYTES]);

/* For text.c and text_chat.c. */
void text_fail(struct text_task *t, enum rpc_error error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void text_fail_memory(struct text_task *t);
void text_encode_failed(struct text_task *t, int r);            /* of tokenizer_encode() */
bool text_possible(const struct model *m, struct text_task *t); /* fails where it is not */
/* The task's text as it may be sent. Takes `raw` over. 0 or -ENOMEM. */
int text_keep(struct text_task *t, char *raw, size_t len);
/* Adds the ids, as little-endian 32-bit integers, to what `d` holds (NULL: to nothing), and gives
 * the digest. 0 or a negative errno. */
int text_digest_ids(struct digest *d, const int32_t *ids, size_t n, uint8_t ret[DIGEST_BYTES]);
