/* Which tensor of a model gets which type when the model is quantised to "q4_k_m" and its like. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct quantize_mix {
	const char *name;   /* "q4_k_m", lower case */
	enum dtype dtype;   /* of most matrices */
	uint32_t file_type; /* general.file_type in GGUF */
};

/* The mix of that name (any case), or NULL. */
const struct quantize_mix *quantize_mix_find(const char *name);
/* All names, comma-separated, for messages. */
const char *quantize_mix_names(void);

/* What the rules ask of a model. */
struct quantize_shape {
	uint32_t n_layers, n_heads, n_kv_heads;
	bool tied; /* there is no output.weight */
};

/* What a tensor is for. */
enum quantize_role {
	QUANTIZE_KEEP, /* norms, biases: they stay what they are */
	QUANTIZE_PLAIN,
	QUANTIZE_EMBED,
	QUANTIZE_OUTPUT,
	QUANTIZE_VALUES,    /* attn_v */
	QUANTIZE_ATTENTION, /* attn_output */
	QUANTIZE_DOWN,      /* ffn_down */
};
/* By the tensor's name in GGUF. *ret_layer is 0 where it is in none. */
enum quantize_role quantize_role_of(const char *name, uint32_t *ret_layer);

struct quantize_source {
	enum quantize_role role;
	uint32_t layer;
	enum dtype dtype;
	uint64_t cols;
};

/* The type that the mix gives a tensor; it always fits the rows. *ret_wanted is the type of the
 * rule itself, which the rows may not allow. Matrices that are quantised already stay what they
 * are unless `again`. */
enum dtype quantize_mix_type(const struct quantize_mix *mix, const struct quantize_shape *shape,
	const struct quantize_source *t, bool again, enum dtype *ret_wanted);

/* What stands in for a type where rows of `cols` elements are no multiple of its block; the type
 * itself where they are. */
enum dtype quantize_fallback(enum dtype wanted, uint64_t cols);

/* The stand-ins of a model, gathered for one sentence. */
struct quantize_standins {
	struct {
		enum dtype wanted, got;
		uint64_t cols; /* of the first */
		uint32_t n;
	} items[8];
	uint32_t n_items;
};

/* Counts one matrix; does nothing where wanted is got. */
void quantize_standins_add(
	struct quantize_standins *s, enum dtype wanted, enum dtype got, uint64_t cols);
/* "rows of 576 elements are no multiple of 256: q5_0 stands in for q4_k in 180 tensors, …", or "".
 */
void quantize_standins_say(const struct quantize_standins *s, char *ret, size_t size);
