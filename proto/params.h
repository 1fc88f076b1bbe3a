/* The parameters of all methods: one table says their names, types, ranges and methods; the daemon
 * decodes and validates with it, the client encodes with it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

#include "proto/limits.h"
#include "proto/protocol.h"

struct rpc_text {
	const char *text; /* not terminated; may hold NUL and invalid UTF-8 */
	size_t len;
};

/* What a client calls its request. */
struct rpc_tag {
	enum { TAG_NONE, TAG_INT, TAG_TEXT } kind;
	int64_t number;
	char text[TAG_BYTES_MAX];
	uint32_t len;
};
bool rpc_tag_equal(const struct rpc_tag *a, const struct rpc_tag *b);

struct rpc_message {
	struct rpc_text role, content;
};

struct rpc_bias {
	int64_t token;
	double bias;
};

/* Names each parameter; also its bit in params.set. */
enum param {
	PARAM_TAG,
	PARAM_STREAM,
	PARAM_MESSAGES,
	PARAM_PROMPT,
	PARAM_MAX_NEW_TOKENS,
	PARAM_DO_SAMPLE,
	PARAM_TEMPERATURE,
	PARAM_TOP_K,
	PARAM_TOP_P,
	PARAM_MIN_P,
	PARAM_TYPICAL_P,
	PARAM_REPETITION_PENALTY,
	PARAM_PRESENCE_PENALTY,
	PARAM_FREQUENCY_PENALTY,
	PARAM_PENALTY_WINDOW,
	PARAM_SEED,
	PARAM_STOP,
	PARAM_CHOICES,
	PARAM_LOGIT_BIAS,
	PARAM_LOGPROBS,
	PARAM_ECHO,
	PARAM_PRIORITY,
	PARAM_DEADLINE_MS,
	PARAM_TEXT,
	PARAM_BOS,
	PARAM_SPECIAL,
	PARAM_TOKENS,
	PARAM_ID,
	PARAM_CLIENT,
	PARAM_UID,
	PARAM_SESSION,
	PARAM_NAME,
	PARAM_FROM,
	PARAM_TO,
	PARAM_TURNS,
	PARAM_COUNT,
};

/* Only what `set` names was sent. Text points into the decoded frame. */
struct params {
	uint64_t set; /* 1 << enum param */
	struct rpc_tag tag;
	bool stream, do_sample, echo, bos, special;
	struct rpc_message *messages; /* [n_messages] */
	uint32_t n_messages;
	struct rpc_text prompt; /* PARAM_PROMPT as text, where prompt_ids is NULL */
	int64_t *prompt_ids;    /* [n_prompt_ids, at least 1], or PARAM_PROMPT as ids */
	uint32_t n_prompt_ids;
	int64_t max_new_tokens, top_k, penalty_window, seed, logprobs, deadline_ms, id, uid;
	double temperature, top_p, min_p, typical_p;
	double repetition_penalty, presence_penalty, frequency_penalty;
	struct rpc_text *stop; /* [n_stop] */
	uint32_t n_stop;
	struct rpc_text *choices; /* [n_choices] */
	uint32_t n_choices;
	struct rpc_bias *logit_bias; /* [n_logit_bias] */
	uint32_t n_logit_bias;
	bool batch_priority; /* priority "batch" */
	struct rpc_text text;
	int64_t *tokens; /* [n_tokens] */
	uint32_t n_tokens;
	struct rpc_text client;
	struct rpc_text session, name, from, to; /* of sessions, checked: session_name_valid() */
	int64_t turns;
};

static inline bool params_has(const struct params *p, enum param which)
{
	return p->set >> which & 1;
}

const char *param_name(enum param which);

bool session_name_valid(const char *name, size_t len); /* [A-Za-z0-9._:-]{1,64} */

/* Decodes the params array of a request (at most one map; an empty array stands for a map; nil for
 * either). What a method cannot do without is there afterwards. Arrays
 * that params points to are allocated in the zone. Returns 0, -EINVAL with a sentence that names
 * the key, what was found and what is wanted, or -ENOMEM. Types are taken as real clients send them
 * (protocol.md). */
int params_decode(enum method method, const msgpack_object *array, msgpack_zone *zone,
	struct params *ret, char *error, size_t error_size);

/* Packs [ {what is set} ]. */
void params_encode(const struct params *p, msgpack_packer *pk);
