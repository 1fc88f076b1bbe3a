/* Why: --json prints what the daemon sent for other programs to read, so it is exact and always
 * valid. The caller owns the buffer. */
#include "client/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/message.h"
#include "proto/text.h"

static int put(msgpack_sbuffer *out, const char *bytes, size_t n)
{
	return msgpack_sbuffer_write(out, bytes, n) == 0 ? 0 : -ENOMEM;
}

static int put_text(msgpack_sbuffer *out, const char *text)
{
	return put(out, text, strlen(text));
}

/* One character inside quotes. */
static int put_character(msgpack_sbuffer *out, const char *s, size_t n, uint32_t code)
{
	char escaped[8];

	switch (code) {
	case UINT32_MAX: return put_text(out, "\\ufffd");
	case '"': return put_text(out, "\\\"");
	case '\\': return put_text(out, "\\\\");
	case '\n': return put_text(out, "\\n");
	case '\r': return put_text(out, "\\r");
	case '\t': return put_text(out, "\\t");
	default:
		if (code >= 0x20 && !(code >= 0x7f && code <= 0x9f))
			return put(out, s, n);
		snprintf(escaped, sizeof(escaped), "\\u%04x", (unsigned)code);
		return put_text(out, escaped);
	}
}

int json_write_text(msgpack_sbuffer *out, const char *text, size_t n)
{
	int r = put(out, "\"", 1);
	size_t i = 0;

	while (i < n && r == 0) {
		uint32_t code;
		const size_t used = text_decode(text + i, n - i, &code);

		r = put_character(out, text + i, used, code);
		i += used;
	}
	return r < 0 ? r : put(out, "\"", 1);
}

/* The fewest digits that read back as the same number. */
static int put_float(msgpack_sbuffer *out, const msgpack_object *o)
{
	const bool narrow = o->type == MSGPACK_OBJECT_FLOAT32;
	const double v = o->via.f64;
	char text[40];

	if (!isfinite(v))
		return put_text(out, "null");
	for (int digits = narrow ? 6 : 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, v);
		if (narrow ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v)
			break;
	}
	return put_text(out, text);
}

static int put_map(msgpack_sbuffer *out, const msgpack_object_map *map)
{
	int r = put(out, "{", 1);

	for (uint32_t i = 0; i < map->size && r == 0; i++) {
		const msgpack_object *key = &map->ptr[i].key;
		struct rpc_text text;

		if (i > 0)
			r = put(out, ",", 1);
		if (r == 0 && object_text(key, &text)) {
			r = json_write_text(out, text.text, text.len);
		} else if (r == 0) { /* JSON has text keys alone */
			const bool nested = key->type == MSGPACK_OBJECT_ARRAY ||
					    key->type == MSGPACK_OBJECT_MAP;

			r = put(out, "\"", 1);
			if (r == 0)
				r = nested ? put_text(out, "?") : json_write(out, key);
			if (r == 0)
				r = put(out, "\"", 1);
		}
		if (r == 0)
			r = put(out, ":", 1);
		if (r == 0)
			r = json_write(out, &map->ptr[i].val);
	}
	return r < 0 ? r : put(out, "}", 1);
}

/* Recursion ends: a frame nests at most FRAME_DEPTH_MAX deep. */
int json_write(msgpack_sbuffer *out, const msgpack_object *o)
{
	struct rpc_text text;
	char number[24];
	int r;

	switch (o->type) {
	case MSGPACK_OBJECT_BOOLEAN: return put_text(out, o->via.boolean ? "true" : "false");
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		snprintf(number, sizeof(number), "%" PRIu64, o->via.u64);
		return put_text(out, number);
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		snprintf(number, sizeof(number), "%" PRId64, o->via.i64);
		return put_text(out, number);
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64: return put_float(out, o);
	case MSGPACK_OBJECT_STR:
	case MSGPACK_OBJECT_BIN:
		object_text(o, &text);
		return json_write_text(out, text.text, text.len);
	case MSGPACK_OBJECT_ARRAY:
		r = put(out, "[", 1);
		for (uint32_t i = 0; i < o->via.array.size && r == 0; i++) {
			if (i > 0)
				r = put(out, ",", 1);
			if (r == 0)
				r = json_write(out, &o->via.array.ptr[i]);
		}
		return r < 0 ? r : put(out, "]", 1);
	case MSGPACK_OBJECT_MAP: return put_map(out, &o->via.map);
	default: return put_text(out, "null");
	}
}
