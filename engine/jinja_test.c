/* The tests behind `is`. */
#include "engine/jinja_filter.h"

#include <errno.h>
#include <string.h>

#include "engine/jinja_syntax.h"
#include "engine/unicode.h"

#define TEST(name)                                                                                 \
	static bool test_##name(                                                                   \
		struct jinja *j, struct jinja_value v, const struct jinja_args *args)

static struct jinja_value test_argument(
	struct jinja *j, const char *what, const struct jinja_args *args)
{
	struct jinja_value other;

	jinja_bind(j, what, args, "other", &other);
	return other;
}

static bool test_is_integer(struct jinja_value v)
{
	return v.kind == JINJA_INT;
}

static int64_t test_modulo(struct jinja *j, struct jinja_value v, struct jinja_value by, int64_t is)
{
	return jinja_equal(j, jinja_arithmetic(j, '%', v, by), jinja_int(is, true));
}

TEST(odd)
{
	jinja_bind(j, "odd", args, "", NULL);
	return test_modulo(j, v, jinja_int(2, true), 1);
}

TEST(even)
{
	jinja_bind(j, "even", args, "", NULL);
	return test_modulo(j, v, jinja_int(2, true), 0);
}

TEST(divisibleby)
{
	return test_modulo(j, v, test_argument(j, "divisibleby", args), 0);
}

TEST(defined)
{
	jinja_bind(j, "defined", args, "", NULL);
	return v.kind != JINJA_UNDEFINED;
}

TEST(undefined)
{
	jinja_bind(j, "undefined", args, "", NULL);
	return v.kind == JINJA_UNDEFINED;
}

TEST(none)
{
	jinja_bind(j, "none", args, "", NULL);
	return v.kind == JINJA_NONE;
}

TEST(boolean)
{
	jinja_bind(j, "boolean", args, "", NULL);
	return v.kind == JINJA_BOOL;
}

TEST(false)
{
	jinja_bind(j, "false", args, "", NULL);
	return v.kind == JINJA_BOOL && !v.boolean;
}

TEST(true)
{
	jinja_bind(j, "true", args, "", NULL);
	return v.kind == JINJA_BOOL && v.boolean;
}

TEST(integer)
{
	jinja_bind(j, "integer", args, "", NULL);
	return test_is_integer(v);
}

TEST(float)
{
	jinja_bind(j, "float", args, "", NULL);
	return v.kind == JINJA_FLOAT;
}

TEST(number)
{
	jinja_bind(j, "number", args, "", NULL);
	return v.kind == JINJA_INT || v.kind == JINJA_FLOAT || v.kind == JINJA_BOOL;
}

TEST(string)
{
	jinja_bind(j, "string", args, "", NULL);
	return v.kind == JINJA_STRING;
}

TEST(mapping)
{
	jinja_bind(j, "mapping", args, "", NULL);
	return v.kind == JINJA_DICT;
}

TEST(sequence)
{
	jinja_bind(j, "sequence", args, "", NULL);
	return v.kind == JINJA_UNDEFINED || v.kind == JINJA_STRING || v.kind == JINJA_DICT ||
	       v.kind == JINJA_RANGE || (v.kind == JINJA_LIST && v.list->flavor <= JINJA_TUPLE);
}

TEST(iterable)
{
	jinja_bind(j, "iterable", args, "", NULL);
	return jinja_iterable(v) || v.kind == JINJA_LOOP;
}

TEST(callable)
{
	jinja_bind(j, "callable", args, "", NULL);
	return v.kind == JINJA_UNDEFINED || v.kind == JINJA_MACRO || v.kind == JINJA_METHOD ||
	       v.kind == JINJA_FUNCTION || v.kind == JINJA_LOOP;
}

TEST(escaped)
{
	jinja_bind(j, "escaped", args, "", NULL);
	return false;
}

TEST(sameas)
{
	struct jinja_value other = test_argument(j, "sameas", args);

	if (v.kind != other.kind)
		return false;
	if (v.kind == JINJA_STRING)
		return v.string->text == other.string->text && v.string->len == other.string->len;
	if (v.kind == JINJA_LIST || v.kind == JINJA_DICT || v.kind == JINJA_UNDEFINED)
		return v.list == other.list;
	return jinja_equal(j, v, other);
}

static bool test_case(struct jinja *j, struct jinja_value v, unsigned wanted, unsigned other)
{
	const struct jinja_string *s = jinja_str(j, v);
	bool any = false;
	size_t i;
	uint32_t code;

	jinja_step(j, s->len / 256);
	for (i = 0; i < s->len;) {
		unsigned class;

		i += jinja_char(s, i, &code);
		class = unicode_class(code);
		if (class & (other | UNICODE_IS_TITLE))
			return false;
		any |= (class & wanted) != 0;
	}
	return any;
}

TEST(lower)
{
	jinja_bind(j, "lower", args, "", NULL);
	return test_case(j, v, UNICODE_IS_LOWER, UNICODE_IS_UPPER);
}

TEST(upper)
{
	jinja_bind(j, "upper", args, "", NULL);
	return test_case(j, v, UNICODE_IS_UPPER, UNICODE_IS_LOWER);
}

TEST(in)
{
	return jinja_contains(j, test_argument(j, "in", args), v);
}

TEST(eq)
{
	return jinja_equal(j, v, test_argument(j, "eq", args));
}

TEST(ne)
{
	return !jinja_equal(j, v, test_argument(j, "ne", args));
}

TEST(lt)
{
	return jinja_compare(j, v, test_argument(j, "lt", args), "<") < 0;
}

TEST(le)
{
	return jinja_compare(j, v, test_argument(j, "le", args), "<=") <= 0;
}

TEST(gt)
{
	int c = jinja_compare(j, v, test_argument(j, "gt", args), ">");

	return c > 0 && c != 2;
}

TEST(ge)
{
	int c = jinja_compare(j, v, test_argument(j, "ge", args), ">=");

	return c >= 0 && c != 2;
}

/* What is no string names nothing, and what cannot be hashed cannot be looked up. */
static bool test_name_of_none(struct jinja *j, struct jinja_value v)
{
	if (!jinja_hashable(v))
		jinja_fail_at(j, -ENOEXEC, j->line, "unhashable type: '%s'", jinja_type_name(v));
	return false;
}

TEST(filter)
{
	const struct jinja_string *s;

	jinja_bind(j, "filter", args, "", NULL);
	if (v.kind != JINJA_STRING)
		return test_name_of_none(j, v);
	s = v.string;
	return jinja_filter_find(s->text, s->len) || jinja_filter_missing(s->text, s->len);
}

TEST(test)
{
	const struct jinja_string *s;

	jinja_bind(j, "test", args, "", NULL);
	if (v.kind != JINJA_STRING)
		return test_name_of_none(j, v);
	s = v.string;
	return jinja_test_find(s->text, s->len) != NULL;
}

static const struct jinja_test tests[] = {
	{"!=", test_ne},
	{"<", test_lt},
	{"<=", test_le},
	{"==", test_eq},
	{">", test_gt},
	{">=", test_ge},
	{"boolean", test_boolean},
	{"callable", test_callable},
	{"defined", test_defined},
	{"divisibleby", test_divisibleby},
	{"eq", test_eq},
	{"equalto", test_eq},
	{"escaped", test_escaped},
	{"even", test_even},
	{"false", test_false},
	{"filter", test_filter},
	{"float", test_float},
	{"ge", test_ge},
	{"greaterthan", test_gt},
	{"gt", test_gt},
	{"in", test_in},
	{"integer", test_integer},
	{"iterable", test_iterable},
	{"le", test_le},
	{"lessthan", test_lt},
	{"lower", test_lower},
	{"lt", test_lt},
	{"mapping", test_mapping},
	{"ne", test_ne},
	{"none", test_none},
	{"number", test_number},
	{"odd", test_odd},
	{"sameas", test_sameas},
	{"sequence", test_sequence},
	{"string", test_string},
	{"test", test_test},
	{"true", test_true},
	{"undefined", test_undefined},
	{"upper", test_upper},
};

const struct jinja_test *jinja_test_find(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		if (strlen(tests[i].name) == len && memcmp(tests[i].name, name, len) == 0)
			return &tests[i];
	return NULL;
}
