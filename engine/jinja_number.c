/* Numbers from text, and text laid out: int(), float(), center(), and the % operator. */
#include "engine/jinja_filter.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

/* The digits of s without white space around and single underscores between, terminated; NULL
 * where that is not what it has. */
static char *number_digits(struct jinja *j, const struct jinja_string *s)
{
	char *out;
	size_t i, n = 0;

	s = jinja_strip(j, s, NULL, true, true);
	if (s->len == 0 || s->len > 4096)
		return NULL;
	out = jinja_take(j, s->len + 1, 1);
	for (i = 0; i < s->len; i++) {
		unsigned char c = (unsigned char)s->text[i];

		if (c == '_') {
			if (i == 0 || i + 1 == s->len || s->text[i - 1] == '_' ||
				strchr("+-.", s->text[i - 1]) || strchr("+-.", s->text[i + 1]))
				return NULL;
			continue;
		}
		if (c >= 0x80) {
			uint32_t code;

			jinja_char(s, i, &code);
			if (unicode_class(code) & UNICODE_DECIMAL)
				jinja_fail_at(j, -ENOTSUP, j->line,
					"a number in other digits than 0 to 9 is not implemented");
		}
		if (c == 0 || c >= 0x80)
			return NULL;
		out[n++] = (char)c;
	}
	return out;
}

struct jinja_value jinja_parse_int(struct jinja *j, const struct jinja_string *s, int64_t base)
{
	char *digits = number_digits(j, s), *p = digits, *end;
	bool trusted = jinja_all_trusted(s);
	long long v;
	char prefix;

	if (base != 0 && (base < 2 || base > 36))
		return jinja_missing();
	if (!digits)
		return jinja_missing();
	if (*p == '+' || *p == '-')
		p++;
	prefix = p[0] == '0' ? (char)(p[1] | 0x20) : 0;
	if ((prefix == 'x' && (base == 16 || base == 0)) ||
		(prefix == 'o' && (base == 8 || base == 0)) ||
		(prefix == 'b' && (base == 2 || base == 0))) {
		if (base == 0)
			base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : 2;
		memmove(p, p + 2, strlen(p + 2) + 1);
	} else if (base == 0) {
		if (p[0] == '0' && strspn(p, "0") != strlen(p))
			return jinja_missing();
		base = 10;
	}
	if (!((*p >= '0' && *p <= '9') || ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z')) ||
		(base == 16 && *p == '0' && (p[1] | 0x20) == 'x'))
		return jinja_missing();
	errno = 0;
	v = strtoll(digits, &end, (int)base);
	if (*end)
		return jinja_missing();
	if (errno != 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "an integer leaves its 64 bits");
	return jinja_int(v, trusted);
}

struct jinja_value jinja_parse_float(struct jinja *j, const struct jinja_string *s)
{
	char *digits = number_digits(j, s), *end;
	const char *p = digits;
	double f;

	if (!digits)
		return jinja_missing();
	p += *p == '+' || *p == '-';
	if (p[strspn(p, "0123456789.eE+-")] != 0 && strcasecmp(p, "inf") != 0 &&
		strcasecmp(p, "infinity") != 0 && strcasecmp(p, "nan") != 0)
		return jinja_missing();
	f = strtod(digits, &end);
	if (*end || end == digits)
		return jinja_missing();
	return jinja_float(f, jinja_all_trusted(s));
}

const struct jinja_string *jinja_justify(struct jinja *j, const struct jinja_string *s,
	int64_t width, const struct jinja_string *fill, int side)
{
	struct jinja_builder b = {0};
	int64_t n = (int64_t)jinja_chars(j, s), pad = width > n ? width - n : 0, left, i;

	if (!fill)
		fill = jinja_literal(j, " ").string;
	/* center() rounds as CPython does: up where the width is odd. */
	left = side < 0 ? pad : side > 0 ? 0 : pad / 2 + (pad & width & 1);
	for (i = 0; i < pad; i++) {
		jinja_step(j, i % 256 == 255);
		if (i == left)
			jinja_put_string(j, &b, s);
		jinja_put_string(j, &b, fill);
	}
	if (left == pad)
		jinja_put_string(j, &b, s);
	return jinja_built(j, &b);
}

struct number_spec {
	bool left, zero, plus, space, alternate;
	int width, precision; /* precision -1: none */
};

static const char *format_spec(
	struct jinja *j, const char *p, const char *end, struct number_spec *f)
{
	*f = (struct number_spec){.precision = -1};
	for (; p < end && *p && strchr("-0+ #", *p); p++) {
		f->left |= *p == '-';
		f->zero |= *p == '0';
		f->plus |= *p == '+';
		f->space |= *p == ' ';
		f->alternate |= *p == '#';
	}
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		f->width = f->width <= 10000 ? f->width * 10 + *p - '0' : f->width;
	if (p < end && *p == '.')
		for (p++, f->precision = 0; p < end && *p >= '0' && *p <= '9'; p++)
			f->precision = f->precision < 10000 ? f->precision * 10 + *p - '0'
							    : f->precision;
	if (f->width > 10000 || f->precision > 100 || f->alternate)
		jinja_fail_at(j, -ENOTSUP, j->line, "this format is not implemented");
	return p;
}

static struct jinja_value format_number(
	struct jinja *j, struct jinja_value v, char kind, const struct number_spec *f)
{
	char digits[512], how[8] = "%";
	const char *sign = f->plus ? "+" : f->space ? " " : "";

	if (v.kind != JINJA_INT && v.kind != JINJA_BOOL && v.kind != JINJA_FLOAT)
		jinja_fail_type(j, "a format", "a number", v);
	if (strchr("diuxXo", kind)) {
		int64_t i = v.kind == JINJA_FLOAT && fabs(v.real) < 0x1p63 ? (int64_t)v.real
			    : v.kind == JINJA_FLOAT                        ? 0
			    : v.kind == JINJA_BOOL                         ? v.boolean
									   : v.integer;
		uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;

		if (v.kind == JINJA_FLOAT && (strchr("xXo", kind) || fabs(v.real) >= 0x1p63))
			jinja_fail_type(j, "a format", "an integer", v);
		snprintf(digits, sizeof(digits),
			kind == 'x'   ? "%s%" PRIx64
			: kind == 'X' ? "%s%" PRIX64
			: kind == 'o' ? "%s%" PRIo64
				      : "%s%" PRIu64,
			i < 0 ? "-" : sign, u);
	} else {
		double d = v.kind == JINJA_FLOAT  ? v.real
			   : v.kind == JINJA_BOOL ? (double)v.boolean
						  : (double)v.integer;

		snprintf(how, sizeof(how), "%%s%%.*%c", kind);
		snprintf(digits, sizeof(digits), how, signbit(d) ? "-" : sign,
			f->precision < 0 ? 6 : f->precision, fabs(d));
	}
	if (f->zero && !f->left) {
		const struct jinja_string *s =
			jinja_text(j, digits, strlen(digits), v.trusted).string;
		size_t n_sign = strchr("+- ", digits[0]) != NULL;
		const struct jinja_string *rest = jinja_part(j, s, n_sign, s->len);

		rest = jinja_justify(
			j, rest, f->width - (int)n_sign, jinja_literal(j, "0").string, -1);
		return jinja_from(jinja_concat(j, jinja_part(j, s, 0, n_sign), rest));
	}
	return jinja_text(j, digits, strlen(digits), v.trusted);
}

struct jinja_value jinja_format(struct jinja *j, const struct jinja_string *format,
	const struct jinja_args *args, bool may_remain)
{
	const char *p = format->text, *end = format->text + format->len;
	struct jinja_builder b = {0};
	size_t used = 0;

	while (p < end) {
		const char *percent = memchr(p, '%', (size_t)(end - p));
		const char *stop = percent ? percent : end;
		struct number_spec f;
		struct jinja_value v;

		jinja_step(j, 1);
		jinja_put_string(j, &b,
			jinja_part(j, format, (size_t)(p - format->text),
				(size_t)(stop - format->text)));
		if (!percent)
			break;
		p = format_spec(j, percent + 1, end, &f);
		if (p == end)
			jinja_fail_at(j, -ENOEXEC, j->line, "incomplete format");
		if (*p == '%') {
			jinja_put(j, &b, "%", 1,
				jinja_trusted_at(format, (size_t)(p - format->text)));
			p++;
			continue;
		}
		if (!strchr("srdiuxXofFeEgGa", *p) || *p == 'a')
			jinja_fail_at(j, -ENOTSUP, j->line, "this format is not implemented");
		if (used == args->n)
			jinja_fail_at(j, -ENOEXEC, j->line, "not enough arguments for the format");
		v = args->values[used++];
		if (*p == 's' || *p == 'r') {
			const struct jinja_string *s = *p == 's' ? jinja_str(j, v)
								 : jinja_repr(j, v);

			if (f.precision >= 0)
				s = jinja_part(
					j, s, 0, jinja_char_offset(j, s, (size_t)f.precision));
			v = jinja_from(s);
		} else {
			v = format_number(j, v, *p, &f);
		}
		jinja_put_string(j, &b, jinja_justify(j, v.string, f.width, NULL, f.left ? 1 : -1));
		p++;
	}
	if (used < args->n && !may_remain)
		jinja_fail_at(
			j, -ENOEXEC, j->line, "not all arguments were converted by the format");
	return jinja_from(jinja_built(j, &b));
}
