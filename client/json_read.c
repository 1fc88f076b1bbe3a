/* Why: a printed reply is read back to be compared to the byte, with the client's own means:
 * zephctl links no JSON library. Nothing is owned beyond the call but the zone, which is the
 * caller's. */
#include "client/json_read.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/limits.h"

struct reader {
	const char *start, *at, *end;
	msgpack_zone *zone;
	char *error;
	size_t error_size;
	int depth;
};

static int refuse(const struct reader *r, const char *wanted)
{
	snprintf(
		r->error, r->error_size, "byte %zu: wanted %s", (size_t)(r->at - r->start), wanted);
	return -EINVAL;
}

static void skip(struct reader *r)
{
	while (r->at < r->end &&
		(*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

/* Is that the next byte? It is taken. */
static bool take(struct reader *r, char c)
{
	if (r->at == r->end || *r->at != c)
		return false;
	r->at++;
	return true;
}

static int read_hex(struct reader *r, uint32_t *ret)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++, r->at++) {
		const char *digits = "0123456789abcdef";
		const char *digit = r->at < r->end && *r->at ? strchr(digits, *r->at | 0x20) : NULL;

		if (!digit || (*r->at & 0x40 ? digit - digits < 10 : digit - digits > 9))
			return refuse(r, "four hexadecimal digits");
		v = v << 4 | (uint32_t)(digit - digits);
	}
	*ret = v;
	return 0;
}

static size_t put_utf8(char *out, uint32_t code)
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* What follows a backslash. */
static int read_escape(struct reader *r, char *out, size_t *n)
{
	static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	const char *name = r->at < r->end && *r->at ? strchr(names, *r->at) : NULL;
	uint32_t code, low;
	int e;

	if (name) {
		out[(*n)++] = bytes[name - names];
		r->at++;
		return 0;
	}
	if (!take(r, 'u'))
		return refuse(r, "an escape");
	e = read_hex(r, &code);
	if (e == 0 && code >> 10 == 0xd800 >> 10) {
		if (!take(r, '\\') || !take(r, 'u'))
			return refuse(r, "the other half of a character");
		e = read_hex(r, &low);
		if (e == 0 && low >> 10 != 0xdc00 >> 10)
			return refuse(r, "the other half of a character");
		code = 0x10000 + ((code & 0x3ff) << 10) + (low & 0x3ff);
	} else if (e == 0 && code >> 10 == 0xdc00 >> 10) {
		return refuse(r, "a character");
	}
	if (e == 0)
		*n += put_utf8(out + *n, code);
	return e;
}

/* Behind the opening quote. A text is never longer than what spells it. */
static int read_text(struct reader *r, msgpack_object *ret)
{
	const char *close = r->at;
	char *out;
	size_t n = 0;
	int e = 0;

	while (close < r->end && *close != '"')
		close += *close == '\\' ? 2 : 1;
	if (close >= r->end)
		return refuse(r, "a text that ends");
	out = msgpack_zone_malloc(r->zone, (size_t)(close - r->at) + 1);
	if (!out)
		return -ENOMEM;
	while (e == 0 && !take(r, '"')) {
		if ((unsigned char)*r->at < 0x20)
			return refuse(r, "no control character in a text");
		if (take(r, '\\'))
			e = read_escape(r, out, &n);
		else
			out[n++] = *r->at++;
	}
	if (n > UINT32_MAX)
		return refuse(r, "a text of at most 4 GiB");
	ret->type = MSGPACK_OBJECT_STR;
	ret->via.str.ptr = out;
	ret->via.str.size = (uint32_t)n;
	return e;
}

static size_t digits(struct reader *r)
{
	const char *start = r->at;

	while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
		r->at++;
	return (size_t)(r->at - start);
}

static int read_number(struct reader *r, msgpack_object *ret)
{
	const char *start = r->at;
	bool negative = take(r, '-'), whole = true;
	const char *first = r->at;
	char text[64];

	if (digits(r) == 0 || (*first == '0' && r->at - first > 1))
		return refuse(r, "a value");
	if (take(r, '.')) {
		whole = false;
		if (digits(r) == 0)
			return refuse(r, "a digit");
	}
	if (take(r, 'e') || take(r, 'E')) {
		whole = false;
		if (!take(r, '-'))
			take(r, '+');
		if (digits(r) == 0)
			return refuse(r, "a digit");
	}
	if ((size_t)(r->at - start) >= sizeof(text))
		return refuse(r, "a shorter number");
	memcpy(text, start, (size_t)(r->at - start));
	text[r->at - start] = 0;
	errno = 0;
	if (whole && negative) {
		ret->type = MSGPACK_OBJECT_NEGATIVE_INTEGER;
		ret->via.i64 = strtoll(text, NULL, 10);
		if (ret->via.i64 == 0)
			ret->type = MSGPACK_OBJECT_POSITIVE_INTEGER;
	} else if (whole) {
		ret->type = MSGPACK_OBJECT_POSITIVE_INTEGER;
		ret->via.u64 = strtoull(text, NULL, 10);
	}
	if (!whole || errno) {
		ret->type = MSGPACK_OBJECT_FLOAT64;
		ret->via.f64 = strtod(text, NULL);
	}
	return 0;
}

static int read_value(struct reader *r, msgpack_object *ret);

/* Grows an array by one zeroed item. NULL: no memory; the old one stays. */
static void *grow(void *items, size_t n, size_t size)
{
	char *p = n & (n - 1) ? items : realloc(items, (n ? 2 * n : 1) * size);

	if (p)
		memset(p + n * size, 0, size);
	return p;
}

/* Behind the opening bracket: items up to the closing one, as an array in the zone. */
static int read_items(struct reader *r, bool map, void **ret, uint32_t *ret_n)
{
	const char close = map ? '}' : ']';
	const size_t size = map ? sizeof(msgpack_object_kv) : sizeof(msgpack_object);
	char *items = NULL;
	size_t n = 0;
	int e = 0;

	if (++r->depth > FRAME_DEPTH_MAX)
		return refuse(r, "less nesting");
	skip(r);
	while (e == 0 && !(n == 0 && take(r, close))) {
		char *more = grow(items, n, size);
		msgpack_object_kv *kv;

		if (!more) {
			e = -ENOMEM;
			break;
		}
		items = more;
		kv = (msgpack_object_kv *)(items + n * size);
		skip(r);
		if (map) {
			e = take(r, '"') ? read_text(r, &kv->key) : refuse(r, "a key");
			skip(r);
			if (e == 0 && !take(r, ':'))
				e = refuse(r, "a colon");
			if (e == 0)
				e = read_value(r, &kv->val);
		} else {
			e = read_value(r, (msgpack_object *)kv);
		}
		n++;
		skip(r);
		if (e == 0 && take(r, close))
			break;
		if (e == 0 && !take(r, ','))
			e = refuse(r, map ? "a comma or }" : "a comma or ]");
	}
	if (e == 0 && n > UINT32_MAX)
		e = refuse(r, "fewer items");
	if (e == 0) {
		*ret = msgpack_zone_malloc(r->zone, n > 0 ? n * size : 1);
		e = *ret ? 0 : -ENOMEM;
	}
	if (e == 0 && n > 0)
		memcpy(*ret, items, n * size);
	free(items);
	*ret_n = (uint32_t)n;
	r->depth--;
	return e;
}

static int read_word(struct reader *r, msgpack_object *ret)
{
	static const struct {
		const char *text;
		msgpack_object_type type;
		bool value;
	} words[] = {{"true", MSGPACK_OBJECT_BOOLEAN, true},
		{"false", MSGPACK_OBJECT_BOOLEAN, false}, {"null", MSGPACK_OBJECT_NIL, false}};

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		const size_t n = strlen(words[i].text);

		if ((size_t)(r->end - r->at) >= n && memcmp(r->at, words[i].text, n) == 0) {
			r->at += n;
			ret->type = words[i].type;
			ret->via.boolean = words[i].value;
			return 0;
		}
	}
	return read_number(r, ret);
}

static int read_value(struct reader *r, msgpack_object *ret)
{
	void *items;
	uint32_t n;
	int e;

	skip(r);
	if (take(r, '"'))
		return read_text(r, ret);
	if (take(r, '{')) {
		e = read_items(r, true, &items, &n);
		ret->type = MSGPACK_OBJECT_MAP;
		ret->via.map.size = n;
		ret->via.map.ptr = e == 0 ? items : NULL;
		return e;
	}
	if (take(r, '[')) {
		e = read_items(r, false, &items, &n);
		ret->type = MSGPACK_OBJECT_ARRAY;
		ret->via.array.size = n;
		ret->via.array.ptr = e == 0 ? items : NULL;
		return e;
	}
	return read_word(r, ret);
}

int json_read(const char **at, const char *end, msgpack_zone *zone, msgpack_object *ret,
	char *error, size_t error_size)
{
	struct reader r = {.start = *at,
		.at = *at,
		.end = end,
		.zone = zone,
		.error = error,
		.error_size = error_size};
	msgpack_object value = {0};
	int e;

	skip(&r);
	if (r.at == end) {
		*at = end;
		return 0;
	}
	e = read_value(&r, &value);
	if (e < 0)
		return e;
	*at = r.at;
	*ret = value;
	return 1;
}
