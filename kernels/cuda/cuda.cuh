/* Inside the CUDA backend: its state, and what its files call of each other. */
#pragma once

#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/ptx.cuh"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "kernels/backend.h"
}

struct weight {
	uint32_t rows, cols;
	enum dtype dtype;
	uint32_t tiles, chunks;            /* packed.cuh; 0 for F32 */
	uint8_t *quants, *scales, *supers; /* on the card; one allocation, that of quants */
	size_t bytes;
};

struct kv {
	struct kv_shape shape;
	size_t row_bytes;  /* head_dim elements, without their scales */
	size_t page_bytes; /* of one layer */
	uint8_t *data;     /* [n_layers, n_pages, 2 (keys, values), n_kv_heads, 16, head_dim]; Q8_0:
			      behind a head's rows their scales, f16 [16, head_dim / 32] */
};

/* Consecutive rows of one sequence; attention.cu does some of them together. */
#define TILE_ROWS_MAX 16
struct attention_tile {
	uint32_t row, n_rows;
};

/* The announced batch, on the card. */
struct batch_view {
	const int32_t *tokens;
	const uint32_t *slots, *positions, *table;
	const struct attention_tile *tiles;
	uint32_t n_rows, n_tiles, stride, none;
};

/* Device memory that grows. */
struct arena {
	uint8_t *data;
	size_t bytes;
};

/* Launches are compared byte by byte: the structs that kernels take have no padding (`none` stands
 * in its place, zero). */
#define LAUNCH_ARGS 448

struct launch {
	const void *kernel;
	dim3 grid;
	uint32_t threads, shared_bytes, args_bytes;
	alignas(16) uint8_t args[LAUNCH_ARGS];
};

/* A list of launches that was seen before, and its graph once it was seen twice. */
struct graph {
	struct launch *launches;
	uint32_t n_launches;
	uint64_t hash, used; /* used: at which flush; 0: free */
	cudaGraphExec_t exec;
};

#define GRAPHS     40
#define GRAPH_ROWS 64 /* the largest batch whose launches are gathered for a graph */

#define UPLOAD_SLOTS 2
struct upload_slot {
	uint8_t *pinned, *device;
	cudaEvent_t done;
};

/* A product that cuBLASLt has been asked for. */
#define INEXACT_SHAPES 128
struct inexact_shape {
	uint32_t n, rows, cols, stride;
	uint64_t used; /* at which use; 0: free */
	struct cublaslt_product product;
};

struct cuda {
	struct backend base;
	int card;
	uint32_t arch;           /* 10 x major + minor */
	size_t shared_max_bytes; /* of a block, on request */
	uint32_t processors;
	enum activations activations;
	bool overlap; /* a kernel may start while the one ahead of it ends */
	bool dead;    /* an error that stays was seen */
	cudaStream_t stream;

	/* launch.cu */
	struct launch *launches; /* gathered since batch_begin, not launched yet */
	uint32_t n_launches, launches_size;
	bool gathering, gathered_index;
	struct graph graphs[GRAPHS];
	uint64_t flushes;
	uint8_t *pinned; /* small uploads, in turn */
	size_t pinned_bytes, pinned_used;

	/* launch.cu: how far the host is ahead of the card in a prompt */
	cudaEvent_t paced;
	bool pacing; /* paced was recorded, nobody has waited for it */

	/* launch.cu: the announced batch */
	struct arena batch_arena, index_arena;
	struct batch_view batch;
	uint32_t last_position; /* the highest of the batch */
	uint32_t longest_tile;  /* rows */

	/* weight.cu */
	struct upload_slot upload[UPLOAD_SLOTS];
	size_t upload_bytes;
	uint32_t upload_next;

	/* inexact.cu */
	struct cublaslt lt;
	struct inexact_shape shapes[INEXACT_SHAPES];
	uint64_t shapes_used;
	uint32_t inexact_rows;
	struct arena panel, rows_bf16, lt_workspace;

	struct arena acts;       /* matmul.cu: activations made ready */
	struct arena partials;   /* attention.cu: blocks to be merged */
	struct arena counters;   /* attention.cu: zero between launches */
	struct arena sampler;    /* sample.cu */
	uint8_t *sampler_pinned; /* sample.cu */
	size_t sampler_pinned_bytes;
};

static inline struct cuda *cuda_of(struct backend *b)
{
	return (struct cuda *)b;
}

/* Errors: 0 or a negative errno with a sentence in the backend. */
int cuda_check(struct cuda *c, cudaError_t e, const char *what);
int cuda_fail(struct cuda *c, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Makes the card current for this thread; -EIO once it is lost. */
int cuda_enter(struct cuda *c);

/* Device memory, not zeroed. -ENOMEM names `what`, the bytes wanted and the bytes free. */
int cuda_alloc(struct cuda *c, size_t bytes, const char *what, uint8_t **ret);
void cuda_release(struct cuda *c, void *p); /* accepts NULL; waits for the card */
int arena_grow(struct cuda *c, struct arena *a, size_t bytes, bool zeroed, const char *what);
void arena_free(struct cuda *c, struct arena *a);

/* launch.cu: launches now, or gathers while a small batch is announced. */
int cuda_launch_bytes(struct cuda *c, const void *kernel, dim3 grid, uint32_t threads,
	size_t shared_bytes, const void *args, size_t args_bytes);
template <class A>
static inline int cuda_launch(struct cuda *c, const void *kernel, dim3 grid, uint32_t threads,
	size_t shared_bytes, const A &args)
{
	static_assert(sizeof(A) <= LAUNCH_ARGS, "a launch's arguments");
	return cuda_launch_bytes(c, kernel, grid, threads, shared_bytes, &args, sizeof(A));
}
int cuda_flush(struct cuda *c);  /* what was gathered is launched */
int cuda_finish(struct cuda *c); /* and done */
/* In a large batch the host goes on only once the card has come to the mark made last, so that who
 * asks between layers whether to stop does not ask far ahead of the card. */
int cuda_pace_mark(struct cuda *c);
int cuda_pace(struct cuda *c);
int cuda_upload(struct cuda *c, void *to, const void *host, size_t bytes);
void cuda_graphs_free(struct cuda *c);
int cuda_batch_begin(struct backend *b, const struct batch *batch);
/* The host's index [n] on the card. */
int cuda_index(struct cuda *c, uint32_t n, const uint32_t *index, const uint32_t **ret);

/* Operations */
int cuda_weight_put(struct backend *b, const struct tensor *t, struct weight **ret);
void cuda_weight_free(struct backend *b, struct weight *w);
void cuda_upload_free(struct cuda *c);
int cuda_pack(struct cuda *c, const struct weight *w, const uint8_t *raw, size_t row_bytes,
	uint32_t first_row, uint32_t n_rows);
int cuda_embed(struct backend *b, const struct batch *batch, const struct weight *table, float *y);

int cuda_rmsnorm(
	struct backend *b, uint32_t n, const float *x, const struct weight *w, float eps, float *y);
int cuda_swiglu(
	struct backend *b, uint32_t n, uint32_t dim, const float *gate, const float *up, float *y);
int cuda_add(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y);
int cuda_gather(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index, const float *x,
	float *y);

int cuda_matmul(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *y);
int cuda_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y);
int cuda_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a);
int cuda_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a);

int cuda_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret);
void cuda_kv_free(struct backend *b, struct kv *kv);
int cuda_kv_zero(struct backend *b, struct kv *kv, uint32_t page);
int cuda_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host);
size_t cuda_kv_page_bytes(const struct kv *kv);
int cuda_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host);
int cuda_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host);
int cuda_rope_kv(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, struct kv *kv,
	uint32_t layer);
int cuda_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y);

int cuda_sample(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
	const struct sample_row *rows, struct sample_result *results);

/* Rounded up to whole parts. */
static inline uint32_t parts_of(uint32_t n, uint32_t part)
{
	return n / part + (n % part != 0);
}
