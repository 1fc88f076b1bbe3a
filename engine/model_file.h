/* Between the files that read a model out of a GGUF: model.c, model_config.c, model_tensors.c. */
#pragma once

#include "engine/model.h"

/* Where to say why a file is refused. */
struct model_refusal {
	char *text;
	size_t size;
};

/* Writes the sentence and returns r. */
__attribute__((format(printf, 3, 4))) int model_refuse(
	const struct model_refusal *why, int r, const char *format, ...);

/* The configuration out of the metadata: everything but vocab, tied, dtype, parameters and
 * tensor_bytes. Keys of the architecture that zeph would have to ignore are refused. */
int model_config_read(const struct gguf *g, const struct model_options *options,
	struct model_config *ret, char *note, size_t note_size, const struct model_refusal *why);

/* general.sampling.*, where the file has it. */
int model_defaults_read(
	const struct gguf *g, struct model_defaults *ret, const struct model_refusal *why);

/* Demands every tensor of the configuration with its exact shape, and no other; fills what
 * model_config_read() left. */
int model_tensors_check(
	const struct gguf *g, struct model_config *c, const struct model_refusal *why);

/* The tensors of one layer. */
enum layer_tensor {
	LAYER_ATTN_NORM,
	LAYER_Q,
	LAYER_K,
	LAYER_V,
	LAYER_O,
	LAYER_BQ,
	LAYER_BK,
	LAYER_BV,
	LAYER_BO,
	LAYER_FFN_NORM,
	LAYER_GATE,
	LAYER_UP,
	LAYER_DOWN,
	LAYER_TENSORS,
};

/* The tensor of that layer, or NULL where an optional one (a bias) is missing. */
const struct gguf_tensor *model_layer_tensor(
	const struct gguf *g, uint32_t layer, enum layer_tensor which);
