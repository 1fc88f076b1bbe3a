/* The device behind one table of operations.
 *
 * A backend holds weights, activations and KV pages in memory of its own and runs the few
 * operations a transformer layer is made of. `reference` (plain f32 loops, the oracle), `cpu` and
 * `cuda` fill the same table, so every operation is tested against the others, and forward.c knows
 * none of them.
 *
 * Shapes are written outermost first: x [n, dim]. All activations are f32. A `float *` or `struct
 * batch` handed to an operation lies in the backend's memory when it came from buffer_new(), and is
 * otherwise the host's, as each comment says. Pointer arithmetic on a buffer is allowed (rows are
 * slices).
 *
 * An operation is a promise about bits: a row's result depends on that row and on the KV rows that
 * it may see, never on the other rows of the call, their number, or the thread count. Sums over a
 * weight row run over its blocks in ascending order; attention merges 128-position blocks in
 * ascending order.
 *
 * Errors are values: 0, or a negative errno with a sentence in backend->error. -ENOMEM names bytes
 * wanted and free; -EIO means the device is lost and every later call fails. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/sample.h"

#define KV_PAGE_TOKENS  16  /* positions in one KV page */
#define ATTENTION_BLOCK 128 /* positions with one softmax maximum; merged in ascending order */
#define KV_PAGE_NONE    UINT32_MAX /* a page table entry that no row of the batch may need */

struct weight; /* one tensor in the backend's own layout */
struct kv;     /* the KV pages of some layers */
struct qkv_args;
struct gate_up_args;

/* A tensor as a file holds it: `rows` x `cols` elements, row-major. A vector is one row. */
struct tensor {
	const char *name; /* for messages */
	enum dtype dtype;
	uint32_t rows;    /* outputs */
	uint32_t cols;    /* inputs; a multiple of the type's block */
	const void *data; /* host memory, at least 1-byte aligned */
	size_t bytes;     /* rows x row bytes */
};

struct kv_shape {
	uint32_t n_layers;
	uint32_t n_pages;
	uint32_t n_kv_heads;
	uint32_t head_dim;
	enum dtype dtype; /* of keys and values: F32, F16, BF16, or Q8_0 where head_dim is a
			     multiple of its block; what is written is quantize_row()'s */
};

/* The rows of one step. Rows of one sequence stand together, their positions ascending by one. */
struct batch {
	uint32_t n_rows;
	const int32_t *tokens;      /* [n_rows] */
	const uint32_t *slots;      /* [n_rows] the sequence slot of each row */
	const uint32_t *positions;  /* [n_rows] absolute position of each row */
	const uint32_t *page_table; /* [n_slots, page_table_stride]: entry p / 16 is the page of
				       position p */
	uint32_t n_slots;
	uint32_t page_table_stride;
};

/* How a rotation pairs the elements of a head: (0, 1), (2, 3) … or (0, d/2), (1, d/2 + 1) … */
enum rope_layout { ROPE_INTERLEAVED, ROPE_HALVES };

/* What a layer's attention needs to know of the model. */
struct attention_shape {
	uint32_t n_heads;
	uint32_t n_kv_heads; /* divides n_heads */
	uint32_t head_dim;   /* even */
	uint32_t rope_dim; /* even, at most head_dim: the first elements of each head are rotated */
	enum rope_layout rope_layout;
	uint32_t window; /* keys seen, the row's own included; 0 for all */
	float scale;     /* usually 1 / sqrt(head_dim) */
};

struct backend_device {
	const char *kind; /* "reference", "cpu", "cuda" */
	char name[96];    /* the processor's or card's own name */
	char isa[32];     /* "avx512", "avx2", "generic", "sm_90" */
	uint32_t threads;
	uint64_t memory_bytes; /* of the device */
	bool inexact;          /* large prompts are computed in another order of sums */
	char note[256];        /* what was asked for and is not so, or "" */
};

struct backend {
	const struct backend_ops *ops;
	struct backend_device device;
	char error[256]; /* the last failure, in words */
};

struct backend_ops {
	const char *name;

	void (*free)(
		struct backend *b); /* accepts NULL; all weights, buffers and KV are freed before */

	/* Takes the tensor over in the backend's own layout; the bytes are not needed afterwards.
	 * -ENOTSUP where this backend has no kernel for the type. */
	int (*weight_put)(struct backend *b, const struct tensor *t, struct weight **ret);
	void (*weight_free)(struct backend *b, struct weight *w); /* accepts NULL */
	size_t (*weight_bytes)(const struct weight *w);           /* resident bytes */
	uint32_t (*weight_rows)(const struct weight *w);          /* as in the tensor */
	/* Where the resident bytes lie, for measuring how fast they can be read; NULL where that is
	 * not the host's memory. */
	const void *(*weight_data)(const struct weight *w);

	/* Optional, both or neither: weights that were taken over once. What weight_data() gives
	 * of a tensor is the same on every backend of this name whose weight_layout() says the
	 * same, and weight_adopt() takes it: t is the tensor, but data and bytes are those. They
	 * are 64-byte aligned and stay, unchanged, until the weight is freed. */
	const char *(*weight_layout)(const struct backend *b);
	int (*weight_adopt)(struct backend *b, const struct tensor *t, struct weight **ret);

	int (*buffer_new)(
		struct backend *b, size_t n_floats, float **ret); /* 64-byte aligned, zeroed */
	void (*buffer_free)(struct backend *b, float *buffer);    /* accepts NULL */
	int (*buffer_read)(struct backend *b, const float *buffer, float *host, size_t n_floats);
	int (*buffer_write)(struct backend *b, float *buffer, const float *host, size_t n_floats);

	int (*kv_new)(
		struct backend *b, const struct kv_shape *shape, struct kv **ret); /* zeroed */
	void (*kv_free)(struct backend *b, struct kv *kv); /* accepts NULL */
	int (*kv_zero)(
		struct backend *b, struct kv *kv, uint32_t page); /* all layers of one page */
	/* Optional, for memory that the system finds only when it is first written to: has a
	 * further part of pages 0 … n_pages - 1 found, some megabytes, and leaves what is in them
	 * as it is. False: there was nothing left to do. Not while an operation runs. */
	bool (*kv_touch)(struct backend *b, struct kv *kv, uint32_t n_pages);
	/* One page of one layer as bytes: keys [n_kv_heads, 16, head_dim], then values, both in the
	 * KV's dtype, as quantize_row() writes a row. `host` holds 2 x n_kv_heads x 16 x head_dim
	 * elements. */
	int (*kv_read)(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host);

	/* One page of all layers as it lies in the backend's memory, to host memory of that many
	 * bytes and back to any page of the same KV: what is restored is what was saved. */
	size_t (*kv_page_bytes)(const struct kv *kv);
	int (*kv_save)(struct backend *b, struct kv *kv, uint32_t page, void *host);
	int (*kv_restore)(struct backend *b, struct kv *kv, uint32_t page, const void *host);

	/* Announces the rows that the operations until the next call are about. The arrays stay
	 * valid and unchanged until then. */
	int (*batch_begin)(struct backend *b, const struct batch *batch);

	/* y [n_rows, cols] = the table's row of each row's token */
	int (*embed)(
		struct backend *b, const struct batch *batch, const struct weight *table, float *y);

	/* y [n, dim] = x / sqrt(mean(x^2) + eps) * w; y may be x */
	int (*rmsnorm)(struct backend *b, uint32_t n, const float *x, const struct weight *w,
		float eps, float *y);

	/* y [n, rows] = x [n, cols] @ W [rows, cols]^T + bias [rows] (NULL: none) */
	int (*matmul)(struct backend *b, uint32_t n, const float *x, const struct weight *w,
		const struct weight *bias, float *y);

	/* Rotates q [n_rows, n_heads, head_dim] in place and writes the rotated keys and the
	 * values, k and v [n_rows, n_kv_heads, head_dim], to their rows' pages of that layer. rope
	 * is F32 [positions, rope_dim]: cosines, then sines, rope_dim / 2 each. */
	int (*rope_kv)(struct backend *b, const struct batch *batch,
		const struct attention_shape *shape, const struct weight *rope, float *q,
		const float *k, const float *v, struct kv *kv, uint32_t layer);

	/* y [n_rows, n_heads, head_dim] = softmax(q k^T * scale) v over the positions max(0, p -
	 * window + 1) … p of the row's sequence, all of them already written */
	int (*attention)(struct backend *b, const struct batch *batch,
		const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
		float *y);

	/* y [n, dim] = gate / (1 + exp(-gate)) * up; y may be either */
	int (*swiglu)(struct backend *b, uint32_t n, uint32_t dim, const float *gate,
		const float *up, float *y);

	/* y [n, dim] += x */
	int (*add)(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y);

	/* y [n, dim]: row i is row index[i] of x; index is the host's */
	int (*gather)(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index,
		const float *x, float *y);

	/* Draws one token for each row of logits [n, vocab]; rows and results are the host's.
	 * The contract stands in sample.h. */
	int (*sample)(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
		const struct sample_row *rows, struct sample_result *results);

	/* Waits until everything asked for is done; failures of earlier operations surface here. */
	int (*sync)(struct backend *b);

	/* Fused slots: optional (NULL), equal in meaning to their composition below. */
	int (*qkv)(struct backend *b, const struct batch *batch, const struct qkv_args *a);
	int (*gate_up)(struct backend *b, uint32_t n, const struct gate_up_args *a);
	int (*matmul_add)(struct backend *b, uint32_t n, const float *x, const struct weight *w,
		const struct weight *bias, float *scratch, float *y);
};

/* RMSNorm, the three projections, RoPE and the KV write of one layer. */
struct qkv_args {
	const struct attention_shape *shape;
	const float *x;            /* [n, dim] */
	const struct weight *norm; /* [dim] */
	float eps;
	const struct weight *wq, *wk, *wv;
	const struct weight *bq, *bk, *bv; /* or NULL */
	const struct weight *rope;
	struct kv *kv;
	uint32_t layer;
	float *h;     /* [n, dim] scratch */
	float *k, *v; /* [n, n_kv_heads * head_dim] scratch */
	float *q;     /* [n, n_heads * head_dim] result, rotated */
};

/* RMSNorm, gate and up projections and SwiGLU. */
struct gate_up_args {
	const float *x;            /* [n, dim] */
	const struct weight *norm; /* [dim] */
	float eps;
	const struct weight *gate, *up; /* [ffn, dim] */
	float *h;                       /* [n, dim] scratch */
	float *u;                       /* [n, ffn] scratch */
	float *y;                       /* [n, ffn] result */
};

/* The fused slot where the backend has it, its composition otherwise. */
int backend_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a);
int backend_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a);
/* y [n, rows] += x @ W^T + bias; scratch [n, rows] */
int backend_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y);

enum activations {
	ACTIVATIONS_FAST,  /* int8 per block against quantised weights, bf16 against bf16 */
	ACTIVATIONS_EXACT, /* f32 */
};

/* The oracle: plain f32 loops over dequantised weights. threads: 0 for all processors. */
int backend_new_reference(uint32_t threads, struct backend **ret);

/* The processor's best instruction set, found at run time (ZEPH_ISA=generic|avx2|avxvnni|avx512
 * lowers it; on ARM generic|neon). threads: 0 for all processors. */
int backend_new_cpu(uint32_t threads, enum activations activations, struct backend **ret);

/* Frees the backend through its own table; accepts NULL. */
struct backend *backend_free(struct backend *b);
