/* Filters over text and numbers, and the table of all. Those over sequences are in
 * jinja_sequence.c. */
#include "engine/jinja_filter.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

static struct jinja_value filter_upper(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	jinja_bind(j, "upper", args, "", NULL);
	return jinja_from(jinja_recase(j, jinja_str(j, v), UNICODE_TO_UPPER, UNICODE_TO_UPPER));
}

static struct jinja_value filter_lower(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	jinja_bind(j, "lower", args, "", NULL);
	return jinja_from(jinja_recase(j, jinja_str(j, v), UNICODE_TO_LOWER, UNICODE_TO_LOWER));
}

static struct jinja_value filter_capitalize(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	jinja_bind(j, "capitalize", args, "", NULL);
	return jinja_from(jinja_recase(j, jinja_str(j, v), UNICODE_TO_TITLE, UNICODE_TO_LOWER));
}

/* item[0].upper() + item[1:].lower() */
static void filter_put_title(struct jinja *j, struct jinja_builder *b, const struct jinja_string *s,
	size_t at, size_t end)
{
	if (at < end)
		at += jinja_put_recased(j, b, s, at, UNICODE_TO_UPPER);
	jinja_put_string(j, b,
		jinja_recase(j, jinja_part(j, s, at, end), UNICODE_TO_LOWER, UNICODE_TO_LOWER));
}

/* Words begin behind "-({[<" and white space. */
static struct jinja_value filter_title(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	const struct jinja_string *s = jinja_str(j, v);
	struct jinja_builder b = {0};
	size_t start = 0, at, n;
	uint32_t code;

	jinja_bind(j, "title", args, "", NULL);
	for (at = 0; at < s->len; at += n) {
		n = jinja_char(s, at, &code);
		if (code == 0 || code == UINT32_MAX ||
			!(unicode_is_space(code) || (code < 0x80 && strchr("-({[<", (int)code))))
			continue;
		filter_put_title(j, &b, s, start, at);
		jinja_put_string(j, &b, jinja_part(j, s, at, at + n));
		start = at + n;
	}
	filter_put_title(j, &b, s, start, s->len);
	return jinja_from(jinja_built(j, &b));
}

static struct jinja_value filter_trim(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value chars;
	const struct jinja_string *set = NULL;

	jinja_bind(j, "trim", args, "chars?", &chars);
	if (chars.kind != JINJA_MISSING && chars.kind != JINJA_NONE)
		set = jinja_need_string(j, "trim", chars);
	return jinja_from(jinja_strip(j, jinja_str(j, v), set, true, true));
}

static struct jinja_value filter_string(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	jinja_bind(j, "string", args, "", NULL);
	return jinja_from(jinja_str(j, v));
}

static struct jinja_value filter_escape(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	const struct jinja_string *s = jinja_str(j, v);
	struct jinja_builder b = {0};
	size_t i;

	jinja_bind(j, "escape", args, "", NULL);
	for (i = 0; i < s->len; i++) {
		const char *with = s->text[i] == '&'    ? "&amp;"
				   : s->text[i] == '<'  ? "&lt;"
				   : s->text[i] == '>'  ? "&gt;"
				   : s->text[i] == '\'' ? "&#39;"
				   : s->text[i] == '"'  ? "&#34;"
							: NULL;

		if (with)
			jinja_put(j, &b, with, strlen(with), jinja_trusted_at(s, i));
		else
			jinja_put(j, &b, s->text + i, 1, jinja_trusted_at(s, i));
	}
	return jinja_from(jinja_built(j, &b));
}

static struct jinja_value filter_replace(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[3];
	int64_t count = -1;

	jinja_bind(j, "replace", args, "old new count?", slots);
	if (slots[2].kind != JINJA_MISSING && slots[2].kind != JINJA_NONE)
		count = jinja_index(j, "replace", slots[2]);
	return jinja_from(jinja_replace(
		j, jinja_str(j, v), jinja_str(j, slots[0]), jinja_str(j, slots[1]), count));
}

static struct jinja_value filter_default(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[2];

	jinja_bind(j, "default", args, "default_value? boolean?", slots);
	if (v.kind == JINJA_UNDEFINED || (jinja_truth(j, slots[1]) && !jinja_truth(j, v)))
		return slots[0].kind == JINJA_MISSING ? jinja_literal(j, "") : slots[0];
	return v;
}

static struct jinja_value filter_abs(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	jinja_bind(j, "abs", args, "", NULL);
	if (v.kind == JINJA_FLOAT)
		return jinja_float(fabs(v.real), v.trusted);
	return jinja_negate(j, v, jinja_index(j, "abs", v) < 0);
}

static struct jinja_value filter_int(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[2], parsed;
	int64_t base = 10;
	bool trusted = v.trusted;

	jinja_bind(j, "int", args, "default? base?", slots);
	if (slots[1].kind != JINJA_MISSING)
		base = jinja_index(j, "int", slots[1]);
	if (v.kind == JINJA_STRING) {
		trusted = jinja_all_trusted(v.string);
		parsed = jinja_parse_int(j, v.string, base);
		if (parsed.kind == JINJA_INT)
			return parsed;
		v = jinja_parse_float(j, v.string);
		if (v.kind == JINJA_FLOAT && !isfinite(v.real))
			v = jinja_missing();
	}
	if (v.kind == JINJA_INT || v.kind == JINJA_BOOL)
		return jinja_negate(j, v, false);
	if (v.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, v);
	if (v.kind == JINJA_FLOAT && isinf(v.real))
		jinja_fail_at(j, -ENOEXEC, j->line, "infinity cannot be made an integer");
	if (v.kind == JINJA_FLOAT && !isnan(v.real)) {
		if (fabs(v.real) >= 0x1p63)
			jinja_fail_at(j, -ENOEXEC, j->line, "an integer leaves its 64 bits");
		return jinja_int((int64_t)v.real, trusted);
	}
	return slots[0].kind == JINJA_MISSING ? jinja_int(0, true) : slots[0];
}

static struct jinja_value filter_float(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value otherwise, parsed = jinja_missing();

	jinja_bind(j, "float", args, "default?", &otherwise);
	if (v.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, v);
	if (v.kind == JINJA_STRING)
		parsed = jinja_parse_float(j, v.string);
	else if (v.kind == JINJA_FLOAT)
		parsed = v;
	else if (v.kind == JINJA_INT || v.kind == JINJA_BOOL)
		parsed = jinja_float((double)jinja_index(j, "float", v), v.trusted);
	if (parsed.kind == JINJA_MISSING)
		return otherwise.kind == JINJA_MISSING ? jinja_float(0, true) : otherwise;
	return parsed;
}

/* Correct rounding of the decimal digits, half to even on ties, as Python's round(). */
static double round_real(double f, int64_t precision)
{
	char digits[400];

	if (!isfinite(f) || precision > 22)
		return f;
	if (precision < 0) {
		double power = precision < -308 ? INFINITY : pow(10, (double)-precision);
		double whole = nearbyint(f / power);

		return isinf(power) ? copysign(0, f) : whole * power;
	}
	snprintf(digits, sizeof(digits), "%.*f", (int)precision, f);
	return strtod(digits, NULL);
}

static struct jinja_value filter_round(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[2];
	int64_t precision = 0;
	const char *method = "common";
	double f, power;

	jinja_bind(j, "round", args, "precision? method?", slots);
	if (slots[0].kind != JINJA_MISSING)
		precision = jinja_index(j, "round", slots[0]);
	if (slots[1].kind != JINJA_MISSING) {
		const struct jinja_string *s = jinja_need_string(j, "round", slots[1]);

		method = jinja_string_is(s, "ceil")     ? "ceil"
			 : jinja_string_is(s, "floor")  ? "floor"
			 : jinja_string_is(s, "common") ? "common"
							: NULL;
		if (!method)
			jinja_fail_at(j, -ENOEXEC, j->line,
				"round: the method must be common, ceil or floor");
	}
	if (v.kind != JINJA_FLOAT && v.kind != JINJA_INT && v.kind != JINJA_BOOL)
		jinja_fail_type(j, "round", "a number", v);
	if (*method == 'c' && method[1] == 'o') {
		if (v.kind == JINJA_FLOAT)
			return jinja_float(round_real(v.real, precision), v.trusted);
		if (precision >= 0)
			return jinja_negate(j, v, false);
		f = (double)jinja_index(j, "round", v);
		return jinja_int((int64_t)round_real(f, precision), v.trusted);
	}
	f = v.kind == JINJA_FLOAT ? v.real : (double)jinja_index(j, "round", v);
	power = pow(10, (double)precision);
	f = *method == 'c' ? ceil(f * power) : floor(f * power);
	if (!isfinite(f))
		jinja_fail_at(j, -ENOEXEC, j->line, "round: infinity cannot be made an integer");
	/* Python goes through an integer, which has no -0. */
	return jinja_float((f + 0.0) / power, v.trusted);
}

/* The first line keeps its place, those behind move in by `width`; empty ones only if `blank`. */
static struct jinja_value filter_indent(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[3], lines;
	const struct jinja_string *indention, *newline = jinja_literal(j, "\n").string;
	struct jinja_builder b = {0};
	bool first, blank;
	size_t i;

	jinja_bind(j, "indent", args, "width? first? blank?", slots);
	if (slots[0].kind == JINJA_STRING)
		indention = slots[0].string;
	else
		indention = jinja_arithmetic(j, '*', jinja_literal(j, " "),
			slots[0].kind == JINJA_MISSING ? jinja_int(4, true) : slots[0])
				    .string;
	first = jinja_truth(j, slots[1]);
	blank = jinja_truth(j, slots[2]);
	lines = jinja_split_lines(
		j, jinja_concat(j, jinja_need_string(j, "indent", v), newline), false);
	for (i = 0; i < lines.list->n; i++) {
		const struct jinja_string *line = lines.list->items[i].string;

		jinja_step(j, 1);
		if (i > 0)
			jinja_put_string(j, &b, newline);
		if (i > 0 ? blank || line->len > 0 : first)
			jinja_put_string(j, &b, indention);
		jinja_put_string(j, &b, line);
	}
	return jinja_from(jinja_built(j, &b));
}

static struct jinja_value filter_center(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value width;

	jinja_bind(j, "center", args, "width?", &width);
	return jinja_from(jinja_justify(j, jinja_str(j, v),
		width.kind == JINJA_MISSING ? 80 : jinja_index(j, "center", width), NULL, 0));
}

static struct jinja_value filter_truncate(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[4];
	const struct jinja_string *s, *end;
	int64_t length = 255, leeway = 5, n_end;

	jinja_bind(j, "truncate", args, "length? killwords? end? leeway?", slots);
	s = jinja_need_string(j, "truncate", v);
	if (slots[0].kind != JINJA_MISSING)
		length = jinja_index(j, "truncate", slots[0]);
	end = slots[2].kind == JINJA_MISSING ? jinja_literal(j, "...").string
					     : jinja_need_string(j, "truncate", slots[2]);
	if (slots[3].kind != JINJA_MISSING && slots[3].kind != JINJA_NONE)
		leeway = jinja_index(j, "truncate", slots[3]);
	n_end = (int64_t)jinja_chars(j, end);
	if (length < n_end || leeway < 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "truncate: the length is too small");
	if ((uint64_t)jinja_chars(j, s) <= (uint64_t)length + (uint64_t)leeway)
		return v;
	s = jinja_part(j, s, 0, jinja_char_offset(j, s, (size_t)(length - n_end)));
	if (!jinja_truth(j, slots[1])) {
		const char *space = memrchr(s->text, ' ', s->len);

		if (space)
			s = jinja_part(j, s, 0, (size_t)(space - s->text));
	}
	return jinja_from(jinja_concat(j, s, end));
}

static struct jinja_value filter_wordcount(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	const struct jinja_string *s = jinja_str(j, v);
	int64_t n = 0;
	bool inside = false;
	size_t i;

	jinja_bind(j, "wordcount", args, "", NULL);
	jinja_step(j, s->len / 256);
	for (i = 0; i < s->len;) {
		uint32_t code;
		bool word;

		i += jinja_char(s, i, &code);
		word = code == '_' ||
		       (unicode_class(code) &
			       (UNICODE_ALPHA | UNICODE_NUMERIC | UNICODE_DIGIT | UNICODE_DECIMAL));
		n += word && !inside;
		inside = word;
	}
	return jinja_int(n, jinja_all_trusted(s));
}

static struct jinja_value filter_format(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	if (args->n_named > 0)
		jinja_fail_at(
			j, -ENOTSUP, j->line, "format: keyword arguments are not implemented");
	return jinja_format(j, jinja_str(j, v), args, false);
}

static struct jinja_value filter_tojson(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value slots[4];
	struct jinja_json how = {0};

	jinja_bind(j, "tojson", args, "ensure_ascii? indent? separators? sort_keys?", slots);
	how.ascii = jinja_truth(j, slots[0]);
	how.sort_keys = jinja_truth(j, slots[3]);
	if (slots[1].kind == JINJA_STRING)
		how.indent = slots[1].string;
	else if (slots[1].kind != JINJA_MISSING && slots[1].kind != JINJA_NONE)
		how.indent = jinja_arithmetic(j, '*', jinja_literal(j, " "),
			jinja_int(jinja_index(j, "tojson", slots[1]), true))
				     .string;
	how.item_separator = jinja_literal(j, how.indent ? "," : ", ").string;
	how.key_separator = jinja_literal(j, ": ").string;
	if (slots[2].kind != JINJA_MISSING && slots[2].kind != JINJA_NONE) {
		struct jinja_value pair = jinja_to_list(j, slots[2], JINJA_PLAIN);

		if (pair.list->n != 2)
			jinja_fail_at(j, -ENOEXEC, j->line, "tojson: separators are two strings");
		how.item_separator = jinja_need_string(j, "tojson", pair.list->items[0]);
		how.key_separator = jinja_need_string(j, "tojson", pair.list->items[1]);
	}
	return jinja_from(jinja_to_json(j, v, &how));
}

static struct jinja_value filter_attr(
	struct jinja *j, struct jinja_value v, const struct jinja_args *args)
{
	struct jinja_value name;
	const struct jinja_string *s;

	jinja_bind(j, "attr", args, "name", &name);
	s = jinja_need_string(j, "attr", name);
	/* Attributes alone: what subscription would find does not count. */
	if (v.kind == JINJA_DICT && jinja_method_of(j, v, s).kind == JINJA_MISSING)
		return jinja_undefined(j, "'dict object' has no attribute '%.*s'",
			(int)(s->len < 64 ? s->len : 64), s->text);
	return jinja_attribute(j, v, s);
}

static const struct jinja_filter filters[] = {
	{"abs", filter_abs},
	{"attr", filter_attr},
	{"batch", jinja_filter_batch},
	{"capitalize", filter_capitalize},
	{"center", filter_center},
	{"count", jinja_filter_length},
	{"d", filter_default},
	{"default", filter_default},
	{"dictsort", jinja_filter_dictsort},
	{"e", filter_escape},
	{"escape", filter_escape},
	{"first", jinja_filter_first},
	{"float", filter_float},
	{"forceescape", filter_escape},
	{"format", filter_format},
	{"groupby", jinja_filter_groupby},
	{"indent", filter_indent},
	{"int", filter_int},
	{"items", jinja_filter_items},
	{"join", jinja_filter_join},
	{"last", jinja_filter_last},
	{"length", jinja_filter_length},
	{"list", jinja_filter_list},
	{"lower", filter_lower},
	{"map", jinja_filter_map},
	{"max", jinja_filter_max},
	{"min", jinja_filter_min},
	{"reject", jinja_filter_reject},
	{"rejectattr", jinja_filter_rejectattr},
	{"replace", filter_replace},
	{"reverse", jinja_filter_reverse},
	{"round", filter_round},
	{"safe", filter_string},
	{"select", jinja_filter_select},
	{"selectattr", jinja_filter_selectattr},
	{"slice", jinja_filter_slice},
	{"sort", jinja_filter_sort},
	{"string", filter_string},
	{"sum", jinja_filter_sum},
	{"title", filter_title},
	{"tojson", filter_tojson},
	{"trim", filter_trim},
	{"truncate", filter_truncate},
	{"unique", jinja_filter_unique},
	{"upper", filter_upper},
	{"wordcount", filter_wordcount},
};

const struct jinja_filter *jinja_filter_find(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		if (strlen(filters[i].name) == len && memcmp(filters[i].name, name, len) == 0)
			return &filters[i];
	return NULL;
}

bool jinja_filter_missing(const char *name, size_t len)
{
	static const char *const missing[] = {"filesizeformat", "pprint", "random", "striptags",
		"urlencode", "urlize", "wordwrap", "xmlattr"};
	size_t i;

	for (i = 0; i < sizeof(missing) / sizeof(missing[0]); i++)
		if (strlen(missing[i]) == len && memcmp(missing[i], name, len) == 0)
			return true;
	return false;
}
