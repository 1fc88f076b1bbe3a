/* Text to token ids and back: byte-level BPE and SentencePiece-BPE.
 *
 * A text is a list of spans. Control tokens (`<s>`, `<|im_end|>` …) are recognised in trusted spans
 * only: what a user typed is text, whatever it looks like. Apart from that a border between spans
 * is no border between tokens: splitting and merging run across it.
 *
 * Immutable after construction; any number of threads may use one tokenizer. Time is O(n log n) in
 * the text's bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/tokenizer_source.h"

struct text_span {
	const char *text; /* any bytes: invalid UTF-8 is repaired to U+FFFD first, across span
			     borders too */
	size_t len;
	bool trusted;
};

struct token_list {
	int32_t *ids; /* malloc'ed */
	size_t n;
};
void token_list_done(struct token_list *l); /* frees and zeroes; accepts an empty one */

enum {
	TOKENIZE_BOS = 1 << 0,   /* put BOS in front, whatever the model's add_bos says */
	TOKENIZE_MODEL = 1 << 1, /* put the special tokens around that the model adds (add_bos,
				    add_eos); no second BOS where trusted text begins with it */
	TOKENIZE_INTERPRET =
		1 << 2, /* without pcre2's JIT, as where memory may not become executable */
	TOKENIZE_CONTINUE =
		1 << 3, /* the text stands behind that of other tokens: no space goes in front */
};

enum {
	DETOKENIZE_SPECIAL =
		1 << 0, /* write control tokens as their text; otherwise they are left out */
	DETOKENIZE_CONTINUE =
		1 << 1, /* ids continue a text: a leading space that the tokenizer adds stays */
};

struct tokenizer;

/* Copies what it needs. -EINVAL with a sentence naming what is wrong; -ENOTSUP where the split
 * pattern does not compile. */
int tokenizer_new(const struct tokenizer_source *from, struct tokenizer **ret, char *error,
	size_t error_size);
struct tokenizer *tokenizer_free(struct tokenizer *t); /* accepts NULL, returns NULL */

uint32_t tokenizer_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_unknown(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
/* The id of a token with exactly this text, control tokens included, or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t len);

/* -ENOMEM, -E2BIG (over TEXT_BYTES_MAX) or 0. */
int tokenizer_encode(const struct tokenizer *t, const struct text_span *spans, size_t n_spans,
	unsigned flags, struct token_list *ret);

/* The ids of a text that goes on behind the token `behind` of a text: nothing merges across that
 * border, and no space is put in front where there is text before it. Errors as
 * tokenizer_encode(). */
int tokenizer_continue(const struct tokenizer *t, int32_t behind, const struct text_span *spans,
	size_t n_spans, struct token_list *ret);

/* The bytes that one token stands for inside a text (a SentencePiece space as ' '), not terminated,
 * owned by the tokenizer. Empty for control tokens and for ids outside the vocabulary. */
struct slice tokenizer_piece(const struct tokenizer *t, int32_t id);

/* The text of the ids: bytes as the tokens hold them, possibly not valid UTF-8. *ret_text is
 * malloc'ed and terminated. -EINVAL for an id outside the vocabulary. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
	char **ret_text, size_t *ret_len);
