/* The reader of GGUF, in parts. */
#pragma once

#include "engine/gguf.h"
#include "engine/source.h"

/* tokenizer.ggml.*; the result points into g. -EINVAL with a sentence naming the key; -ENOTSUP
 * where the kind (`model`, `pre`) is not implemented. */
int source_gguf_tokenizer(
	const struct gguf *g, struct tokenizer_source *ret, const struct model_refusal *why);
