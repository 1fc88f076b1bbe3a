/* What a GGUF of this family says beside its tensors, from what the engine knows of a model: for
 * zeph-quantize, which makes one of a directory, and for zeph-mkmodel. */
#pragma once

#include "engine/gguf_write.h"
#include "engine/model.h"
#include "engine/source.h"

/* general.* and llama.*. Llama 3's scaling of RoPE is no key but the tensor rope_freqs.weight
 * (rope_divisors()). -ENOTSUP where no key says what c says. */
int gguf_write_config(struct gguf_writer *w, const struct model_config *c,
	const struct quantize_mix *mix, const struct model_refusal *why);

/* Of that, what says how the tensors are stored. */
void gguf_write_storage(struct gguf_writer *w, const struct quantize_mix *mix);

/* tokenizer.ggml.*, filled up to `vocab` tokens, the rows of the embedding. What other programs
 * have no key for and zeph needs for the same ids stands in zeph.tokenizer.*. 0, -ENOMEM or
 * -ENOTSUP. */
int gguf_write_tokenizer(struct gguf_writer *w, const struct tokenizer_source *s, uint32_t vocab,
	const struct model_refusal *why);

/* general.sampling.*, and zeph.sampling.* for what has no key there. */
void gguf_write_defaults(struct gguf_writer *w, const struct model_defaults *d);
