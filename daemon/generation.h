/* From what a request says to what the engine is told: defaults, limits, checks. */
#pragma once

#include "daemon/request.h"

/* Draws a seed that every client language can hold: 53 bits from the kernel. 0 or a negative errno.
 */
int generation_seed(uint64_t *ret);

/* What is left out comes from the configuration's defaults, then the model's, then what Zephyr's
 * publishers show. Everything but the seed and max_new_tokens. */
void generation_resolve(const struct params *p, const struct params *defaults,
	const struct model_defaults *model, struct generation *ret);

/* How many tokens fit: `room` of the context, the administrator's `limit` (0: none), and the
 * reply's bytes, fixed and for each new token. `asked` is what the request wants, -1 where it does
 * not say. Returns false where a stated wish cannot be met in `reply_bytes`, with the most that
 * can. */
bool generation_tokens(int64_t asked, uint32_t room, int64_t limit, uint64_t reply_bytes,
	uint64_t fixed_bytes, uint64_t token_bytes, uint32_t *ret);

/* The job of a request whose prompt is there. Takes the ids out of the task. NULL: the error and
 * its sentence. Fills r->generation, prompt_tokens and prompt_hash. */
struct job *generation_job(struct request *r, struct text_task *t, enum rpc_error *ret_error,
	char *sentence, size_t sentence_size);
