/* UTF-8: what is valid, how what is not is cut, and what could still be completed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/utf8.h"

/* The repaired text, from a copy of exactly n bytes so that a sanitizer sees a byte too many. */
static void expect_repair(const char *s, size_t n, const char *wanted, size_t wanted_len)
{
	char *copy = malloc(n ? n : 1), *out;
	size_t len;

	memcpy(copy, s, n);
	len = utf8_repair(copy, n, NULL);
	assert_int_equal(len, wanted_len);
	assert_true(len <= 3 * n);
	out = malloc(len ? len : 1);
	assert_int_equal(utf8_repair(copy, n, out), len);
	assert_memory_equal(out, wanted, len);
	assert_true(utf8_valid(out, len));
	free(out);
	free(copy);
}

#define R                "\xef\xbf\xbd"
#define REPAIR(from, to) expect_repair(from, sizeof(from) - 1, to, sizeof(to) - 1)

static void every_scalar_value_survives_and_nothing_else_encodes_it(void **state)
{
	uint32_t code, back;
	char bytes[4];
	size_t n;

	for (code = 0; code < 0x110000; code++) {
		if (code >= 0xd800 && code <= 0xdfff)
			continue;
		n = utf8_encode(code, bytes);
		assert_int_equal(n, code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);
		assert_int_equal(utf8_decode(bytes, n, &back), n);
		assert_int_equal(back, code);
		assert_true(utf8_valid(bytes, n));
	}
}

static void surrogates_overlong_forms_and_what_is_too_high_are_invalid(void **state)
{
	static const char *const bad[] = {"\xed\xa0\x80", "\xed\xbf\xbf", "\xc0\x80", "\xc1\xbf",
		"\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
		"\x80", "\xbf", "\xfe"};
	uint32_t code;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_false(utf8_valid(bad[i], strlen(bad[i])));
		assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &code), 1);
		assert_int_equal(code, UINT32_MAX);
	}
}

static void one_replacement_for_each_maximal_prefix(void **state)
{
	/* Unicode 15, section 3.9, tables 3-8 to 3-11. */
	REPAIR("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A");
	REPAIR("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A");
	REPAIR("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B");
	REPAIR("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A");
	/* Prefixes of each lead at the end of the text and before a letter. */
	REPAIR("\xc2", R);
	REPAIR("\xdf\x41", R "A");
	REPAIR("\xe0\xa0", R);
	REPAIR("\xe0\xa0\x41", R "A");
	REPAIR("\xe0\x9f\x41", R R "A");
	REPAIR("\xef\xbf", R);
	REPAIR("\xf0\x90\x80", R);
	REPAIR("\xf0\x90\x80\x41", R "A");
	REPAIR("\xf4\x8f\xbf", R);
	REPAIR("\xf4\x90\xbf", R R R);
	REPAIR("\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80");
	REPAIR("", "");
	REPAIR("a\0b\xff", "a\0b" R);
}

/* Every sequence of four of the bytes at the edges of table 3-7: repairing it gives valid text, and
 * bytes are lost only to replacements. */
static void repair_is_consistent_for_all_edge_bytes(void **state)
{
	static const unsigned char edge[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0,
		0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5,
		0xff};
	const size_t n = sizeof(edge);
	char s[4], out[12];
	size_t i, at, len, kept;
	uint32_t code;

	for (i = 0; i < n * n * n * n; i++) {
		s[0] = (char)edge[i % n];
		s[1] = (char)edge[i / n % n];
		s[2] = (char)edge[i / n / n % n];
		s[3] = (char)edge[i / n / n / n];
		for (at = kept = 0; at < 4;) {
			len = utf8_decode(s + at, 4 - at, &code);
			assert_in_range(len, 1, 4 - at);
			kept += code == UINT32_MAX ? 3 : len;
			at += len;
		}
		assert_int_equal(utf8_repair(s, 4, out), kept);
		assert_true(utf8_valid(out, kept));
		if (utf8_valid(s, 4))
			assert_memory_equal(out, s, 4);
	}
}

static void valid_looks_at_every_byte_around_the_eight_at_once(void **state)
{
	char text[40];
	size_t n, at;

	for (n = 0; n <= sizeof(text); n++) {
		memset(text, 'a', sizeof(text));
		assert_true(utf8_valid(text, n));
		for (at = 0; at < n; at++) {
			text[at] = (char)0x80;
			assert_false(utf8_valid(text, n));
			text[at] = 'a';
		}
	}
}

static void the_tail_is_incomplete_exactly_where_more_could_complete_it(void **state)
{
	static const char text[] = "a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x99\x82z";
	static const size_t wanted[] = {0, 0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 0};
	size_t n;

	for (n = 0; n < sizeof(text); n++)
		assert_int_equal(utf8_incomplete_tail(text, n), wanted[n]);
	/* What is already wrong is never completed. */
	assert_int_equal(utf8_incomplete_tail("\xe0\x80", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xed\xa0", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xf0\x8f\x80", 3), 0);
	assert_int_equal(utf8_incomplete_tail("\xf4\x90", 2), 0);
	assert_int_equal(utf8_incomplete_tail("\xc0", 1), 0);
	assert_int_equal(utf8_incomplete_tail("\xf5", 1), 0);
	assert_int_equal(utf8_incomplete_tail("\x80\x80\x80", 3), 0);
	assert_int_equal(utf8_incomplete_tail("\xc3\xa9\x80", 3), 0);
	assert_int_equal(utf8_incomplete_tail("\xff\xf1\x80\x80", 4), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_scalar_value_survives_and_nothing_else_encodes_it),
		cmocka_unit_test(surrogates_overlong_forms_and_what_is_too_high_are_invalid),
		cmocka_unit_test(one_replacement_for_each_maximal_prefix),
		cmocka_unit_test(repair_is_consistent_for_all_edge_bytes),
		cmocka_unit_test(valid_looks_at_every_byte_around_the_eight_at_once),
		cmocka_unit_test(the_tail_is_incomplete_exactly_where_more_could_complete_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
