/* Jinja source to tokens, white space control included. Tokens live in the machine's arena. */
#include "engine/jinja_syntax.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

struct jinja_lexer {
	struct jinja *j;
	const struct jinja_string *source; /* newlines normalised, the last one gone */
	size_t at;
	unsigned line;
	bool line_starting; /* the last match ended a line */
	struct jinja_token *tokens;
	size_t n, capacity;
	char *closers; /* brackets that are open */
	size_t n_closers, closers_capacity;
};

static const char *lex_here(const struct jinja_lexer *l)
{
	return l->source->text + l->at;
}

static size_t lex_left(const struct jinja_lexer *l)
{
	return l->source->len - l->at;
}

static bool lex_at(const struct jinja_lexer *l, const char *text)
{
	size_t n = strlen(text);

	return lex_left(l) >= n && memcmp(lex_here(l), text, n) == 0;
}

static struct jinja_token *lex_add(struct jinja_lexer *l, enum jinja_token_kind kind)
{
	struct jinja_token *t;

	if (l->n == l->capacity) {
		size_t capacity = l->capacity ? 2 * l->capacity : 256;
		struct jinja_token *grown = jinja_take(l->j, capacity, sizeof(*grown));

		if (l->n > 0)
			memcpy(grown, l->tokens, l->n * sizeof(*grown));
		l->tokens = grown;
		l->capacity = capacity;
	}
	t = &l->tokens[l->n++];
	t->kind = kind;
	t->line = l->line;
	return t;
}

/* Moves on by n bytes, counting lines. */
static void lex_advance(struct jinja_lexer *l, size_t n)
{
	const char *s = lex_here(l);
	size_t i;

	for (i = 0; i < n; i++)
		l->line += s[i] == '\n';
	if (n > 0)
		l->line_starting = s[n - 1] == '\n';
	l->at += n;
	l->j->line = l->line;
}

/* Bytes of white space from here on. */
static size_t lex_space(const struct jinja_lexer *l, size_t from)
{
	size_t at = from;
	uint32_t code;

	while (at < l->source->len) {
		size_t n = jinja_char(l->source, at, &code);

		if (code == UINT32_MAX || !unicode_is_space(code))
			break;
		at += n;
	}
	return at - from;
}

static void lex_data(struct jinja_lexer *l, size_t start, size_t end)
{
	if (end > start)
		lex_add(l, JINJA_T_DATA)->text = jinja_part(l->j, l->source, start, end);
}

/* The text in [start, end) stands before a tag with this sign: its end is stripped accordingly. */
static void lex_data_before(
	struct jinja_lexer *l, size_t start, size_t end, char sign, bool is_variable)
{
	size_t at = end;

	if (sign == '-') {
		while (at > start) {
			size_t before = jinja_char_before(l->source, at);
			uint32_t code;

			jinja_char(l->source, before, &code);
			if (before < start || code == UINT32_MAX || !unicode_is_space(code))
				break;
			at = before;
		}
		lex_data(l, start, at);
		return;
	}
	if (sign != '+' && !is_variable) {
		size_t line = end;

		while (line > start && l->source->text[line - 1] != '\n')
			line--;
		if ((line > start || l->line_starting) && lex_space(l, line) >= end - line)
			at = line;
	}
	lex_data(l, start, at);
}

/* The length of the end of a tag ("%}", "-%}" …) here, or 0. plus: "+%}" is one; trim: a newline
 * behind belongs to it. */
static size_t lex_tag_end(const struct jinja_lexer *l, const char *end, bool plus, bool trim)
{
	const char *s = lex_here(l);
	size_t left = lex_left(l);

	if (left >= 3 && s[0] == '-' && memcmp(s + 1, end, 2) == 0)
		return 3 + lex_space(l, l->at + 3);
	if (plus && left >= 3 && s[0] == '+' && memcmp(s + 1, end, 2) == 0)
		return 3;
	if (left >= 2 && memcmp(s, end, 2) == 0)
		return 2 + (trim && left >= 3 && s[2] == '\n');
	return 0;
}

static void lex_comment(struct jinja_lexer *l)
{
	unsigned line = l->line;

	for (; lex_left(l) > 0; lex_advance(l, 1)) {
		size_t n = lex_tag_end(l, "#}", true, true);

		if (n > 0) {
			lex_advance(l, n);
			return;
		}
	}
	jinja_fail_at(l->j, -EINVAL, line, "a comment does not end: '#}' is missing");
}

/* At "{%": the length of a whole raw tag, or 0. */
static size_t lex_raw_begin(const struct jinja_lexer *l)
{
	struct jinja_lexer k = *l;
	size_t n;

	k.at += 2;
	if (lex_left(&k) > 0 && (*lex_here(&k) == '-' || *lex_here(&k) == '+'))
		k.at++;
	k.at += lex_space(&k, k.at);
	if (!lex_at(&k, "raw"))
		return 0;
	k.at += 3;
	k.at += lex_space(&k, k.at);
	n = lex_tag_end(&k, "%}", false, false);
	return n > 0 ? k.at + n - l->at : 0;
}

static void lex_raw(struct jinja_lexer *l)
{
	size_t start = l->at;
	unsigned line = l->line;

	for (; lex_left(l) > 0; l->at++) {
		struct jinja_lexer k = *l;
		char sign = 0;
		size_t n, end = l->at;

		if (!lex_at(l, "{%"))
			continue;
		k.at += 2;
		if (lex_left(&k) > 0 && (*lex_here(&k) == '-' || *lex_here(&k) == '+'))
			sign = l->source->text[k.at++];
		k.at += lex_space(&k, k.at);
		if (!lex_at(&k, "endraw"))
			continue;
		k.at += 6;
		k.at += lex_space(&k, k.at);
		n = lex_tag_end(&k, "%}", true, true);
		if (n == 0)
			continue;
		l->at = start;
		lex_data_before(l, start, end, sign, false);
		lex_advance(l, k.at + n - start);
		return;
	}
	jinja_fail_at(l->j, -EINVAL, line, "a raw block does not end: endraw is missing");
}

static bool lex_is_name(unsigned char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80 ||
	       (!first && c >= '0' && c <= '9');
}

static bool lex_is_digit(const struct jinja_lexer *l, size_t at, unsigned base)
{
	int c = at < l->source->len ? (unsigned char)l->source->text[at] : 0;

	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0') < base;
	return base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'));
}

/* Digits with single underscores between them; returns where they end. */
static size_t lex_digits(const struct jinja_lexer *l, size_t at, unsigned base)
{
	while (lex_is_digit(l, at, base))
		at += at + 1 < l->source->len && l->source->text[at + 1] == '_' &&
				      lex_is_digit(l, at + 2, base)
			      ? 2
			      : 1;
	return at;
}

static char lex_peek(const struct jinja_lexer *l, size_t at)
{
	return at < l->source->len ? l->source->text[at] : 0;
}

static void lex_number(struct jinja_lexer *l)
{
	size_t start = l->at, end = lex_digits(l, start, 10), after = end, i, n = 0;
	unsigned base = 10;
	bool real = false;
	char second = (char)(lex_peek(l, start + 1) | 0x20);
	char *digits;

	if (start == 0 || l->source->text[start - 1] != '.') {
		if (lex_peek(l, end) == '.' && lex_is_digit(l, end + 1, 10)) {
			after = lex_digits(l, end + 1, 10);
			real = true;
		}
		if ((lex_peek(l, after) | 0x20) == 'e') {
			size_t sign = after + 1;

			if (lex_peek(l, sign) == '+' || lex_peek(l, sign) == '-')
				sign++;
			if (lex_is_digit(l, sign, 10)) {
				after = lex_digits(l, sign, 10);
				real = true;
			}
		}
	}
	if (real) {
		end = after;
	} else if (l->source->text[start] == '0') {
		base = second == 'x' ? 16 : second == 'o' ? 8 : second == 'b' ? 2 : 10;
		if (base != 10) {
			size_t digit = start + 2 + (lex_peek(l, start + 2) == '_');

			end = lex_digits(l, digit, base);
			if (end == digit) {
				base = 10;
				end = start + 1;
			}
		} else {
			for (end = start + 1;
				lex_peek(l, end) == '0' ||
				(lex_peek(l, end) == '_' && lex_peek(l, end + 1) == '0');)
				end++;
		}
	}
	digits = jinja_take(l->j, end - start + 1, 1);
	for (i = base == 10 ? start : start + 2; i < end; i++)
		if (l->source->text[i] != '_')
			digits[n++] = l->source->text[i];
	if (real) {
		lex_add(l, JINJA_T_FLOAT)->number = jinja_float(strtod(digits, NULL), true);
	} else {
		long long v;

		errno = 0;
		v = strtoll(digits, NULL, (int)base);
		if (errno != 0)
			jinja_fail_at(l->j, -EINVAL, l->line,
				"the number %s is too large: at most 2^63 - 1 is possible", digits);
		lex_add(l, JINJA_T_INT)->number = jinja_int(v, true);
	}
	lex_advance(l, end - start);
}

/* The escape after a backslash at s[i]; returns where it ends. */
static size_t lex_escape(
	struct jinja_lexer *l, const char *s, size_t i, size_t n, struct jinja_builder *b)
{
	static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
	uint32_t code = 0;
	size_t digits, k;
	const char *p;

	if (s[i] == '\n')
		return i + 1;
	for (p = plain; *p; p += 2)
		if (*p == s[i]) {
			jinja_put(l->j, b, p + 1, 1, true);
			return i + 1;
		}
	if (s[i] >= '0' && s[i] <= '7') {
		for (k = i; k < n && k < i + 3 && s[k] >= '0' && s[k] <= '7'; k++)
			code = code * 8 + (uint32_t)(s[k] - '0');
		jinja_put_code(l->j, b, code, true);
		return k;
	}
	digits = s[i] == 'x' ? 2 : s[i] == 'u' ? 4 : s[i] == 'U' ? 8 : 0;
	if (s[i] == 'N')
		jinja_fail_at(l->j, -ENOTSUP, l->line, "the escape \\N is not implemented");
	if (digits == 0) {
		jinja_put(l->j, b, "\\", 1, true);
		return i;
	}
	for (k = i + 1; k < i + 1 + digits; k++) {
		char c = k < n ? s[k] : 0;

		if (c >= '0' && c <= '9')
			code = code << 4 | (uint32_t)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			code = code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
		else
			jinja_fail_at(l->j, -EINVAL, l->line, "a string's \\%c escape is truncated",
				s[i]);
	}
	if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		jinja_fail_at(
			l->j, -EINVAL, l->line, "a string's \\%c escape is no character", s[i]);
	jinja_put_code(l->j, b, code, true);
	return k;
}

static void lex_string(struct jinja_lexer *l)
{
	const char *s = lex_here(l);
	size_t left = lex_left(l), end = 1, i;
	struct jinja_builder b = {0};

	while (end < left && s[end] != s[0])
		end += s[end] == '\\' ? 2 : 1;
	if (end >= left)
		jinja_fail_at(l->j, -EINVAL, l->line, "a string does not end: %c is missing", s[0]);
	for (i = 1; i < end;) {
		const char *escape = memchr(s + i, '\\', end - i);
		size_t stop = escape ? (size_t)(escape - s) : end;

		jinja_put(l->j, &b, s + i, stop - i, true);
		i = stop;
		if (i < end)
			i = lex_escape(l, s, i + 1, end, &b);
	}
	lex_add(l, JINJA_T_STRING)->text = jinja_built(l->j, &b);
	lex_advance(l, end + 1);
}

static void lex_bracket(struct jinja_lexer *l, char c)
{
	if (c == '(' || c == '[' || c == '{') {
		if (l->n_closers == l->closers_capacity) {
			size_t capacity = l->closers_capacity ? 2 * l->closers_capacity : 64;
			char *grown = jinja_take(l->j, capacity, 1);

			if (l->n_closers > 0)
				memcpy(grown, l->closers, l->n_closers);
			l->closers = grown;
			l->closers_capacity = capacity;
		}
		l->closers[l->n_closers++] = c == '(' ? ')' : c == '[' ? ']' : '}';
	} else if (c == ')' || c == ']' || c == '}') {
		if (l->n_closers == 0)
			jinja_fail_at(l->j, -EINVAL, l->line, "unexpected '%c'", c);
		if (l->closers[--l->n_closers] != c)
			jinja_fail_at(l->j, -EINVAL, l->line, "unexpected '%c', expected '%c'", c,
				l->closers[l->n_closers]);
	}
}

static void lex_operator(struct jinja_lexer *l)
{
	static const struct {
		char text[3];
		int op;
	} two[] = {{"**", JINJA_OP_POW}, {"//", JINJA_OP_FLOORDIV}, {"==", JINJA_OP_EQ},
		{"!=", JINJA_OP_NE}, {"<=", JINJA_OP_LE}, {">=", JINJA_OP_GE}};
	char c = *lex_here(l);
	size_t i;

	for (i = 0; i < sizeof(two) / sizeof(two[0]); i++)
		if (lex_at(l, two[i].text)) {
			lex_add(l, JINJA_T_OPERATOR)->op = two[i].op;
			lex_advance(l, 2);
			return;
		}
	if (c == 0 || strchr("+-/*%~[](){}<>=.:|,;", c) == NULL)
		jinja_fail_at(l->j, -EINVAL, l->line, "unexpected character '%c'",
			c >= 0x20 && c < 0x7f ? c : '?');
	lex_bracket(l, c);
	lex_add(l, JINJA_T_OPERATOR)->op = c;
	lex_advance(l, 1);
}

/* The inside of a tag, up to and with its end. */
static void lex_tag(struct jinja_lexer *l, bool is_variable)
{
	l->n_closers = 0;
	while (lex_left(l) > 0) {
		unsigned char c = (unsigned char)*lex_here(l);
		size_t n = 0;

		if (l->n_closers == 0)
			n = is_variable ? lex_tag_end(l, "}}", false, false)
					: lex_tag_end(l, "%}", true, true);
		if (n > 0) {
			lex_add(l, is_variable ? JINJA_T_VARIABLE_END : JINJA_T_BLOCK_END);
			lex_advance(l, n);
			return;
		}
		n = lex_space(l, l->at);
		if (n > 0) {
			lex_advance(l, n);
		} else if (c >= '0' && c <= '9') {
			lex_number(l);
		} else if (lex_is_name(c, true)) {
			const char *s = lex_here(l);

			while (n < lex_left(l) && lex_is_name((unsigned char)s[n], false))
				n++;
			lex_add(l, JINJA_T_NAME)->text = jinja_part(
				l->j, l->source, l->at, l->at + n);
			lex_advance(l, n);
		} else if (c == '\'' || c == '"') {
			lex_string(l);
		} else {
			lex_operator(l);
		}
	}
}

/* "\r\n" and "\r" become "\n"; one newline at the very end goes. */
static const struct jinja_string *lex_normalise(struct jinja *j, const char *source, size_t len)
{
	struct jinja_string *s = jinja_take(j, 1, sizeof(*s));
	char *out = jinja_take(j, len + 1, 1);
	size_t i, n = 0;

	for (i = 0; i < len; i++) {
		if (source[i] == '\r') {
			out[n++] = '\n';
			i += i + 1 < len && source[i + 1] == '\n';
		} else {
			out[n++] = source[i];
		}
	}
	if (n > 0 && out[n - 1] == '\n')
		n--;
	*s = (struct jinja_string){.text = out, .len = n, .trusted = true};
	return s;
}

struct jinja_token *jinja_lex(struct jinja *j, const char *source, size_t len)
{
	struct jinja_lexer l = {.j = j, .line = 1, .line_starting = true};

	l.source = lex_normalise(j, source, len);
	while (lex_left(&l) > 0) {
		size_t start = l.at, tag = start, raw;
		char kind, sign;

		for (; tag + 1 < l.source->len; tag++)
			if (l.source->text[tag] == '{' &&
				(kind = l.source->text[tag + 1],
					kind == '{' || kind == '%' || kind == '#'))
				break;
		if (tag + 1 >= l.source->len) {
			lex_data(&l, start, l.source->len);
			lex_advance(&l, l.source->len - start);
			break;
		}
		kind = l.source->text[tag + 1];
		sign = lex_peek(&l, tag + 2);
		lex_data_before(&l, start, tag, sign, kind == '{');
		lex_advance(&l, tag - start);
		raw = kind == '%' ? lex_raw_begin(&l) : 0;
		if (raw > 0) {
			lex_advance(&l, raw);
			lex_raw(&l);
			continue;
		}
		if (kind != '#')
			lex_add(&l, kind == '{' ? JINJA_T_VARIABLE_BEGIN : JINJA_T_BLOCK_BEGIN);
		lex_advance(&l, sign == '-' || sign == '+' ? 3 : 2);
		if (kind == '#')
			lex_comment(&l);
		else
			lex_tag(&l, kind == '{');
	}
	lex_add(&l, JINJA_T_END);
	return l.tokens;
}
