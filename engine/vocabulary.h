/* The tokens of a model: their texts, kinds and scores, and the ways to find one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/tokenizer_source.h"

struct token {
	struct slice key;  /* what text is matched against while encoding */
	struct slice text; /* the bytes it stands for; of control tokens their name */
	float score;       /* 0 where the model has none */
	enum token_kind kind;
};

/* Token texts in order, to find the longest one that a text begins with. */
struct lexicon {
	int32_t *ids; /* [n], sorted by key */
	size_t n;
	size_t first[257]; /* keys that start with byte b are [first[b], first[b + 1]) */
};

struct vocabulary {
	bool byte_level;      /* keys are bytes; otherwise SentencePiece text, spaces as U+2581 */
	struct token *tokens; /* [n] */
	uint32_t n;
	char *arena; /* the texts */
	/* [n_slots] by hash of the key, control not in it; 0, or id + 1 above the hash's upper
	 * half: what is not there is seldom looked up further. */
	uint64_t *slots;
	size_t n_slots;            /* a power of two, at least 2 n */
	size_t key_bytes_max;      /* of the longest key in slots */
	struct lexicon control;    /* control and unknown tokens: for trusted text */
	struct lexicon defined;    /* user-defined tokens: for any text */
	int32_t byte_ids[256];     /* the token of one byte, or -1 */
	int32_t bos, eos, unknown; /* -1: none */
	bool has_unused;
};

/* Copies the tokens. Errors as tokenizer_new(). */
int vocabulary_new(const struct tokenizer_source *from, struct vocabulary **ret, char *error,
	size_t error_size);
struct vocabulary *vocabulary_free(struct vocabulary *v); /* accepts NULL, returns NULL */

/* The token with this key that ordinary text may become, or -1: never a control token. */
int32_t vocabulary_find(const struct vocabulary *v, const char *key, size_t len);

/* The longest key of the lexicon that [s, s + n) begins with, or -1. */
int32_t lexicon_match(const struct lexicon *l, const struct vocabulary *v, const char *s, size_t n);

/* The byte that a character of GPT-2's alphabet stands for, or -1. */
int vocabulary_alphabet_byte(uint32_t code);

/* Writes to `out` (as many bytes at most) what a text in GPT-2's alphabet stands for; false, and
 * nothing is said of `out`, where a character is not of that alphabet. */
bool vocabulary_alphabet_decode(const char *s, size_t n, char *out, size_t *ret_len);

#define ESCAPED_SPACE       "\xe2\x96\x81" /* U+2581: a space in SentencePiece's texts */
#define ESCAPED_SPACE_BYTES 3u
