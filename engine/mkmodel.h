/* Models of random weights: real files in every respect but the answers, as a GGUF or as a Hugging
 * Face directory; both of one shape, seed and unquantised type are the same model.
 *
 * A file depends on shape, type and seed alone: not on the threads that made it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gguf_write.h"
#include "engine/tokenizer_source.h"
#include "kernels/dtype.h"

enum mkmodel_tokenizer { MKMODEL_BYTE_BPE, MKMODEL_SENTENCEPIECE };

struct mkmodel_shape {
	const char *name;
	uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, vocab, context;
	uint32_t window; /* keys; 0 for none */
	float rope_theta;
	bool tied;
	enum mkmodel_tokenizer tokenizer;
	const char *template_name;           /* a built-in's */
	const struct tokenizer_source *from; /* a real tokenizer instead; NULL: a synthetic one */
};

/* The shape of that name, or NULL. mkmodel_shape_names() is for messages. */
const struct mkmodel_shape *mkmodel_shape(const char *name);
const char *mkmodel_shape_names(void);

struct mkmodel_options {
	const struct mkmodel_shape *shape;
	const char *type; /* a dtype's name (all matrices), or a mix's, "q4_k_m" */
	uint64_t seed;
	uint32_t threads; /* 0: all processors */
	/* Told when a tensor cannot have the type that was asked for; or NULL. */
	void (*note)(void *userdata, const char *sentence);
	/* Told how far the weights are; or NULL. May be called by any thread, one at a time. */
	void (*progress)(void *userdata, uint64_t done_bytes, uint64_t total_bytes);
	void *userdata;
};

/* Writes the file. -EINVAL for a type that does not exist, -errno where writing fails; each with a
 * sentence. */
int mkmodel_write(const struct mkmodel_options *o, int fd, char *error, size_t error_size);

/* Writes config.json, safetensors of at most 2 GB, the tokenizer and the small files into a
 * directory. As mkmodel_write(); -EINVAL for types other than f32, f16 and bf16. A real tokenizer's
 * file is the caller's to copy. */
int mkmodel_write_directory(
	const struct mkmodel_options *o, int directory, char *error, size_t error_size);

/* A synthetic vocabulary of exactly shape->vocab tokens. 0 or -ENOMEM. */
int mkmodel_vocabulary(const struct mkmodel_shape *shape, struct tokenizer_source *ret);

/* tokenizer.* of shape->from or of a synthetic vocabulary, and a chat template.
 * 0 or a negative errno. */
int mkmodel_write_vocabulary(struct gguf_writer *w, const struct mkmodel_shape *shape);

/* What the weights of one tensor look like: mean + spread * (about normal, unit variance). */
struct mkmodel_tensor {
	enum dtype dtype;
	uint32_t rows, cols;
	float mean, spread;
	uint64_t offset; /* in the data section */
	size_t row_bytes;
	uint32_t halves; /* elements of a head whose rows stand in halves, not in pairs; or 0 */
	int fd;          /* of mkmodel_fill_files() */
};

/* Draws, quantises and writes all tensors. 0 or a negative errno. */
int mkmodel_fill(const struct gguf_writer *w, const struct mkmodel_tensor *tensors, size_t n,
	const struct mkmodel_options *o);
/* The same into the tensors' files, offsets counted from their beginnings. */
int mkmodel_fill_files(
	const struct mkmodel_tensor *tensors, size_t n, const struct mkmodel_options *o);
