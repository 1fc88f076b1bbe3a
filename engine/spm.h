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

/* What stands before a piece of text: nothing, a control token, or tokens whose text it continues.
 */
enum text_place { TEXT_BEGINS, TEXT_AFTER_CONTROL, TEXT_CONTINUES };

/* Appends the tokens of valid UTF-8 without control tokens. 0 or -ENOMEM. */
int spm_encode(const struct spm *spm, const char *s, size_t n, enum text_place place,
	struct merger *m, struct token_sink *sink);
/* What text behind the token has before it. */
enum text_place spm_behind(const struct spm *spm, int32_t id);
