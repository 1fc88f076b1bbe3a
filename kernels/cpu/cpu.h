/* The CPU backend's own state, shared by the files of this folder. */
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/pool.h"

struct cpu {
	struct backend base; /* first: a struct backend * is cast */
	struct cpu_isa isa;
	enum activations activations;
	struct {
		uint32_t one, one_record, more;
	} ahead; /* cpu_acts.ahead at one column, there with types of eight blocks a record, at
		    more columns */
	struct pool *pool;
	uint32_t threads;
	struct sampler **samplers; /* [threads] */
	struct cpu_slab *slab;     /* that weights are put into, or NULL */
	uint8_t *arena;            /* one operation's activations and partial results */
	size_t arena_bytes;
	uint8_t *scratch; /* [threads][scratch_bytes] */
	size_t scratch_bytes;
};

/* As backend_new_cpu, with the instruction set given and not asked for. */
int cpu_new(const struct cpu_isa *isa, uint32_t threads, enum activations activations,
	struct backend **ret);

/* A backend handed to an operation of this table. */
static inline struct cpu *cpu_of(struct backend *b)
{
	return (struct cpu *)b;
}

/* 64-byte aligned, zeroed, on huge pages where they help; NULL when there is none. */
void *cpu_memory_new(size_t bytes);
void cpu_memory_free(void *p, size_t bytes); /* accepts NULL */
/* Has the system find the memory of a part of such a block now, as a first write would, and leaves
 * what is there as it is. False: it is there already, or this kernel does not do it. */
bool cpu_memory_touch(size_t block_bytes, void *p, size_t bytes);

/* Memory of a weight, 64-byte aligned, zeroed, side by side with others on huge pages. *ret is the
 * weight's reference on what it lies in. NULL when there is none. */
void *cpu_slab_take(struct cpu *cpu, size_t bytes, struct cpu_slab **ret);
struct cpu_slab *cpu_slab_unref(struct cpu_slab *s); /* accepts NULL, returns NULL */

/* Fills error and returns -ENOMEM. */
int cpu_no_memory(struct cpu *cpu, const char *what, size_t bytes);

/* Make arena and every thread's scratch at least so large; their contents are lost. */
int cpu_arena(struct cpu *cpu, size_t bytes);
int cpu_scratch(struct cpu *cpu, size_t bytes);
static inline void *cpu_scratch_of(struct cpu *cpu, uint32_t thread)
{
	return cpu->scratch + (size_t)thread * cpu->scratch_bytes;
}

/* weight.c */
int cpu_weight_put(struct backend *b, const struct tensor *t, struct weight **ret);
void cpu_weight_free(struct backend *b, struct weight *w);
size_t cpu_weight_bytes(const struct weight *w);
uint32_t cpu_weight_rows(const struct weight *w);
const void *cpu_weight_data(const struct weight *w);
const char *cpu_weight_layout(const struct backend *b);
int cpu_weight_adopt(struct backend *b, const struct tensor *t, struct weight **ret);

/* rows.c */
int cpu_embed(struct backend *b, const struct batch *batch, const struct weight *table, float *y);
int cpu_rmsnorm(
	struct backend *b, uint32_t n, const float *x, const struct weight *w, float eps, float *y);
int cpu_swiglu(
	struct backend *b, uint32_t n, uint32_t dim, const float *gate, const float *up, float *y);
int cpu_add(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y);
int cpu_gather(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index, const float *x,
	float *y);
int cpu_sample(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
	const struct sample_row *rows, struct sample_result *results);

/* matmul.c */
int cpu_matmul(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *y);
int cpu_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a);
int cpu_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a);
int cpu_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y);

/* kv.c */
struct kv {
	struct kv_shape shape;
	uint32_t padded_dim; /* head_dim up to a multiple of 16 */
	size_t element_bytes;
	size_t scale_bytes; /* Q8_0: f16 [head_dim / 32][16], behind keys and behind values */
	size_t head_bytes;  /* keys [head_dim][16], then values [16][padded_dim] */
	size_t bytes;
	uint8_t *data; /* [n_layers][n_pages][n_kv_heads][head_bytes] */
	/* cpu_kv_touch() was here: at these pages of all layers, at the next ones of some */
	uint32_t touched_pages, touched_layers;
};
static inline uint8_t *kv_head(const struct kv *kv, uint32_t layer, uint32_t page, uint32_t head)
{
	const size_t at = ((size_t)layer * kv->shape.n_pages + page) * kv->shape.n_kv_heads + head;

	return kv->data + at * kv->head_bytes;
}
static inline size_t kv_values_offset(const struct kv *kv)
{
	return (size_t)kv->shape.head_dim * KV_PAGE_TOKENS * kv->element_bytes + kv->scale_bytes;
}
int cpu_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret);
void cpu_kv_free(struct backend *b, struct kv *kv);
int cpu_kv_zero(struct backend *b, struct kv *kv, uint32_t page);
bool cpu_kv_touch(struct backend *b, struct kv *kv, uint32_t n_pages);
int cpu_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host);
size_t cpu_kv_page_bytes(const struct kv *kv);
int cpu_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host);
int cpu_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host);
int cpu_rope_kv(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, struct kv *kv,
	uint32_t layer);

/* attention.c */
int cpu_attention(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const float *q, struct kv *kv, uint32_t layer, float *y);
