/* Synthetic vocabularies: small enough to make, real enough to tokenise any text.
 *
 * Words are built from letters in the order of their frequency in English: pairs, then triples,
 * then fours, with and without a space in front, each by one merge of two earlier ones. Every byte
 * has a token, so nothing is unknown. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mkmodel.h"
#include "engine/template.h"

static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz";
#define N_LETTERS  26
#define TEXT_BYTES 32 /* the longest token's text and a NUL; a merge fits as well */

struct vocabulary {
	uint32_t n, n_merges, room;
	char (*texts)[TEXT_BYTES];  /* [room] */
	char (*merges)[TEXT_BYTES]; /* [room] "left right" */
	int32_t *types;             /* [room] */
	float *scores;              /* [room] */
	struct slice *view;         /* [room] scratch for the writer */
};

static void vocabulary_done(struct vocabulary *v)
{
	free(v->texts);
	free(v->merges);
	free(v->types);
	free(v->scores);
	free(v->view);
}

static int vocabulary_init(struct vocabulary *v, uint32_t room)
{
	*v = (struct vocabulary){.room = room};
	v->texts = calloc(room, sizeof(*v->texts));
	v->merges = calloc(room, sizeof(*v->merges));
	v->types = calloc(room, sizeof(*v->types));
	v->scores = calloc(room, sizeof(*v->scores));
	v->view = calloc(room, sizeof(*v->view));
	return v->texts && v->merges && v->types && v->scores && v->view ? 0 : -ENOMEM;
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
	snprintf(v->merges[v->n_merges], TEXT_BYTES, "%s %s", left, right);
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

static const struct slice *view(struct vocabulary *v, char (*texts)[TEXT_BYTES], uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		v->view[i] = (struct slice){texts[i], strlen(texts[i])};
	return v->view;
}

static void write_string(struct gguf_writer *w, const char *key, const char *text)
{
	gguf_write_string(w, key, text, strlen(text));
}

static void write_byte_bpe(struct gguf_writer *w, struct vocabulary *v)
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
	write_string(w, "tokenizer.ggml.model", "gpt2");
	write_string(w, "tokenizer.ggml.pre", "smollm");
	gguf_write_strings(w, "tokenizer.ggml.tokens", view(v, v->texts, v->n), v->n);
	gguf_write_i32s(w, "tokenizer.ggml.token_type", v->types, v->n);
	gguf_write_strings(
		w, "tokenizer.ggml.merges", view(v, v->merges, v->n_merges), v->n_merges);
	gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 1);
	gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 2);
	gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", 0);
	gguf_write_u32(w, "tokenizer.ggml.padding_token_id", 2);
	gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
	gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", false);
}

static void write_sentencepiece(struct gguf_writer *w, struct vocabulary *v)
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
	write_string(w, "tokenizer.ggml.model", "llama");
	write_string(w, "tokenizer.ggml.pre", "default");
	gguf_write_strings(w, "tokenizer.ggml.tokens", view(v, v->texts, v->n), v->n);
	gguf_write_f32s(w, "tokenizer.ggml.scores", v->scores, v->n);
	gguf_write_i32s(w, "tokenizer.ggml.token_type", v->types, v->n);
	gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 1);
	gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 2);
	gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", 0);
	gguf_write_u32(w, "tokenizer.ggml.padding_token_id", 2);
	gguf_write_bool(w, "tokenizer.ggml.add_bos_token", true);
	gguf_write_bool(w, "tokenizer.ggml.add_eos_token", false);
}

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
	struct vocabulary v;
	int r;

	r = vocabulary_init(&v, shape->vocab);
	if (r == 0) {
		if (shape->tokenizer == MKMODEL_BYTE_BPE)
			write_byte_bpe(w, &v);
		else
			write_sentencepiece(w, &v);
		r = write_template(w, shape);
	}
	vocabulary_done(&v);
	return r;
}
