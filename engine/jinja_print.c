/* Values as text: Python's str() and repr(), and json.dumps(). Punctuation that these write is
 * trusted, what they copy or escape keeps the provenance of its source. */
#include "engine/jinja_eval.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

size_t jinja_format_float(double f, char out[40])
{
	char digits[40], *e;
	int precision, exponent, n, k;
	size_t len = 0;

	if (isnan(f))
		return (size_t)snprintf(out, 40, "nan");
	if (isinf(f))
		return (size_t)snprintf(out, 40, f > 0 ? "inf" : "-inf");
	for (precision = 0; precision < 17; precision++) {
		snprintf(digits, sizeof(digits), "%.*e", precision, f);
		if (strtod(digits, NULL) == f)
			break;
	}
	e = strchr(digits, 'e');
	exponent = (int)strtol(e + 1, NULL, 10);
	if (exponent < -4 || exponent >= 16) {
		*e = 0;
		return (size_t)snprintf(out, 40, "%se%c%02d", digits, exponent < 0 ? '-' : '+',
			exponent < 0 ? -exponent : exponent);
	}
	/* The digits without point and sign, then the point where the exponent has it. */
	if (digits[0] == '-')
		out[len++] = '-';
	for (n = 0, k = 0; digits + k < e; k++)
		if (digits[k] >= '0' && digits[k] <= '9')
			digits[n++] = digits[k];
	if (exponent < 0) {
		out[len++] = '0';
		out[len++] = '.';
		for (k = -1; k > exponent; k--)
			out[len++] = '0';
		for (k = 0; k < n; k++)
			out[len++] = digits[k];
	} else {
		for (k = 0; k < n || k <= exponent; k++) {
			if (k == exponent + 1)
				out[len++] = '.';
			out[len++] = k < n ? digits[k] : '0';
		}
		if (n <= exponent + 1) {
			out[len++] = '.';
			out[len++] = '0';
		}
	}
	out[len] = 0;
	return len;
}

static void print_literal(struct jinja *j, struct jinja_builder *b, const char *text)
{
	jinja_put(j, b, text, strlen(text), true);
}

/* Numbers, None, True … into out; false for other kinds. */
static bool print_scalar(struct jinja_value v, char out[40])
{
	switch (v.kind) {
	case JINJA_NONE: snprintf(out, 40, "None"); return true;
	case JINJA_BOOL: snprintf(out, 40, v.boolean ? "True" : "False"); return true;
	case JINJA_INT: snprintf(out, 40, "%" PRId64, v.integer); return true;
	case JINJA_FLOAT: jinja_format_float(v.real, out); return true;
	default: return false;
	}
}

static void print_string(struct jinja *j, struct jinja_builder *b, const struct jinja_string *s)
{
	bool single = s->len > 0 && memchr(s->text, '\'', s->len) != NULL;
	bool two = s->len > 0 && memchr(s->text, '"', s->len) != NULL;
	char quote = single && !two ? '"' : '\'';
	size_t i, n;
	uint32_t code;

	jinja_put(j, b, &quote, 1, true);
	for (i = 0; i < s->len; i += n) {
		bool trusted = jinja_trusted_at(s, i);
		char escape[16] = "";

		n = jinja_char(s, i, &code);
		if (code == (unsigned char)quote || code == '\\')
			snprintf(escape, sizeof(escape), "\\%c", (char)code);
		else if (code == '\n' || code == '\r' || code == '\t')
			snprintf(escape, sizeof(escape), "\\%c",
				code == '\n'   ? 'n'
				: code == '\r' ? 'r'
					       : 't');
		else if (code == UINT32_MAX)
			snprintf(escape, sizeof(escape), "\\udc%02x", (unsigned char)s->text[i]);
		else if (code < 0x20 ||
			 (code >= 0x7f && !(unicode_class(code) & UNICODE_PRINTABLE)))
			snprintf(escape, sizeof(escape),
				code < 0x100     ? "\\x%02x"
				: code < 0x10000 ? "\\u%04x"
						 : "\\U%08x",
				code);
		if (escape[0])
			jinja_put(j, b, escape, strlen(escape), trusted);
		else
			jinja_put(j, b, s->text + i, n, trusted);
	}
	jinja_put(j, b, &quote, 1, true);
}

static void print_value(struct jinja *j, struct jinja_builder *b, struct jinja_value v);

static void print_list(struct jinja *j, struct jinja_builder *b, const struct jinja_list *l)
{
	static const char *const open[] = {[JINJA_PLAIN] = "[",
		[JINJA_TUPLE] = "(",
		[JINJA_KEYS] = "dict_keys([",
		[JINJA_VALUES] = "dict_values([",
		[JINJA_ITEMS] = "dict_items(["};
	static const char *const close[] = {[JINJA_PLAIN] = "]",
		[JINJA_TUPLE] = ")",
		[JINJA_KEYS] = "])",
		[JINJA_VALUES] = "])",
		[JINJA_ITEMS] = "])"};
	size_t i;

	print_literal(j, b, open[l->flavor]);
	for (i = 0; i < l->n; i++) {
		if (i > 0)
			print_literal(j, b, ", ");
		print_value(j, b, l->items[i]);
	}
	if (l->flavor == JINJA_TUPLE && l->n == 1)
		print_literal(j, b, ",");
	print_literal(j, b, close[l->flavor]);
}

static void print_dict(struct jinja *j, struct jinja_builder *b, const struct jinja_dict *d)
{
	size_t i;

	print_literal(j, b, "{");
	for (i = 0; i < d->n; i++) {
		if (i > 0)
			print_literal(j, b, ", ");
		print_value(j, b, d->entries[i].key);
		print_literal(j, b, ": ");
		print_value(j, b, d->entries[i].value);
	}
	print_literal(j, b, "}");
}

static void print_number(struct jinja *j, struct jinja_builder *b, int64_t i, bool trusted)
{
	char digits[24];

	jinja_put(j, b, digits, (size_t)snprintf(digits, sizeof(digits), "%" PRId64, i), trusted);
}

static void print_range(struct jinja *j, struct jinja_builder *b, struct jinja_value v)
{
	print_literal(j, b, "range(");
	print_number(j, b, v.range->start, v.trusted);
	print_literal(j, b, ", ");
	print_number(j, b, v.range->stop, v.trusted);
	if (v.range->step != 1) {
		print_literal(j, b, ", ");
		print_number(j, b, v.range->step, v.trusted);
	}
	print_literal(j, b, ")");
}

/* repr() */
static void print_value(struct jinja *j, struct jinja_builder *b, struct jinja_value v)
{
	char scalar[80];

	jinja_step(j, 1);
	if (print_scalar(v, scalar)) {
		jinja_put(j, b, scalar, strlen(scalar), v.kind < JINJA_INT || v.trusted);
		return;
	}
	jinja_enter(j);
	switch (v.kind) {
	case JINJA_STRING: print_string(j, b, v.string); break;
	case JINJA_LIST: print_list(j, b, v.list); break;
	case JINJA_DICT: print_dict(j, b, v.dict); break;
	case JINJA_NAMESPACE:
		print_literal(j, b, "<Namespace ");
		print_dict(j, b, v.dict);
		print_literal(j, b, ">");
		break;
	case JINJA_RANGE: print_range(j, b, v); break;
	case JINJA_MACRO:
		print_literal(j, b, "<Macro ");
		print_string(j, b, v.macro->node->name);
		print_literal(j, b, ">");
		break;
	case JINJA_LOOP:
		snprintf(scalar, sizeof(scalar), "<LoopContext %" PRId64 "/%zu>",
			v.loop->index0 + 1, jinja_loop_length(j, v.loop));
		print_literal(j, b, scalar);
		break;
	default:
		print_literal(j, b, v.kind == JINJA_UNDEFINED ? "" : "<");
		print_literal(j, b, jinja_type_name(v));
		print_literal(j, b, v.kind == JINJA_UNDEFINED ? "" : ">");
		break;
	}
	jinja_leave(j);
}

const struct jinja_string *jinja_repr(struct jinja *j, struct jinja_value v)
{
	struct jinja_builder b = {0};

	print_value(j, &b, v);
	return jinja_built(j, &b);
}

const struct jinja_string *jinja_str(struct jinja *j, struct jinja_value v)
{
	if (v.kind == JINJA_STRING)
		return v.string;
	if (v.kind == JINJA_UNDEFINED)
		return jinja_literal(j, "").string;
	return jinja_repr(j, v);
}

/* ---- JSON, as Python's json.dumps writes it ---- */

static void json_string(struct jinja *j, struct jinja_builder *b, const struct jinja_string *s,
	const struct jinja_json *how)
{
	static const char short_escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";
	size_t i, n;
	uint32_t code;

	print_literal(j, b, "\"");
	for (i = 0; i < s->len; i += n) {
		bool trusted = jinja_trusted_at(s, i);
		char escape[16] = "";
		const char *p;

		n = jinja_char(s, i, &code);
		for (p = short_escapes; *p && code < 0x80; p += 2)
			if ((uint32_t)*p == code)
				snprintf(escape, sizeof(escape), "\\%c", p[1]);
		if (escape[0] == 0 && (code < 0x20 || (how->ascii && code >= 0x7f))) {
			if (code < 0x10000) {
				snprintf(escape, sizeof(escape), "\\u%04x", code);
			} else if (code != UINT32_MAX) {
				snprintf(escape, sizeof(escape), "\\u%04x\\u%04x",
					0xd800 + ((code - 0x10000) >> 10),
					0xdc00 + ((code - 0x10000) & 0x3ff));
			}
		}
		if (escape[0])
			jinja_put(j, b, escape, strlen(escape), trusted);
		else
			jinja_put(j, b, s->text + i, n, trusted);
	}
	print_literal(j, b, "\"");
}

static void json_scalar(struct jinja *j, struct jinja_builder *b, struct jinja_value v)
{
	char text[40];

	print_scalar(v, text);
	if (v.kind == JINJA_NONE)
		print_literal(j, b, "null");
	else if (v.kind == JINJA_BOOL)
		print_literal(j, b, v.boolean ? "true" : "false");
	else if (v.kind == JINJA_FLOAT && !isfinite(v.real))
		print_literal(j, b, isnan(v.real) ? "NaN" : v.real > 0 ? "Infinity" : "-Infinity");
	else
		jinja_put(j, b, text, strlen(text), v.trusted);
}

static void json_newline(
	struct jinja *j, struct jinja_builder *b, const struct jinja_json *how, unsigned level)
{
	if (!how->indent)
		return;
	print_literal(j, b, "\n");
	while (level-- > 0)
		jinja_put_string(j, b, how->indent);
}

static void json_key(struct jinja *j, struct jinja_builder *b, struct jinja_value key,
	const struct jinja_json *how)
{
	switch (key.kind) {
	case JINJA_STRING: json_string(j, b, key.string, how); break;
	case JINJA_NONE:
	case JINJA_BOOL:
	case JINJA_INT:
	case JINJA_FLOAT:
		print_literal(j, b, "\"");
		json_scalar(j, b, key);
		print_literal(j, b, "\"");
		break;
	default:
		jinja_fail_at(j, -ENOEXEC, j->line,
			"tojson: keys must be str, int, float, bool or None, not %s",
			jinja_type_name(key));
	}
	jinja_put_string(j, b, how->key_separator);
}

/* The dict's entries by key, which all must compare. */
static struct jinja_value json_sorted_keys(struct jinja *j, const struct jinja_dict *d)
{
	struct jinja_value keys = jinja_list_new(j, JINJA_PLAIN, d->n ? d->n : 1);
	size_t i, k;

	for (i = 0; i < d->n; i++) {
		struct jinja_value key = d->entries[i].key;

		jinja_step(j, 1 + i / 16);
		for (k = i; k > 0 && jinja_compare(j, key, keys.list->items[k - 1], "<") < 0; k--)
			keys.list->items[k] = keys.list->items[k - 1];
		keys.list->items[k] = key;
	}
	keys.list->n = d->n;
	return keys;
}

static void json_value(struct jinja *j, struct jinja_builder *b, struct jinja_value v,
	const struct jinja_json *how, unsigned level);

static void json_dict(struct jinja *j, struct jinja_builder *b, const struct jinja_dict *d,
	const struct jinja_json *how, unsigned level)
{
	struct jinja_value keys = how->sort_keys ? json_sorted_keys(j, d) : jinja_none();
	size_t i;

	print_literal(j, b, "{");
	for (i = 0; i < d->n; i++) {
		struct jinja_value key = d->entries[i].key, value = d->entries[i].value;

		if (how->sort_keys) {
			key = keys.list->items[i];
			value = *jinja_dict_get(j, d, key);
		}
		if (i > 0)
			jinja_put_string(j, b, how->item_separator);
		json_newline(j, b, how, level + 1);
		json_key(j, b, key, how);
		json_value(j, b, value, how, level + 1);
	}
	if (d->n > 0)
		json_newline(j, b, how, level);
	print_literal(j, b, "}");
}

static void json_value(struct jinja *j, struct jinja_builder *b, struct jinja_value v,
	const struct jinja_json *how, unsigned level)
{
	size_t i;

	jinja_step(j, 1);
	jinja_enter(j);
	if (v.kind == JINJA_STRING) {
		json_string(j, b, v.string, how);
	} else if (v.kind >= JINJA_NONE && v.kind <= JINJA_FLOAT) {
		json_scalar(j, b, v);
	} else if (v.kind == JINJA_LIST && v.list->flavor <= JINJA_TUPLE) {
		print_literal(j, b, "[");
		for (i = 0; i < v.list->n; i++) {
			if (i > 0)
				jinja_put_string(j, b, how->item_separator);
			json_newline(j, b, how, level + 1);
			json_value(j, b, v.list->items[i], how, level + 1);
		}
		if (v.list->n > 0)
			json_newline(j, b, how, level);
		print_literal(j, b, "]");
	} else if (v.kind == JINJA_DICT) {
		json_dict(j, b, v.dict, how, level);
	} else {
		jinja_fail_at(j, -ENOEXEC, j->line, "object of type %s is not JSON serializable",
			jinja_type_name(v));
	}
	jinja_leave(j);
}

const struct jinja_string *jinja_to_json(
	struct jinja *j, struct jinja_value v, const struct jinja_json *how)
{
	struct jinja_builder b = {0};

	json_value(j, &b, v, how, 0);
	return jinja_built(j, &b);
}
