/* Cuts text into the words inside which byte-level BPE merges. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "engine/slice.h"

struct pretokenizer;

/* What a name of tokenizer.ggml.pre stands for. */
struct pretokenizer_kind {
	const char *name;
	const char *pattern; /* pcre2; each match is a word, so is what lies between matches */
	bool whole_words;    /* a word that is a token is that token, whatever the merges say */
	bool adds_bos;       /* where the file does not say */
};
/* Or NULL: not implemented. */
const struct pretokenizer_kind *pretokenizer_kind(struct slice name);

/* The kind whose pattern a tokenizer.json writes so, or NULL. */
const struct pretokenizer_kind *pretokenizer_of_regex(const char *regex);

int pretokenizer_new(const struct pretokenizer_kind *kind, struct pretokenizer **ret, char *error,
	size_t error_size);
struct pretokenizer *pretokenizer_free(struct pretokenizer *p); /* accepts NULL, returns NULL */

/* Calls `word` for each word of valid UTF-8, in order, until one returns something else than 0, and
 * returns that. interpret: without the JIT. -ENOMEM, or -E2BIG where pcre2 gave up. */
int pretokenizer_split(const struct pretokenizer *p, const char *s, size_t n, bool interpret,
	int (*word)(void *userdata, const char *s, size_t n), void *userdata);
