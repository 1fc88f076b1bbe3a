/* Text with provenance: every operation keeps for each byte whether the template wrote it. Strings
 * are immutable; parts share the bytes of what they were cut from. */
#include "engine/jinja.h"

#include <errno.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/unicode.h"
#include "engine/utf8.h"

/* Bytes that one step may go over. */
#define STRING_STEP_BYTES 1024

static void string_charge(struct jinja *j, size_t bytes)
{
	jinja_step(j, bytes / STRING_STEP_BYTES);
}

static void builder_room(struct jinja *j, struct jinja_builder *b, size_t n)
{
	size_t capacity = b->capacity ? b->capacity : 32;
	char *text;

	if (n > TEMPLATE_OUTPUT_BYTES_MAX - j->text_bytes)
		jinja_fail_at(j, -E2BIG, j->line, "the template makes more than %u bytes of text",
			TEMPLATE_OUTPUT_BYTES_MAX);
	j->text_bytes += n;
	if (n <= b->capacity - b->len)
		return;
	while (capacity - b->len < n)
		capacity *= 2;
	text = jinja_take(j, capacity, 1);
	if (b->len > 0)
		memcpy(text, b->text, b->len);
	b->text = text;
	if (b->trust) {
		uint8_t *trust = jinja_take(j, capacity, 1);

		memcpy(trust, b->trust, b->len);
		b->trust = trust;
	}
	b->capacity = capacity;
}

/* The provenance of the n bytes to come. */
static void builder_trust(
	struct jinja *j, struct jinja_builder *b, size_t n, const uint8_t *trust, bool trusted)
{
	if (!b->trust)
		b->trust = jinja_take(j, b->capacity, 1);
	if (trust)
		memcpy(b->trust + b->len, trust, n);
	else
		memset(b->trust + b->len, trusted, n);
}

void jinja_put(struct jinja *j, struct jinja_builder *b, const char *text, size_t len, bool trusted)
{
	if (len == 0)
		return;
	builder_room(j, b, len);
	builder_trust(j, b, len, NULL, trusted);
	memcpy(b->text + b->len, text, len);
	b->len += len;
}

void jinja_put_string(struct jinja *j, struct jinja_builder *b, const struct jinja_string *s)
{
	if (s->len == 0)
		return;
	builder_room(j, b, s->len);
	builder_trust(j, b, s->len, s->trust, s->trusted);
	memcpy(b->text + b->len, s->text, s->len);
	b->len += s->len;
}

void jinja_put_code(struct jinja *j, struct jinja_builder *b, uint32_t code, bool trusted)
{
	char bytes[4];

	jinja_put(j, b, bytes, utf8_encode(code, bytes), trusted);
}

const struct jinja_string *jinja_built(struct jinja *j, struct jinja_builder *b)
{
	struct jinja_string *s = jinja_take(j, 1, sizeof(*s));

	string_charge(j, b->len);
	*s = (struct jinja_string){.text = b->text ? b->text : "", .len = b->len, .trusted = true};
	if (b->len > 0) {
		s->trusted = b->trust[0];
		if (memchr(b->trust, !b->trust[0], b->len))
			s->trust = b->trust;
	}
	*b = (struct jinja_builder){0};
	return s;
}

const struct jinja_string *jinja_concat(
	struct jinja *j, const struct jinja_string *a, const struct jinja_string *b)
{
	struct jinja_builder out = {0};

	if (a->len == 0)
		return b;
	if (b->len == 0)
		return a;
	jinja_put_string(j, &out, a);
	jinja_put_string(j, &out, b);
	return jinja_built(j, &out);
}

const struct jinja_string *jinja_part(
	struct jinja *j, const struct jinja_string *s, size_t start, size_t end)
{
	struct jinja_string *part;

	if (start == 0 && end == s->len)
		return s;
	part = jinja_take(j, 1, sizeof(*part));
	*part = (struct jinja_string){.text = s->text + start,
		.trust = s->trust ? s->trust + start : NULL,
		.len = end - start,
		.trusted = s->trusted};
	return part;
}

bool jinja_trusted_at(const struct jinja_string *s, size_t i)
{
	return s->trust ? s->trust[i] : s->trusted;
}

bool jinja_all_trusted(const struct jinja_string *s)
{
	return s->trust ? memchr(s->trust, 0, s->len) == NULL : s->trusted || s->len == 0;
}

size_t jinja_char(const struct jinja_string *s, size_t i, uint32_t *ret_code)
{
	unsigned char c = (unsigned char)s->text[i];
	size_t n;

	if (c < 0x80) {
		*ret_code = c;
		return 1;
	}
	n = utf8_decode(s->text + i, s->len - i, ret_code);
	return *ret_code == UINT32_MAX ? 1 : n;
}

size_t jinja_char_before(const struct jinja_string *s, size_t i)
{
	size_t back;
	uint32_t code;

	for (back = 2; back <= 4 && back <= i; back++)
		if (((unsigned char)s->text[i - 1] & 0xc0) == 0x80 &&
			jinja_char(s, i - back, &code) == back && code != UINT32_MAX)
			return i - back;
	return i - 1;
}

size_t jinja_chars(struct jinja *j, const struct jinja_string *s)
{
	size_t i, n = 0;
	uint32_t code;

	string_charge(j, s->len);
	for (i = 0; i < s->len; n++)
		i += jinja_char(s, i, &code);
	return n;
}

size_t jinja_char_offset(struct jinja *j, const struct jinja_string *s, size_t chars)
{
	size_t i = 0;
	uint32_t code;

	for (; chars > 0 && i < s->len; chars--)
		i += jinja_char(s, i, &code);
	string_charge(j, i);
	return i;
}

bool jinja_string_is(const struct jinja_string *s, const char *text)
{
	return s->len == strlen(text) && memcmp(s->text, text, s->len) == 0;
}

size_t jinja_find(
	struct jinja *j, const struct jinja_string *s, const struct jinja_string *what, size_t from)
{
	const char *at;

	if (what->len == 0)
		return from;
	at = memmem(s->text + from, s->len - from, what->text, what->len);
	string_charge(j, what->len + (at ? (size_t)(at - s->text) : s->len) - from);
	return at ? (size_t)(at - s->text) : SIZE_MAX;
}

size_t jinja_find_last(
	struct jinja *j, const struct jinja_string *s, const struct jinja_string *what)
{
	size_t at, charged = 0;

	if (what->len > s->len)
		return SIZE_MAX;
	for (at = s->len - what->len;; at--) {
		/* A comparison may go over all of what. */
		charged += 1 + what->len / 4;
		if (charged >= STRING_STEP_BYTES) {
			string_charge(j, charged);
			charged = 0;
		}
		if (what->len == 0 || memcmp(s->text + at, what->text, what->len) == 0)
			return at;
		if (at == 0)
			return SIZE_MAX;
	}
}

static bool string_has(struct jinja *j, const struct jinja_string *chars, uint32_t code,
	const char *bytes, size_t n)
{
	string_charge(j, chars ? chars->len : 0);
	if (!chars)
		return code != UINT32_MAX && unicode_is_space(code);
	return memmem(chars->text, chars->len, bytes, n) != NULL;
}

const struct jinja_string *jinja_strip(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *chars, bool left, bool right)
{
	size_t start = 0, end = s->len;
	uint32_t code;

	while (left && start < end) {
		size_t n = jinja_char(s, start, &code);

		if (!string_has(j, chars, code, s->text + start, n))
			break;
		start += n;
	}
	while (right && end > start) {
		size_t before = jinja_char_before(s, end);

		jinja_char(s, before, &code);
		if (!string_has(j, chars, code, s->text + before, end - before))
			break;
		end = before;
	}
	/* string_has() charges for long sets of characters only. */
	if (chars && chars->len < STRING_STEP_BYTES)
		string_charge(j, (s->len - (end - start)) * (1 + chars->len / 16));
	else
		string_charge(j, s->len - (end - start));
	return jinja_part(j, s, start, end);
}

/* The Greek capital sigma at the end of a word has a lower case of its own (Unicode 3.13, table
 * 3-17): before it a cased letter, behind it none. */
static bool string_is_final_sigma(const struct jinja_string *s, size_t at)
{
	static const unsigned cased = UNICODE_IS_UPPER | UNICODE_IS_LOWER | UNICODE_IS_TITLE;
	uint32_t code;

	if (at == 0)
		return false;
	jinja_char(s, jinja_char_before(s, at), &code);
	if (!(unicode_class(code) & cased))
		return false;
	at += 2;
	if (at == s->len)
		return true;
	jinja_char(s, at, &code);
	return !(unicode_class(code) & cased);
}

size_t jinja_put_recased(
	struct jinja *j, struct jinja_builder *b, const struct jinja_string *s, size_t i, int to)
{
	bool trusted = jinja_trusted_at(s, i);
	uint32_t code, out[3];
	size_t n = jinja_char(s, i, &code), mapped, k;

	if (code == UINT32_MAX) {
		jinja_put(j, b, s->text + i, n, trusted);
		return n;
	}
	mapped = unicode_map(code, (enum unicode_case)to, out);
	if (to == UNICODE_TO_LOWER && code == 0x3a3 && string_is_final_sigma(s, i))
		out[0] = 0x3c2;
	for (k = 0; k < mapped; k++)
		jinja_put_code(j, b, out[k], trusted);
	return n;
}

const struct jinja_string *jinja_recase(
	struct jinja *j, const struct jinja_string *s, int first, int rest)
{
	struct jinja_builder b = {0};
	size_t i;

	for (i = 0; i < s->len;)
		i += jinja_put_recased(j, &b, s, i, i == 0 ? first : rest);
	return jinja_built(j, &b);
}

const struct jinja_string *jinja_replace(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *old, const struct jinja_string *with, int64_t count)
{
	struct jinja_builder b = {0};
	size_t at = 0, found;

	string_charge(j, s->len);
	while (count != 0) {
		if (old->len == 0) {
			/* Before every character and at the end. */
			uint32_t code;
			size_t n = at < s->len ? jinja_char(s, at, &code) : 0;

			jinja_step(j, 1);
			jinja_put_string(j, &b, with);
			if (n == 0)
				break;
			jinja_put_string(j, &b, jinja_part(j, s, at, at + n));
			at += n;
		} else {
			const char *p = memmem(s->text + at, s->len - at, old->text, old->len);

			if (!p)
				break;
			jinja_step(j, 1);
			found = (size_t)(p - s->text);
			jinja_put_string(j, &b, jinja_part(j, s, at, found));
			jinja_put_string(j, &b, with);
			at = found + old->len;
		}
		if (count > 0)
			count--;
	}
	if (at == 0 && b.len == 0)
		return s;
	if (at < s->len)
		jinja_put_string(j, &b, jinja_part(j, s, at, s->len));
	return jinja_built(j, &b);
}

static void string_reverse(struct jinja_value list)
{
	size_t i, n = list.list->n;

	for (i = 0; i < n / 2; i++) {
		struct jinja_value v = list.list->items[i];

		list.list->items[i] = list.list->items[n - 1 - i];
		list.list->items[n - 1 - i] = v;
	}
}

/* str.split() with no separator: at runs of white space. */
static struct jinja_value string_split_space(
	struct jinja *j, const struct jinja_string *s, int64_t max, bool from_right)
{
	struct jinja_value list = jinja_list_new(j, JINJA_PLAIN, 0);

	string_charge(j, s->len);
	while ((s = jinja_strip(j, s, NULL, !from_right, from_right))->len > 0) {
		size_t at = from_right ? s->len : 0, edge = at, n;
		uint32_t code = 0;

		jinja_step(j, 1);
		if (max == 0) {
			jinja_list_add(j, list, jinja_from(s));
			break;
		}
		max -= max > 0;
		if (from_right) {
			while (at > 0) {
				edge = jinja_char_before(s, at);
				jinja_char(s, edge, &code);
				if (code != UINT32_MAX && unicode_is_space(code))
					break;
				at = edge;
			}
			jinja_list_add(j, list, jinja_from(jinja_part(j, s, at, s->len)));
			s = jinja_part(j, s, 0, at);
		} else {
			for (; at < s->len; at += n) {
				n = jinja_char(s, at, &code);
				if (code != UINT32_MAX && unicode_is_space(code))
					break;
			}
			jinja_list_add(j, list, jinja_from(jinja_part(j, s, 0, at)));
			s = jinja_part(j, s, at, s->len);
		}
	}
	if (from_right)
		string_reverse(list);
	return list;
}

struct jinja_value jinja_split(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *separator, int64_t max, bool from_right)
{
	struct jinja_value list;

	if (!separator)
		return string_split_space(j, s, max, from_right);
	if (separator->len == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "split(): empty separator");
	list = jinja_list_new(j, JINJA_PLAIN, 0);
	for (; max != 0; max -= max > 0) {
		size_t at;

		jinja_step(j, 1);
		at = from_right ? jinja_find_last(j, s, separator) : jinja_find(j, s, separator, 0);
		if (at == SIZE_MAX)
			break;
		if (from_right) {
			jinja_list_add(
				j, list, jinja_from(jinja_part(j, s, at + separator->len, s->len)));
			s = jinja_part(j, s, 0, at);
		} else {
			jinja_list_add(j, list, jinja_from(jinja_part(j, s, 0, at)));
			s = jinja_part(j, s, at + separator->len, s->len);
		}
	}
	jinja_list_add(j, list, jinja_from(s));
	if (from_right)
		string_reverse(list);
	return list;
}

struct jinja_value jinja_split_lines(struct jinja *j, const struct jinja_string *s, bool keep_ends)
{
	struct jinja_value list = jinja_list_new(j, JINJA_PLAIN, 0);
	size_t start = 0, at = 0;
	uint32_t code;

	string_charge(j, s->len);
	while (at < s->len) {
		size_t n = jinja_char(s, at, &code), end = at;

		at += n;
		if (code == UINT32_MAX || !unicode_is_line_end(code))
			continue;
		if (code == '\r' && at < s->len && s->text[at] == '\n')
			at++;
		jinja_list_add(j, list, jinja_from(jinja_part(j, s, start, keep_ends ? at : end)));
		start = at;
	}
	if (start < s->len)
		jinja_list_add(j, list, jinja_from(jinja_part(j, s, start, s->len)));
	return list;
}
