/* Synthetic vocabularies: small enough to make, real enough to tokenise any text.
 *
 * Words are built from letters in the order of their frequency in English: pairs, then triples,
 * then fours, with and without a space in front, each by one merge of two earlier ones. Every byte
 * has a token, so nothing is unknown. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_model.h"
#include "engine/mkmodel.h"
#include "engine/pretokenize.h"
#include "engine/template.h"

static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz";
#define N_LETTERS  26
#define TEXT_BYTES 32 /* the longest token's text and a NUL */

struct vocabulary {
	uint32_t n, n_merges, room;
	char (*texts)[TEXT_BYTES];     /* [room] */
	char (*merges)[2][TEXT_BYTES]; /* [room] left, right */
	int32_t *types;                /* [room] */
	float *scores;                 /* [room] */
};

static void vocabulary_free(void *owner)
{
	struct vocabulary *v = owner;

	free(v->texts);
	free(v->merges);
	free(v->types);
	free(v->scores);
	free(v);
}

static struct vocabulary *vocabulary_new(uint32_t room)
{
	struct vocabulary *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->room = room;
	v->texts = calloc(room, sizeof(*v->texts));
	v->merges = calloc(room, sizeof(*v->merges));
	v->types = calloc(room, sizeof(*v->types));
	v->scores = calloc(room, sizeof(*v->scores));
	if (v->texts && v->merges && v->types && v->scores)
		return v;
	vocabulary_free(v);
	return NULL;
}

static void add(struct vocabulary *v, const char *text, int32_t type, float score)
{
	if (v->n == v->room)
		return;
	snprintf(v->texts[v->n], TEXT_BYTES, "%s", text);
	v->types[v->n] = type;
	v->scores[v->n] = score;
	v->n++;
}

/* A word and the merge that makes it, until there are `limit` tokens. Earlier ones score higher. */
static void join(struct vocabulary *v, uint32_t limit, const char *left, const char *right)
{
	char text[TEXT_BYTES];

	if (v->n >= limit)
		return;
	snprintf(text, sizeof(text), "%s%s", left, right);
	snprintf(v->merges[v->n_merges][0], TEXT_BYTES, "%s", left);
	snprintf(v->merges[v->n_merges][1], TEXT_BYTES, "%s", right);
	add(v, text, TOKEN_NORMAL, -(float)v->n_merges);
	v->n_merges++;
}

static void add_words(struct vocabulary *v, uint32_t limit, const char *space)
{
	unsigned with_space, a, b, c, d;
	char x[8], spaced[16], y[8];

	for (a = 0; a < N_LETTERS; a++) {
		snprintf(x, sizeof(x), "%c", letters[a]);
		join(v, limit, space, x);
	}
	for (with_space = 0; with_space < 2; with_space++)
		for (a = 0; a < N_LETTERS; a++)
			for (b = 0; b < N_LETTERS; b++) {
				snprintf(spaced, sizeof(spaced), "%s%c", with_space ? space : "",
					letters[a]);
				snprintf(y, sizeof(y), "%c", letters[b]);
				join(v, limit, spaced, y);
			}
	for (with_space = 0; with_space < 2; with_space++)
		for (a = 0; a < N_LETTERS; a++)
			for (b = 0; b < N_LETTERS; b++)
				for (c = 0; c < N_LETTERS && v->n < limit; c++) {
					snprintf(spaced, sizeof(spaced), "%s%c%c",
						with_space ? space : "", letters[a], letters[b]);
					snprintf(y, sizeof(y), "%c", letters[c]);
					join(v, limit, spaced, y);
				}
	for (a = 0; a < N_LETTERS; a++)
		for (b = 0; b < N_LETTERS; b++)
			for (c = 0; c < N_LETTERS; c++)
				for (d = 0; d < N_LETTERS && v->n < limit; d++) {
					snprintf(x, sizeof(x), "%c%c", letters[a], letters[b]);
					snprintf(y, sizeof(y), "%c%c", letters[c], letters[d]);
					join(v, limit, x, y);
				}
}

/* GPT-2's printable stand-in for a byte: itself where it is a visible Latin-1 character, else the
 * next free code point from 256 on. All are below U+0800. */
static void byte_text(unsigned byte, char text[4])
{
	unsigned code = byte, i;

	if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) {
		code = 256;
		for (i = 0; i < byte; i++)
			if (!((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174))
				code++;
	}
	if (code < 0x80)
		snprintf(text, 4, "%c", (char)code);
	else
		snprintf(text, 4, "%c%c", (char)(0xc0 | code >> 6), (char)(0x80 | (code & 0x3f)));
}

static void fill_byte_level(struct vocabulary *v)
{
	char text[4], space[4];
	unsigned byte;

	add(v, "<|endoftext|>", TOKEN_CONTROL, 0);
	add(v, "<|im_start|>", TOKEN_CONTROL, 0);
	add(v, "<|im_end|>", TOKEN_CONTROL, 0);
	for (byte = 0; byte < 256; byte++) {
		byte_text(byte, text);
		add(v, text, TOKEN_NORMAL, 0);
	}
	byte_text(' ', space);
	add_words(v, v->room, space);
}

static void fill_sentencepiece(struct vocabulary *v)
{
	static const char space[] = "\xe2\x96\x81";     /* U+2581 */
	const uint32_t n_singles = 1 + ('~' - '!' + 1); /* the space and visible ASCII */
	char text[8];
	unsigned byte;
	float score;

	add(v, "<unk>", TOKEN_UNKNOWN, 0);
	add(v, "<s>", TOKEN_CONTROL, 0);
	add(v, "</s>", TOKEN_CONTROL, 0);
	for (byte = 0; byte < 256; byte++) {
		snprintf(text, sizeof(text), "<0x%02X>", byte);
		add(v, text, TOKEN_BYTE, 0);
	}
	add_words(v, v->room - n_singles, space);
	score = -(float)v->n_merges;
	add(v, space, TOKEN_NORMAL, score--);
	for (byte = '!'; byte <= '~'; byte++) {
		snprintf(text, sizeof(text), "%c", (char)byte);
		add(v, text, TOKEN_NORMAL, score--);
	}
}

static struct slice slice_of(const char *text)
{
	return (struct slice){text, strlen(text)};
}

int mkmodel_vocabulary(const struct mkmodel_shape *shape, struct tokenizer_source *ret)
{
	const bool byte_level = shape->tokenizer == MKMODEL_BYTE_BPE;
	struct vocabulary *v = vocabulary_new(shape->vocab);
	struct tokenizer_source s = {.byte_level = byte_level,
		.owner = v,
		.release = vocabulary_free,
		.ranked = byte_level,
		.split = byte_level ? pretokenizer_kind(slice_of("smollm")) : NULL,
		.space_prefix = byte_level ? SPACE_NEVER : SPACE_ALWAYS,
		.bos = 1,
		.eos = 2,
		.adds_bos = !byte_level};
	uint32_t i;

	if (!v)
		return -ENOMEM;
	if (byte_level)
		fill_byte_level(v);
	else
		fill_sentencepiece(v);
	s.tokens = calloc(v->n, sizeof(*s.tokens));
	s.merges = calloc(v->n_merges ? v->n_merges : 1, sizeof(*s.merges));
	if (!s.tokens || !s.merges) {
		tokenizer_source_done(&s);
		return -ENOMEM;
	}
	for (i = 0; i < v->n; i++)
		s.tokens[i] = (struct token_source){
			slice_of(v->texts[i]), v->scores[i], (enum token_kind)v->types[i]};
	for (i = 0; byte_level && i < v->n_merges; i++)
		s.merges[i] = (struct merge_source){
			slice_of(v->merges[i][0]), slice_of(v->merges[i][1])};
	s.n = v->n;
	s.n_merges = byte_level ? v->n_merges : 0;
	if (tokenizer_source_name(&s, slice_of("pad_token"), s.tokens[2].text) < 0) {
		tokenizer_source_done(&s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

/* ---- as a GGUF's keys ---- */

static int write_template(struct gguf_writer *w, const struct mkmodel_shape *shape)
{
	struct template *t;
	const char *source;
	char error[128];
	size_t len;
	int r;

	r = template_new_builtin(shape->template_name, "", "", &t, error, sizeof(error));
	if (r < 0)
		return r;
	source = template_source(t, &len);
	gguf_write_string(w, "tokenizer.chat_template", source, len);
	template_free(t);
	return 0;
}

int mkmodel_write_vocabulary(struct gguf_writer *w, const struct mkmodel_shape *shape)
{
	struct tokenizer_source made = {0};
	char error[128];
	const struct model_refusal why = {error, sizeof(error)};
	int r = shape->from ? 0 : mkmodel_vocabulary(shape, &made);

	if (r == 0)
		r = gguf_write_tokenizer(w, shape->from ? shape->from : &made, shape->vocab, &why);
	if (r == 0)
		r = write_template(w, shape);
	tokenizer_source_done(&made);
	return r;
}
