/* Operations that take each row alone: embedding, norm, SwiGLU, sums, gathering, sampling. Small
 * ones run on the caller, for waking the threads costs more. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define SERIAL_FLOATS 16384

struct rows_run {
	struct cpu *cpu;
	uint32_t dim;
	const float *x, *up;
	float *y;
	const struct weight *w;
	float eps;
	const int32_t *tokens;
	const struct sample_row *rows;
	struct sample_result *results;
	atomic_int failed;
};

static void run(struct rows_run *run, void (*fn)(void *, struct pool_range), uint32_t n)
{
	if ((size_t)n * run->dim <= SERIAL_FLOATS)
		fn(run, (struct pool_range){0, n, 0});
	else
		pool_run(run->cpu->pool, fn, run, n, 1);
}

static void embed_rows(void *arg, struct pool_range range)
{
	struct rows_run *r = arg;

	for (uint32_t i = range.begin; i < range.end; i++)
		layout_row(r->w, (uint32_t)r->tokens[i], r->y + (size_t)i * r->dim);
}

int cpu_embed(struct backend *b, const struct batch *batch, const struct weight *table, float *y)
{
	struct rows_run r = {
		.cpu = cpu_of(b), .dim = table->cols, .w = table, .tokens = batch->tokens, .y = y};

	for (uint32_t i = 0; i < batch->n_rows; i++)
		assert(batch->tokens[i] >= 0 && (uint32_t)batch->tokens[i] < table->rows);
	run(&r, embed_rows, batch->n_rows);
	return 0;
}

static void rmsnorm_rows(void *arg, struct pool_range range)
{
	struct rows_run *r = arg;

	for (uint32_t i = range.begin; i < range.end; i++)
		r->cpu->isa.rmsnorm(r->x + (size_t)i * r->dim, (const float *)r->w->data, r->eps,
			r->dim, r->y + (size_t)i * r->dim);
}

int cpu_rmsnorm(
	struct backend *b, uint32_t n, const float *x, const struct weight *w, float eps, float *y)
{
	struct rows_run r = {.cpu = cpu_of(b), .dim = w->cols, .x = x, .w = w, .eps = eps, .y = y};

	assert(w->layout.family == FAMILY_VECTOR);
	run(&r, rmsnorm_rows, n);
	return 0;
}

static void swiglu_rows(void *arg, struct pool_range range)
{
	struct rows_run *r = arg;

	for (uint32_t i = range.begin; i < range.end; i++)
		r->cpu->isa.swiglu(r->x + (size_t)i * r->dim, r->up + (size_t)i * r->dim, r->dim,
			r->y + (size_t)i * r->dim);
}

int cpu_swiglu(
	struct backend *b, uint32_t n, uint32_t dim, const float *gate, const float *up, float *y)
{
	struct rows_run r = {.cpu = cpu_of(b), .dim = dim, .x = gate, .up = up, .y = y};

	run(&r, swiglu_rows, n);
	return 0;
}

static void add_rows(void *arg, struct pool_range range)
{
	struct rows_run *r = arg;

	for (uint32_t i = range.begin; i < range.end; i++)
		r->cpu->isa.add(r->x + (size_t)i * r->dim, r->dim, r->y + (size_t)i * r->dim);
}

int cpu_add(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y)
{
	struct rows_run r = {.cpu = cpu_of(b), .dim = dim, .x = x, .y = y};

	run(&r, add_rows, n);
	return 0;
}

int cpu_gather(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index, const float *x,
	float *y)
{
	(void)b;
	for (uint32_t i = 0; i < n; i++)
		memcpy(y + (size_t)i * dim, x + (size_t)index[i] * dim, dim * sizeof(float));
	return 0;
}

static void sample_rows(void *arg, struct pool_range range)
{
	struct rows_run *r = arg;

	for (uint32_t i = range.begin; i < range.end; i++) {
		const int e = sampler_draw(r->cpu->samplers[range.thread], r->dim,
			r->x + (size_t)i * r->dim, &r->rows[i], &r->results[i]);

		if (e < 0)
			r->failed = e;
	}
}

int cpu_sample(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
	const struct sample_row *rows, struct sample_result *results)
{
	struct rows_run r = {
		.cpu = cpu_of(b), .dim = vocab, .x = logits, .rows = rows, .results = results};

	if (n == 1)
		sample_rows(&r, (struct pool_range){0, 1, 0});
	else
		run(&r, sample_rows, n);
	return r.failed < 0 ? cpu_no_memory(r.cpu, "sampling", (size_t)vocab * 16) : 0;
}
