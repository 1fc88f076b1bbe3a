/* What a tokenizer's files say, whatever their format: what the readers give to tokenizer_new(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/slice.h"

/* The numbers are those of tokenizer.ggml.token_type and of tokenizer.model. */
enum token_kind {
	TOKEN_NORMAL = 1,
	TOKEN_UNKNOWN = 2,
	TOKEN_CONTROL = 3,
	TOKEN_USER_DEFINED = 4,
	TOKEN_UNUSED = 5,
	TOKEN_BYTE = 6,
};

struct token_source {
	struct slice text; /* as written: in GPT-2's alphabet, with U+2581, as <0x0A> */
	float score;       /* SentencePiece's; 0 where pairs have ranks */
	enum token_kind kind;
};

struct merge_source {
	struct slice left, right; /* as the tokens' texts */
};

/* A name that templates have for a token's text. */
struct special_token {
	struct slice name; /* "pad_token"; len 0: one of additional_special_tokens */
	struct slice text;
};

/* Where SentencePiece's space goes in front. */
enum space_prefix {
	SPACE_NEVER,
	SPACE_FIRST,  /* of a text that begins with text */
	SPACE_ALWAYS, /* behind each control token too */
};

struct tokenizer_source {
	bool byte_level;             /* GPT-2's kind; else SentencePiece's */
	struct token_source *tokens; /* [n] */
	uint32_t n;
	struct merge_source *merges; /* [n_merges] by rank */
	size_t n_merges;
	bool ranked; /* pairs merge by rank; else by the score of what they become */
	const struct pretokenizer_kind *split; /* byte-level only */
	bool whole_words; /* a word that is a token is that token, whatever the merges say */
	enum space_prefix space_prefix;
	bool space_once;   /* no second one before a space (`tokenizers` calls it Metaspace) */
	bool cuts_defined; /* user-defined tokens cut the text as control tokens do: what follows
			      one may get a space in front */
	int32_t bos, eos, unknown; /* -1: none */
	bool adds_bos, adds_eos;
	struct special_token *specials; /* [n_specials] but bos_token and eos_token */
	size_t n_specials;
	const char *tokens_name, *merges_name; /* for messages */
	void *owner;                           /* of the texts; NULL: somebody else */
	void (*release)(void *owner);
};
void tokenizer_source_done(struct tokenizer_source *s); /* frees and zeroes */

/* Names one more; empty texts say nothing. The bytes must live as long as *s. 0 or -ENOMEM. */
int tokenizer_source_name(struct tokenizer_source *s, struct slice name, struct slice text);
