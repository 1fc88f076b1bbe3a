/* Why: every parameter is one row of one table, which drives decoding, checking and encoding; a new
 * parameter is a row and a field. Owns nothing. */
#include "proto/params.h"

#include <assert.h>
#include <string.h>

#include "proto/message.h"
#include "proto/params_rule.h"

#define IN(method)  (1u << METHOD_##method)
#define GENERATING  (IN(CHAT) | IN(COMPLETE))
#define NAMING      (IN(SESSION_GET) | IN(SESSION_REWIND) | IN(SESSION_DROP))
#define RUNNING     (GENERATING | IN(SCORE))
#define EVERYWHERE  ((1u << METHOD_COUNT) - 1)
#define FIELD(name) #name, offsetof(struct params, name)

const struct rule param_rules[PARAM_COUNT] = {
	[PARAM_TAG] = {FIELD(tag), KIND_TAG, EVERYWHERE},
	[PARAM_STREAM] = {FIELD(stream), KIND_BOOL, RUNNING | IN(MODEL_LOAD)},
	[PARAM_MESSAGES] = {FIELD(messages), KIND_MESSAGES, IN(CHAT) | IN(SCORE) | IN(TEMPLATE),
		IN(CHAT) | IN(TEMPLATE)},
	[PARAM_PROMPT] = {FIELD(prompt), KIND_PROMPT, IN(COMPLETE) | IN(SCORE), IN(COMPLETE)},
	[PARAM_MAX_NEW_TOKENS] = {FIELD(max_new_tokens), KIND_INT, GENERATING, 0, 0, INT32_MAX},
	[PARAM_DO_SAMPLE] = {FIELD(do_sample), KIND_BOOL, GENERATING},
	[PARAM_TEMPERATURE] = {FIELD(temperature), KIND_FLOAT, GENERATING, 0, 0, 100},
	[PARAM_TOP_K] = {FIELD(top_k), KIND_INT, GENERATING, 0, 0, INT32_MAX},
	[PARAM_TOP_P] = {FIELD(top_p), KIND_FLOAT, GENERATING, 0, 0, 1, true},
	[PARAM_MIN_P] = {FIELD(min_p), KIND_FLOAT, GENERATING, 0, 0, 1},
	[PARAM_TYPICAL_P] = {FIELD(typical_p), KIND_FLOAT, GENERATING, 0, 0, 1, true},
	[PARAM_REPETITION_PENALTY] = {FIELD(repetition_penalty), KIND_FLOAT, GENERATING, 0, 0, 100,
		true},
	[PARAM_PRESENCE_PENALTY] = {FIELD(presence_penalty), KIND_FLOAT, GENERATING, 0, -100, 100},
	[PARAM_FREQUENCY_PENALTY] = {FIELD(frequency_penalty), KIND_FLOAT, GENERATING, 0, -100,
		100},
	[PARAM_PENALTY_WINDOW] = {FIELD(penalty_window), KIND_INT, GENERATING, 0, 0, INT32_MAX},
	[PARAM_SEED] = {FIELD(seed), KIND_INT, GENERATING, 0, -SAFE_INTEGER_MAX, SAFE_INTEGER_MAX},
	[PARAM_STOP] = {FIELD(stop), KIND_STOP, GENERATING},
	[PARAM_CHOICES] = {FIELD(choices), KIND_CHOICES, IN(SCORE), IN(SCORE)},
	[PARAM_LOGIT_BIAS] = {FIELD(logit_bias), KIND_BIAS, GENERATING, 0, -1e9, 1e9},
	[PARAM_LOGPROBS] = {FIELD(logprobs), KIND_INT, GENERATING, 0, 0, LOGPROBS_MAX},
	[PARAM_ECHO] = {FIELD(echo), KIND_BOOL, GENERATING},
	[PARAM_PRIORITY] = {"priority", offsetof(struct params, batch_priority), KIND_PRIORITY,
		RUNNING},
	[PARAM_DEADLINE_MS] = {FIELD(deadline_ms), KIND_INT, RUNNING, 0, 1, SAFE_INTEGER_MAX},
	[PARAM_TEXT] = {FIELD(text), KIND_TEXT, IN(TOKENIZE), IN(TOKENIZE)},
	[PARAM_BOS] = {FIELD(bos), KIND_BOOL, IN(TOKENIZE)},
	[PARAM_SPECIAL] = {FIELD(special), KIND_BOOL, IN(TOKENIZE)},
	[PARAM_TOKENS] = {FIELD(tokens), KIND_IDS, IN(DETOKENIZE), IN(DETOKENIZE)},
	[PARAM_ID] = {FIELD(id), KIND_INT, IN(CANCEL), 0, 0, UINT32_MAX},
	[PARAM_UID] = {FIELD(uid), KIND_INT, IN(CACHE_DROP), 0, 0, UINT32_MAX - 1},
	[PARAM_CLIENT] = {FIELD(client), KIND_TEXT, IN(HELLO), 0, 0, CLIENT_BYTES_MAX},
	[PARAM_SESSION] = {FIELD(session), KIND_NAME, IN(CHAT)},
	[PARAM_NAME] = {FIELD(name), KIND_NAME, NAMING, NAMING},
	[PARAM_FROM] = {FIELD(from), KIND_NAME, IN(SESSION_FORK), IN(SESSION_FORK)},
	[PARAM_TO] = {FIELD(to), KIND_NAME, IN(SESSION_FORK), IN(SESSION_FORK)},
	[PARAM_TURNS] = {FIELD(turns), KIND_INT, IN(SESSION_REWIND), IN(SESSION_REWIND), 1,
		MESSAGES_MAX},
};

static_assert(PARAM_COUNT <= 64, "params.set has 64 bits");

bool rpc_tag_equal(const struct rpc_tag *a, const struct rpc_tag *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == TAG_INT)
		return a->number == b->number;
	return a->kind == TAG_NONE || (a->len == b->len && memcmp(a->text, b->text, a->len) == 0);
}

const char *param_name(enum param which)
{
	assert((unsigned)which < PARAM_COUNT);
	return param_rules[which].name;
}

bool session_name_valid(const char *name, size_t len)
{
	static const char valid[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789._:-";

	if (len < 1 || len > SESSION_NAME_BYTES_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!name[i] || !strchr(valid, name[i]))
			return false;
	return true;
}

static void encode_ids(msgpack_packer *pk, const int64_t *ids, uint32_t n)
{
	msgpack_pack_array(pk, n);
	for (uint32_t i = 0; i < n; i++)
		msgpack_pack_int64(pk, ids[i]);
}

static void encode_texts(msgpack_packer *pk, const struct rpc_text *texts, uint32_t n)
{
	msgpack_pack_array(pk, n);
	for (uint32_t i = 0; i < n; i++)
		pack_text(pk, texts[i].text, texts[i].len);
}

static void encode_value(msgpack_packer *pk, const struct rule *rule, const struct params *p)
{
	const void *field = (const char *)p + rule->offset;
	const struct rpc_text *text = field;

	switch (rule->kind) {
	case KIND_BOOL:
		if (*(const bool *)field)
			msgpack_pack_true(pk);
		else
			msgpack_pack_false(pk);
		break;
	case KIND_INT: msgpack_pack_int64(pk, *(const int64_t *)field); break;
	case KIND_FLOAT: msgpack_pack_double(pk, *(const double *)field); break;
	case KIND_NAME:
	case KIND_TEXT: pack_text(pk, text->text, text->len); break;
	case KIND_TAG: pack_tag(pk, field); break;
	case KIND_MESSAGES:
		msgpack_pack_array(pk, p->n_messages);
		for (uint32_t i = 0; i < p->n_messages; i++) {
			const struct rpc_message *m = &p->messages[i];

			msgpack_pack_map(pk, 2);
			pack_key(pk, "role");
			pack_text(pk, m->role.text, m->role.len);
			pack_key(pk, "content");
			pack_text(pk, m->content.text, m->content.len);
		}
		break;
	case KIND_PROMPT:
		if (p->prompt_ids)
			encode_ids(pk, p->prompt_ids, p->n_prompt_ids);
		else
			pack_text(pk, p->prompt.text, p->prompt.len);
		break;
	case KIND_IDS: encode_ids(pk, p->tokens, p->n_tokens); break;
	case KIND_STOP: encode_texts(pk, p->stop, p->n_stop); break;
	case KIND_CHOICES: encode_texts(pk, p->choices, p->n_choices); break;
	case KIND_BIAS:
		msgpack_pack_array(pk, p->n_logit_bias);
		for (uint32_t i = 0; i < p->n_logit_bias; i++) {
			msgpack_pack_array(pk, 2);
			msgpack_pack_int64(pk, p->logit_bias[i].token);
			msgpack_pack_double(pk, p->logit_bias[i].bias);
		}
		break;
	case KIND_PRIORITY: pack_key(pk, p->batch_priority ? "batch" : "interactive"); break;
	}
}

void params_encode(const struct params *p, msgpack_packer *pk)
{
	assert(p->set >> PARAM_COUNT == 0);
	msgpack_pack_array(pk, 1);
	msgpack_pack_map(pk, (size_t)__builtin_popcountll(p->set));
	for (int i = 0; i < PARAM_COUNT; i++)
		if (params_has(p, i)) {
			pack_key(pk, param_rules[i].name);
			encode_value(pk, &param_rules[i], p);
		}
}
