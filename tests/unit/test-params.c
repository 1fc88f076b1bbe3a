/* Claims: every parameter is taken within its borders and refused outside them with a sentence that
 * names the key, what was found and what is wanted; types are taken as real clients send them. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/params-fixture.h"

/* complete with {prompt: "", key: value}; the value is raw MessagePack. */
static int decode_one(struct fixture *f, const char *key, const void *value, size_t len)
{
	fixture_begin(f);
	msgpack_pack_array(&f->pk, 1);
	msgpack_pack_map(&f->pk, 2);
	pack_key(&f->pk, "prompt");
	pack_key(&f->pk, "");
	pack_key(&f->pk, key);
	msgpack_sbuffer_write(&f->buffer, value, len);
	return decode(f, METHOD_COMPLETE);
}

static void expect_error(const char *key, const void *value, size_t len, const char *sentence)
{
	struct fixture f;

	assert_int_equal(decode_one(&f, key, value, len), -EINVAL);
	assert_string_equal(f.error, sentence);
	assert_int_equal(f.params.set, 0); /* ret untouched */
	fixture_end(&f);
}
#define REFUSED(key, value, sentence) expect_error(key, value, sizeof(value) - 1, sentence)

static void expect_taken(const char *key, const void *value, size_t len, enum param which)
{
	struct fixture f;

	if (decode_one(&f, key, value, len) != 0)
		fail_msg("%s", f.error);
	assert_true(params_has(&f.params, which));
	fixture_end(&f);
}
#define TAKEN(key, value, which) expect_taken(key, value, sizeof(value) - 1, which)

static int decode_double(struct fixture *f, const char *key, double v)
{
	msgpack_sbuffer b;
	msgpack_packer pk;
	int r;

	msgpack_sbuffer_init(&b);
	msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
	msgpack_pack_double(&pk, v);
	r = decode_one(f, key, b.data, b.size);
	msgpack_sbuffer_destroy(&b);
	return r;
}

static void number_borders(void **state)
{
	static const struct {
		const char *key;
		enum param which;
		double min, max;
		bool above, integer;
	} rows[] = {
		{"temperature", PARAM_TEMPERATURE, 0, 100, false, false},
		{"top_p", PARAM_TOP_P, 0, 1, true, false},
		{"min_p", PARAM_MIN_P, 0, 1, false, false},
		{"typical_p", PARAM_TYPICAL_P, 0, 1, true, false},
		{"repetition_penalty", PARAM_REPETITION_PENALTY, 0, 100, true, false},
		{"presence_penalty", PARAM_PRESENCE_PENALTY, -100, 100, false, false},
		{"frequency_penalty", PARAM_FREQUENCY_PENALTY, -100, 100, false, false},
		{"max_new_tokens", PARAM_MAX_NEW_TOKENS, 0, INT32_MAX, false, true},
		{"top_k", PARAM_TOP_K, 0, INT32_MAX, false, true},
		{"penalty_window", PARAM_PENALTY_WINDOW, 0, INT32_MAX, false, true},
		{"logprobs", PARAM_LOGPROBS, 0, 100, false, true},
		{"deadline_ms", PARAM_DEADLINE_MS, 1, 9007199254740991, false, true},
		{"seed", PARAM_SEED, -9007199254740991, 9007199254740991, false, true},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const double step = rows[i].integer ? 1 : 1e-9;
		const double below = rows[i].min - step, beyond = rows[i].max + step;
		const struct {
			double v;
			bool ok;
		} tries[] = {{rows[i].min, !rows[i].above}, {rows[i].max, true}, {below, false},
			{beyond, false}, {1, true}, {NAN, false}, {INFINITY, false},
			{-INFINITY, false}, {0.5, !rows[i].integer}};

		for (size_t t = 0; t < sizeof(tries) / sizeof(tries[0]); t++) {
			struct fixture f;
			const int r = decode_double(&f, rows[i].key, tries[t].v);

			if ((r == 0) != tries[t].ok)
				fail_msg("%s %.17g: %s", rows[i].key, tries[t].v, f.error);
			if (r == 0) {
				assert_true(params_has(&f.params, rows[i].which));
			} else {
				assert_int_equal(r, -EINVAL);
				assert_memory_equal(f.error, rows[i].key, strlen(rows[i].key));
				assert_non_null(strstr(f.error, ": found "));
				assert_non_null(strstr(f.error, ", wanted "));
			}
			fixture_end(&f);
		}
	}
}

static void sentences_name_key_found_and_wanted(void **state)
{
	REFUSED("temperature", "\xa3hot",
		"temperature: found \"hot\", wanted a number from 0 to 100");
	REFUSED("temperature", "\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
		"temperature: found NaN, wanted a number from 0 to 100");
	REFUSED("temperature", "\xc3", "temperature: found true, wanted a number from 0 to 100");
	REFUSED("top_p", "\x00", "top_p: found 0, wanted a number above 0 and at most 1");
	REFUSED("top_k", "\xff", "top_k: found -1, wanted an integer from 0 to 2147483647");
	REFUSED("top_k", "\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
		"top_k: found 1.5, wanted an integer from 0 to 2147483647");
	REFUSED("seed", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
		"seed: found 18446744073709551615, wanted an integer from -9007199254740991 to "
		"9007199254740991");
	REFUSED("seed", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
		"seed: found -9223372036854775808, wanted an integer from -9007199254740991 to "
		"9007199254740991");
	REFUSED("stream", "\x01", "stream: found 1, wanted true or false");
	REFUSED("stop", "\x81\x01\x02",
		"stop: found a map of 1, wanted a list of at most 16 texts");
	REFUSED("stop", "\x92\xa1x\xa0", "stop[1]: found \"\", wanted text of 1 to 256 bytes");
	REFUSED("stop", "\x91\xc0", "stop[0]: found nil, wanted text of 1 to 256 bytes");
	REFUSED("logit_bias", "\xa1x",
		"logit_bias: found \"x\", wanted a list of at most 4096 pairs [token, bias]");
	REFUSED("logit_bias", "\x91\x91\x01",
		"logit_bias[0]: found a list of 1, wanted a pair [token, bias]");
	REFUSED("logit_bias", "\x91\x92\xff\x01",
		"logit_bias[0][0]: found -1, wanted an integer from 0 to 2147483647");
	REFUSED("logit_bias", "\x91\x92\x01\xa1x",
		"logit_bias[0][1]: found \"x\", wanted a number from -1e+09 to 1e+09");
	REFUSED("priority", "\xa3now",
		"priority: found \"now\", wanted \"interactive\" or \"batch\"");
	REFUSED("tag", "\xc3",
		"tag: found true, wanted an integer within 2^53 - 1 of 0, or text of at most 64 "
		"bytes");
	REFUSED("text", "\xa1x", "text: found in complete, wanted only in tokenize");
	REFUSED("messages", "\x90",
		"messages: found in complete, wanted only in chat, score, template");
	REFUSED("suffix", "\xa1x",
		"\"suffix\": found an unknown parameter, wanted one that complete has");
	REFUSED("a\"\x1b\xff", "\xa1x",
		"\"a\\x22\\x1b\\xff\": found an unknown parameter, wanted one that complete has");
	REFUSED("prompt", "\xa1x", "prompt: found twice, wanted once");
}

static void nil_means_left_out(void **state)
{
	struct fixture f;

	assert_int_equal(decode_one(&f, "temperature", "\xc0", 1), 0);
	assert_false(params_has(&f.params, PARAM_TEMPERATURE));
	fixture_end(&f);
	REFUSED("text", "\xc0", "text: found in complete, wanted only in tokenize");
}

static void types_as_real_clients_send_them(void **state)
{
	struct fixture f;

	TAKEN("temperature", "\x01", PARAM_TEMPERATURE);                     /* integer */
	TAKEN("temperature", "\xca\x3f\x00\x00\x00", PARAM_TEMPERATURE);     /* float 32 */
	TAKEN("top_k", "\xcb\x40\x14\x00\x00\x00\x00\x00\x00", PARAM_TOP_K); /* 5.0 */
	TAKEN("stop", "\xa1x", PARAM_STOP);                                  /* one text */
	TAKEN("stop", "\xc4\x01x", PARAM_STOP);                              /* bin */
	TAKEN("stop", "\x90", PARAM_STOP);
	TAKEN("stop", "\x92\xc4\x01x\xa1y", PARAM_STOP);
	TAKEN("tag", "\xc4\x02id", PARAM_TAG);
	TAKEN("tag", "\xcb\x40\x14\x00\x00\x00\x00\x00\x00", PARAM_TAG);
	TAKEN("priority",
		"\xc4\x05"
		"batch",
		PARAM_PRIORITY);
	TAKEN("logit_bias", "\x90", PARAM_LOGIT_BIAS);
	TAKEN("logit_bias", "\x91\x92\x05\xcb\xc0\x14\x00\x00\x00\x00\x00\x00", PARAM_LOGIT_BIAS);

	assert_int_equal(decode_one(&f, "tag", "\xcb\x40\x14\x00\x00\x00\x00\x00\x00", 9), 0);
	assert_int_equal(f.params.tag.kind, TAG_INT);
	assert_int_equal(f.params.tag.number, 5);
	fixture_end(&f);

	/* bin as the key and as the value, bytes that are no UTF-8 and NUL unchanged */
	fixture_begin(&f);
	msgpack_sbuffer_write(&f.buffer, "\x91\x81\xc4\x04text\xc4\x03\x00\xff\x41", 13);
	assert_int_equal(decode(&f, METHOD_TOKENIZE), 0);
	assert_int_equal(f.params.text.len, 3);
	assert_memory_equal(f.params.text.text, "\x00\xff\x41", 3);
	fixture_end(&f);
}

static void the_params_array_in_all_its_shapes(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *error; /* NULL: taken */
	} cases[] = {
		{"\x90", 1, NULL},
		{"\xc0", 1, NULL},
		{"\x91\x80", 2, NULL},
		{"\x91\x90", 2, NULL},
		{"\x91\xc0", 2, NULL},
		{"\x80", 1, "params: found a map of 0, wanted a list holding at most one map"},
		{"\x92\x80\x80", 3,
			"params: found a list of 2, wanted a list holding at most one map"},
		{"\xa1x", 2, "params: found \"x\", wanted a list holding at most one map"},
		{"\x91\xa1x", 3, "params[0]: found \"x\", wanted a map of parameters"},
		{"\x91\x91\x01", 3, "params[0]: found a list of 1, wanted a map of parameters"},
		{"\x91\x81\x01\x02", 4, "params: a key: found 1, wanted text"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f;

		fixture_begin(&f);
		msgpack_sbuffer_write(&f.buffer, cases[i].bytes, cases[i].len);
		assert_int_equal(decode(&f, METHOD_STATUS), cases[i].error ? -EINVAL : 0);
		if (cases[i].error)
			assert_string_equal(f.error, cases[i].error);
		fixture_end(&f);
	}
}

static void what_a_method_needs_is_asked_for(void **state)
{
	static const char *const errors[METHOD_COUNT] = {
		[METHOD_CHAT] = "messages: not found, chat needs it",
		[METHOD_COMPLETE] = "prompt: not found, complete needs it",
		[METHOD_SCORE] = "choices: not found, score needs it",
		[METHOD_TOKENIZE] = "text: not found, tokenize needs it",
		[METHOD_DETOKENIZE] = "tokens: not found, detokenize needs it",
		[METHOD_TEMPLATE] = "messages: not found, template needs it",
		[METHOD_CANCEL] = "tag or id: not found, cancel needs one of them",
		[METHOD_SESSION_GET] = "name: not found, session.get needs it",
		[METHOD_SESSION_FORK] = "from: not found, session.fork needs it",
		[METHOD_SESSION_REWIND] = "name: not found, session.rewind needs it",
		[METHOD_SESSION_DROP] = "name: not found, session.drop needs it",
	};

	for (int m = 0; m < METHOD_COUNT; m++) {
		struct fixture f;

		fixture_begin(&f);
		msgpack_pack_array(&f.pk, 0);
		assert_int_equal(decode(&f, m), errors[m] ? -EINVAL : 0);
		assert_string_equal(f.error, errors[m] ? errors[m] : "");
		fixture_end(&f);
	}
}

/* session.get with this name. */
static int decode_name(struct fixture *f, const char *name, size_t len)
{
	fixture_begin(f);
	msgpack_pack_array(&f->pk, 1);
	msgpack_pack_map(&f->pk, 1);
	pack_key(&f->pk, "name");
	pack_text(&f->pk, name, len);
	return decode(f, METHOD_SESSION_GET);
}

static void names_of_sessions_have_1_to_64_plain_characters(void **state)
{
	char longest[SESSION_NAME_BYTES_MAX + 1];
	struct fixture f;

	memset(longest, 'x', sizeof(longest));
	assert_int_equal(decode_name(&f, longest, SESSION_NAME_BYTES_MAX), 0);
	assert_int_equal(f.params.name.len, SESSION_NAME_BYTES_MAX);
	fixture_end(&f);
	assert_int_equal(decode_name(&f, longest, SESSION_NAME_BYTES_MAX + 1), -EINVAL);
	fixture_end(&f);
	assert_int_equal(decode_name(&f, "", 0), -EINVAL);
	fixture_end(&f);
	for (int c = 0; c < 256; c++) {
		const char one = (char)c;
		bool good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			    (c >= 'A' && c <= 'Z') || (c && strchr("._:-", c));

		assert_int_equal(decode_name(&f, &one, 1), good ? 0 : -EINVAL);
		fixture_end(&f);
	}
	assert_int_equal(decode_name(&f, "a/b", 3), -EINVAL);
	assert_string_equal(
		f.error, "name: found \"a/b\", wanted a name of 1 to 64 of A-Z a-z 0-9 . _ : -");
	fixture_end(&f);
}

static void messages_and_their_faults(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *error;
	} cases[] = {
#define CASE(bytes, error) {bytes, sizeof(bytes) - 1, error}
		CASE("\x91\x82\xa4role\xa4user\xa7"
		     "content\xa2hi",
			NULL),
		CASE("\x91\x82\xa7"
		     "content\xc4\x02hi\xc4\x04role\xa9"
		     "anything!",
			NULL),
		CASE("\x90",
			"messages: found an empty list, wanted a list of 1 to 4096 maps of role "
			"and content"),
		CASE("\x80",
			"messages: found a map of 0, wanted a list of 1 to 4096 maps of role and "
			"content"),
		CASE("\x91\xa2hi", "messages[0]: found \"hi\", wanted a map of role and content"),
		CASE("\x91\x81\xa4role\xa4user", "messages[0].content: not found, wanted text"),
		CASE("\x91\x81\xa7"
		     "content\xa4user",
			"messages[0].role: not found, wanted text"),
		CASE("\x91\x82\xa4role\xa4user\xa7"
		     "content\xc0",
			"messages[0].content: found nil, wanted text"),
		CASE("\x91\x82\xa4role\xa4user\xa7"
		     "content\x93\x01\x02\x03",
			"messages[0].content: found a list of 3, wanted text"),
		CASE("\x91\x83\xa4role\xa4user\xa7"
		     "content\xa2hi\xa4name\xa1x",
			"messages[0]: found the key \"name\", wanted role and content"),
		CASE("\x91\x82\xa4role\xa4user\xa4role\xa4user",
			"messages[0].role: found twice, wanted once"),
		CASE("\x92\x82\xa4role\xa4user\xa7"
		     "content\xa2hi\x82\x05\x06\xa4role\xa1x",
			"messages[1]: a key: found 5, wanted role or content"),
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f;
		int r;

		fixture_begin(&f);
		msgpack_pack_array(&f.pk, 1);
		msgpack_pack_map(&f.pk, 1);
		pack_key(&f.pk, "messages");
		msgpack_sbuffer_write(&f.buffer, cases[i].bytes, cases[i].len);
		r = decode(&f, METHOD_CHAT);
		assert_string_equal(f.error, cases[i].error ? cases[i].error : "");
		assert_int_equal(r, cases[i].error ? -EINVAL : 0);
		if (r == 0) {
			assert_int_equal(f.params.n_messages, 1);
			assert_int_equal(f.params.messages[0].content.len, 2);
			assert_memory_equal(f.params.messages[0].content.text, "hi", 2);
		}
		fixture_end(&f);
	}
}

/* complete with {prompt: n times the byte} */
static void prompts_as_text_and_as_ids(void **state)
{
	static const size_t counts[] = {0, 1, 15, 16, 65534 - 4};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct fixture f;

		fixture_begin(&f);
		msgpack_pack_array(&f.pk, 1);
		msgpack_pack_map(&f.pk, 1);
		pack_key(&f.pk, "prompt");
		msgpack_pack_array(&f.pk, counts[i]);
		for (size_t k = 0; k < counts[i]; k++)
			msgpack_pack_uint64(&f.pk, k);
		assert_int_equal(decode(&f, METHOD_COMPLETE), counts[i] == 0 ? -EINVAL : 0);
		if (counts[i] > 0) {
			assert_int_equal(f.params.n_prompt_ids, counts[i]);
			for (size_t k = 0; k < counts[i]; k++)
				assert_int_equal(f.params.prompt_ids[k], k);
		}
		fixture_end(&f);
	}
	REFUSED("top_p", "\x91\x01",
		"top_p: found a list of 1, wanted a number above 0 and at most 1");
}

static void token_ids_are_numbers_that_a_token_may_have(void **state)
{
	static const char *const faults[] = {
		"\xff", "\xa1x", "\xcf\x00\x00\x00\x00\x80\x00\x00\x00", "\xc0"};
	static const size_t lens[] = {1, 2, 9, 1};

	for (size_t i = 0; i < 4; i++) {
		struct fixture f;

		fixture_begin(&f);
		msgpack_pack_array(&f.pk, 1);
		msgpack_pack_map(&f.pk, 1);
		pack_key(&f.pk, "tokens");
		msgpack_pack_array(&f.pk, 2);
		msgpack_pack_int64(&f.pk, INT32_MAX);
		msgpack_sbuffer_write(&f.buffer, faults[i], lens[i]);
		assert_int_equal(decode(&f, METHOD_DETOKENIZE), -EINVAL);
		assert_memory_equal(f.error, "tokens[1]: found ", 17);
		assert_non_null(strstr(f.error, "wanted an integer from 0 to 2147483647"));
		fixture_end(&f);
	}
}

static void tags_have_at_most_64_bytes(void **state)
{
	for (size_t n = 0; n <= 65; n++) {
		char value[80] = "\xd9";
		struct fixture f;

		value[1] = (char)n;
		memset(value + 2, 't', n);
		assert_int_equal(decode_one(&f, "tag", value, n + 2), n <= 64 ? 0 : -EINVAL);
		if (n <= 64) {
			assert_int_equal(f.params.tag.kind, TAG_TEXT);
			assert_int_equal(f.params.tag.len, n);
		}
		fixture_end(&f);
	}
}

static void tags_compare_by_kind_and_value(void **state)
{
	const struct rpc_tag none = {0}, one = {.kind = TAG_INT, .number = 1},
			     two = {.kind = TAG_INT, .number = 2},
			     text = {.kind = TAG_TEXT, .text = "1", .len = 1},
			     longer = {.kind = TAG_TEXT, .text = "12", .len = 2};

	assert_true(rpc_tag_equal(&one, &one));
	assert_true(rpc_tag_equal(&text, &text));
	assert_false(rpc_tag_equal(&one, &two));
	assert_false(rpc_tag_equal(&one, &text));
	assert_false(rpc_tag_equal(&text, &longer));
	assert_false(rpc_tag_equal(&none, &one));
}

static void stops_and_biases_at_their_counts(void **state)
{
	static const struct {
		const char *key;
		size_t max;
		bool pair;
	} rows[] = {{"stop", STOPS_MAX, false}, {"logit_bias", BIASES_MAX, true}};

	for (size_t i = 0; i < 2; i++)
		for (size_t n = rows[i].max; n <= rows[i].max + 1; n++) {
			msgpack_sbuffer b;
			msgpack_packer pk;
			struct fixture f;

			msgpack_sbuffer_init(&b);
			msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
			msgpack_pack_array(&pk, n);
			for (size_t k = 0; k < n; k++) {
				if (rows[i].pair) {
					msgpack_pack_array(&pk, 2);
					msgpack_pack_int(&pk, 1);
					msgpack_pack_double(&pk, -0.5);
				} else {
					pack_key(&pk, "stop");
				}
			}
			assert_int_equal(decode_one(&f, rows[i].key, b.data, b.size),
				n <= rows[i].max ? 0 : -EINVAL);
			fixture_end(&f);
			msgpack_sbuffer_destroy(&b);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(number_borders),
		cmocka_unit_test(sentences_name_key_found_and_wanted),
		cmocka_unit_test(nil_means_left_out),
		cmocka_unit_test(types_as_real_clients_send_them),
		cmocka_unit_test(the_params_array_in_all_its_shapes),
		cmocka_unit_test(what_a_method_needs_is_asked_for),
		cmocka_unit_test(names_of_sessions_have_1_to_64_plain_characters),
		cmocka_unit_test(messages_and_their_faults),
		cmocka_unit_test(prompts_as_text_and_as_ids),
		cmocka_unit_test(token_ids_are_numbers_that_a_token_may_have),
		cmocka_unit_test(tags_have_at_most_64_bytes),
		cmocka_unit_test(tags_compare_by_kind_and_value),
		cmocka_unit_test(stops_and_biases_at_their_counts),
	};

	return cmocka_run_group_tests_name("params", tests, NULL, NULL);
}
