/* Why: parameters come from strangers; each is taken as its row of the table says or refused with a
 * sentence that helps. Arrays that a decoded struct params points to lie in the zone of the
 * message, text lies in the frame. */
#include "proto/params.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/message.h"
#include "proto/params_rule.h"
#include "proto/text.h"

#define TOKEN_MAX INT32_MAX

/* Where a decode stands, for its sentences. */
struct decode {
	enum method method;
	msgpack_zone *zone;
	char *error;
	size_t error_size;
};

/* "3", "0.5", "\"hot\"", "a list of 2": what a peer sent, in words. */
static const char *found(const msgpack_object *o, char *buffer, size_t size)
{
	switch (o->type) {
	case MSGPACK_OBJECT_NIL: snprintf(buffer, size, "nil"); break;
	case MSGPACK_OBJECT_BOOLEAN:
		snprintf(buffer, size, "%s", o->via.boolean ? "true" : "false");
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER: snprintf(buffer, size, "%" PRIu64, o->via.u64); break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER: snprintf(buffer, size, "%" PRId64, o->via.i64); break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		if (isnan(o->via.f64))
			snprintf(buffer, size, "NaN");
		else if (isinf(o->via.f64))
			snprintf(buffer, size, "%sinfinity", o->via.f64 < 0 ? "-" : "");
		else
			snprintf(buffer, size, "%.15g", o->via.f64);
		break;
	case MSGPACK_OBJECT_STR: text_quote(o->via.str.ptr, o->via.str.size, buffer, size); break;
	case MSGPACK_OBJECT_BIN: text_quote(o->via.bin.ptr, o->via.bin.size, buffer, size); break;
	case MSGPACK_OBJECT_ARRAY:
		if (o->via.array.size == 0)
			snprintf(buffer, size, "an empty list");
		else
			snprintf(buffer, size, "a list of %u", o->via.array.size);
		break;
	case MSGPACK_OBJECT_MAP: snprintf(buffer, size, "a map of %u", o->via.map.size); break;
	default: snprintf(buffer, size, "an ext type"); break;
	}
	return buffer;
}

static int refuse(
	const struct decode *d, const char *where, const msgpack_object *o, const char *wanted)
{
	char what[128];

	snprintf(d->error, d->error_size, "%s: found %s, wanted %s", where,
		found(o, what, sizeof(what)), wanted);
	return -EINVAL;
}

/* An array of `n` items in the zone; *ret is never NULL on success, not even for none. */
static int zone_array(const struct decode *d, size_t n, size_t size, void *ret)
{
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n > 0 ? n : 1, size, &bytes))
		return -ENOMEM;
	p = msgpack_zone_malloc(d->zone, bytes);
	if (!p)
		return -ENOMEM;
	memset(p, 0, bytes);
	memcpy(ret, &p, sizeof(p));
	return 0;
}

static int decode_int(const struct decode *d, const char *where, const msgpack_object *o,
	double min, double max, int64_t *ret)
{
	char wanted[96];
	int64_t v;

	if (object_int(o, &v) && v >= (int64_t)min && v <= (int64_t)max) {
		*ret = v;
		return 0;
	}
	snprintf(wanted, sizeof(wanted), "an integer from %" PRId64 " to %" PRId64, (int64_t)min,
		(int64_t)max);
	return refuse(d, where, o, wanted);
}

static int decode_float(const struct decode *d, const char *where, const msgpack_object *o,
	const struct rule *rule, double *ret)
{
	char wanted[96];
	double v;

	if (object_float(o, &v) && (rule->above ? v > rule->min : v >= rule->min) &&
		v <= rule->max) {
		*ret = v;
		return 0;
	}
	snprintf(wanted, sizeof(wanted),
		rule->above ? "a number above %g and at most %g" : "a number from %g to %g",
		rule->min, rule->max);
	return refuse(d, where, o, wanted);
}

static int decode_text(const struct decode *d, const char *where, const msgpack_object *o,
	uint32_t min_bytes, uint32_t max_bytes, struct rpc_text *ret)
{
	char wanted[64] = "text";
	struct rpc_text t;

	if (object_text(o, &t) && t.len >= min_bytes && (max_bytes == 0 || t.len <= max_bytes)) {
		*ret = t;
		return 0;
	}
	if (max_bytes > 0)
		snprintf(wanted, sizeof(wanted), "text of %u to %u bytes", min_bytes, max_bytes);
	return refuse(d, where, o, wanted);
}

static int decode_tag(
	const struct decode *d, const char *where, const msgpack_object *o, struct rpc_tag *ret)
{
	struct rpc_text t;
	int64_t v;

	if (object_int(o, &v)) {
		*ret = (struct rpc_tag){.kind = TAG_INT, .number = v};
		return 0;
	}
	if (object_text(o, &t) && t.len <= TAG_BYTES_MAX) {
		*ret = (struct rpc_tag){.kind = TAG_TEXT, .len = (uint32_t)t.len};
		memcpy(ret->text, t.text, t.len);
		return 0;
	}
	return refuse(d, where, o, "an integer within 2^53 - 1 of 0, or text of at most 64 bytes");
}

static int decode_message(
	const struct decode *d, uint32_t at, const msgpack_object *o, struct rpc_message *ret)
{
	bool seen[2] = {false, false};
	char where[96], key[64];

	snprintf(where, sizeof(where), "messages[%u]", at);
	if (o->type != MSGPACK_OBJECT_MAP)
		return refuse(d, where, o, "a map of role and content");
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[i];
		struct rpc_text name;
		int r, which;

		if (!object_text(&kv->key, &name)) {
			snprintf(where, sizeof(where), "messages[%u]: a key", at);
			return refuse(d, where, &kv->key, "role or content");
		}
		which = name.len == 4 && memcmp(name.text, "role", 4) == 0      ? 0
			: name.len == 7 && memcmp(name.text, "content", 7) == 0 ? 1
										: -1;
		if (which < 0) {
			snprintf(d->error, d->error_size,
				"messages[%u]: found the key %s, wanted role and content", at,
				text_quote(name.text, name.len, key, sizeof(key)));
			return -EINVAL;
		}
		snprintf(where, sizeof(where), "messages[%u].%s", at, which ? "content" : "role");
		if (seen[which]) {
			snprintf(d->error, d->error_size, "%s: found twice, wanted once", where);
			return -EINVAL;
		}
		r = decode_text(d, where, &kv->val, 0, 0, which ? &ret->content : &ret->role);
		if (r < 0)
			return r;
		seen[which] = true;
	}
	for (int which = 0; which < 2; which++)
		if (!seen[which]) {
			snprintf(d->error, d->error_size, "messages[%u].%s: not found, wanted text",
				at, which ? "content" : "role");
			return -EINVAL;
		}
	return 0;
}

static int decode_messages(
	const struct decode *d, const char *where, const msgpack_object *o, struct params *p)
{
	struct rpc_message *list;
	int r;

	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 1 ||
		o->via.array.size > MESSAGES_MAX) {
		char wanted[96];

		snprintf(wanted, sizeof(wanted), "a list of 1 to %u maps of role and content",
			MESSAGES_MAX);
		return refuse(d, where, o, wanted);
	}
	r = zone_array(d, o->via.array.size, sizeof(*list), &list);
	for (uint32_t i = 0; r == 0 && i < o->via.array.size; i++)
		r = decode_message(d, i, &o->via.array.ptr[i], &list[i]);
	if (r < 0)
		return r;
	p->messages = list;
	p->n_messages = o->via.array.size;
	return 0;
}

static int decode_ids(const struct decode *d, const char *name, const msgpack_object *o,
	int64_t **ret, uint32_t *ret_n)
{
	int64_t *ids;
	int r;

	if (o->type != MSGPACK_OBJECT_ARRAY)
		return refuse(d, name, o, "a list of token ids");
	r = zone_array(d, o->via.array.size, sizeof(*ids), &ids);
	for (uint32_t i = 0; r == 0 && i < o->via.array.size; i++) {
		char where[64];

		snprintf(where, sizeof(where), "%s[%u]", name, i);
		r = decode_int(d, where, &o->via.array.ptr[i], 0, TOKEN_MAX, &ids[i]);
	}
	if (r < 0)
		return r;
	*ret = ids;
	*ret_n = o->via.array.size;
	return 0;
}

static int decode_prompt(
	const struct decode *d, const char *where, const msgpack_object *o, struct params *p)
{
	if (object_text(o, &p->prompt))
		return 0;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size == 0)
		return refuse(d, where, o, "text or a list of one or more token ids");
	return decode_ids(d, where, o, &p->prompt_ids, &p->n_prompt_ids);
}

/* A list of at most `most` texts of min to max bytes each. */
static int decode_texts(const struct decode *d, const char *name, const msgpack_object *list,
	uint32_t n, uint32_t min_bytes, uint32_t max_bytes, struct rpc_text **ret, uint32_t *ret_n)
{
	struct rpc_text *texts;
	int r;

	r = zone_array(d, n, sizeof(*texts), &texts);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		char where[64];

		snprintf(where, sizeof(where), "%s[%u]", name, i);
		r = decode_text(d, where, &list[i], min_bytes, max_bytes, &texts[i]);
	}
	if (r < 0)
		return r;
	*ret = texts;
	*ret_n = n;
	return 0;
}

static int decode_choices(
	const struct decode *d, const char *name, const msgpack_object *o, struct params *p)
{
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 1 ||
		o->via.array.size > CHOICES_MAX) {
		char wanted[64];

		snprintf(wanted, sizeof(wanted), "a list of 1 to %u texts", CHOICES_MAX);
		return refuse(d, name, o, wanted);
	}
	return decode_texts(d, name, o->via.array.ptr, o->via.array.size, 0, CHOICE_BYTES_MAX,
		&p->choices, &p->n_choices);
}

static int decode_stop(
	const struct decode *d, const char *name, const msgpack_object *o, struct params *p)
{
	const bool list = o->type == MSGPACK_OBJECT_ARRAY;
	const uint32_t n = list ? o->via.array.size : 1;
	struct rpc_text t;
	int r;

	if (n > STOPS_MAX || (!list && !object_text(o, &t))) {
		char wanted[64];

		snprintf(wanted, sizeof(wanted), "a list of at most %u texts", STOPS_MAX);
		return refuse(d, name, o, wanted);
	}
	if (list)
		return decode_texts(
			d, name, o->via.array.ptr, n, 1, STOP_TEXT_BYTES_MAX, &p->stop, &p->n_stop);
	r = decode_text(d, name, o, 1, STOP_TEXT_BYTES_MAX, &t);
	if (r == 0)
		r = zone_array(d, 1, sizeof(t), &p->stop);
	if (r < 0)
		return r;
	p->stop[0] = t;
	p->n_stop = 1;
	return 0;
}

static int decode_bias(
	const struct decode *d, const struct rule *rule, const msgpack_object *o, struct params *p)
{
	struct rpc_bias *bias;
	int r;

	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > BIASES_MAX) {
		char wanted[64];

		snprintf(wanted, sizeof(wanted), "a list of at most %u pairs [token, bias]",
			BIASES_MAX);
		return refuse(d, rule->name, o, wanted);
	}
	r = zone_array(d, o->via.array.size, sizeof(*bias), &bias);
	for (uint32_t i = 0; r == 0 && i < o->via.array.size; i++) {
		const msgpack_object *pair = &o->via.array.ptr[i];
		char where[64];

		snprintf(where, sizeof(where), "%s[%u]", rule->name, i);
		if (pair->type != MSGPACK_OBJECT_ARRAY || pair->via.array.size != 2)
			return refuse(d, where, pair, "a pair [token, bias]");
		snprintf(where, sizeof(where), "%s[%u][0]", rule->name, i);
		r = decode_int(d, where, &pair->via.array.ptr[0], 0, TOKEN_MAX, &bias[i].token);
		if (r < 0)
			break;
		snprintf(where, sizeof(where), "%s[%u][1]", rule->name, i);
		r = decode_float(d, where, &pair->via.array.ptr[1], rule, &bias[i].bias);
	}
	if (r < 0)
		return r;
	p->logit_bias = bias;
	p->n_logit_bias = o->via.array.size;
	return 0;
}

static int decode_priority(
	const struct decode *d, const char *where, const msgpack_object *o, bool *ret_batch)
{
	struct rpc_text t;

	if (object_text(o, &t)) {
		const bool batch = t.len == 5 && memcmp(t.text, "batch", 5) == 0;

		if (batch || (t.len == 11 && memcmp(t.text, "interactive", 11) == 0)) {
			*ret_batch = batch;
			return 0;
		}
	}
	return refuse(d, where, o, "\"interactive\" or \"batch\"");
}

static int decode_name(
	const struct decode *d, const char *where, const msgpack_object *o, struct rpc_text *ret)
{
	struct rpc_text t;

	if (!object_text(o, &t) || !session_name_valid(t.text, t.len))
		return refuse(d, where, o, "a name of 1 to 64 of A-Z a-z 0-9 . _ : -");
	*ret = t;
	return 0;
}

static int decode_value(
	const struct decode *d, const struct rule *rule, const msgpack_object *o, struct params *p)
{
	void *field = (char *)p + rule->offset;

	switch (rule->kind) {
	case KIND_BOOL:
		if (o->type != MSGPACK_OBJECT_BOOLEAN)
			return refuse(d, rule->name, o, "true or false");
		*(bool *)field = o->via.boolean;
		return 0;
	case KIND_INT: return decode_int(d, rule->name, o, rule->min, rule->max, field);
	case KIND_FLOAT: return decode_float(d, rule->name, o, rule, field);
	case KIND_TEXT: return decode_text(d, rule->name, o, 0, (uint32_t)rule->max, field);
	case KIND_TAG: return decode_tag(d, rule->name, o, field);
	case KIND_MESSAGES: return decode_messages(d, rule->name, o, p);
	case KIND_PROMPT: return decode_prompt(d, rule->name, o, p);
	case KIND_IDS: return decode_ids(d, rule->name, o, &p->tokens, &p->n_tokens);
	case KIND_STOP: return decode_stop(d, rule->name, o, p);
	case KIND_CHOICES: return decode_choices(d, rule->name, o, p);
	case KIND_BIAS: return decode_bias(d, rule, o, p);
	case KIND_PRIORITY: return decode_priority(d, rule->name, o, field);
	case KIND_NAME: return decode_name(d, rule->name, o, field);
	}
	return -EINVAL;
}

static int refuse_key(const struct decode *d, const char *key, size_t len, int known)
{
	char quoted[80], homes[96];
	size_t at = 0;

	if (known < 0) {
		snprintf(d->error, d->error_size,
			"%s: found an unknown parameter, wanted one that %s has",
			text_quote(key, len, quoted, sizeof(quoted)), method_name(d->method));
		return -EINVAL;
	}
	for (int m = 0; m < METHOD_COUNT; m++)
		if (param_rules[known].methods >> m & 1)
			at += (size_t)snprintf(homes + at, sizeof(homes) - at, "%s%s",
				at > 0 ? ", " : "", method_name(m));
	snprintf(d->error, d->error_size, "%s: found in %s, wanted only in %s",
		param_rules[known].name, method_name(d->method), homes);
	return -EINVAL;
}

static int param_find(const struct rpc_text *key)
{
	for (int i = 0; i < PARAM_COUNT; i++)
		if (strlen(param_rules[i].name) == key->len &&
			memcmp(param_rules[i].name, key->text, key->len) == 0)
			return i;
	return -1;
}

static int decode_map(const struct decode *d, const msgpack_object_map *map, struct params *p)
{
	uint64_t seen = 0;

	for (uint32_t i = 0; i < map->size; i++) {
		const msgpack_object_kv *kv = &map->ptr[i];
		struct rpc_text key;
		int which, r;

		if (!object_text(&kv->key, &key))
			return refuse(d, "params: a key", &kv->key, "text");
		which = param_find(&key);
		if (which < 0 || !(param_rules[which].methods >> d->method & 1))
			return refuse_key(d, key.text, key.len, which);
		if (seen >> which & 1) {
			snprintf(d->error, d->error_size, "%s: found twice, wanted once",
				param_rules[which].name);
			return -EINVAL;
		}
		seen |= UINT64_C(1) << which;
		if (kv->val.type == MSGPACK_OBJECT_NIL)
			continue;
		r = decode_value(d, &param_rules[which], &kv->val, p);
		if (r < 0)
			return r;
		p->set |= UINT64_C(1) << which;
	}
	return 0;
}

static int check_required(const struct decode *d, const struct params *p)
{
	for (int i = 0; i < PARAM_COUNT; i++)
		if ((param_rules[i].required >> d->method & 1) && !params_has(p, i)) {
			snprintf(d->error, d->error_size, "%s: not found, %s needs it",
				param_rules[i].name, method_name(d->method));
			return -EINVAL;
		}
	if (d->method == METHOD_CANCEL && !params_has(p, PARAM_TAG) && !params_has(p, PARAM_ID)) {
		snprintf(d->error, d->error_size, "tag or id: not found, cancel needs one of them");
		return -EINVAL;
	}
	if (d->method == METHOD_SCORE &&
		params_has(p, PARAM_MESSAGES) == params_has(p, PARAM_PROMPT)) {
		snprintf(d->error, d->error_size,
			"messages or prompt: found %s, score needs one of them",
			params_has(p, PARAM_PROMPT) ? "both" : "neither");
		return -EINVAL;
	}
	return 0;
}

int params_decode(enum method method, const msgpack_object *array, msgpack_zone *zone,
	struct params *ret, char *error, size_t error_size)
{
	const struct decode d = {method, zone, error, error_size};
	const msgpack_object *first = NULL;
	struct params p = {0};
	int r = 0;

	assert((unsigned)method < METHOD_COUNT);
	if (array->type == MSGPACK_OBJECT_ARRAY && array->via.array.size == 1)
		first = &array->via.array.ptr[0];
	else if (array->type != MSGPACK_OBJECT_NIL &&
		 (array->type != MSGPACK_OBJECT_ARRAY || array->via.array.size > 1))
		return refuse(&d, "params", array, "a list holding at most one map");
	if (first && first->type == MSGPACK_OBJECT_MAP)
		r = decode_map(&d, &first->via.map, &p);
	else if (first && first->type != MSGPACK_OBJECT_NIL &&
		 (first->type != MSGPACK_OBJECT_ARRAY || first->via.array.size > 0))
		return refuse(&d, "params[0]", first, "a map of parameters");
	if (r == 0)
		r = check_required(&d, &p);
	if (r < 0)
		return r;
	*ret = p;
	return 0;
}
