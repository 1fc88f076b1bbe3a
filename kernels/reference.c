/* The `reference` backend, the oracle: what every operation means, in plain f32 loops.
 *
 * Weights are dequantised once and stay f32. Sums run in 16 partial sums, element i in sum i % 16,
 * folded pairwise at the end: that order is fixed, so a row's bits depend on nothing but the row,
 * and a compiler may keep the sums in one vector register. The vector clones of a function give the
 * same bits, as nothing here is fused or reordered.
 *
 * The backend owns the pool, the sampler and its threads' scratch; weights, buffers and KV are the
 * caller's to free. */
#include "kernels/reference.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/host.h"

#define LANES       16
#define MATMUL_TILE 16 /* rows of W and of x that are multiplied while they lie in cache */

int reference_no_memory(struct backend *b)
{
	snprintf(b->error, sizeof(b->error), "no memory left");
	return -ENOMEM;
}

VECTOR_CLONES
float reference_dot(const float *a, const float *b, size_t n)
{
	float s[LANES] = {0};
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (size_t l = 0; l < LANES; l++)
			s[l] += a[i + l] * b[i + l];
	for (size_t l = 0; i + l < n; l++)
		s[l] += a[i + l] * b[i + l];
	for (size_t half = LANES / 2; half > 0; half /= 2)
		for (size_t l = 0; l < half; l++)
			s[l] += s[l + half];
	return s[0];
}

/* Weights */

struct dequantize_job {
	const struct tensor *tensor;
	size_t row_bytes;
	struct weight *weight;
};

static void dequantize_rows(void *arg, struct pool_range range)
{
	const struct dequantize_job *job = arg;
	const uint8_t *data = job->tensor->data;

	for (size_t r = range.begin; r < range.end; r++)
		dequantize_row(job->tensor->dtype, data + r * job->row_bytes,
			job->weight->data + r * job->weight->cols, job->weight->cols);
}

static int reference_weight_put(struct backend *b, const struct tensor *t, struct weight **ret)
{
	const struct dtype_info *info = dtype_info(t->dtype);
	struct dequantize_job job = {.tensor = t};
	struct weight *w;
	size_t bytes;

	if (info == NULL) {
		snprintf(b->error, sizeof(b->error), "tensor %s: type %d is not known", t->name,
			(int)t->dtype);
		return -ENOTSUP;
	}
	if (!dtype_row_bytes(t->dtype, t->cols, &job.row_bytes) ||
		__builtin_mul_overflow(job.row_bytes, t->rows, &bytes) || bytes != t->bytes) {
		snprintf(b->error, sizeof(b->error),
			"tensor %s: %zu bytes do not hold %u rows of %u elements of type %s",
			t->name, t->bytes, t->rows, t->cols, info->name);
		return -EINVAL;
	}

	w = calloc(1, sizeof(*w));
	if (w == NULL)
		return reference_no_memory(b);
	w->rows = t->rows;
	w->cols = t->cols;
	w->data = host_alloc(
		(size_t)t->rows * t->cols, sizeof(float), t->name, b->error, sizeof(b->error));
	if (w->data == NULL) {
		free(w);
		return -ENOMEM;
	}
	job.weight = w;
	pool_run(reference_of(b)->pool, dequantize_rows, &job, t->rows, 64);
	*ret = w;
	return 0;
}

static void reference_weight_free(struct backend *b, struct weight *w)
{
	if (w == NULL)
		return;
	free(w->data);
	free(w);
}

static size_t reference_weight_bytes(const struct weight *w)
{
	return (size_t)w->rows * w->cols * sizeof(float);
}

static const void *reference_weight_data(const struct weight *w)
{
	return w->data;
}

static uint32_t reference_weight_rows(const struct weight *w)
{
	return w->rows;
}

/* Buffers */

static int reference_buffer_new(struct backend *b, size_t n_floats, float **ret)
{
	float *p = host_alloc(n_floats, sizeof(float), "activations", b->error, sizeof(b->error));

	if (p == NULL)
		return -ENOMEM;
	*ret = p;
	return 0;
}

static void reference_buffer_free(struct backend *b, float *buffer)
{
	free(buffer);
}

static int reference_buffer_read(
	struct backend *b, const float *buffer, float *host, size_t n_floats)
{
	memcpy(host, buffer, n_floats * sizeof(float));
	return 0;
}

static int reference_buffer_write(
	struct backend *b, float *buffer, const float *host, size_t n_floats)
{
	memcpy(buffer, host, n_floats * sizeof(float));
	return 0;
}

/* Operations */

static int reference_batch_begin(struct backend *b, const struct batch *batch)
{
	return 0;
}

static int reference_embed(
	struct backend *b, const struct batch *batch, const struct weight *table, float *y)
{
	for (size_t i = 0; i < batch->n_rows; i++) {
		assert(batch->tokens[i] >= 0 && (uint32_t)batch->tokens[i] < table->rows);
		memcpy(y + i * table->cols, table->data + (size_t)batch->tokens[i] * table->cols,
			table->cols * sizeof(float));
	}
	return 0;
}

struct rmsnorm_job {
	const float *x;
	const struct weight *w;
	float eps;
	float *y;
};

static void rmsnorm_rows(void *arg, struct pool_range range)
{
	const struct rmsnorm_job *job = arg;
	size_t dim = job->w->cols;

	for (size_t r = range.begin; r < range.end; r++) {
		const float *x = job->x + r * dim;
		float *y = job->y + r * dim;
		float scale = 1.0f / sqrtf(reference_dot(x, x, dim) / (float)dim + job->eps);

		for (size_t i = 0; i < dim; i++)
			y[i] = job->w->data[i] * (x[i] * scale);
	}
}

static int reference_rmsnorm(
	struct backend *b, uint32_t n, const float *x, const struct weight *w, float eps, float *y)
{
	struct rmsnorm_job job = {.x = x, .w = w, .eps = eps, .y = y};

	assert(w->rows == 1);
	pool_run(reference_of(b)->pool, rmsnorm_rows, &job, n, 0);
	return 0;
}

struct matmul_job {
	uint32_t n;
	const float *x;
	const struct weight *w, *bias;
	float *y;
};

/* Rows of W; x in tiles that stay in cache meanwhile. */
static void matmul_rows(void *arg, struct pool_range range)
{
	const struct matmul_job *job = arg;
	size_t rows = job->w->rows, cols = job->w->cols;

	for (size_t begin = 0; begin < job->n; begin += MATMUL_TILE) {
		size_t end = begin + MATMUL_TILE < job->n ? begin + MATMUL_TILE : job->n;

		for (size_t r = range.begin; r < range.end; r++)
			for (size_t i = begin; i < end; i++) {
				float s = reference_dot(
					job->x + i * cols, job->w->data + r * cols, cols);

				if (job->bias != NULL)
					s += job->bias->data[r];
				job->y[i * rows + r] = s;
			}
	}
}

static int reference_matmul(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *y)
{
	struct matmul_job job = {.n = n, .x = x, .w = w, .bias = bias, .y = y};

	assert(bias == NULL || (bias->rows == 1 && bias->cols == w->rows));
	pool_run(reference_of(b)->pool, matmul_rows, &job, w->rows, MATMUL_TILE);
	return 0;
}

struct swiglu_job {
	const float *gate, *up;
	float *y;
	size_t dim;
};

static void swiglu_rows(void *arg, struct pool_range range)
{
	const struct swiglu_job *job = arg;

	for (size_t i = range.begin * job->dim; i < range.end * job->dim; i++)
		job->y[i] = job->gate[i] / (1.0f + expf(-job->gate[i])) * job->up[i];
}

static int reference_swiglu(
	struct backend *b, uint32_t n, uint32_t dim, const float *gate, const float *up, float *y)
{
	struct swiglu_job job = {.gate = gate, .up = up, .y = y, .dim = dim};

	pool_run(reference_of(b)->pool, swiglu_rows, &job, n, 0);
	return 0;
}

static int reference_add(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y)
{
	for (size_t i = 0; i < (size_t)n * dim; i++)
		y[i] += x[i];
	return 0;
}

static int reference_gather(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index,
	const float *x, float *y)
{
	for (size_t i = 0; i < n; i++)
		memcpy(y + i * dim, x + (size_t)index[i] * dim, dim * sizeof(float));
	return 0;
}

static int reference_sample(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
	const struct sample_row *rows, struct sample_result *results)
{
	for (size_t i = 0; i < n; i++) {
		int r = sampler_draw(
			reference_of(b)->sampler, vocab, logits + i * vocab, &rows[i], &results[i]);

		if (r < 0) {
			snprintf(b->error, sizeof(b->error), "no memory to sample from %u logits",
				vocab);
			return r;
		}
	}
	return 0;
}

static int reference_sync(struct backend *b)
{
	return 0;
}

static void reference_free(struct backend *b)
{
	struct reference *ref = (struct reference *)b;

	if (ref == NULL)
		return;
	pool_free(ref->pool);
	sampler_free(ref->sampler);
	free(ref->scratch);
	free(ref);
}

static const struct backend_ops reference_ops = {
	.name = "reference",
	.free = reference_free,
	.weight_put = reference_weight_put,
	.weight_free = reference_weight_free,
	.weight_bytes = reference_weight_bytes,
	.weight_rows = reference_weight_rows,
	.weight_data = reference_weight_data,
	.buffer_new = reference_buffer_new,
	.buffer_free = reference_buffer_free,
	.buffer_read = reference_buffer_read,
	.buffer_write = reference_buffer_write,
	.kv_new = reference_kv_new,
	.kv_free = reference_kv_free,
	.kv_zero = reference_kv_zero,
	.kv_read = reference_kv_read,
	.kv_page_bytes = reference_kv_page_bytes,
	.kv_save = reference_kv_save,
	.kv_restore = reference_kv_restore,
	.batch_begin = reference_batch_begin,
	.embed = reference_embed,
	.rmsnorm = reference_rmsnorm,
	.matmul = reference_matmul,
	.rope_kv = reference_rope_kv,
	.attention = reference_attention,
	.swiglu = reference_swiglu,
	.add = reference_add,
	.gather = reference_gather,
	.sample = reference_sample,
	.sync = reference_sync,
};

int backend_new_reference(uint32_t threads, struct backend **ret)
{
	struct reference *ref = calloc(1, sizeof(*ref));
	int r;

	if (ref == NULL)
		return -ENOMEM;
	ref->backend.ops = &reference_ops;
	r = pool_new(threads, &ref->pool);
	if (r == 0) {
		ref->sampler = sampler_new();
		r = ref->sampler != NULL ? 0 : -ENOMEM;
	}
	if (r < 0) {
		reference_free(&ref->backend);
		return r;
	}
	host_describe(&ref->backend.device);
	ref->backend.device.kind = "reference";
	ref->backend.device.threads = pool_threads(ref->pool);
	snprintf(ref->backend.device.isa, sizeof(ref->backend.device.isa), "generic");
	*ret = &ref->backend;
	return 0;
}
