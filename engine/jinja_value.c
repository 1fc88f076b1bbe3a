/* Values: making, asking, comparing, as Python does. They live in the machine's arena. */
#include "engine/jinja.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct jinja_value jinja_none(void)
{
	return (struct jinja_value){.kind = JINJA_NONE};
}

struct jinja_value jinja_missing(void)
{
	return (struct jinja_value){.kind = JINJA_MISSING};
}

struct jinja_value jinja_bool(bool b)
{
	return (struct jinja_value){.kind = JINJA_BOOL, .trusted = true, .boolean = b};
}

struct jinja_value jinja_int(int64_t i, bool trusted)
{
	return (struct jinja_value){.kind = JINJA_INT, .trusted = trusted, .integer = i};
}

struct jinja_value jinja_float(double f, bool trusted)
{
	return (struct jinja_value){.kind = JINJA_FLOAT, .trusted = trusted, .real = f};
}

struct jinja_value jinja_undefined(struct jinja *j, const char *format, ...)
{
	struct jinja_undefined *u = jinja_take(j, 1, sizeof(*u));
	char message[200];
	va_list args;
	char *copy;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	copy = jinja_take(j, strlen(message) + 1, 1);
	memcpy(copy, message, strlen(message));
	u->message = copy;
	return (struct jinja_value){.kind = JINJA_UNDEFINED, .undefined = u};
}

struct jinja_value jinja_from(const struct jinja_string *s)
{
	return (struct jinja_value){.kind = JINJA_STRING, .string = s};
}

struct jinja_value jinja_text(struct jinja *j, const char *text, size_t len, bool trusted)
{
	struct jinja_builder b = {0};

	jinja_put(j, &b, text, len, trusted);
	return jinja_from(jinja_built(j, &b));
}

struct jinja_value jinja_literal(struct jinja *j, const char *text)
{
	struct jinja_string *s = jinja_take(j, 1, sizeof(*s));

	*s = (struct jinja_string){.text = text, .len = strlen(text), .trusted = true};
	return jinja_from(s);
}

/* Room for one more of n items; the old ones are copied. */
static void *value_grow(struct jinja *j, void *items, size_t n, size_t *capacity, size_t size)
{
	size_t wanted = *capacity > 0 ? 2 * *capacity : 4;
	void *grown;

	if (n < *capacity)
		return items;
	grown = jinja_take(j, wanted, size);
	if (n > 0)
		memcpy(grown, items, n * size);
	*capacity = wanted;
	return grown;
}

struct jinja_value jinja_list_new(struct jinja *j, enum jinja_flavor flavor, size_t capacity)
{
	struct jinja_list *l = jinja_take(j, 1, sizeof(*l));

	l->flavor = flavor;
	l->capacity = capacity;
	l->items = capacity ? jinja_take(j, capacity, sizeof(*l->items)) : NULL;
	return (struct jinja_value){.kind = JINJA_LIST, .list = l};
}

void jinja_list_add(struct jinja *j, struct jinja_value list, struct jinja_value item)
{
	struct jinja_list *l = list.list;

	l->items = value_grow(j, l->items, l->n, &l->capacity, sizeof(*l->items));
	l->items[l->n++] = item;
}

struct jinja_value jinja_dict_new(struct jinja *j, enum jinja_kind kind)
{
	return (struct jinja_value){
		.kind = kind, .dict = jinja_take(j, 1, sizeof(struct jinja_dict))};
}

bool jinja_hashable(struct jinja_value v)
{
	size_t i;

	if (v.kind == JINJA_DICT)
		return false;
	if (v.kind != JINJA_LIST)
		return true;
	if (v.list->flavor != JINJA_TUPLE)
		return false;
	for (i = 0; i < v.list->n; i++)
		if (v.list->items[i].kind == JINJA_DICT ||
			(v.list->items[i].kind == JINJA_LIST &&
				v.list->items[i].list->flavor != JINJA_TUPLE))
			return false;
	return true;
}

static struct jinja_entry *dict_entry(
	struct jinja *j, const struct jinja_dict *d, struct jinja_value key)
{
	size_t i;

	jinja_step(j, d->n / 16);
	for (i = 0; i < d->n; i++)
		if (jinja_equal(j, d->entries[i].key, key))
			return &d->entries[i];
	return NULL;
}

void jinja_dict_put(
	struct jinja *j, struct jinja_dict *d, struct jinja_value key, struct jinja_value value)
{
	struct jinja_entry *e;

	if (!jinja_hashable(key))
		jinja_fail_at(j, -ENOEXEC, j->line, "unhashable type: '%s'", jinja_type_name(key));
	e = dict_entry(j, d, key);
	if (!e) {
		d->entries = value_grow(j, d->entries, d->n, &d->capacity, sizeof(*d->entries));
		e = &d->entries[d->n++];
		e->key = key;
	}
	e->value = value;
}

const struct jinja_value *jinja_dict_get(
	struct jinja *j, const struct jinja_dict *d, struct jinja_value key)
{
	struct jinja_entry *e = dict_entry(j, d, key);

	return e ? &e->value : NULL;
}

const struct jinja_value *jinja_dict_find(
	struct jinja *j, const struct jinja_dict *d, const char *name, size_t len)
{
	struct jinja_string s = {.text = name, .len = len};

	return jinja_dict_get(j, d, jinja_from(&s));
}

bool jinja_trusted(struct jinja *j, struct jinja_value v)
{
	bool trusted = true;
	size_t i;

	switch (v.kind) {
	case JINJA_INT:
	case JINJA_FLOAT:
	case JINJA_RANGE: return v.trusted;
	case JINJA_STRING: return jinja_all_trusted(v.string);
	case JINJA_LIST:
		jinja_step(j, v.list->n / 16);
		for (i = 0; i < v.list->n && trusted; i++)
			if (v.list->items[i].kind != JINJA_LIST)
				trusted = jinja_trusted(j, v.list->items[i]);
		return trusted;
	default: return true;
	}
}

const char *jinja_type_name(struct jinja_value v)
{
	static const char *const lists[] = {[JINJA_PLAIN] = "list",
		[JINJA_TUPLE] = "tuple",
		[JINJA_KEYS] = "dict_keys",
		[JINJA_VALUES] = "dict_values",
		[JINJA_ITEMS] = "dict_items"};
	static const char *const names[] = {[JINJA_UNDEFINED] = "Undefined",
		[JINJA_NONE] = "NoneType",
		[JINJA_BOOL] = "bool",
		[JINJA_INT] = "int",
		[JINJA_FLOAT] = "float",
		[JINJA_STRING] = "str",
		[JINJA_DICT] = "dict",
		[JINJA_RANGE] = "range",
		[JINJA_GENERATOR] = "generator",
		[JINJA_NAMESPACE] = "Namespace",
		[JINJA_MACRO] = "Macro",
		[JINJA_METHOD] = "builtin_function_or_method",
		[JINJA_FUNCTION] = "function",
		[JINJA_LOOP] = "LoopContext",
		[JINJA_MISSING] = "nothing"};

	return v.kind == JINJA_LIST ? lists[v.list->flavor] : names[v.kind];
}

_Noreturn void jinja_fail_undefined(struct jinja *j, struct jinja_value v)
{
	jinja_fail_at(j, -ENOEXEC, j->line, "%s",
		v.undefined ? v.undefined->message : "a value is undefined");
}

_Noreturn void jinja_fail_type(
	struct jinja *j, const char *what, const char *wanted, struct jinja_value v)
{
	if (v.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, v);
	jinja_fail_at(j, -ENOEXEC, j->line, "%s: expected %s, not '%s'", what, wanted,
		jinja_type_name(v));
}

bool jinja_truth(struct jinja *j, struct jinja_value v)
{
	switch (v.kind) {
	case JINJA_UNDEFINED:
	case JINJA_NONE:
	case JINJA_MISSING: return false;
	case JINJA_BOOL: return v.boolean;
	case JINJA_INT: return v.integer != 0;
	case JINJA_FLOAT: return v.real != 0;
	case JINJA_STRING: return v.string->len > 0;
	case JINJA_LIST:
	case JINJA_DICT:
	case JINJA_RANGE:
	case JINJA_LOOP: return jinja_length(j, v) > 0;
	case JINJA_GENERATOR:
	case JINJA_NAMESPACE:
	case JINJA_MACRO:
	case JINJA_METHOD:
	case JINJA_FUNCTION: return true;
	}
	return false;
}

static bool value_is_number(struct jinja_value v)
{
	return v.kind == JINJA_BOOL || v.kind == JINJA_INT || v.kind == JINJA_FLOAT;
}

static int64_t value_integer(struct jinja_value v)
{
	return v.kind == JINJA_BOOL ? v.boolean : v.integer;
}

/* Exact: a double is compared with an integer by what both stand for. 2: unordered. */
static int value_compare_numbers(struct jinja_value a, struct jinja_value b)
{
	if (a.kind != JINJA_FLOAT && b.kind != JINJA_FLOAT) {
		int64_t x = value_integer(a), y = value_integer(b);

		return (x > y) - (x < y);
	}
	if (a.kind == JINJA_FLOAT && b.kind == JINJA_FLOAT) {
		if (isnan(a.real) || isnan(b.real))
			return 2;
		return (a.real > b.real) - (a.real < b.real);
	}
	if (a.kind == JINJA_FLOAT) {
		double f = a.real;
		int64_t y = value_integer(b), whole;

		if (isnan(f))
			return 2;
		if (f >= 0x1p63)
			return 1;
		if (f < -0x1p63)
			return -1;
		whole = (int64_t)f;
		if (whole != y)
			return whole > y ? 1 : -1;
		return (f > (double)whole) - (f < (double)whole);
	} else {
		int c = value_compare_numbers(b, a);

		return c == 2 ? 2 : -c;
	}
}

static bool value_equal_lists(
	struct jinja *j, const struct jinja_list *a, const struct jinja_list *b)
{
	size_t i;
	bool equal = true;

	if (a == b)
		return true;
	if (a->flavor != b->flavor || a->n != b->n)
		return false;
	jinja_enter(j);
	jinja_step(j, a->n);
	for (i = 0; i < a->n && equal; i++)
		equal = jinja_equal(j, a->items[i], b->items[i]);
	jinja_leave(j);
	return equal;
}

static bool value_equal_dicts(
	struct jinja *j, const struct jinja_dict *a, const struct jinja_dict *b)
{
	size_t i;
	bool equal = true;

	if (a == b)
		return true;
	if (a->n != b->n)
		return false;
	jinja_enter(j);
	jinja_step(j, a->n);
	for (i = 0; i < a->n && equal; i++) {
		const struct jinja_value *v = jinja_dict_get(j, b, a->entries[i].key);

		equal = v && jinja_equal(j, a->entries[i].value, *v);
	}
	jinja_leave(j);
	return equal;
}

bool jinja_equal(struct jinja *j, struct jinja_value a, struct jinja_value b)
{
	if (value_is_number(a) && value_is_number(b))
		return value_compare_numbers(a, b) == 0;
	if (a.kind != b.kind)
		return false;
	switch (a.kind) {
	case JINJA_UNDEFINED:
	case JINJA_NONE:
	case JINJA_MISSING: return true;
	case JINJA_STRING:
		if (a.string->len != b.string->len)
			return false;
		jinja_step(j, a.string->len / 1024);
		return a.string->len == 0 ||
		       memcmp(a.string->text, b.string->text, a.string->len) == 0;
	case JINJA_LIST: return value_equal_lists(j, a.list, b.list);
	case JINJA_DICT: return value_equal_dicts(j, a.dict, b.dict);
	case JINJA_RANGE:
		return a.range->n == b.range->n &&
		       (a.range->n == 0 ||
			       (a.range->start == b.range->start &&
				       (a.range->n == 1 || a.range->step == b.range->step)));
	case JINJA_METHOD:
		return a.method->entry == b.method->entry &&
		       jinja_equal(j, a.method->self, b.method->self);
	default: return a.list == b.list;
	}
}

static _Noreturn void value_no_order(
	struct jinja *j, struct jinja_value a, struct jinja_value b, const char *sign)
{
	if (a.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, a);
	if (b.kind == JINJA_UNDEFINED)
		jinja_fail_undefined(j, b);
	jinja_fail_at(j, -ENOEXEC, j->line, "'%s' not supported between '%s' and '%s'", sign,
		jinja_type_name(a), jinja_type_name(b));
}

int jinja_compare(struct jinja *j, struct jinja_value a, struct jinja_value b, const char *sign)
{
	if (value_is_number(a) && value_is_number(b))
		return value_compare_numbers(a, b);
	if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
		size_t n = a.string->len < b.string->len ? a.string->len : b.string->len;
		int c;

		jinja_step(j, n / 1024);
		c = n > 0 ? memcmp(a.string->text, b.string->text, n) : 0;
		if (c != 0)
			return c < 0 ? -1 : 1;
		return (a.string->len > b.string->len) - (a.string->len < b.string->len);
	}
	if (a.kind == JINJA_LIST && b.kind == JINJA_LIST && a.list->flavor == b.list->flavor &&
		a.list->flavor <= JINJA_TUPLE) {
		const struct jinja_list *x = a.list, *y = b.list;
		size_t i;
		int c = (x->n > y->n) - (x->n < y->n);

		jinja_enter(j);
		for (i = 0; i < x->n && i < y->n; i++) {
			jinja_step(j, 1);
			if (!jinja_equal(j, x->items[i], y->items[i])) {
				c = jinja_compare(j, x->items[i], y->items[i], sign);
				break;
			}
		}
		jinja_leave(j);
		return c;
	}
	value_no_order(j, a, b, sign);
}

bool jinja_contains(struct jinja *j, struct jinja_value container, struct jinja_value item)
{
	struct jinja_iterator it;
	struct jinja_value each;

	if (container.kind == JINJA_STRING) {
		if (item.kind != JINJA_STRING)
			jinja_fail_type(j, "'in <string>'", "a string on the left", item);
		return jinja_find(j, container.string, item.string, 0) != SIZE_MAX;
	}
	if (container.kind == JINJA_DICT) {
		if (!jinja_hashable(item))
			jinja_fail_at(j, -ENOEXEC, j->line, "unhashable type: '%s'",
				jinja_type_name(item));
		return jinja_dict_get(j, container.dict, item) != NULL;
	}
	if (!jinja_iterable(container))
		jinja_fail_at(j, -ENOEXEC, j->line, "argument of type '%s' is not iterable",
			jinja_type_name(container));
	it = jinja_iterate(j, container);
	while (jinja_next(j, &it, &each)) {
		jinja_step(j, 1);
		if (jinja_equal(j, each, item))
			return true;
	}
	return false;
}

bool jinja_has_length(struct jinja_value v)
{
	switch (v.kind) {
	case JINJA_UNDEFINED:
	case JINJA_STRING:
	case JINJA_LIST:
	case JINJA_DICT:
	case JINJA_RANGE:
	case JINJA_LOOP: return true;
	default: return false;
	}
}

size_t jinja_length(struct jinja *j, struct jinja_value v)
{
	switch (v.kind) {
	case JINJA_UNDEFINED: return 0;
	case JINJA_STRING: return jinja_chars(j, v.string);
	case JINJA_LIST: return v.list->n;
	case JINJA_DICT: return v.dict->n;
	case JINJA_RANGE: return v.range->n;
	case JINJA_LOOP: return jinja_loop_length(j, v.loop);
	default:
		jinja_fail_at(j, -ENOEXEC, j->line, "object of type '%s' has no len()",
			jinja_type_name(v));
	}
}
