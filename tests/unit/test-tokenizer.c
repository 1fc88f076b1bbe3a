/* The tokenizer over small vocabularies made here: provenance, control tokens, decoding, refusals.
 * That ids equal those of other tokenizers is shown by tests/test_tokenizers.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/limits.h"
#include "engine/source_gguf.h"
#include "engine/tokenizer.h"

/* A GGUF file of metadata alone, in memory. */
struct file {
	int fd;
	uint64_t keys;
};

static void put(struct file *f, const void *bytes, size_t n)
{
	assert_int_equal(write(f->fd, bytes, n), n);
}

static void put_u32(struct file *f, uint32_t value)
{
	put(f, &value, sizeof(value));
}

static void put_u64(struct file *f, uint64_t value)
{
	put(f, &value, sizeof(value));
}

static void put_string(struct file *f, const char *s)
{
	put_u64(f, strlen(s));
	put(f, s, strlen(s));
}

static void put_key(struct file *f, const char *name, enum gguf_type type)
{
	char key[80];

	snprintf(key, sizeof(key), "tokenizer.ggml.%s", name);
	put_string(f, key);
	put_u32(f, type);
	f->keys++;
}

static void put_array(struct file *f, const char *name, enum gguf_type type, size_t n)
{
	put_key(f, name, GGUF_ARRAY);
	put_u32(f, type);
	put_u64(f, n);
}

static void put_strings(struct file *f, const char *name, const char *const *items, size_t n)
{
	size_t i;

	put_array(f, name, GGUF_STRING, n);
	for (i = 0; i < n; i++)
		put_string(f, items[i]);
}

static void put_bool(struct file *f, const char *name, bool value)
{
	put_key(f, name, GGUF_BOOL);
	put(f, &(char){value}, 1);
}

static void put_id(struct file *f, const char *name, uint32_t id)
{
	put_key(f, name, GGUF_U32);
	put_u32(f, id);
}

static struct file file_new(const char *model)
{
	struct file f = {.fd = memfd_create("model.gguf", MFD_CLOEXEC)};

	assert_true(f.fd >= 0);
	put_u32(&f, 0x46554747);
	put_u32(&f, 3);
	put_u64(&f, 0); /* tensors */
	put_u64(&f, 0); /* keys, known in the end */
	put_key(&f, "model", GGUF_STRING);
	put_string(&f, model);
	return f;
}

/* Makes the tokenizer and closes the file. */
static int file_open(struct file *f, struct tokenizer **ret, char *error, size_t error_size)
{
	struct tokenizer_source source = {0};
	struct gguf *g;
	int r;

	assert_int_equal(pwrite(f->fd, &f->keys, sizeof(f->keys), 16), sizeof(f->keys));
	r = gguf_open_fd(f->fd, &g, error, error_size);
	close(f->fd);
	if (r < 0)
		fail_msg("%s", error);
	r = source_gguf_tokenizer(g, &source, &(struct model_refusal){error, error_size});
	if (r == 0)
		r = tokenizer_new(&source, ret, error, error_size);
	tokenizer_source_done(&source);
	gguf_close(g);
	return r;
}

static struct tokenizer *file_tokenizer(struct file *f)
{
	struct tokenizer *t = NULL;
	char error[256];

	if (file_open(f, &t, error, sizeof(error)) < 0)
		fail_msg("%s", error);
	return t;
}

static void expect_refusal(struct file *f, int code, const char *part)
{
	struct tokenizer *t = NULL;
	char error[256] = "";

	assert_int_equal(file_open(f, &t, error, sizeof(error)), code);
	assert_null(t);
	if (!strstr(error, part))
		fail_msg("\"%s\" does not say \"%s\"", error, part);
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum {
	END = 0,
	BEGIN,
	LONG_END,
	LETTER_A,
	LETTER_B,
	LETTER_C,
	SPACE,
	AB,
	ABC,
	BC,
	E_LEAD,
	E_TAIL,
	E_WHOLE,
	TOOL,
	R1,
	R2,
	R3,
	REPLACEMENT_2,
	REPLACEMENT,
	LESS,
	LETTER_E
};

static const char *const byte_tokens[] = {"<e>", "<b>", "<e>>", "a", "b", "c", "\xc4\xa0", "ab",
	"abc", "bc", "\xc3\x83", "\xc2\xa9", "\xc3\x83\xc2\xa9", "tool!", "\xc3\xaf", "\xc2\xbf",
	"\xc2\xbd", "\xc3\xaf\xc2\xbf", "\xc3\xaf\xc2\xbf\xc2\xbd", "<", "e"};
static const int32_t byte_types[] = {3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1};
static const char *const byte_merges[] = {"b c", "a b", "ab c", "a bc", "\xc3\x83 \xc2\xa9",
	"\xc3\xaf \xc2\xbf", "\xc3\xaf\xc2\xbf \xc2\xbd"};

static void put_byte_vocabulary(struct file *f)
{
	put_strings(f, "tokens", byte_tokens, COUNT(byte_tokens));
	put_array(f, "token_type", GGUF_I32, COUNT(byte_types));
	put(f, byte_types, sizeof(byte_types));
}

static struct tokenizer *byte_tokenizer(void)
{
	struct file f = file_new("gpt2");

	put_byte_vocabulary(&f);
	put_strings(&f, "merges", byte_merges, COUNT(byte_merges));
	put_key(&f, "pre", GGUF_STRING);
	put_string(&f, "gpt-2");
	put_id(&f, "bos_token_id", BEGIN);
	put_id(&f, "eos_token_id", END);
	put_bool(&f, "add_bos_token", true);
	return file_tokenizer(&f);
}

static const char *const piece_tokens[] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b",
	"\xe2\x96\x81"
	"a",
	"ab",
	"\xe2\x96\x81"
	"ab",
	"<0x0A>", "\xe2\x96\x81\xe2\x96\x81", "<tag>"};
static const int32_t piece_types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 6, 1, 4};
static const float piece_scores[] = {0, 0, 0, -9, -10, -11, -3, -2, -1, 0, -4, 0};

/* With all byte tokens: 12 + byte, but for the newline, which is 9. */
static struct tokenizer *piece_tokenizer(void)
{
	struct file f = file_new("llama");
	float none = 0;
	int32_t byte_type = 6;
	size_t i, n = COUNT(piece_tokens);
	char name[8];

	put_array(&f, "tokens", GGUF_STRING, n + 256);
	for (i = 0; i < n; i++)
		put_string(&f, piece_tokens[i]);
	for (i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "<0x%02X>", (unsigned)i);
		put_string(&f, name);
	}
	put_array(&f, "token_type", GGUF_I32, n + 256);
	put(&f, piece_types, sizeof(piece_types));
	for (i = 0; i < 256; i++)
		put(&f, &byte_type, sizeof(byte_type));
	put_array(&f, "scores", GGUF_F32, n + 256);
	put(&f, piece_scores, sizeof(piece_scores));
	for (i = 0; i < 256; i++)
		put(&f, &none, sizeof(none));
	return file_tokenizer(&f);
}

static void expect_spans(const struct tokenizer *t, const struct text_span *spans, size_t n_spans,
	unsigned flags, const int32_t *wanted, size_t n)
{
	struct token_list ids = {0};

	assert_int_equal(tokenizer_encode(t, spans, n_spans, flags, &ids), 0);
	assert_int_equal(ids.n, n);
	if (n)
		assert_memory_equal(ids.ids, wanted, n * sizeof(*wanted));
	token_list_done(&ids);
	assert_null(ids.ids);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__}), COUNT(((const int32_t[]){__VA_ARGS__}))

static void expect_text(const struct tokenizer *t, const char *text, bool trusted, unsigned flags,
	const int32_t *wanted, size_t n)
{
	struct text_span span = {.text = text, .len = strlen(text), .trusted = trusted};

	expect_spans(t, &span, 1, flags, wanted, n);
}

static void expect_decoded(
	const struct tokenizer *t, unsigned flags, const char *wanted, const int32_t *ids, size_t n)
{
	size_t len;
	char *text;

	assert_int_equal(tokenizer_decode(t, ids, n, flags, &text, &len), 0);
	assert_string_equal(text, wanted);
	assert_int_equal(len, strlen(wanted));
	free(text);
}

static void merges_go_by_rank_then_from_the_left(void **state)
{
	struct tokenizer *t = byte_tokenizer();

	expect_text(t, "", false, 0, NULL, 0);
	expect_text(t, "a", false, 0, IDS(LETTER_A));
	expect_text(t, "abc", false, 0, IDS(ABC)); /* b c first, then a bc */
	expect_text(t, "ab", false, 0, IDS(AB));
	expect_text(t, "bcbc", false, 0, IDS(BC, BC));
	expect_text(t, "abab c", false, 0, IDS(AB, AB, SPACE, LETTER_C));
	expect_text(t, "ab", false, TOKENIZE_INTERPRET, IDS(AB));
	tokenizer_free(t);
}

static void control_tokens_come_from_trusted_text_alone(void **state)
{
	struct tokenizer *t = byte_tokenizer();

	expect_text(t, "<e>", true, 0, IDS(END));
	expect_text(t, "a<e>b", true, 0, IDS(LETTER_A, END, LETTER_B));
	expect_text(t, "<e>>", true, 0, IDS(LONG_END)); /* the longest */
	expect_text(t, "<<e><b>", true, 0, IDS(LESS, END, BEGIN));
	expect_text(t, "<e", true, 0, IDS(LESS, LETTER_E));
	expect_text(t, "<e", false, 0, IDS(LESS, LETTER_E)); /* there is no token for '>' */
	expect_text(t, "<e>", false, 0, IDS(LESS, LETTER_E));
	tokenizer_free(t);
}

/* Each way to cut "a<e>b" into a trusted and a typed part, both ways round. */
static void a_control_token_is_trusted_in_each_of_its_bytes(void **state)
{
	static const char text[] = "a<e>b";
	struct tokenizer *t = byte_tokenizer();
	size_t cut, first;

	for (cut = 0; cut <= 5; cut++) {
		for (first = 0; first < 2; first++) {
			struct text_span spans[] = {
				{.text = text, .len = cut, .trusted = first},
				{.text = text + cut, .len = 5 - cut, .trusted = !first},
			};

			if (first ? cut >= 4 : cut <= 1)
				expect_spans(t, spans, 2, 0, IDS(LETTER_A, END, LETTER_B));
			else
				expect_spans(
					t, spans, 2, 0, IDS(LETTER_A, LESS, LETTER_E, LETTER_B));
		}
	}
	tokenizer_free(t);
}

static void a_border_between_spans_is_no_border_between_tokens(void **state)
{
	static const char text[] = "abc\xc3\xa9"
				   "abc";
	struct tokenizer *t = byte_tokenizer();
	size_t first, second;

	for (first = 0; first <= 8; first++) {
		for (second = first; second <= 8; second++) {
			struct text_span spans[] = {
				{.text = text, .len = first, .trusted = true},
				{.text = text + first, .len = second - first},
				{.text = text + second, .len = 8 - second, .trusted = true},
			};

			expect_spans(t, spans, 3, 0, IDS(ABC, E_WHOLE, ABC));
		}
	}
	tokenizer_free(t);
}

static void invalid_text_is_repaired_across_borders(void **state)
{
	struct tokenizer *t = byte_tokenizer();
	struct text_span halves[] = {
		{.text = "a\xc3", .len = 2, .trusted = true},
		{.text = "\xa9"
			 "b",
			.len = 2},
	};
	struct text_span broken[] = {
		{.text = "\xff"
			 "a\xe2\x96",
			.len = 4},
		{.text = "<e>", .len = 3, .trusted = true},
		{.text = "\x80", .len = 1},
	};
	/* One bad sequence over a border is one replacement, typed if a byte of it is. */
	struct text_span shared[] = {
		{.text = "\xe2", .len = 1, .trusted = true},
		{.text = "\x96", .len = 1},
		{.text = "<e>", .len = 3, .trusted = true},
	};

	expect_spans(t, halves, 2, 0, IDS(LETTER_A, E_WHOLE, LETTER_B));
	expect_spans(t, broken, 3, 0, IDS(REPLACEMENT, LETTER_A, REPLACEMENT, END, REPLACEMENT));
	expect_spans(t, shared, 3, 0, IDS(REPLACEMENT, END));
	tokenizer_free(t);
}

static void special_tokens_are_added_as_asked(void **state)
{
	struct tokenizer *t = byte_tokenizer();

	assert_true(tokenizer_adds_bos(t));
	assert_int_equal(tokenizer_bos(t), BEGIN);
	assert_int_equal(tokenizer_eos(t), END);
	assert_int_equal(tokenizer_unknown(t), -1);
	assert_int_equal(tokenizer_vocab(t), COUNT(byte_tokens));
	expect_text(t, "a", false, TOKENIZE_BOS, IDS(BEGIN, LETTER_A));
	expect_text(t, "a", false, TOKENIZE_MODEL, IDS(BEGIN, LETTER_A));
	expect_text(t, "", false, TOKENIZE_MODEL, IDS(BEGIN));
	/* A template that writes BOS itself means one; who types it does not. */
	expect_text(t, "<b>a", true, TOKENIZE_MODEL, IDS(BEGIN, LETTER_A));
	expect_text(t, "<b>a", true, TOKENIZE_BOS, IDS(BEGIN, BEGIN, LETTER_A));
	expect_text(t, "<b>a", false, TOKENIZE_MODEL, IDS(BEGIN, LESS, LETTER_B, LETTER_A));
	tokenizer_free(t);
}

static void tokens_are_found_by_their_text(void **state)
{
	struct tokenizer *t = byte_tokenizer(), *p = piece_tokenizer();

	assert_int_equal(tokenizer_find(t, "<e>", 3), END);
	assert_int_equal(tokenizer_find(t, "<e>>", 4), LONG_END);
	assert_int_equal(tokenizer_find(t, "\xc3\xa9", 2), E_WHOLE);
	assert_int_equal(tokenizer_find(t, " ", 1), SPACE);
	assert_int_equal(tokenizer_find(t, "ab", 1), LETTER_A);
	assert_int_equal(tokenizer_find(t, "nothing", 7), -1);
	assert_int_equal(tokenizer_find(t, "", 0), -1);
	assert_int_equal(tokenizer_find(p, " ab", 3), 8);
	assert_int_equal(tokenizer_find(p, "</s>", 4), 2);
	assert_true(tokenizer_is_control(t, LONG_END));
	assert_false(tokenizer_is_control(t, TOOL));
	assert_false(tokenizer_is_control(t, -1));
	assert_false(tokenizer_is_control(t, (int32_t)COUNT(byte_tokens)));
	tokenizer_free(t);
	tokenizer_free(p);
}

static void decoding_writes_control_tokens_only_if_asked(void **state)
{
	struct tokenizer *t = byte_tokenizer();
	size_t len;
	char *text;

	expect_decoded(t, 0, "", NULL, 0);
	expect_decoded(t, 0, "ab tool!\xc3\xa9", IDS(BEGIN, AB, SPACE, TOOL, E_WHOLE, END));
	expect_decoded(t, DETOKENIZE_SPECIAL, "<b>ab<e>", IDS(BEGIN, AB, END));
	expect_decoded(t, 0, "\xc3", IDS(E_LEAD)); /* bytes as the token holds them */
	assert_int_equal(tokenizer_piece(t, END).len, 0);
	assert_int_equal(tokenizer_piece(t, -1).len, 0);
	assert_int_equal(tokenizer_piece(t, (int32_t)COUNT(byte_tokens)).len, 0);
	assert_int_equal(tokenizer_piece(t, E_TAIL).len, 1);
	assert_int_equal(tokenizer_decode(t, IDS(-1), 0, &text, &len), -EINVAL);
	assert_int_equal(tokenizer_decode(t, IDS(COUNT(byte_tokens)), 0, &text, &len), -EINVAL);
	tokenizer_free(t);
}

static void pieces_merge_by_score_and_the_rest_is_bytes(void **state)
{
	struct tokenizer *t = piece_tokenizer();

	assert_true(tokenizer_adds_bos(t));
	assert_int_equal(tokenizer_bos(t), 1);
	assert_int_equal(tokenizer_unknown(t), 0);
	expect_text(t, "", false, 0, NULL, 0);
	expect_text(t, "ab", false, 0, IDS(8));
	expect_text(t, " ab", false, 0, IDS(3, 8)); /* ab before its two spaces */
	expect_text(t, "  ", false, 0, IDS(10, 3));
	expect_text(t, "\n", false, 0, IDS(3, 9));
	expect_text(t, "a\xc3\xa9", false, 0, IDS(6, 12 + 0xc3, 12 + 0xa9));
	expect_text(t, "a<tag>b", false, 0, IDS(6, 11, 5));
	tokenizer_free(t);
}

static void expect_continued(const struct tokenizer *t, int32_t behind, const char *text,
	bool trusted, const int32_t *expected, size_t n)
{
	const struct text_span span = {text, strlen(text), trusted};
	struct token_list ids;

	assert_int_equal(tokenizer_continue(t, behind, &span, 1, &ids), 0);
	assert_int_equal(ids.n, n);
	if (n > 0)
		assert_memory_equal(ids.ids, expected, n * sizeof(*expected));
	token_list_done(&ids);
}

static void a_text_that_goes_on_has_no_space_of_its_own(void **state)
{
	struct tokenizer *t = piece_tokenizer();

	/* behind text, in bytes or pieces, as one text has it: 6 is a, 9 a newline */
	expect_continued(t, 6, "a", false, IDS(4));
	expect_continued(t, 9, "a", false, IDS(4));
	expect_continued(t, 9, " ab", false, IDS(8));
	expect_continued(t, 9, "", false, NULL, 0);
	/* behind a control token, as each stretch */
	expect_continued(t, 2, "ab", false, IDS(8));
	expect_continued(t, 9, "a</s>ab", true, IDS(4, 2, 8));
	expect_continued(t, 1 << 20, "a", false, IDS(4)); /* an id that has no text */
	tokenizer_free(t);
}

static void each_stretch_between_control_tokens_has_its_own_space(void **state)
{
	struct tokenizer *t = piece_tokenizer();

	expect_text(t, "ab</s>\n</s>", true, TOKENIZE_MODEL, IDS(1, 8, 2, 3, 9, 2));
	/* what continues other tokens' text has none in front of it, behind a control token it has
	 */
	expect_text(t, "\n</s>\n", true, TOKENIZE_CONTINUE, IDS(9, 2, 3, 9));
	expect_text(t, "</s>\n", true, TOKENIZE_CONTINUE, IDS(2, 3, 9));
	expect_text(t, " ab", false, TOKENIZE_CONTINUE, IDS(8));
	expect_decoded(t, DETOKENIZE_SPECIAL, "<s>ab</s>\n</s>", IDS(1, 8, 2, 3, 9, 2));
	expect_decoded(t, 0, "ab\n", IDS(1, 8, 2, 3, 9, 2));
	expect_decoded(t, 0, "ab ab", IDS(8, 8));
	expect_decoded(t, DETOKENIZE_CONTINUE, " ab ab", IDS(8, 8));
	expect_decoded(t, 0, "  ", IDS(10, 3));
	expect_decoded(t, 0, "<tag>", IDS(3, 11));
	expect_decoded(t, DETOKENIZE_SPECIAL, "<unk>", IDS(0));
	assert_int_equal(tokenizer_piece(t, 8).len, 3);
	assert_memory_equal(tokenizer_piece(t, 8).text, " ab", 3);
	assert_int_equal(tokenizer_piece(t, 9).len, 1);
	tokenizer_free(t);
}

static void a_text_over_the_limit_is_refused(void **state)
{
	struct tokenizer *t = byte_tokenizer();
	struct text_span spans[2] = {{.text = "", .len = TEXT_BYTES_MAX}, {.text = "a", .len = 1}};
	struct token_list ids = {0};

	assert_int_equal(tokenizer_encode(t, spans, 2, 0, &ids), -E2BIG);
	spans[0].len = SIZE_MAX;
	assert_int_equal(tokenizer_encode(t, spans, 2, 0, &ids), -E2BIG);
	assert_null(ids.ids);
	tokenizer_free(t);
}

static void bad_metadata_is_refused_by_key(void **state)
{
	static const char *const no_pair[] = {"ab"}, *const unknown[] = {"a c"},
				 *const control[] = {"a b", "b c", "< e"};
	static const int32_t type_9[COUNT(byte_tokens)] = {9};
	const char *key = "tokenizer.ggml.merges: entry 0";
	struct tokenizer *t;
	struct file f;
	float nan_score;
	uint32_t nan_bits = 0x7fc00000;
	size_t i;

	f = file_new("wordpiece");
	expect_refusal(&f, -ENOTSUP, "tokenizer.ggml.model: \"wordpiece\"");
	f = file_new("gpt2");
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.tokens: missing");
	f = file_new("gpt2");
	put_strings(&f, "tokens", NULL, 0);
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.tokens: 0 tokens");
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.merges: missing");
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	put_strings(&f, "merges", no_pair, 1);
	expect_refusal(&f, -EINVAL, key);
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	put_strings(&f, "merges", unknown, 1);
	expect_refusal(&f, -EINVAL, key);
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	put_strings(&f, "merges", control, 3);
	expect_refusal(&f, -EINVAL, "entry 2");
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	put_id(&f, "eos_token_id", COUNT(byte_tokens));
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.eos_token_id: token 21 of 21");
	f = file_new("gpt2");
	put_strings(&f, "tokens", byte_tokens, COUNT(byte_tokens));
	put_array(&f, "token_type", GGUF_I32, COUNT(byte_tokens) - 1);
	put(&f, byte_types, sizeof(byte_types) - sizeof(byte_types[0]));
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.token_type: 20 types for 21 tokens");
	f = file_new("gpt2");
	put_strings(&f, "tokens", byte_tokens, COUNT(byte_tokens));
	put_array(&f, "token_type", GGUF_I32, COUNT(byte_tokens));
	put(&f, type_9, sizeof(type_9));
	expect_refusal(&f, -EINVAL, "token 0 has type 9");
	f = file_new("gpt2");
	put_byte_vocabulary(&f);
	put_strings(&f, "merges", byte_merges, COUNT(byte_merges));
	put_bool(&f, "add_bos_token", true);
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.add_bos_token: true, but");
	f = file_new("llama");
	put_strings(&f, "tokens", piece_tokens, COUNT(piece_tokens));
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.scores: missing");
	f = file_new("llama");
	put_strings(&f, "tokens", piece_tokens, COUNT(piece_tokens));
	memcpy(&nan_score, &nan_bits, sizeof(nan_score));
	put_array(&f, "scores", GGUF_F32, COUNT(piece_tokens));
	for (i = 0; i < COUNT(piece_tokens); i++)
		put(&f, &nan_score, sizeof(nan_score));
	expect_refusal(&f, -EINVAL, "tokenizer.ggml.scores: token 0");
	/* A rule whose whole is a control token is left unused: text never becomes one. */
	f = file_new("gpt2");
	put_strings(&f, "tokens", (const char *const[]){"a", "b", "ab"}, 3);
	put_array(&f, "token_type", GGUF_I32, 3);
	put(&f, (const int32_t[]){1, 1, 3}, 12);
	put_strings(&f, "merges", (const char *const[]){"a b"}, 1);
	t = file_tokenizer(&f);
	expect_text(t, "ab", false, 0, IDS(0, 1));
	expect_text(t, "ab", true, 0, IDS(2));
	tokenizer_free(t);
	assert_null(tokenizer_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges_go_by_rank_then_from_the_left),
		cmocka_unit_test(control_tokens_come_from_trusted_text_alone),
		cmocka_unit_test(a_control_token_is_trusted_in_each_of_its_bytes),
		cmocka_unit_test(a_border_between_spans_is_no_border_between_tokens),
		cmocka_unit_test(invalid_text_is_repaired_across_borders),
		cmocka_unit_test(special_tokens_are_added_as_asked),
		cmocka_unit_test(tokens_are_found_by_their_text),
		cmocka_unit_test(decoding_writes_control_tokens_only_if_asked),
		cmocka_unit_test(pieces_merge_by_score_and_the_rest_is_bytes),
		cmocka_unit_test(each_stretch_between_control_tokens_has_its_own_space),
		cmocka_unit_test(a_text_that_goes_on_has_no_space_of_its_own),
		cmocka_unit_test(a_text_over_the_limit_is_refused),
		cmocka_unit_test(bad_metadata_is_refused_by_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
