/* Byte-level BPE, GPT-2's kind. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/merge.h"
#include "engine/tokenizer.h"
#include "engine/vocabulary.h"

struct token_sink {
	int32_t *ids;
	size_t n, capacity;
};
/* 0 or -ENOMEM. */
int token_sink_push(struct token_sink *s, int32_t id);

struct bpe;

/* v outlives the bpe. Errors as tokenizer_new(). */
int bpe_new(const struct tokenizer_source *from, const struct vocabulary *v, struct bpe **ret,
	char *error, size_t error_size);
struct bpe *bpe_free(struct bpe *b); /* accepts NULL, returns NULL */

/* Appends the tokens of valid UTF-8 without control tokens. 0, -ENOMEM or -E2BIG. */
int bpe_encode(const struct bpe *b, const char *s, size_t n, bool interpret, struct merger *m,
	struct token_sink *sink);
