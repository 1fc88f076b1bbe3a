/* Claims: of a reply's ids just those are kept that say its text; what is remembered of replies is
 * each uid's own and has its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/reply_ids.h"
#include "daemon/reply_memory.h"
#include "proto/limits.h"

/* A vocabulary of this test's own, in place of a tokenizer. */
enum { A, BC, HALF, OTHER_HALF, CONTROL, FACE, N_TOKENS };
static const struct slice pieces[N_TOKENS] = {
	[A] = {"a", 1},
	[BC] = {"bc", 2},
	[HALF] = {"\xc3", 1},
	[OTHER_HALF] = {"\xa9", 1},
	[CONTROL] = {"", 0},
	[FACE] = {"\xf0\x9f\x98", 3}, /* but one of its bytes */
};

struct slice tokenizer_piece(const struct tokenizer *t, int32_t id)
{
	(void)t;
	return pieces[id];
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
	(void)t;
	return N_TOKENS;
}

#define COVER(text, ...)                                                                           \
	reply_ids_cover(NULL, (const int32_t[]){__VA_ARGS__},                                      \
		sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), text, strlen(text))

static void ids_that_say_the_text(void **state)
{
	assert_int_equal(COVER("abc", A, BC), 2);
	assert_int_equal(COVER("a", A, BC), 1);  /* a stop text began with bc */
	assert_int_equal(COVER("ab", A, BC), 0); /* … or with c: no border there */
	assert_int_equal(COVER("abca", A, BC), 0);
	assert_int_equal(COVER("xbc", A, BC), 0);
	assert_int_equal(COVER("", A, BC), 0);
	assert_int_equal(COVER("\xc3\xa9"
			       "a",
				 HALF, OTHER_HALF, A),
		3);
	assert_int_equal(COVER("a", CONTROL, A, CONTROL), 3); /* it says nothing, but was said */
	assert_int_equal(COVER("", CONTROL), 0);
	assert_int_equal(COVER("a", A, N_TOKENS), 0);
	assert_int_equal(COVER("a", A, -1), 0);
}

static void bytes_that_are_no_character(void **state)
{
	assert_int_equal(COVER("a\xef\xbf\xbd", A, HALF), 2); /* U+FFFD: cut in the middle */
	assert_int_equal(COVER("a\xef\xbf\xbd", A, FACE), 2); /* one for what belongs together */
	assert_int_equal(COVER("\xef\xbf\xbd"
			       "a",
				 OTHER_HALF, A),
		2);
	assert_int_equal(COVER("\xef\xbf\xbd\xef\xbf\xbd", HALF, HALF), 2);
	assert_int_equal(COVER("\xef\xbf\xbd", HALF, HALF), 1);
	/* half a character is said by no ids but those of the whole */
	assert_int_equal(COVER("\xef\xbf\xbd", HALF, OTHER_HALF), 0);
}

static void a_key_is_of_place_and_text(void **state)
{
	uint8_t place[DIGEST_BYTES] = {1}, a[DIGEST_BYTES], b[DIGEST_BYTES];

	assert_int_equal(reply_ids_key(place, "x", 1, a), 0);
	assert_int_equal(reply_ids_key(place, "x", 1, b), 0);
	assert_memory_equal(a, b, DIGEST_BYTES);
	assert_int_equal(reply_ids_key(place, "y", 1, b), 0);
	assert_memory_not_equal(a, b, DIGEST_BYTES);
	place[0] = 2;
	assert_int_equal(reply_ids_key(place, "x", 1, b), 0);
	assert_memory_not_equal(a, b, DIGEST_BYTES);
}

static void key_of(uint32_t number, uint8_t key[DIGEST_BYTES])
{
	memset(key, 0, DIGEST_BYTES);
	memcpy(key, &number, sizeof(number));
}

static void remember(struct reply_memory *m, uint32_t uid, uint32_t number, uint32_t n)
{
	uint8_t key[DIGEST_BYTES];
	struct reply_ids *ids;

	key_of(number, key);
	ids = reply_ids_new(key, key, NULL, n);
	assert_non_null(ids);
	memset(ids->ids, 0, n * sizeof(int32_t));
	ids->ids[0] = (int32_t)number;
	reply_memory_add(m, uid, ids);
	reply_ids_unref(ids);
}

/* The number of ids remembered under the number, 0: none. */
static uint32_t remembered(struct reply_memory *m, uint32_t uid, uint32_t number)
{
	uint8_t key[DIGEST_BYTES];
	struct reply_ids *ids;
	uint32_t n;

	key_of(number, key);
	ids = reply_memory_find(m, uid, key);
	n = ids ? ids->n : 0;
	if (ids)
		assert_int_equal(ids->ids[0], number);
	reply_ids_unref(ids);
	return n;
}

static void each_uid_has_its_own(void **state)
{
	struct reply_memory *m = reply_memory_new();

	assert_non_null(m);
	remember(m, 1, 7, 10);
	remember(m, 2, 8, 20);
	assert_int_equal(remembered(m, 1, 7), 10);
	assert_int_equal(remembered(m, 2, 7), 0);
	assert_int_equal(remembered(m, 1, 8), 0);
	remember(m, 1, 7, 11); /* said again: the latest ids */
	assert_int_equal(remembered(m, 1, 7), 11);
	remember(m, 1, 9, 5);
	assert_true(reply_memory_bytes(m, 1, false) > 16 * sizeof(int32_t));
	assert_int_equal(reply_memory_bytes(m, 0, true),
		reply_memory_bytes(m, 1, false) + reply_memory_bytes(m, 2, false));
	assert_int_equal(reply_memory_drop(m, 3, false), 0);
	assert_int_equal(reply_memory_drop(m, 1, false), 2);
	assert_int_equal(reply_memory_bytes(m, 1, false), 0);
	assert_int_equal(remembered(m, 1, 7), 0);
	assert_int_equal(remembered(m, 2, 8), 20);
	assert_int_equal(reply_memory_drop(m, 0, true), 1);
	assert_int_equal(reply_memory_bytes(m, 0, true), 0);
	reply_memory_free(m);
}

static void a_uids_oldest_go_first(void **state)
{
	const uint32_t n = REPLY_MEMORY_UID_BYTES_MAX / 4 / sizeof(int32_t); /* three fit */
	struct reply_memory *m = reply_memory_new();

	assert_non_null(m);
	remember(m, 2, 9, 1);
	for (uint32_t i = 0; i < 3; i++)
		remember(m, 1, i, n);
	assert_int_equal(remembered(m, 1, 0), n); /* and is the latest now */
	remember(m, 1, 3, n);
	assert_int_equal(remembered(m, 1, 1), 0);
	assert_int_equal(remembered(m, 1, 0), n);
	assert_int_equal(remembered(m, 1, 2), n);
	assert_int_equal(remembered(m, 1, 3), n);
	assert_int_equal(remembered(m, 2, 9), 1);
	remember(m, 1, 4, REPLY_MEMORY_UID_BYTES_MAX); /* too long to be worth all others */
	assert_int_equal(remembered(m, 1, 4), 0);
	assert_int_equal(remembered(m, 1, 3), n);
	reply_memory_free(m);
}

static void over_the_whole_bound_the_largest_uid_pays(void **state)
{
	const uint32_t n = REPLY_MEMORY_UID_BYTES_MAX / 4 / sizeof(int32_t);
	const uint32_t uids = REPLY_MEMORY_BYTES_MAX / REPLY_MEMORY_UID_BYTES_MAX * 2;
	struct reply_memory *m = reply_memory_new();
	uint32_t kept = 0;

	assert_non_null(m);
	remember(m, 0, 1, 100);
	for (uint32_t uid = 1; uid <= uids; uid++)
		for (uint32_t i = 0; i < 3; i++)
			remember(m, uid, i, n);
	assert_int_equal(remembered(m, 0, 1), 100); /* who has little keeps it */
	for (uint32_t uid = 1; uid <= uids; uid++)
		for (uint32_t i = 0; i < 3; i++)
			kept += remembered(m, uid, i) > 0;
	assert_true((uint64_t)kept * n * sizeof(int32_t) <= REPLY_MEMORY_BYTES_MAX);
	assert_true(kept >= 3u * uids / 2 - 1);
	reply_memory_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_that_say_the_text),
		cmocka_unit_test(bytes_that_are_no_character),
		cmocka_unit_test(a_key_is_of_place_and_text),
		cmocka_unit_test(each_uid_has_its_own),
		cmocka_unit_test(a_uids_oldest_go_first),
		cmocka_unit_test(over_the_whole_bound_the_largest_uid_pays),
	};

	return cmocka_run_group_tests_name("replies", tests, NULL, NULL);
}
