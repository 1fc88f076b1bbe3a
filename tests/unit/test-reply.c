/* The reply's text: whatever way a text is cut into tokens, what is released adds up to the text,
 * no release ends inside a character or shows part of a stop text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/event.h"
#include "engine/reply.h"
#include "engine/utf8.h"

/* A vocabulary of this test's own, in place of a tokenizer: the pieces of the text in hand. */
static struct slice pieces[64];

struct slice tokenizer_piece(const struct tokenizer *t, int32_t id)
{
	(void)t;
	return pieces[id];
}

static const struct tokenizer *const some_tokenizer = (const struct tokenizer *)pieces;

struct outcome {
	char text[256];
	size_t len;
	uint32_t n_tokens;
	int32_t stop;
};

static void take(struct outcome *o, struct event *e)
{
	assert_int_equal(e->index, o->n_tokens);
	assert_true(utf8_valid(e->text, e->text_len));
	assert_int_equal(e->text[e->text_len], '\0');
	for (uint32_t i = 0; i < e->n_tokens; i++)
		assert_int_equal(e->tokens[i], o->n_tokens + i);
	memcpy(o->text + o->len, e->text, e->text_len);
	o->len += e->text_len;
	o->n_tokens += e->n_tokens;
	event_free(e);
}

/* Pushes pieces 0 … n - 1 and finishes. */
static struct outcome reply_of(uint32_t n, struct stop_text *stops, uint32_t n_stops)
{
	struct job job = {.stops = stops, .n_stops = n_stops};
	struct outcome o = {.stop = -1};
	struct event *e = NULL;
	struct reply r;
	int k = 0;

	reply_init(&r, some_tokenizer, &job);
	for (uint32_t i = 0; i < n && k != 2; i++) {
		e = NULL;
		k = reply_push(&r, 1, (int32_t)i, NULL, &e, &o.stop);
		assert_true(k >= 0);
		if (e) {
			assert_true(e->n_tokens > 0);
			take(&o, e);
		}
	}
	assert_int_equal(reply_finish(&r, &e), 0);
	if (e)
		take(&o, e);
	reply_done(&r);
	return o;
}

/* Cuts the text at the set bits of `cuts`: bit i cuts behind byte i. */
static uint32_t cut(const char *text, size_t len, uint64_t cuts)
{
	uint32_t n = 0;
	size_t from = 0;

	for (size_t i = 0; i < len; i++) {
		if (i + 1 < len && !(cuts >> i & 1))
			continue;
		pieces[n++] = (struct slice){text + from, i + 1 - from};
		from = i + 1;
	}
	return n;
}

/* All 2^(len - 1) ways to cut a short text. */
static void every_cut(const char *text, size_t len, struct stop_text *stops, uint32_t n_stops,
	const char *wanted, int32_t wanted_stop)
{
	for (uint64_t cuts = 0; cuts < 1ull << (len - 1); cuts++) {
		uint32_t n = cut(text, len, cuts);
		struct outcome o = reply_of(n, stops, n_stops);

		assert_int_equal(o.len, strlen(wanted));
		assert_memory_equal(o.text, wanted, o.len);
		assert_int_equal(o.stop, wanted_stop);
		if (wanted_stop < 0)
			assert_int_equal(o.n_tokens, n);
	}
}

static void text_without_stops_comes_whole(void **state)
{
	every_cut("Hello, you", 10, NULL, 0, "Hello, you", -1);
}

static void characters_are_never_cut(void **state)
{
	/* 2, 3 and 4 bytes */
	every_cut("\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82!", 10, NULL, 0,
		"\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82!", -1);
}

static void bytes_that_never_complete_become_replacements(void **state)
{
	every_cut("a\xe2\x82", 3, NULL, 0, "a\xef\xbf\xbd", -1);
	every_cut("\xff"
		  "b\xf0\x9f"
		  "c",
		5, NULL, 0,
		"\xef\xbf\xbd"
		"b\xef\xbf\xbd"
		"c",
		-1);
}

static void a_stop_text_that_spans_tokens_ends_the_reply(void **state)
{
	struct stop_text stop = {.text = (char[]){"STOP"}, .len = 4};

	every_cut("abSTSTOPcd", 10, &stop, 1, "abST", 0);
	every_cut("STOP", 4, &stop, 1, "", 0);
	every_cut("abcSTO", 6, &stop, 1, "abcSTO", -1);
}

static void the_first_complete_stop_counts(void **state)
{
	struct stop_text stops[] = {
		{.text = (char[]){"ser:"}, .len = 4},
		{.text = (char[]){"User:"}, .len = 5},
		{.text = (char[]){"r"}, .len = 1},
	};

	every_cut("ok User:\n", 9, stops, 2, "ok ", 1);
	every_cut("ok User:\n", 9, stops, 3, "ok Use", 2);
}

static void nothing_that_may_become_a_stop_is_shown(void **state)
{
	struct stop_text stop = {.text = (char[]){"\n\nX"}, .len = 3};
	struct job job = {.stops = &stop, .n_stops = 1};
	struct event *e = NULL;
	int32_t which = -1;
	struct reply r;

	cut("a\n\nb", 4, 7);
	reply_init(&r, some_tokenizer, &job);
	assert_int_equal(reply_push(&r, 1, 0, NULL, &e, &which), 1);
	assert_string_equal(e->text, "a");
	event_free(e);
	assert_int_equal(reply_push(&r, 1, 1, NULL, &e, &which), 0);
	assert_int_equal(reply_push(&r, 1, 2, NULL, &e, &which), 0);
	assert_int_equal(reply_push(&r, 1, 3, NULL, &e, &which), 1);
	assert_string_equal(e->text, "\n\nb");
	assert_int_equal(e->n_tokens, 3);
	event_free(e);
	reply_done(&r);
}

static void logprobs_stay_with_their_tokens(void **state)
{
	struct stop_text stop = {.text = (char[]){"bX"}, .len = 2};
	struct job job = {.stops = &stop, .n_stops = 1};
	struct sample_top top = {.token = 9, .logprob = -1};
	uint32_t seen = 0;
	int32_t which = -1;
	struct reply r;

	cut("abbbc", 5, 15);
	reply_init(&r, some_tokenizer, &job);
	for (int32_t i = 0; i < 5; i++) {
		struct sample_result result = {
			.token = i, .logprob = (float)-i, .n_top = 1, .top = &top};
		struct event *e = NULL;

		assert_true(reply_push(&r, 1, i, &result, &e, &which) >= 0);
		for (uint32_t k = 0; e && k < e->n_tokens; k++, seen++) {
			assert_int_equal(e->n_logprobs, e->n_tokens);
			assert_int_equal(e->logprobs[k].token, seen);
			assert_true(e->logprobs[k].logprob == -(float)seen);
			assert_int_equal(e->logprobs[k].top[0].token, 9);
		}
		event_free(e);
	}
	assert_int_equal(seen, 5);
	reply_done(&r);
}

static void without_a_tokenizer_tokens_come_at_once(void **state)
{
	struct job job = {0};
	struct event *e = NULL;
	int32_t which = -1;
	struct reply r;

	reply_init(&r, NULL, &job);
	for (int32_t i = 0; i < 3; i++) {
		assert_int_equal(reply_push(&r, 1, i, NULL, &e, &which), 1);
		assert_int_equal(e->n_tokens, 1);
		assert_int_equal(e->index, i);
		assert_int_equal(e->text_len, 0);
		event_free(e);
	}
	reply_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_without_stops_comes_whole),
		cmocka_unit_test(characters_are_never_cut),
		cmocka_unit_test(bytes_that_never_complete_become_replacements),
		cmocka_unit_test(a_stop_text_that_spans_tokens_ends_the_reply),
		cmocka_unit_test(the_first_complete_stop_counts),
		cmocka_unit_test(nothing_that_may_become_a_stop_is_shown),
		cmocka_unit_test(logprobs_stay_with_their_tokens),
		cmocka_unit_test(without_a_tokenizer_tokens_come_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
