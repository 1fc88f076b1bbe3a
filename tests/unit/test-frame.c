/* Claims: the scanner finds a frame's end wherever the input is split, agrees with msgpack-c about
 * what a whole value is, and charges what a frame declares before its bytes arrive. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <msgpack.h>

#include "proto/frame.h"

static const struct frame_limits limits = {FRAME_BYTES_MAX, FRAME_ITEMS_MAX, FRAME_DEPTH_MAX};

struct bytes {
	const char *data;
	size_t len;
};
#define BYTES(literal)                                                                             \
	{                                                                                          \
		literal, sizeof(literal) - 1                                                       \
	}

/* One of every format that this protocol uses, and some messages. */
static const struct bytes corpus[] = {
	BYTES("\x00"),
	BYTES("\x7f"),
	BYTES("\xe0"),
	BYTES("\xff"),
	BYTES("\xc0"),
	BYTES("\xc2"),
	BYTES("\xc3"),
	BYTES("\xcc\xff"),
	BYTES("\xcd\x01\x02"),
	BYTES("\xce\x01\x02\x03\x04"),
	BYTES("\xcf\x01\x02\x03\x04\x05\x06\x07\x08"),
	BYTES("\xd0\x80"),
	BYTES("\xd1\x80\x00"),
	BYTES("\xd2\x80\x00\x00\x00"),
	BYTES("\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
	BYTES("\xca\x3f\x80\x00\x00"),
	BYTES("\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
	BYTES("\xa0"),
	BYTES("\xa3"
	      "abc"),
	BYTES("\xd9\x00"),
	BYTES("\xd9\x03"
	      "abc"),
	BYTES("\xda\x00\x03"
	      "abc"),
	BYTES("\xdb\x00\x00\x00\x03"
	      "abc"),
	BYTES("\xc4\x00"),
	BYTES("\xc4\x02\xdd\xdd"),
	BYTES("\xc5\x00\x02\xdd\xdd"),
	BYTES("\xc6\x00\x00\x00\x02\xdd\xdd"),
	BYTES("\x90"),
	BYTES("\x93\x01\x02\x03"),
	BYTES("\x93\x90\x91\x90\x80"),
	BYTES("\xdc\x00\x00"),
	BYTES("\xdc\x00\x02\xc0\xc0"),
	BYTES("\xdd\x00\x00\x00\x00"),
	BYTES("\xdd\x00\x00\x00\x02\xc0\x91\xc0"),
	BYTES("\x80"),
	BYTES("\x81\xa1"
	      "a\x01"),
	BYTES("\x81\x80\x90"),
	BYTES("\xde\x00\x00"),
	BYTES("\xde\x00\x01\xc0\xc0"),
	BYTES("\xdf\x00\x00\x00\x00"),
	BYTES("\xdf\x00\x00\x00\x01\xc0\x81\xc0\xc0"),
	BYTES("\x94\x00\x00\xa6status\x90"),
	BYTES("\x94\x00\xcd\x01\x00\xa8tokenize\x91\x81\xa4text\xc4\x05hello"),
	BYTES("\x94\x01\x07\xc0\x82\xa4text\xd9\x04\xf0\x9f\x98\x80\xa5usage\x81\xa6prompt\x0c"),
	BYTES("\x93\x02\xa5token\x91\x83\xa2id\x00\xa6tokens\x92\x01\x02\xa4text\xa0"),
};
#define N_CORPUS (sizeof(corpus) / sizeof(corpus[0]))

static void corpus_is_valid_msgpack(void **state)
{
	for (size_t i = 0; i < N_CORPUS; i++) {
		msgpack_unpacked u;
		size_t used = 0;

		msgpack_unpacked_init(&u);
		assert_int_equal(msgpack_unpack_next(&u, corpus[i].data, corpus[i].len, &used),
			MSGPACK_UNPACK_SUCCESS);
		assert_int_equal(used, corpus[i].len);
		msgpack_unpacked_destroy(&u);
	}
}

static void whole_frames_end_where_they_end(void **state)
{
	struct frame_scanner s;

	frame_scanner_init(&s, &limits);
	for (size_t i = 0; i < N_CORPUS; i++) {
		char padded[64];
		size_t used = 0;

		memset(padded, 0x92, sizeof(padded)); /* what follows is another frame's */
		memcpy(padded, corpus[i].data, corpus[i].len);
		assert_int_equal(frame_scan(&s, padded, sizeof(padded), &used), 1);
		assert_int_equal(used, corpus[i].len);
	}
}

static void every_split_in_two_gives_the_same_end(void **state)
{
	for (size_t i = 0; i < N_CORPUS; i++)
		for (size_t cut = 0; cut < corpus[i].len; cut++) {
			struct frame_scanner s;
			size_t used = 99;

			frame_scanner_init(&s, &limits);
			assert_int_equal(frame_scan(&s, corpus[i].data, cut, &used), 0);
			assert_int_equal(used, 99); /* untouched */
			assert_int_equal(
				frame_scan(&s, corpus[i].data + cut, corpus[i].len - cut, &used),
				1);
			assert_int_equal(used, corpus[i].len - cut);
		}
}

static void a_stream_of_single_bytes_gives_all_frames(void **state)
{
	struct frame_scanner s;
	size_t frames = 0;

	frame_scanner_init(&s, &limits);
	for (size_t i = 0; i < N_CORPUS; i++)
		for (size_t at = 0; at < corpus[i].len; at++) {
			size_t used;
			const int r = frame_scan(&s, corpus[i].data + at, 1, &used);

			assert_int_equal(r, at + 1 == corpus[i].len);
			frames += (size_t)r;
		}
	assert_int_equal(frames, N_CORPUS);
}

/* The result, and after how many bytes fed one at a time it came. */
static int dribble(const struct frame_limits *l, const void *data, size_t len, size_t *ret_at)
{
	struct frame_scanner s;
	size_t used, at;
	int r = 0;

	frame_scanner_init(&s, l);
	for (at = 0; at < len && r == 0; at++)
		r = frame_scan(&s, (const char *)data + at, 1, &used);
	*ret_at = at;
	return r;
}

static void half_a_billion_items_fail_at_the_fifth_byte(void **state)
{
	size_t at;

	assert_int_equal(dribble(&limits, "\xdd\x1f\xff\xff\xff\x00", 6, &at), -E2BIG);
	assert_int_equal(at, 5);
	assert_int_equal(dribble(&limits, "\xdf\xff\xff\xff\xff\x00", 6, &at), -E2BIG);
	assert_int_equal(at, 5);
}

static void four_gigabytes_of_text_fail_at_the_fifth_byte(void **state)
{
	size_t at;

	assert_int_equal(dribble(&limits, "\xdb\xff\xff\xff\xff\x00", 6, &at), -EMSGSIZE);
	assert_int_equal(at, 5);
	assert_int_equal(dribble(&limits, "\xc6\xff\xff\xff\xff\x00", 6, &at), -EMSGSIZE);
	assert_int_equal(at, 5);
}

static void depth_is_allowed_to_its_limit(void **state)
{
	char deep[10000];
	size_t at;

	memset(deep, 0x91, sizeof(deep));
	assert_int_equal(dribble(&limits, deep, sizeof(deep), &at), -ELOOP);
	assert_int_equal(at, FRAME_DEPTH_MAX + 1);
	memset(deep, 0x81, sizeof(deep)); /* maps as keys of maps */
	assert_int_equal(dribble(&limits, deep, sizeof(deep), &at), -ELOOP);
	assert_int_equal(at, FRAME_DEPTH_MAX + 1);
	memset(deep, 0x91, sizeof(deep));
	deep[FRAME_DEPTH_MAX] = 0x00;
	assert_int_equal(dribble(&limits, deep, FRAME_DEPTH_MAX + 1, &at), 1);
	deep[FRAME_DEPTH_MAX - 1] = (char)0x90; /* an empty container is as deep as a full one */
	assert_int_equal(dribble(&limits, deep, FRAME_DEPTH_MAX, &at), 1);
	deep[FRAME_DEPTH_MAX - 1] = (char)0x91;
	deep[FRAME_DEPTH_MAX] = (char)0x90;
	assert_int_equal(dribble(&limits, deep, FRAME_DEPTH_MAX + 1, &at), -ELOOP);
}

static void msgpack_reads_the_deepest_frame_that_is_allowed(void **state)
{
	char deep[FRAME_DEPTH_MAX + 1];
	msgpack_unpacked u;
	size_t used = 0;

	memset(deep, 0x91, FRAME_DEPTH_MAX);
	deep[FRAME_DEPTH_MAX] = 0x07;
	msgpack_unpacked_init(&u);
	assert_int_equal(
		msgpack_unpack_next(&u, deep, sizeof(deep), &used), MSGPACK_UNPACK_SUCCESS);
	assert_int_equal(used, sizeof(deep));
	msgpack_unpacked_destroy(&u);
}

static void bytes_are_allowed_to_their_limit(void **state)
{
	static const char exact[] = "\x92\xa3"
				    "abc\xcd\x00\x01"; /* 8 bytes */

	for (size_t bytes = 1; bytes < 8; bytes++) {
		const struct frame_limits few = {bytes, 16, 4};
		size_t at;

		assert_int_equal(dribble(&few, exact, 8, &at), -EMSGSIZE);
		assert_true(at <= bytes + 1);
	}
	assert_int_equal(dribble(&(struct frame_limits){8, 16, 4}, exact, 8, &(size_t){0}), 1);
}

static void items_are_allowed_to_their_limit(void **state)
{
	static const char seven[] = "\x93\x82\x01\x02\x03\x04\x05\x06"; /* 1 + 3 + 4 = 8 objects */
	size_t at;

	assert_int_equal(dribble(&(struct frame_limits){99, 8, 4}, seven, 8, &at), 1);
	assert_int_equal(dribble(&(struct frame_limits){99, 7, 4}, seven, 8, &at), -E2BIG);
	assert_int_equal(at, 2);
	assert_int_equal(dribble(&(struct frame_limits){99, 3, 4}, seven, 8, &at), -E2BIG);
	assert_int_equal(at, 1);
}

static void items_start_at_zero_in_the_next_frame(void **state)
{
	const struct frame_limits few = {99, 4, 4};
	struct frame_scanner s;
	size_t used;

	frame_scanner_init(&s, &few);
	for (int i = 0; i < 10; i++)
		assert_int_equal(frame_scan(&s, "\x93\x01\x02\x03", 4, &used), 1);
}

static void ext_types_and_the_unused_byte_are_refused(void **state)
{
	static const uint8_t bad[] = {0xc1, 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8};
	size_t at;

	for (size_t i = 0; i < sizeof(bad); i++) {
		const uint8_t nested[] = {0x91, bad[i]};

		assert_int_equal(dribble(&limits, &bad[i], 1, &at), -EPROTO);
		assert_int_equal(dribble(&limits, nested, 2, &at), -EPROTO);
		assert_int_equal(at, 2);
	}
}

static void every_other_first_byte_begins_a_value(void **state)
{
	for (int b = 0; b < 256; b++) {
		const uint8_t byte = (uint8_t)b;
		const int bad = b == 0xc1 || (b >= 0xc7 && b <= 0xc9) || (b >= 0xd4 && b <= 0xd8);
		size_t at;

		assert_int_equal(dribble(&limits, &byte, 1, &at) == -EPROTO, bad);
	}
}

/* The scanner's only loop runs once per byte or per run of body bytes: a frame of 2 MiB in single
 * bytes costs at most a small multiple of the same frame at once. A scan from the start at each
 * byte would cost a million times more; the bound of two seconds only tells these two apart. */
static void single_bytes_cost_linear_time(void **state)
{
	const size_t n = 65535;
	uint8_t *frame = malloc(n + 3);
	struct timespec a, b;
	size_t at;

	assert_non_null(frame);
	frame[0] = 0xdc;
	frame[1] = frame[2] = 0xff;
	memset(frame + 3, 0xc0, n);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(dribble(&limits, frame, n + 3, &at), 1);
		assert_int_equal(at, n + 3);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	assert_true(b.tv_sec - a.tv_sec < 2);
	free(frame);
}

static void a_broken_requests_id_is_read_from_its_first_bytes(void **state)
{
	static const struct {
		struct bytes bytes;
		bool known;
		uint32_t id;
	} cases[] = {
		{BYTES("\x94\x00\x00"), true, 0},
		{BYTES("\x94\x00\x7f\xc1"), true, 127},
		{BYTES("\x94\x00\xcc\xff\xa4"), true, 255},
		{BYTES("\x94\x00\xcd\x01\x00"), true, 256},
		{BYTES("\x94\x00\xce\xff\xff\xff\xff"), true, UINT32_MAX},
		{BYTES("\x94\x00\xcf\x00\x00\x00\x00\x00\x00\x00\x05"), true, 5},
		{BYTES("\x94\x00\xd0\x05"), true, 5},
		{BYTES("\x94\xcc\x00\xd3\x00\x00\x00\x00\x00\x00\x00\x06"), true, 6},
		{BYTES("\xdc\x00\x04\x00\x07"), true, 7},
		{BYTES("\xdd\x00\x00\x00\x04\x00\x08"), true, 8},
		{BYTES(""), false, 0},
		{BYTES("\x94"), false, 0},
		{BYTES("\x94\x00"), false, 0},
		{BYTES("\x94\x00\xcd\x01"), false, 0},
		{BYTES("\x94\x01\x05"), false, 0},
		{BYTES("\x93\x02\x05"), false, 0},
		{BYTES("\x91\x00\x05"), false, 0},
		{BYTES("\x94\x00\xff"), false, 0},
		{BYTES("\x94\x00\xd0\x80"), false, 0},
		{BYTES("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00"), false, 0},
		{BYTES("\xdd\x1f\xff\xff\xff"), false, 0},
		{BYTES("\xdd\x00\x00"), false, 0},
		{BYTES("\x82\x00\x05"), false, 0},
		{BYTES("\x94\x00\xa1\x05"), false, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t id = 99;

		assert_int_equal(frame_request_id(cases[i].bytes.data, cases[i].bytes.len, &id),
			cases[i].known);
		assert_int_equal(id, cases[i].known ? cases[i].id : 99);
	}
}

static void failures_name_the_limit(void **state)
{
	char text[128];

	assert_non_null(strstr(frame_error(-EMSGSIZE, &limits, text, sizeof(text)), "2097152"));
	assert_non_null(strstr(frame_error(-E2BIG, &limits, text, sizeof(text)), "65536 items"));
	assert_non_null(strstr(frame_error(-ELOOP, &limits, text, sizeof(text)), "32"));
	assert_non_null(strstr(frame_error(-EPROTO, &limits, text, sizeof(text)), "ext types"));
	assert_non_null(strstr(frame_error(-ETIMEDOUT, &limits, text, sizeof(text)), "10 s"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(corpus_is_valid_msgpack),
		cmocka_unit_test(whole_frames_end_where_they_end),
		cmocka_unit_test(every_split_in_two_gives_the_same_end),
		cmocka_unit_test(a_stream_of_single_bytes_gives_all_frames),
		cmocka_unit_test(half_a_billion_items_fail_at_the_fifth_byte),
		cmocka_unit_test(four_gigabytes_of_text_fail_at_the_fifth_byte),
		cmocka_unit_test(depth_is_allowed_to_its_limit),
		cmocka_unit_test(msgpack_reads_the_deepest_frame_that_is_allowed),
		cmocka_unit_test(bytes_are_allowed_to_their_limit),
		cmocka_unit_test(items_are_allowed_to_their_limit),
		cmocka_unit_test(items_start_at_zero_in_the_next_frame),
		cmocka_unit_test(ext_types_and_the_unused_byte_are_refused),
		cmocka_unit_test(every_other_first_byte_begins_a_value),
		cmocka_unit_test(single_bytes_cost_linear_time),
		cmocka_unit_test(a_broken_requests_id_is_read_from_its_first_bytes),
		cmocka_unit_test(failures_name_the_limit),
	};

	return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
