/* Claims: what is not one of the three shapes is refused with a sentence, with the id where it
 * could be read; text and names are found and shown safely. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/message.h"
#include "proto/text.h"

struct shape {
	const char *bytes;
	size_t len;
	int64_t id; /* -1: not read */
};
#define SHAPE(bytes, id)                                                                           \
	{                                                                                          \
		bytes, sizeof(bytes) - 1, id                                                       \
	}

static void wrong_shapes_are_refused_with_their_id(void **state)
{
	static const struct shape cases[] = {
		SHAPE("\xc0", -1), SHAPE("\x90", -1), SHAPE("\x80", -1), SHAPE("\xa2hi", -1),
		SHAPE("\x94\x03\x00\xa1m\x90", -1), SHAPE("\x94\xff\x00\xa1m\x90", -1),
		SHAPE("\x94\xa1x\x00\xa1m\x90", -1), SHAPE("\x91\x00", -1),
		SHAPE("\x94\x00\xff\xa1m\x90", -1),
		SHAPE("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1m\x90", -1),
		SHAPE("\x94\x00\xa1x\xa1m\x90", -1), SHAPE("\x94\x00\xc0\xa1m\x90", -1),
		SHAPE("\x92\x00\x09", 9), SHAPE("\x93\x00\x09\xa1m", 9),
		SHAPE("\x95\x00\x09\xa1m\x90\x90", 9), SHAPE("\x94\x00\x09\x05\x90", 9),
		SHAPE("\x94\x00\x09\xc0\x90", 9), SHAPE("\x93\x01\x09\xc0", 9),
		SHAPE("\x92\x02\xa1m", -1), SHAPE("\x94\x02\xa1m\x90\x90", -1),
		SHAPE("\x93\x02\x05\x90", -1),
		SHAPE("\x94\x00\x09\xa1m\x90\xc0", -1), /* two values */
		SHAPE("\x94\x00\x09\xa1m", -1),         /* half a value */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char error[128] = "";
		struct message m;

		assert_int_equal(
			message_decode(cases[i].bytes, cases[i].len, &m, error, sizeof(error)),
			-EPROTO);
		assert_true(strlen(error) > 10);
		assert_int_equal(m.has_id, cases[i].id >= 0);
		if (cases[i].id >= 0)
			assert_int_equal(m.id, cases[i].id);
		message_done(&m);
	}
}

static void right_shapes_are_taken(void **state)
{
	static const struct shape cases[] = {
		SHAPE("\x94\x00\x00\xa6status\x90", 0),
		SHAPE("\x94\x00\xce\xff\xff\xff\xff\xc4\x06status\x90", UINT32_MAX),
		SHAPE("\x94\x00\xcb\x40\x14\x00\x00\x00\x00\x00\x00\xa1m\xc0", 5), /* id 5.0 */
		SHAPE("\xdd\x00\x00\x00\x04\x00\x01\xa1m\x90", 1),
		SHAPE("\x94\x01\x02\xa1"
		      "e\xc0",
			2),
		SHAPE("\x93\x02\xa6"
		      "cancel\x91\x80",
			-1),
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char error[128] = "";
		struct message m;

		assert_int_equal(
			message_decode(cases[i].bytes, cases[i].len, &m, error, sizeof(error)), 0);
		assert_int_equal(m.has_id, cases[i].id >= 0);
		if (cases[i].id >= 0)
			assert_int_equal(m.id, cases[i].id);
		message_done(&m);
	}
}

static void names_go_there_and_back(void **state)
{
	for (int m = 0; m < METHOD_COUNT; m++) {
		const char *name = method_name(m);

		assert_int_equal(method_find(name, strlen(name)), m);
		assert_int_equal(method_find(name, strlen(name) - 1), -1);
	}
	assert_int_equal(method_find("chatter", 7), -1);
	assert_int_equal(method_find("", 0), -1);
	for (int e = RPC_OK + 1; e < RPC_ERROR_COUNT; e++) {
		const char *name = rpc_error_name(e);

		assert_int_equal(rpc_error_parse(name, strlen(name)), e);
		assert_int_equal(rpc_error_parse(name, strlen(name) - 1), RPC_OK);
	}
	assert_int_equal(rpc_error_parse("E_MODEL: E_BUSY: x", 18), E_MODEL);
	assert_int_equal(rpc_error_parse("E_NEW: something", 16), RPC_OK);
	assert_int_equal(rpc_error_parse("OK: fine", 8), RPC_OK);
	assert_int_equal(rpc_error_parse("", 0), RPC_OK);
}

static void characters_are_decoded_as_unicode_says(void **state)
{
	static const struct {
		const char *s;
		size_t n, used;
		uint32_t code;
	} cases[] = {
		{"a", 1, 1, 'a'},
		{"\0", 1, 1, 0},
		{"\x7f", 1, 1, 0x7f},
		{"\xc2\x80", 2, 2, 0x80},
		{"\xdf\xbf", 2, 2, 0x7ff},
		{"\xe0\xa0\x80", 3, 3, 0x800},
		{"\xed\x9f\xbf", 3, 3, 0xd7ff},
		{"\xef\xbf\xbf", 3, 3, 0xffff},
		{"\xf0\x90\x80\x80", 4, 4, 0x10000},
		{"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
		{"\x80", 1, 1, UINT32_MAX},
		{"\xc0\x80", 2, 1, UINT32_MAX},
		{"\xc1\xbf", 2, 1, UINT32_MAX},
		{"\xc2", 1, 1, UINT32_MAX},
		{"\xc2x", 2, 1, UINT32_MAX},
		{"\xe0\x80\x80", 3, 1, UINT32_MAX},
		{"\xe1\x80x", 3, 2, UINT32_MAX},
		{"\xed\xa0\x80", 3, 1, UINT32_MAX},
		{"\xf0\x80\x80\x80", 4, 1, UINT32_MAX},
		{"\xf0\x90\x80x", 4, 3, UINT32_MAX},
		{"\xf4\x90\x80\x80", 4, 1, UINT32_MAX},
		{"\xf5\x80\x80\x80", 4, 1, UINT32_MAX},
		{"\xff", 1, 1, UINT32_MAX},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t code = 0;

		assert_int_equal(text_decode(cases[i].s, cases[i].n, &code), cases[i].used);
		assert_int_equal(code, cases[i].code);
	}
}

static void incomplete_ends_are_counted(void **state)
{
	static const struct {
		const char *s;
		size_t n, back;
	} cases[] = {{"", 0, 0}, {"a", 1, 0}, {"a\xc2", 2, 1}, {"\xe2\x96", 2, 2},
		{"\xf0\x9f\x98", 3, 3}, {"\xf0\x9f", 2, 2}, {"\xf0", 1, 1},
		{"\xf0\x9f\x98\x80", 4, 0}, {"\xe0\x80", 2, 0}, {"\x80\x80\x80", 3, 0},
		{"\xff", 1, 0}, {"\xf5", 1, 0}, {"\xc2\x80\x80", 3, 0}, {"\xc0", 1, 0}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(text_incomplete(cases[i].s, cases[i].n), cases[i].back);
}

static void quoted_text_is_safe_and_bounded(void **state)
{
	char buffer[128], lots[1000];
	uint32_t code;

	assert_string_equal(text_quote("hot", 3, buffer, sizeof(buffer)), "\"hot\"");
	assert_string_equal(text_quote("", 0, buffer, sizeof(buffer)), "\"\"");
	assert_string_equal(text_quote("\x1b]52;\"\\\n", 8, buffer, sizeof(buffer)),
		"\"\\x1b]52;\\x22\\x5c\\x0a\"");
	assert_string_equal(
		text_quote("é\xff\xc2\x85", 5, buffer, sizeof(buffer)), "\"é\\xff\\xc2\\x85\"");
	memset(lots, 'a', sizeof(lots));
	text_quote(lots, sizeof(lots), buffer, sizeof(buffer));
	assert_int_equal(strlen(buffer), 48 + 2 + strlen("…"));
	for (size_t i = 0; i + 2 <= sizeof(lots); i += 2)
		memcpy(lots + i, "é", 2);
	for (size_t size = 16; size <= sizeof(buffer); size++) {
		text_quote(lots, sizeof(lots), buffer, size);
		assert_true(strlen(buffer) < size);
		for (size_t i = 0; buffer[i];) { /* never half a character */
			i += text_decode(buffer + i, strlen(buffer + i), &code);
			assert_int_not_equal(code, UINT32_MAX);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_shapes_are_refused_with_their_id),
		cmocka_unit_test(right_shapes_are_taken),
		cmocka_unit_test(names_go_there_and_back),
		cmocka_unit_test(characters_are_decoded_as_unicode_says),
		cmocka_unit_test(incomplete_ends_are_counted),
		cmocka_unit_test(quoted_text_is_safe_and_bounded),
	};

	return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
