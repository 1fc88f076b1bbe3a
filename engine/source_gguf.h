/* The reader of GGUF, in parts. */
#pragma once

#include "engine/gguf.h"
#include "engine/source.h"

/* How this format calls the tensors. */
extern const struct source_names gguf_names;

/* A special token's name in templates, and the key of its id; the last has no name. */
struct gguf_special {
	const char *name, *key;
};
extern const struct gguf_special gguf_specials[];

/* tokenizer.ggml.*; the result points into g. -EINVAL with a sentence naming the key; -ENOTSUP
 * where the kind (`model`, `pre`) is not implemented. */
int source_gguf_tokenizer(
	const struct gguf *g, struct tokenizer_source *ret, const struct model_refusal *why);
