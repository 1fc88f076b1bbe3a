/* Models of random weights: real files in every respect but the answers.
 *
 * A file depends on shape, type and seed alone: not on the threads that made it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gguf_write.h"
#include "kernels/dtype.h"

enum mkmodel_tokenizer { MKMODEL_BYTE_BPE, MKMODEL_SENTENCEPIECE };

struct mkmodel_shape {
	const char *name;
	uint32_t n_layers, dim, ffn_dim, n_heads, n_kv_heads, vocab, context;
	uint32_t window; /* keys; 0 for none */
	float rope_theta;
	bool tied;
	enum mkmodel_tokenizer tokenizer;
	const char *template_name; /* a built-in's */
};

/* The shape of that name, or NULL. mkmodel_shape_names() is for messages. */
const struct mkmodel_shape *mkmodel_shape(const char *name);
const char *mkmodel_shape_names(void);

struct mkmodel_options {
	const struct mkmodel_shape *shape;
	const char *type; /* a dtype's name, or "q4_k_m" */
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

/* tokenizer.* of a synthetic vocabulary of exactly shape->vocab tokens, and a chat template.
 * 0 or a negative errno. */
int mkmodel_write_vocabulary(struct gguf_writer *w, const struct mkmodel_shape *shape);

/* What the weights of one tensor look like: mean + spread * (about normal, unit variance). */
struct mkmodel_tensor {
	enum dtype dtype;
	uint32_t rows, cols;
	float mean, spread;
	uint64_t offset; /* in the data section */
	size_t row_bytes;
};

/* Draws, quantises and writes all tensors. 0 or a negative errno. */
int mkmodel_fill(const struct gguf_writer *w, const struct mkmodel_tensor *tensors, size_t n,
	const struct mkmodel_options *o);
