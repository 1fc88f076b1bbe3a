/* What a model's files say, whatever their format: what stands between the readers (source_gguf.c,
 * source_hf.c) and the engine, which knows neither. */
#pragma once

#include "engine/model.h"
#include "engine/slice.h"
#include "engine/tokenizer_source.h"

/* Where to say why a file is refused. */
struct model_refusal {
	char *text;
	size_t size;
};

/* Writes the sentence and returns r. */
__attribute__((format(printf, 3, 4))) int model_refuse(
	const struct model_refusal *why, int r, const char *format, ...);

struct source_tensor {
	struct slice name; /* the file's own */
	enum dtype dtype;
	uint32_t n_dims;
	uint64_t dims[4]; /* innermost first; 1 beyond n_dims */
	const void *data; /* in a mapping that lives as long as the source */
	size_t bytes;
};

enum model_tensor {
	TENSOR_EMBED,       /* [vocab, dim] */
	TENSOR_OUTPUT_NORM, /* [dim] */
	TENSOR_OUTPUT,      /* [vocab, dim]; missing where tied */
	TENSOR_ROPE,        /* [rope_dim / 2] divisors of the frequencies, or missing */
	MODEL_TENSORS,
};

/* The tensors of one layer; shapes as in struct layer_weights. */
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
	LAYER_BGATE,
	LAYER_BUP,
	LAYER_BDOWN,
	LAYER_TENSORS,
};

/* How a format calls them: the fixed names, and prefix + layer + "." + suffix. */
struct source_names {
	const char *fixed[MODEL_TENSORS]; /* NULL: the format has none */
	const char *layer_prefix;
	const char *layer[LAYER_TENSORS];
};

#define SOURCE_METADATA_MAX 8

struct model_source {
	struct source_tensor *tensors; /* [n_tensors], in the files' order */
	size_t n_tensors;
	const struct source_names *names;
	const struct source_tensor *fixed[MODEL_TENSORS]; /* filled by model_tensors_check() */
	const struct source_tensor **layers;              /* [n_layers, LAYER_TENSORS] */

	/* The bytes beside the tensors that make the model what it is, for the content hash. */
	struct slice metadata[SOURCE_METADATA_MAX];
	size_t n_metadata;

	/* What model_open() takes over. */
	struct model_config config; /* but vocab, tied, dtype, parameters and tensor_bytes */
	struct model_defaults defaults;
	uint64_t stated_vocab;  /* 0: the files do not say */
	const char *vocab_name; /* the key that says so */
	enum { TIES_BY_ABSENCE, TIED, UNTIED } ties;
	bool attention_bias, mlp_bias; /* which of these tensors must be there; see biases */
	enum { BIASES_OPTIONAL, BIASES_STATED } biases;
	struct slice name;                 /* len 0: the files have none */
	char window_note[128];             /* why the window is none that the files name, or "" */
	struct tokenizer_source tokenizer; /* n 0: only token ids are served */
	struct slice chat_template;        /* len 0: none */
	char template_error[256];          /* why there is none where the files have one */
	int32_t end_ids[MODEL_END_TOKENS_MAX / 2];
	uint32_t n_end_ids;

	const struct gguf *gguf; /* the file itself, where it is one */
	void *files;             /* the reader's */
	void (*close)(void *files);
};

/* The readers: 0, or a negative errno and a sentence. What they have made so far lies in *s either
 * way: source_free() it. */
int source_read_gguf(struct model_source *s, const char *path, const struct model_refusal *why);
int source_read_hf(struct model_source *s, const char *path, const struct model_refusal *why);

/* Once, however often it is named. -EINVAL where there are too many. */
int source_add_end(struct model_source *s, int32_t id);

struct model_source *source_free(struct model_source *s); /* accepts NULL, returns NULL */

/* Where a layer keeps the handle of one of its tensors. */
struct weight **weights_of_layer(struct layer_weights *l, enum layer_tensor which);

/* Demands every tensor of the configuration with its exact shape, and no other; fills s->fixed,
 * s->layers and the rest of *c. */
int model_tensors_check(
	struct model_source *s, struct model_config *c, const struct model_refusal *why);

/* Chooses the mix of that name and counts what it does to the tensors: quantize, quantize_note,
 * loaded_types, and the configuration's dtype and tensor_bytes, which are then those of the loaded
 * model. */
int model_quantize(struct model *m, const char *name, const struct model_refusal *why);

/* The type that one of the source's tensors has once it is loaded. */
static inline enum dtype model_loaded_type(const struct model *m, const struct source_tensor *t)
{
	return m->loaded_types ? m->loaded_types[t - m->source->tensors] : t->dtype;
}

static inline const struct source_tensor *source_layer_tensor(
	const struct model_source *s, uint32_t layer, enum layer_tensor which)
{
	return s->layers[(size_t)layer * LAYER_TENSORS + which];
}
