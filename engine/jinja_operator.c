/* Operators, subscripts and arguments, with Python's rules for kinds. Integers have 64 bits: what
 * leaves them is an error. */
#include "engine/jinja.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/jinja_syntax.h"

static bool operand_is_integer(struct jinja_value v)
{
	return v.kind == JINJA_INT || v.kind == JINJA_BOOL;
}

static bool operand_is_number(struct jinja_value v)
{
	return operand_is_integer(v) || v.kind == JINJA_FLOAT;
}

static int64_t operand_integer(struct jinja_value v)
{
	return v.kind == JINJA_BOOL ? v.boolean : v.integer;
}

static double operand_real(struct jinja_value v)
{
	return v.kind == JINJA_FLOAT ? v.real : (double)operand_integer(v);
}

static _Noreturn void operator_no_kinds(
	struct jinja *j, int op, struct jinja_value a, struct jinja_value b)
{
	const char *two = op == JINJA_OP_POW ? "**" : "//";
	char one[2] = {(char)op, 0};

	if (a.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, a);
	if (b.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, b);
	jinja_fail_at(j, -ENOEXEC, j->line, "unsupported operands for %s: '%s' and '%s'",
		op < 256 ? one : two, jinja_type_name(a), jinja_type_name(b));
}

static _Noreturn void operator_overflow(struct jinja *j)
{
	jinja_fail_at(j, -ENOEXEC, j->line, "an integer leaves its 64 bits");
}

static void operator_check_zero(struct jinja *j, bool zero)
{
	if (zero)
		jinja_fail_at(j, -ENOEXEC, j->line, "division by zero");
}

static int64_t operator_floor_divide(struct jinja *j, int64_t x, int64_t y)
{
	operator_check_zero(j, y == 0);
	if (y == -1 && x == INT64_MIN)
		operator_overflow(j);
	return x / y - (x % y != 0 && (x % y < 0) != (y < 0));
}

static int64_t operator_modulo(struct jinja *j, int64_t x, int64_t y)
{
	int64_t r;

	operator_check_zero(j, y == 0);
	if (y == -1)
		return 0;
	r = x % y;
	return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

static struct jinja_value operator_power(struct jinja *j, int64_t x, int64_t y, bool trusted)
{
	int64_t result = 1;

	if (y < 0) {
		operator_check_zero(j, x == 0);
		return jinja_float(pow((double)x, (double)y), trusted);
	}
	if (x == 0 || x == 1)
		return jinja_int(y == 0 ? 1 : x, trusted);
	if (x == -1)
		return jinja_int(y % 2 ? -1 : 1, trusted);
	while (y-- > 0)
		if (__builtin_mul_overflow(result, x, &result))
			operator_overflow(j);
	return jinja_int(result, trusted);
}

static struct jinja_value operator_integers(
	struct jinja *j, int op, int64_t x, int64_t y, bool trusted)
{
	int64_t r = 0;
	bool overflow = false;

	switch (op) {
	case '+': overflow = __builtin_add_overflow(x, y, &r); break;
	case '-': overflow = __builtin_sub_overflow(x, y, &r); break;
	case '*': overflow = __builtin_mul_overflow(x, y, &r); break;
	case '/':
		operator_check_zero(j, y == 0);
		return jinja_float((double)x / (double)y, trusted);
	case '%': r = operator_modulo(j, x, y); break;
	case JINJA_OP_FLOORDIV: r = operator_floor_divide(j, x, y); break;
	default: return operator_power(j, x, y, trusted);
	}
	if (overflow)
		operator_overflow(j);
	return jinja_int(r, trusted);
}

static struct jinja_value operator_reals(struct jinja *j, int op, double x, double y, bool trusted)
{
	double r;

	switch (op) {
	case '+': return jinja_float(x + y, trusted);
	case '-': return jinja_float(x - y, trusted);
	case '*': return jinja_float(x * y, trusted);
	case '/': operator_check_zero(j, y == 0); return jinja_float(x / y, trusted);
	case JINJA_OP_POW:
		operator_check_zero(j, x == 0 && y < 0);
		r = pow(x, y);
		if (isnan(r) && !isnan(x) && !isnan(y))
			jinja_fail_at(j, -ENOEXEC, j->line, "complex numbers are not implemented");
		if (isinf(r) && isfinite(x) && isfinite(y))
			jinja_fail_at(j, -ENOEXEC, j->line, "a power is too large for a number");
		return jinja_float(r, trusted);
	default: break;
	}
	operator_check_zero(j, y == 0);
	r = fmod(x, y);
	if (op == '%') {
		if (r != 0 && (r < 0) != (y < 0))
			r += y;
		else if (r == 0)
			r = copysign(0, y);
		return jinja_float(r, trusted);
	} else {
		double quotient = (x - r) / y, whole;

		if (r != 0 && (r < 0) != (y < 0))
			quotient -= 1;
		if (quotient == 0)
			return jinja_float(copysign(0, x / y), trusted);
		whole = floor(quotient);
		return jinja_float(quotient - whole > 0.5 ? whole + 1 : whole, trusted);
	}
}

/* A string or list n times. */
static struct jinja_value operator_repeat(struct jinja *j, struct jinja_value v, int64_t n)
{
	int64_t i;

	if (v.kind == JINJA_STRING) {
		struct jinja_builder b = {0};

		for (i = 0; i < n && v.string->len > 0; i++) {
			jinja_step(j, i % 16 == 0);
			jinja_put_string(j, &b, v.string);
		}
		return jinja_from(jinja_built(j, &b));
	} else {
		struct jinja_value list = jinja_list_new(j, v.list->flavor, 0);
		size_t k;

		for (i = 0; i < n && v.list->n > 0; i++) {
			jinja_step(j, v.list->n);
			for (k = 0; k < v.list->n; k++)
				jinja_list_add(j, list, v.list->items[k]);
		}
		return list;
	}
}

static bool operand_is_sequence(struct jinja_value v)
{
	return v.kind == JINJA_STRING || (v.kind == JINJA_LIST && v.list->flavor <= JINJA_TUPLE);
}

struct jinja_value jinja_arithmetic(
	struct jinja *j, int op, struct jinja_value a, struct jinja_value b)
{
	bool trusted = a.trusted && b.trusted;

	if (operand_is_integer(a) && operand_is_integer(b))
		return operator_integers(j, op, operand_integer(a), operand_integer(b), trusted);
	if (operand_is_number(a) && operand_is_number(b))
		return operator_reals(j, op, operand_real(a), operand_real(b), trusted);
	if (op == '+' && a.kind == JINJA_STRING && b.kind == JINJA_STRING)
		return jinja_from(jinja_concat(j, a.string, b.string));
	if (op == '+' && a.kind == JINJA_LIST && b.kind == JINJA_LIST &&
		a.list->flavor == b.list->flavor && a.list->flavor <= JINJA_TUPLE) {
		struct jinja_value list = jinja_list_new(
			j, a.list->flavor, a.list->n + b.list->n + 1);

		jinja_step(j, a.list->n + b.list->n);
		list.list->n = a.list->n + b.list->n;
		if (a.list->n > 0)
			memcpy(list.list->items, a.list->items, a.list->n * sizeof(a));
		if (b.list->n > 0)
			memcpy(list.list->items + a.list->n, b.list->items, b.list->n * sizeof(b));
		return list;
	}
	if (op == '*' && operand_is_sequence(a) && operand_is_integer(b))
		return operator_repeat(j, a, operand_integer(b));
	if (op == '*' && operand_is_sequence(b) && operand_is_integer(a))
		return operator_repeat(j, b, operand_integer(a));
	if (op == '%' && a.kind == JINJA_STRING) {
		struct jinja_args args = {.n = 1, .values = &b};
		/* To Python what has subscripts might be a mapping for "%(name)s". */
		bool subscripts = b.kind == JINJA_DICT || b.kind == JINJA_RANGE ||
				  b.kind == JINJA_UNDEFINED ||
				  (b.kind == JINJA_LIST && b.list->flavor == JINJA_PLAIN);

		if (b.kind == JINJA_LIST && b.list->flavor == JINJA_TUPLE)
			args = (struct jinja_args){.n = b.list->n, .values = b.list->items};
		return jinja_format(j, a.string, &args, subscripts);
	}
	operator_no_kinds(j, op, a, b);
}

struct jinja_value jinja_negate(struct jinja *j, struct jinja_value v, bool negative)
{
	if (v.kind == JINJA_FLOAT)
		return jinja_float(negative ? -v.real : v.real, v.trusted);
	if (!operand_is_integer(v))
		jinja_fail_type(j, "a sign", "a number", v);
	return jinja_int(negative ? operator_integers(j, '-', 0, operand_integer(v), true).integer
				  : operand_integer(v),
		v.trusted);
}

/* ---- attributes and subscripts ---- */

static struct jinja_value subscript_missing(
	struct jinja *j, struct jinja_value v, struct jinja_value key)
{
	const struct jinja_string *k;

	if (key.kind != JINJA_STRING) {
		k = jinja_repr(j, key);
		return jinja_undefined(j, "'%s object' has no element %.*s", jinja_type_name(v),
			(int)(k->len < 64 ? k->len : 64), k->text);
	}
	k = key.string;
	return jinja_undefined(j, "'%s object' has no attribute '%.*s'", jinja_type_name(v),
		(int)(k->len < 64 ? k->len : 64), k->text);
}

struct jinja_value jinja_attribute(
	struct jinja *j, struct jinja_value v, const struct jinja_string *name)
{
	struct jinja_value key = jinja_from(name), method;
	const struct jinja_value *found;

	if (v.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, v);
	if (v.kind == JINJA_LOOP)
		return jinja_loop_attribute(j, v.loop, name);
	if (v.kind != JINJA_NAMESPACE) {
		method = jinja_method_of(j, v, name);
		if (method.kind != JINJA_MISSING)
			return method;
	}
	if (v.kind == JINJA_DICT || v.kind == JINJA_NAMESPACE) {
		found = jinja_dict_get(j, v.dict, key);
		if (found)
			return *found;
	}
	if (v.kind == JINJA_MACRO && jinja_string_is(name, "name"))
		return jinja_from(v.macro->node->name);
	return subscript_missing(j, v, key);
}

struct jinja_value jinja_item(struct jinja *j, struct jinja_value v, struct jinja_value key)
{
	const struct jinja_value *found;
	int64_t i;
	size_t n;

	if (v.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, v);
	if (operand_is_integer(key) && (operand_is_sequence(v) || v.kind == JINJA_RANGE)) {
		i = operand_integer(key);
		n = jinja_length(j, v);
		if (i < 0)
			i += (int64_t)n;
		if (i < 0 || (uint64_t)i >= n)
			return subscript_missing(j, v, key);
		if (v.kind == JINJA_LIST)
			return v.list->items[i];
		if (v.kind == JINJA_RANGE)
			return jinja_int(v.range->start + v.range->step * i, v.trusted);
		n = jinja_char_offset(j, v.string, (size_t)i);
		return jinja_from(
			jinja_part(j, v.string, n, n + jinja_char(v.string, n, &(uint32_t){0})));
	}
	if (v.kind == JINJA_DICT && jinja_hashable(key)) {
		found = jinja_dict_get(j, v.dict, key);
		if (found)
			return *found;
	}
	if (key.kind == JINJA_STRING) {
		struct jinja_value method;

		if (v.kind == JINJA_NAMESPACE || v.kind == JINJA_LOOP)
			return jinja_attribute(j, v, key.string);
		method = jinja_method_of(j, v, key.string);
		if (method.kind != JINJA_MISSING)
			return method;
	}
	return subscript_missing(j, v, key);
}

int64_t jinja_index(struct jinja *j, const char *what, struct jinja_value v)
{
	if (!operand_is_integer(v))
		jinja_fail_type(j, what, "an integer", v);
	return operand_integer(v);
}

const struct jinja_string *jinja_need_string(
	struct jinja *j, const char *what, struct jinja_value v)
{
	if (v.kind != JINJA_STRING)
		jinja_fail_type(j, what, "a string", v);
	return v.string;
}

/* A slice's bound, moved into [low, high]. */
static int64_t slice_bound(struct jinja *j, struct jinja_value v, int64_t otherwise, int64_t n,
	int64_t low, int64_t high)
{
	int64_t i;

	if (v.kind == JINJA_NONE || v.kind == JINJA_MISSING)
		return otherwise;
	i = jinja_index(j, "a slice", v);
	if (i < 0)
		i += n;
	return i < low ? low : i > high ? high : i;
}

static struct jinja_value slice_string(
	struct jinja *j, const struct jinja_string *s, int64_t start, int64_t step, int64_t count)
{
	struct jinja_builder b = {0};
	size_t at = jinja_char_offset(j, s, (size_t)start), before;
	int64_t k;
	uint32_t code;

	if (step == 1) {
		struct jinja_string rest = *s;

		rest.text += at;
		rest.len -= at;
		return jinja_from(
			jinja_part(j, s, at, at + jinja_char_offset(j, &rest, (size_t)count)));
	}
	for (;;) {
		size_t n = jinja_char(s, at, &code);

		jinja_step(j, 1);
		jinja_put_string(j, &b, jinja_part(j, s, at, at + n));
		if (--count == 0)
			return jinja_from(jinja_built(j, &b));
		for (k = 0; k < (step < 0 ? -step : step); k++) {
			jinja_step(j, k % 256 == 255);
			before = at;
			at = step > 0 ? at + jinja_char(s, at, &code)
				      : jinja_char_before(s, before);
		}
	}
}

static struct jinja_value slice_range(struct jinja *j, struct jinja_value v, int64_t first,
	int64_t last, int64_t by, size_t count)
{
	const struct jinja_range *r = v.range;
	struct jinja_range *part = jinja_take(j, 1, sizeof(*part));

	if (__builtin_mul_overflow(r->step, first, &first) ||
		__builtin_add_overflow(r->start, first, &part->start) ||
		__builtin_mul_overflow(r->step, last, &last) ||
		__builtin_add_overflow(r->start, last, &part->stop) ||
		__builtin_mul_overflow(r->step, by, &part->step))
		operator_overflow(j);
	part->n = count;
	return (struct jinja_value){.kind = JINJA_RANGE, .trusted = v.trusted, .range = part};
}

struct jinja_value jinja_slice(struct jinja *j, struct jinja_value v, struct jinja_value start,
	struct jinja_value stop, struct jinja_value step)
{
	int64_t n, first, last, by = 1, count, i;
	struct jinja_value list;

	if (!operand_is_sequence(v) && v.kind != JINJA_RANGE)
		jinja_fail_type(j, "a slice", "a string or list", v);
	n = (int64_t)jinja_length(j, v);
	if (step.kind != JINJA_NONE && step.kind != JINJA_MISSING)
		by = jinja_index(j, "a slice", step);
	if (by == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "a slice's step cannot be zero");
	/* No further than one over the ends: nothing else is picked, and nothing overflows. */
	by = by > n + 1 ? n + 1 : by < -n - 1 ? -n - 1 : by;
	if (by > 0) {
		first = slice_bound(j, start, 0, n, 0, n);
		last = slice_bound(j, stop, n, n, 0, n);
		count = last > first ? (last - first - 1) / by + 1 : 0;
	} else {
		first = slice_bound(j, start, n - 1, n, -1, n - 1);
		last = slice_bound(j, stop, -1, n, -1, n - 1);
		count = first > last ? (first - last - 1) / -by + 1 : 0;
	}
	if (v.kind == JINJA_STRING) {
		if (count == 0)
			return jinja_literal(j, "");
		return slice_string(j, v.string, first, by, count);
	}
	if (v.kind == JINJA_RANGE)
		return slice_range(j, v, first, last, by, (size_t)count);
	jinja_step(j, (size_t)count);
	list = jinja_list_new(j, v.list->flavor, (size_t)count);
	for (i = 0; i < count; i++)
		jinja_list_add(j, list, v.list->items[first + i * by]);
	return list;
}

/* ---- arguments ---- */

/* The place of a name in a spec, or -1. */
static int bind_slot(const char *spec, const struct jinja_string *name)
{
	const char *p = spec;
	int slot = 0;

	while (*p) {
		size_t n = strcspn(p, "? ");

		if (n == name->len && memcmp(p, name->text, n) == 0)
			return slot;
		p += n;
		p += *p == '?';
		p += *p == ' ';
		slot++;
	}
	return -1;
}

void jinja_bind(struct jinja *j, const char *what, const struct jinja_args *args, const char *spec,
	struct jinja_value *slots)
{
	const char *p;
	size_t i, n = 0;

	for (p = spec; *p; p += *p == ' ') {
		slots[n++] = jinja_missing();
		p += strcspn(p, " ");
	}
	if (args->n > n)
		jinja_fail_at(j, -ENOEXEC, j->line, "%s takes at most %zu arguments, not %zu", what,
			n, args->n);
	for (i = 0; i < args->n; i++)
		slots[i] = args->values[i];
	for (i = 0; i < args->n_named; i++) {
		const struct jinja_named *a = &args->named[i];
		int slot = bind_slot(spec, a->name);

		if (slot < 0 || slots[slot].kind != JINJA_MISSING)
			jinja_fail_at(j, -ENOEXEC, j->line, "%s: %s keyword argument '%.*s'", what,
				slot < 0 ? "unexpected" : "repeated",
				(int)(a->name->len < 64 ? a->name->len : 64), a->name->text);
		slots[slot] = a->value;
	}
	for (p = spec, n = 0; *p; p += *p == ' ', n++) {
		size_t len = strcspn(p, " ");

		if (slots[n].kind == JINJA_MISSING && p[len - 1] != '?')
			jinja_fail_at(j, -ENOEXEC, j->line, "%s: the argument '%.*s' is missing",
				what, (int)len, p);
		p += len;
	}
}
