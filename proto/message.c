/* Why: daemon and client take the same three shapes apart and put them together. A message owns its
 * unpacked objects; their text lies in the frame, which its caller owns. */
#include "proto/message.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void message_done(struct message *m)
{
	if (!m)
		return;
	msgpack_unpacked_destroy(&m->unpacked);
	*m = (struct message){0};
}

static int shape_error(char *error, size_t size, const char *sentence)
{
	snprintf(error, size, "%s", sentence);
	return -EPROTO;
}

static int message_parse(struct message *m, char *error, size_t size)
{
	const msgpack_object *o = &m->unpacked.data, *at;
	int64_t type, id;
	uint32_t n;

	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 1)
		return shape_error(
			error, size, "the frame is no array, wanted [0, id, method, params]");
	at = o->via.array.ptr;
	n = o->via.array.size;
	if (!object_int(&at[0], &type) || type < MESSAGE_REQUEST || type > MESSAGE_NOTIFICATION)
		return shape_error(error, size,
			"the frame's first item is none of 0 (request), 1 (response) and 2 "
			"(notification)");
	m->type = (enum message_type)type;
	if (m->type != MESSAGE_NOTIFICATION) {
		if (n < 2 || !object_int(&at[1], &id) || id < 0 || id > UINT32_MAX)
			return shape_error(error, size,
				"the frame's second item is no id from 0 to 4294967295");
		m->has_id = true;
		m->id = (uint32_t)id;
		if (n != 4)
			return shape_error(error, size,
				"the frame has not four items: [0, id, method, params] or "
				"[1, id, error, result]");
	} else if (n != 3) {
		return shape_error(
			error, size, "the frame has not three items: [2, method, params]");
	}
	if (m->type == MESSAGE_RESPONSE) {
		m->error = at[2];
		m->result = at[3];
		return 0;
	}
	if (!object_text(&at[n - 2], &m->method))
		return shape_error(error, size, "the frame's method is no text");
	m->params = at[n - 1];
	return 0;
}

int message_decode(
	const char *data, size_t len, struct message *ret, char *error, size_t error_size)
{
	size_t used = 0;
	int r;

	*ret = (struct message){0};
	msgpack_unpacked_init(&ret->unpacked);
	switch (msgpack_unpack_next(&ret->unpacked, data, len, &used)) {
	case MSGPACK_UNPACK_SUCCESS: break;
	case MSGPACK_UNPACK_NOMEM_ERROR: message_done(ret); return -ENOMEM;
	default: used = SIZE_MAX; break;
	}
	if (used != len)
		r = shape_error(error, error_size, "the frame is not one whole MessagePack value");
	else
		r = message_parse(ret, error, error_size);
	if (r < 0) {
		struct message bare = {.type = ret->type, .has_id = ret->has_id, .id = ret->id};

		message_done(ret);
		*ret = bare;
	}
	return r;
}

void message_pack_request(
	msgpack_packer *pk, uint32_t id, enum method m, const struct params *params)
{
	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, MESSAGE_REQUEST);
	msgpack_pack_uint32(pk, id);
	pack_key(pk, method_name(m));
	if (params)
		params_encode(params, pk);
	else
		msgpack_pack_array(pk, 0);
}

void message_pack_error(msgpack_packer *pk, uint32_t id, enum rpc_error e, const char *sentence)
{
	const char *name = rpc_error_name(e);
	const size_t n_name = strlen(name), n_sentence = strlen(sentence);

	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, MESSAGE_RESPONSE);
	msgpack_pack_uint32(pk, id);
	msgpack_pack_str(pk, n_name + 2 + n_sentence);
	msgpack_pack_str_body(pk, name, n_name);
	msgpack_pack_str_body(pk, ": ", 2);
	msgpack_pack_str_body(pk, sentence, n_sentence);
	msgpack_pack_nil(pk);
}

void message_pack_result(msgpack_packer *pk, uint32_t id)
{
	msgpack_pack_array(pk, 4);
	msgpack_pack_int(pk, MESSAGE_RESPONSE);
	msgpack_pack_uint32(pk, id);
	msgpack_pack_nil(pk);
}

void message_pack_notification(msgpack_packer *pk, const char *method)
{
	msgpack_pack_array(pk, 3);
	msgpack_pack_int(pk, MESSAGE_NOTIFICATION);
	pack_key(pk, method);
	msgpack_pack_array(pk, 1);
}

void pack_text(msgpack_packer *pk, const char *text, size_t len)
{
	msgpack_pack_str(pk, len);
	if (len > 0)
		msgpack_pack_str_body(pk, text, len);
}

void pack_key(msgpack_packer *pk, const char *key)
{
	pack_text(pk, key, strlen(key));
}

void pack_tag(msgpack_packer *pk, const struct rpc_tag *tag)
{
	switch (tag->kind) {
	case TAG_INT: msgpack_pack_int64(pk, tag->number); break;
	case TAG_TEXT: pack_text(pk, tag->text, tag->len); break;
	default: msgpack_pack_nil(pk);
	}
}

const msgpack_object *map_get(const msgpack_object *map, const char *key)
{
	const size_t len = strlen(key);

	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		struct rpc_text name;

		if (object_text(&map->via.map.ptr[i].key, &name) && name.len == len &&
			memcmp(name.text, key, len) == 0)
			return &map->via.map.ptr[i].val;
	}
	return NULL;
}

bool object_int(const msgpack_object *o, int64_t *ret)
{
	int64_t v;

	if (!o)
		return false;
	switch (o->type) {
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		if (o->via.u64 > SAFE_INTEGER_MAX)
			return false;
		v = (int64_t)o->via.u64;
		break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER: v = o->via.i64; break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		/* false for NaN too; the cast below is then within int64_t */
		if (!(fabs(o->via.f64) <= (double)SAFE_INTEGER_MAX))
			return false;
		v = (int64_t)o->via.f64;
		if ((double)v != o->via.f64)
			return false;
		break;
	default: return false;
	}
	if (v < -SAFE_INTEGER_MAX)
		return false;
	*ret = v;
	return true;
}

bool object_float(const msgpack_object *o, double *ret)
{
	int64_t v;

	if (!o)
		return false;
	if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64) {
		if (!isfinite(o->via.f64))
			return false;
		*ret = o->via.f64;
		return true;
	}
	if (!object_int(o, &v))
		return false;
	*ret = (double)v;
	return true;
}

bool object_text(const msgpack_object *o, struct rpc_text *ret)
{
	if (!o)
		return false;
	if (o->type == MSGPACK_OBJECT_STR)
		*ret = (struct rpc_text){o->via.str.ptr, o->via.str.size};
	else if (o->type == MSGPACK_OBJECT_BIN)
		*ret = (struct rpc_text){o->via.bin.ptr, o->via.bin.size};
	else
		return false;
	return true;
}
