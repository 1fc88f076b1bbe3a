/* Claims: a session's bytes give the same session back; whatever else the bytes are, reading them
 * ends in an error or in a session that can be written again, and touches nothing outside them.
 * $ZEPH_MUTATIONS says how many mutations there are. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/session_file.h"

static struct rpc_text text(const char *s)
{
	return (struct rpc_text){s, strlen(s)};
}

static void add(struct history *h, const char *role, const char *content, bool begins,
	uint32_t tokens, struct reply_ids *ids)
{
	const struct rpc_text r = text(role), c = text(content);

	assert_int_equal(history_add(h, &r, &c, begins, tokens, ids), 0);
}

/* Three turns, replies with ids and without. */
static void sample(struct session_row *row, struct history *h)
{
	static const int32_t some[] = {0, 1, 77, INT32_MAX};
	uint8_t key[DIGEST_BYTES], prompt[DIGEST_BYTES];
	struct reply_ids *ids;

	memset(key, 0xa5, sizeof(key));
	memset(prompt, 0x5a, sizeof(prompt));
	ids = reply_ids_new(key, prompt, some, 4);
	assert_non_null(ids);
	*h = (struct history){};
	add(h, "system", "Be brief.", true, 0, NULL);
	add(h, "user", "Hi", false, 0, NULL);
	add(h, "assistant", "Hello \xc3\xb6", false, 17, ids);
	add(h, "user", "", true, 0, NULL);
	add(h, "assistant", "", false, 21, NULL);
	add(h, "user", "again", true, 0, NULL);
	add(h, "assistant", "yes", false, 30, ids);
	reply_ids_unref(ids);
	*row = (struct session_row){.name = "a:b.c-d_E9",
		.messages = h->n,
		.tokens = 30,
		.bytes = h->bytes,
		.used_at = 1700000000};
}

static void write_sample(msgpack_sbuffer *out)
{
	struct session_row row;
	struct history h;

	sample(&row, &h);
	msgpack_sbuffer_init(out);
	assert_int_equal(session_file_write(&row, &h, out), 0);
	history_done(&h);
}

static void what_is_written_is_read(void **state)
{
	struct session_row row, wanted, head;
	struct history h = {}, original;
	msgpack_sbuffer out;

	sample(&wanted, &original);
	write_sample(&out);
	assert_int_equal(session_file_head(out.data, out.size, &head), 0);
	assert_int_equal(session_file_read(out.data, out.size, &row, &h), 0);
	assert_string_equal(head.name, wanted.name);
	assert_int_equal(head.bytes, wanted.bytes);
	assert_int_equal(row.messages, wanted.messages);
	assert_int_equal(row.tokens, wanted.tokens);
	assert_int_equal(row.bytes, wanted.bytes);
	assert_int_equal(row.used_at, wanted.used_at);
	assert_int_equal(h.n, original.n);
	for (uint32_t i = 0; i < h.n; i++) {
		const struct history_message *a = h.messages[i], *b = original.messages[i];

		assert_int_equal(a->begins, b->begins);
		assert_int_equal(a->tokens, b->tokens);
		assert_int_equal(a->content.len, b->content.len);
		assert_memory_equal(a->content.text, b->content.text, a->content.len);
		assert_int_equal(!a->ids, !b->ids);
		if (a->ids) {
			assert_int_equal(a->ids->n, b->ids->n);
			assert_memory_equal(a->ids->ids, b->ids->ids, a->ids->n * 4);
			assert_memory_equal(a->ids->key, b->ids->key, DIGEST_BYTES);
			assert_memory_equal(a->ids->prompt, b->ids->prompt, DIGEST_BYTES);
		}
	}
	history_done(&h);
	history_done(&original);
	msgpack_sbuffer_destroy(&out);
}

static void a_session_without_messages(void **state)
{
	struct session_row row = {.name = "x"};
	struct history h = {};
	msgpack_sbuffer out;

	msgpack_sbuffer_init(&out);
	assert_int_equal(session_file_write(&row, &h, &out), 0);
	assert_int_equal(session_file_read(out.data, out.size, &row, &h), 0);
	assert_int_equal(h.n, 0);
	assert_int_equal(row.tokens, 0);
	history_done(&h);
	msgpack_sbuffer_destroy(&out);
}

/* Reads a copy of exactly that size, so that a sanitizer sees a byte too far. */
static int read_copy(const char *data, size_t len)
{
	char *copy = malloc(len ? len : 1);
	struct session_row row = {};
	struct history h = {};
	int r;

	assert_non_null(copy);
	memcpy(copy, data, len);
	(void)session_file_head(copy, len, &row);
	r = session_file_read(copy, len, &row, &h);
	if (r == 0) {
		msgpack_sbuffer again;

		assert_int_equal(row.messages, h.n);
		assert_true(h.n == 0 || h.messages[0]->begins);
		assert_true(history_turns(&h) <= h.n);
		msgpack_sbuffer_init(&again);
		assert_int_equal(session_file_write(&row, &h, &again), 0);
		msgpack_sbuffer_destroy(&again);
	} else {
		assert_int_equal(h.n, 0); /* untouched */
	}
	history_done(&h);
	free(copy);
	return r;
}

static void every_part_of_a_file_is_refused(void **state)
{
	msgpack_sbuffer out;

	write_sample(&out);
	for (size_t n = 0; n < out.size; n++)
		assert_int_equal(read_copy(out.data, n), -EBADMSG);
	msgpack_sbuffer_write(&out, "", 1);
	assert_int_equal(read_copy(out.data, out.size), -EBADMSG); /* and more than one */
	msgpack_sbuffer_destroy(&out);
}

static void every_flipped_bit_is_noticed_or_harmless(void **state)
{
	size_t accepted = 0, body;
	msgpack_sbuffer out;
	struct session_row row;
	struct history h;

	write_sample(&out);
	sample(&row, &h);
	history_done(&h);
	body = out.size - 300; /* of the head at most the row's numbers may change unnoticed */
	for (size_t i = 0; i < out.size * 8; i++) {
		out.data[i / 8] ^= (char)(1 << i % 8);
		if (read_copy(out.data, out.size) == 0) {
			accepted++;
			assert_true(i / 8 < body);
		}
		out.data[i / 8] ^= (char)(1 << i % 8);
	}
	assert_true(accepted < 120);
	msgpack_sbuffer_destroy(&out);
}

/* A file around a body of somebody's making: the digest fits. */
static int read_forged(const char *body, size_t len, uint32_t messages)
{
	struct digest *d = digest_new();
	uint8_t digest[DIGEST_BYTES];
	msgpack_sbuffer out;
	msgpack_packer pk;
	int r;

	assert_non_null(d);
	assert_int_equal(digest_add(d, body, len), 0);
	assert_int_equal(digest_now(d, digest), 0);
	digest_free(d);
	msgpack_sbuffer_init(&out);
	msgpack_packer_init(&pk, &out, msgpack_sbuffer_write);
	msgpack_pack_array(&pk, 9);
	msgpack_pack_str_with_body(&pk, "zeph session", 12);
	msgpack_pack_uint32(&pk, 1);
	msgpack_pack_str_with_body(&pk, "x", 1);
	msgpack_pack_uint64(&pk, 1700000000);
	msgpack_pack_uint32(&pk, messages);
	msgpack_pack_uint32(&pk, 0);
	msgpack_pack_uint32(&pk, 0);
	msgpack_pack_uint64(&pk, len);
	msgpack_pack_bin_with_body(&pk, digest, DIGEST_BYTES);
	msgpack_sbuffer_write(&out, body, len);
	r = read_copy(out.data, out.size);
	msgpack_sbuffer_destroy(&out);
	return r;
}
#define FORGED(body, messages) read_forged(body, sizeof(body) - 1, messages)
#define GOOD                   "\x95\xa4user\xa1x\xc3\x00\xc0"

static void bodies_of_somebodys_making(void **state)
{
	assert_int_equal(FORGED("\x91" GOOD, 1), 0);
	assert_int_equal(FORGED("\x91" GOOD, 2), -EBADMSG);
	assert_int_equal(FORGED("\x92" GOOD, 1), -EBADMSG);
	assert_int_equal(FORGED("\x92" GOOD GOOD, 2), 0);
	assert_int_equal(FORGED("\x91\x95\xa4user\xa1x\xc2\x00\xc0", 1), -EBADMSG);    /* no turn */
	assert_int_equal(FORGED("\x91\x95\xa4usar\xa1x\xc3\x00\xc0", 1), -EBADMSG);    /* role */
	assert_int_equal(FORGED("\x91\x95\xa4user\xa1\xff\xc3\x00\xc0", 1), -EBADMSG); /* UTF-8 */
	assert_int_equal(FORGED("\x91\x95\xa4user\xa1x\xc3\xff\xc0", 1), -EBADMSG);    /* -1 */
	assert_int_equal(FORGED("\x91\x95\xa4user\xa1x\xc3\x00\x90", 1), -EBADMSG);    /* ids */
	assert_int_equal(FORGED("\xdd\x1f\xff\xff\xff", 1), -EBADMSG); /* a list of 512 Mi */
	assert_int_equal(FORGED("\x91\x95\xdb\xff\xff\xff\xff", 1), -EBADMSG);
	assert_int_equal(FORGED("\x91\x91\x91\x91\x91\x91\xc0", 1), -EBADMSG);
	assert_int_equal(FORGED("\x80", 0), -EBADMSG);
	assert_int_equal(FORGED("\xc7\x00\x01", 0), -EBADMSG); /* ext */
}

static void mutated_bodies_do_no_harm(void **state)
{
	const char *wanted = getenv("ZEPH_MUTATIONS");
	const long n = wanted ? strtol(wanted, NULL, 10) : 20000;
	struct session_row row;
	size_t head, len;
	msgpack_sbuffer out;
	struct history h;
	long taken = 0;
	char *body;

	write_sample(&out);
	sample(&row, &h);
	history_done(&h);
	for (head = 0; head < out.size; head++) /* the body is what has the digest */
		if (memcmp(out.data + head, "\x97\x95\xa6system", 9) == 0)
			break;
	assert_true(head < out.size);
	len = out.size - head;
	body = malloc(len + 8);
	assert_non_null(body);
	srand(1);
	for (long i = 0; i < n; i++) {
		size_t m = len;

		memcpy(body, out.data + head, len);
		for (int k = rand() % 4; k >= 0; k--) {
			size_t at = (size_t)rand() % m;

			switch (rand() % 4) {
			case 0: body[at] = (char)rand(); break;
			case 1: body[at] ^= (char)(1 << rand() % 8); break;
			case 2: memmove(body + at, body + at + 1, --m - at); break;
			default: body[at] = (char)(0x90 + rand() % 0x50); break;
			}
		}
		taken += read_forged(body, m, 7) == 0;
	}
	assert_true(taken > 0 && taken < n); /* the mutations reach past the first check */
	free(body);
	msgpack_sbuffer_destroy(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(a_session_without_messages),
		cmocka_unit_test(every_part_of_a_file_is_refused),
		cmocka_unit_test(every_flipped_bit_is_noticed_or_harmless),
		cmocka_unit_test(bodies_of_somebodys_making),
		cmocka_unit_test(mutated_bodies_do_no_harm),
	};

	return cmocka_run_group_tests_name("session-file", tests, NULL, NULL);
}
