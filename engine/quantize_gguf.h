/* A model written anew, as a GGUF in another type. */
#pragma once

#include "engine/gguf_write.h"
#include "engine/model.h"

struct quantize_options {
	const struct quantize_mix *mix;
	uint32_t threads; /* 0: all processors */
	bool again;       /* quantise what is quantised already, too */
	/* Told after each tensor; a non-zero return ends the work with -ECANCELED. Or NULL. */
	int (*progress)(void *userdata, uint64_t done_bytes, uint64_t total_bytes);
	void *userdata;
};

/* What came of it. */
struct quantize_result {
	uint64_t bytes;     /* of all tensors */
	char standins[512]; /* where the mix's own types do not fit, or "" */
};

/* Writes m, opened with keeps_tokenizer, to fd. Of a GGUF: all its metadata but what says how it is
 * stored, its tensors in their order. Of a directory: what its files say in a GGUF's words,
 * matrices turned as a GGUF has them, vectors in f32. A negative errno and a sentence on failure.
 */
int quantize_gguf(const struct model *m, const struct quantize_options *o, int fd,
	struct quantize_result *ret, char *error, size_t error_size);
