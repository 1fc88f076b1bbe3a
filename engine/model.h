/* The loaded model: what a file says (struct model, immutable, shared by all threads) and its
 * weights on the devices (struct weights, the engine thread's).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/limits.h"
#include "engine/quantize_mix.h"
#include "engine/template.h"
#include "engine/tokenizer.h"
#include "kernels/backend.h"

enum rope_kind { ROPE_UNSCALED, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

/* The rotation's frequencies; names and meaning are those of transformers' rope_scaling. */
struct rope {
	enum rope_kind kind;
	float theta;
	double factor;
	double attention_factor; /* ROPE_YARN: cosines and sines are scaled by it */
	double low_freq_factor, high_freq_factor; /* ROPE_LLAMA3 */
	double beta_fast, beta_slow;              /* ROPE_YARN: rotations */
	bool truncate;                            /* ROPE_YARN: whole dimensions */
	uint32_t original_context;                /* positions; ROPE_LLAMA3, ROPE_YARN */
};

struct model_config {
	char architecture[32]; /* "llama", "mistral" */
	char name[128];        /* general.name, or the file's */
	uint32_t n_layers;
	uint32_t dim;
	uint32_t ffn_dim;
	uint32_t vocab;
	uint32_t context; /* positions the model was trained for */
	float rms_eps;
	struct rope rope;
	struct attention_shape attention; /* the same for every layer */
	bool tied;                        /* the output matrix is the embedding table */
	enum dtype dtype;                 /* the type that most weight bytes have */
	uint64_t parameters;              /* elements of all tensors */
	uint64_t tensor_bytes;
};

/* generation_config's or the file's own; NAN and -1 where it has none. */
struct model_defaults {
	float temperature, top_p, min_p, typical_p, repetition_penalty;
	int32_t top_k;
};

struct model {
	struct model_config config;
	struct model_defaults defaults;
	struct model_source *source; /* the files, open (source.h) */
	struct tokenizer *tokenizer; /* NULL: only token ids are served */
	struct template *template;   /* NULL: no chat */
	char template_error[256];    /* why there is no template, where the file has one */
	int32_t end_tokens[MODEL_END_TOKENS_MAX]; /* ids that end a reply */
	uint32_t n_end_tokens;
	char window_note[128]; /* why the sliding window differs from the file's, or "" */
	const struct quantize_mix *quantize; /* what the weights become as they load, or NULL */
	enum dtype *loaded_types;            /* [source's tensors] where they do */
	char quantize_note[512];             /* where the mix's own types do not fit, or "" */
};

struct model_options {
	const char *template_name; /* a built-in's name, or NULL: the file's own */
	int64_t sliding_window;    /* -1: the file's own */
	const char *quantize;      /* a mix's name, or NULL: the weights stay what they are */
	bool keeps_tokenizer;      /* source->tokenizer stays, for who writes it anew */
};

/* A GGUF file or a Hugging Face directory. Opens and checks everything but the weight values. A
 * negative errno and a sentence on failure. */
int model_open(const char *path, const struct model_options *options, struct model **ret,
	char *error, size_t error_size);
struct model *model_free(struct model *m); /* accepts NULL, returns NULL */
bool model_ends(const struct model *m, int32_t token);

struct layer_weights {
	struct backend *backend;            /* where this layer runs; not owned */
	uint32_t kv_layer;                  /* its index among that backend's layers */
	const struct weight *rope;          /* this backend's copy of the table; not owned */
	struct weight *attn_norm;           /* [dim] */
	struct weight *wq;                  /* [n_heads * head_dim, dim] */
	struct weight *wk, *wv;             /* [n_kv_heads * head_dim, dim] */
	struct weight *wo;                  /* [dim, n_heads * head_dim] */
	struct weight *bq, *bk, *bv, *bo;   /* or NULL */
	struct weight *ffn_norm;            /* [dim] */
	struct weight *gate, *up;           /* [ffn_dim, dim] */
	struct weight *down;                /* [dim, ffn_dim] */
	struct weight *bgate, *bup, *bdown; /* or NULL */
};

struct weights {
	const struct model *model;
	struct layer_weights *layers; /* [n_layers] */
	struct backend *embed_backend, *output_backend;
	struct weight *embed;       /* [vocab, dim] */
	struct weight *output_norm; /* [dim] */
	struct weight *output; /* [vocab, dim]; embed itself where tied and on the same backend */
	struct weight **ropes; /* one for each backend */
	struct backend **backends; /* [n_backends], not owned */
	uint64_t *backend_bytes;   /* [n_backends] resident on each */
	uint32_t n_backends;
	uint64_t bytes;        /* resident */
	struct packed *packed; /* what some of them lie in, or NULL */
};

/* Called now and then while weights go up; a non-zero return stops the load with -ECANCELED. */
struct weights_progress {
	int (*report)(void *userdata, uint64_t done_bytes, uint64_t total_bytes);
	void *userdata;
};

struct packed;
struct packed_place;

/* How the weights go up; all zero: all of them on backends[0]. */
struct weights_options {
	/* [n_layers] the index in backends of each layer, the embedding and the output follow the
	 * first and the last one; NULL: 0 */
	const uint32_t *placement;
	uint32_t context; /* positions of RoPE; 0: the model's */
	const struct weights_progress *progress;
	/* Where they may have been kept, for a backend alone (packed.h); NULL: nowhere */
	const struct packed_place *packed;
};

/* Hands every tensor to its layer's backend, once. 0, or a negative errno and a sentence. */
int weights_load(const struct model *m, struct backend *const *backends, uint32_t n_backends,
	const struct weights_options *o, struct weights **ret, char *error, size_t error_size);
struct weights *weights_free(struct weights *w); /* accepts NULL, returns NULL */
/* Bytes resident on that one of its backends. */
uint64_t weights_bytes_on(const struct weights *w, const struct backend *b);

/* cos and sin as transformers computes them: angle = f32(position) * f32(frequency). divisors
 * [rope_dim / 2] (or NULL) divide the frequencies. table [positions, rope_dim]: cosines, then
 * sines. */
void rope_table(float *table, uint32_t positions, uint32_t rope_dim, const struct rope *rope,
	const float *divisors);

/* What the scaling divides each frequency by: divisors [rope_dim / 2]. */
void rope_divisors(float *divisors, uint32_t rope_dim, const struct rope *rope);

/* YaRN's attention factor, 1 + 0.1 mscale ln factor; 1 up to a factor of 1. */
double rope_yarn_attention(double factor, double mscale);

/* The content hash: SHA-256 over the sorted (name, type, shape, SHA-256 of the bytes) of all
 * tensors and over the metadata, computed by `threads` threads. Hex, terminated. *stop (or NULL)
 * ends it early with -ECANCELED. */
int model_hash(const struct model *m, uint32_t threads, const _Atomic bool *stop, char ret_hex[65]);
