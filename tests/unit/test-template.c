/* Claims: what a template may do is bounded. Hostile ones end with a sentence that says which limit
 * they met, at once, and built-ins are found by name. What templates give is held to jinja2 by
 * tests/test_templates.py. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/limits.h"
#include "engine/template.h"

static int try(const char *source, size_t len, char *error, size_t size)
{
	static const struct chat_message messages[] = {
		{"user", 4, "Hi", 2}, {"assistant", 9, "", 0}};
	struct rendering out = {0};
	struct template *t = NULL;
	int r;

	error[0] = 0;
	r = template_new(source, len, "<s>", "</s>", NULL, 0, &t, error, size);
	if (r < 0) {
		assert_null(t);
		return r;
	}
	r = template_render(t, messages, 2, true, &out, error, size);
	if (r < 0)
		assert_null(out.text);
	rendering_done(&out);
	template_free(t);
	return r;
}

#define A_LOT "{% set a = 'a' * 1000000 %}"

static void hostile_templates_meet_a_limit(void **state)
{
	static const struct {
		const char *source;
		int wanted;
	} cases[] = {
		{"{{ 'a' * 1000000000 }}", -E2BIG},
		{"{{ 1000000000 * 'abc' }}", -E2BIG},
		{"{{ [0] * 1000000000 }}", -E2BIG},
		{"{{ (1, 2) * 9223372036854775807 }}", -E2BIG},
		{"{{ '' * 9223372036854775807 }}", 0},
		{"{{ 'a'.center(1000000000) }}", -E2BIG},
		{"{{ 'a'.ljust(9223372036854775807) }}", -E2BIG},
		{"{{ 'a'.zfill(9223372036854775807) }}", -E2BIG},
		{"{{ 'a' | center(1000000000) }}", -E2BIG},
		{"{{ 'a\\nb' | indent(1000000000) }}", -E2BIG},
		{"{{ [1] | tojson(indent=1000000000) }}", -E2BIG},
		{"{{ [1] | batch(1000000000, 'x') | list }}", -E2BIG},
		{"{{ [1] | slice(1000000000) | list }}", -E2BIG},
		{"{{ '%1000000000d' % 1 }}", -ENOTSUP},
		{"{{ '%.1000000000f' % 1 }}", -ENOTSUP},
		{"{{ 1.5 | round(1000000000) }}", 0},
		{"{{ 1.5 | round(-1000000000) }}", 0},
		{"{{ 1.5 | round(1000000000, 'ceil') }}", -ENOEXEC},
		{"{{ range(1000000000) | list }}", -ENOEXEC},
		{"{{ range(-9223372036854775807, 9223372036854775807) }}", -ENOEXEC},
		{"{{ range(0, 9223372036854775807, 9223372036854775807)[1:][::-1] }}", 0},
		{"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
			-E2BIG},
		{"{% for a in range(100000) %}{% for b in range(100000) %}.{% endfor %}{% endfor %}",
			-E2BIG},
		{"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", -E2BIG},
		{"{% macro f(a) %}{{ f(a ~ a) }}{% endmacro %}{{ f('ab') }}", -E2BIG},
		{"{% macro f() %}{{ f() }}{{ f() }}{{ caller }}{% endmacro %}{{ f() }}", -E2BIG},
		{"{% macro f() %}{% call f() %}{% endcall %}{{ caller() }}{% endmacro %}{{ f() }}",
			-E2BIG},
		{"{% set ns = namespace() %}{% macro f(x=ns.f()) %}{% endmacro %}{% set ns.f = f %}"
		 "{{ f() }}",
			-E2BIG},
		{"{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}", -E2BIG},
		{A_LOT "{{ a.replace('a', a) }}", -E2BIG},
		{A_LOT "{{ a.replace('', 'abcdefghijklmnopqrstuvw') }}", -E2BIG},
		{A_LOT "{{ a | replace('a', '&' * 100) }}", -E2BIG},
		{A_LOT "{{ a.join(a) }}", -E2BIG},
		{A_LOT "{{ a | list | join(a) }}", -E2BIG},
		{A_LOT "{{ a | map('replace', 'a', a) | list }}", -E2BIG},
		{A_LOT "{{ a | upper | lower | title | capitalize | reverse | trim | length }}", 0},
		{A_LOT "{{ a.rfind('a' * 500000 ~ 'b') }}", -E2BIG},
		{A_LOT "{{ a.rsplit('a' * 500000 ~ 'b') }}", -E2BIG},
		{A_LOT "{{ a.rpartition('a' * 500000 ~ 'b') }}", -E2BIG},
		{A_LOT "{{ a.find('a' * 500000 ~ 'b') }}", 0},
		{A_LOT "{{ (a ~ 'x').split('a' * 500000 ~ 'b') | length }}", 0},
		{A_LOT "{{ a.strip('b' * 1000000 ~ 'a') }}", -E2BIG},
		{A_LOT "{{ a.split('a') | length }}{{ a.rsplit('a') | length }}", -E2BIG},
		{A_LOT "{{ a | list | sort | unique | list | length }}", -E2BIG},
		{A_LOT "{% for c in a %}{{ a in a }}{% endfor %}", -E2BIG},
		{A_LOT "{% for c in a %}{{ a == a ~ 'b' }}{% endfor %}", -E2BIG},
		{"{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}"
		 "{% endfor %}{{ ns.s }}",
			-E2BIG},
		{"{% set ns = namespace(s=['ab']) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}"
		 "{% endfor %}{{ ns.s }}",
			-E2BIG},
		{"{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(60) %}"
		 "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}"
		 "{{ ns.s == ns.t }}",
			-E2BIG},
		{"{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}"
		 "{% endfor %}{{ ns.s | tojson }}",
			-E2BIG},
		{"{% set ns = namespace(s=[1]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}"
		 "{% endfor %}{{ ns.s }}",
			-E2BIG},
		{"{% set ns = namespace(g=[1]) %}{% for i in range(1000) %}{% set ns.g = ns.g | map('abs') %}"
		 "{% endfor %}{{ ns.g | list }}",
			-E2BIG},
		{"{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}", -E2BIG},
		{"{% set ns = namespace() %}{% set ns.l = [ns] %}{{ ns.l == [ns] }}", 0},
		{"{% set ns = namespace() %}{% set ns.d = {'a': ns} %}{{ ns.d | tojson }}",
			-ENOEXEC},
		{"{{ 9223372036854775807 + 1 }}", -ENOEXEC},
		{"{{ 2 ** 63 }}", -ENOEXEC},
		{"{{ 10 ** 1000000000000 }}", -ENOEXEC},
		{"{{ 1.5 ** 1000000000000 }}", -ENOEXEC},
		{"{{ (-9223372036854775807 - 1) // -1 }}", -ENOEXEC},
		{"{{ (-9223372036854775807 - 1) % -1 }}", 0},
		{"{{ -(-9223372036854775807 - 1) }}", -ENOEXEC},
		{"{{ (-9223372036854775807 - 1) | abs }}", -ENOEXEC},
		{"{{ 99999999999999999999999999 }}", -EINVAL},
		{"{{ 0xffffffffffffffffffff }}", -EINVAL},
		{"{{ '99999999999999999999999999' | int }}", -ENOEXEC},
		{"{{ 1e999 | int }}", -ENOEXEC},
		{"{{ 1e18 | int * 100 }}", -ENOEXEC},
		{"{{ 'abc'[9223372036854775807:-9223372036854775807:-9223372036854775807] }}", 0},
		{"{{ 'abc'[-9223372036854775807::9223372036854775807] }}", 0},
		{"{{ [1, 2, 3][9223372036854775807] }}", 0},
		{"{{ range(5)[::9223372036854775807] }}", 0},
		{"{{ 'a'.find('a', -9223372036854775807, 9223372036854775807) }}", 0},
		{"{{ 'a'.replace('a', 'b', -9223372036854775807) }}", 0},
		{"{{ 'abc' | truncate(9223372036854775807, leeway=9223372036854775807) }}", 0},
	};
	char error[256];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int r = try(cases[i].source, strlen(cases[i].source), error, sizeof(error));

		if (r != cases[i].wanted)
			print_error("%s: %s, %s\n", cases[i].source, strerror(-r), error);
		assert_int_equal(r, cases[i].wanted);
		assert_true((r == 0) == (error[0] == 0));
	}
}

/* n times `open`, `middle`, n times `close`, in what is put behind each other. */
static char *nested(const char *before, const char *open, const char *middle, const char *close,
	const char *after, size_t n)
{
	size_t size = strlen(before) + n * (strlen(open) + strlen(close)) + strlen(middle) +
		      strlen(after) + 1;
	char *out = malloc(size), *p = out;
	size_t i;

	assert_non_null(out);
	p = stpcpy(p, before);
	for (i = 0; i < n; i++)
		p = stpcpy(p, open);
	p = stpcpy(p, middle);
	for (i = 0; i < n; i++)
		p = stpcpy(p, close);
	stpcpy(p, after);
	return out;
}

/* Each shape is fine a few levels deep and refused, not run into the stack's end, thousands deep.
 */
static void depth_has_a_limit(void **state)
{
	static const struct {
		const char *before, *open, *middle, *close, *after;
	} shapes[] = {
		{"{{ ", "(", "1", ")", " }}"},
		{"{{ ", "[", "1", "]", " }}"},
		{"{{ ", "{'a': ", "1", "}", " }}"},
		{"{{ ", "not ", "1", "", " }}"},
		{"{{ ", "-", "1", "", " }}"},
		{"{{ ", "1 if 1 else ", "2", "", " }}"},
		{"{{ ", "'a'.upper(", "", ")", " }}"},
		{"{{ ", "1 | default(", "1", ")", " }}"},
		{"{{ ", "1 is eq(", "1", ")", " }}"},
		{"{{ ", "messages[", "0", "]", " }}"},
		{"", "{% if 1 %}", "a", "{% endif %}", ""},
		{"", "{% for x in [1] %}", "a", "{% endfor %}", ""},
		{"", "{% macro f() %}", "a", "{% endmacro %}", ""},
		{"", "{% set x %}", "a", "{% endset %}", ""},
		{"", "{% filter upper %}", "a", "{% endfilter %}", ""},
		{"", "{% with %}", "a", "{% endwith %}", ""},
		{"", "{% generation %}", "a", "{% endgeneration %}", ""},
		{"{% set ", "(", "x", ",)", " = 1 %}"},
		{"{% for ", "(", "x", ",)", " in [1] %}{% endfor %}"},
	};
	char error[256];
	size_t i;

	for (i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		for (size_t n = 2; n <= 4096; n *= 2048) {
			char *source = nested(shapes[i].before, shapes[i].open, shapes[i].middle,
				shapes[i].close, shapes[i].after, n);
			int r = try(source, strlen(source), error, sizeof(error));

			if (n == 2)
				assert_true(r != -E2BIG && r != -EINVAL);
			if (n == 4096 && !(r == -EINVAL && strstr(error, "deeper than")))
				print_error("%s: %s, %s\n", shapes[i].open, strerror(-r), error);
			if (n == 4096)
				assert_true(r == -EINVAL && strstr(error, "deeper than"));
			free(source);
		}
	}
}

/* What is long but not deep is no problem. */
static void length_is_no_depth(void **state)
{
	static const char *const shapes[][3] = {
		{"{{ 1", " + 1", " }}"},
		{"{{ 'a'", " ~ 'a'", " }}"},
		{"{{ 1", " and 1", " }}"},
		{"{{ 1", " or 1", " }}"},
		{"{{ 1", " <= 1", " }}"},
		{"{{ 1", " | abs", " }}"},
		{"{{ 'a'", ".upper()", " }}"},
		{"{{ [1", ", 1", "] }}"},
		{"", "{{ 1 }}", ""},
		{"{% if 0 %}", "{% elif 0 %}", "{% endif %}"},
		{"{{ 'a'", " 'a'", " }}"},
	};
	char error[256];
	size_t i;

	for (i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		char *source = nested(shapes[i][0], shapes[i][1], shapes[i][2], "", "", 8192);
		int r = try(source, strlen(source), error, sizeof(error));

		if (r < 0)
			print_error("%s: %s\n", shapes[i][1], error);
		assert_int_equal(r, 0);
		free(source);
	}
}

static void a_source_has_a_limit(void **state)
{
	char *source = malloc(TEMPLATE_BYTES_MAX + 1), error[256];

	memset(source, 'a', TEMPLATE_BYTES_MAX + 1);
	assert_int_equal(try(source, TEMPLATE_BYTES_MAX, error, sizeof(error)), 0);
	assert_int_equal(try(source, TEMPLATE_BYTES_MAX + 1, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "262144"));
	assert_int_equal(try("", 0, error, sizeof(error)), 0);
	free(source);
}

/* A sentence is cut to its buffer, at a whole character. */
static void a_refusal_fits_its_buffer(void **state)
{
	static const char source[] = "{{ raise_exception('\xc3\xa9' * 300) }}";
	char error[32];
	size_t size;

	for (size = 1; size <= sizeof(error); size++) {
		memset(error, 'x', sizeof(error));
		assert_int_equal(try(source, sizeof(source) - 1, error, size), -EINVAL);
		assert_int_equal(strlen(error), (size - 1) / 2 * 2);
	}
}

static void built_ins_are_found_by_name(void **state)
{
	static const char *const names[] = {
		"zephyr", "mistral-instruct", "chatml", "llama-2", "llama-3"};
	struct template *t = NULL;
	char error[256];
	size_t i, len;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(
			template_new_builtin(names[i], "<s>", "</s>", &t, error, sizeof(error)), 0);
		assert_non_null(template_source(t, &len));
		assert_true(len > 100);
		t = template_free(t);
	}
	assert_int_equal(template_new_builtin("zephir", "", "", &t, error, sizeof(error)), -ENOENT);
	assert_non_null(strstr(error, "'zephir'"));
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_non_null(strstr(error, names[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hostile_templates_meet_a_limit),
		cmocka_unit_test(depth_has_a_limit),
		cmocka_unit_test(length_is_no_depth),
		cmocka_unit_test(a_source_has_a_limit),
		cmocka_unit_test(a_refusal_fits_its_buffer),
		cmocka_unit_test(built_ins_are_found_by_name),
	};

	return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
