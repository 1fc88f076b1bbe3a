/* SentencePiece's BPE. */
#pragma once

#include <stddef.h>

#include "engine/bpe.h"
#include "engine/merge.h"
#include "engine/vocabulary.h"

struct spm;

/* v outlives the spm. Errors as tokenizer_new(). */
int spm_new(const struct tokenizer_source *from, const struct vocabulary *v, struct spm **ret,
	char *error, size_t error_size);
struct spm *spm_free(struct spm *s); /* accepts NULL, returns NULL */
enum space_prefix spm_space(const struct spm *s);

/* Appends the tokens of valid UTF-8 without control tokens. first: the text begins with it.
 * 0 or -ENOMEM. */
int spm_encode(const struct spm *spm, const char *s, size_t n, bool first, struct merger *m,
	struct token_sink *sink);
