/* The `reference` backend, the oracle: what every operation means, in plain f32 loops.
 *
 * Weights are dequantised once and stay f32. Sums run in 16 partial sums, element i in sum i % 16,
 * folded pairwise at the end: that order is fixed, so a row's bits depend on nothing but the row,
 * and a compiler may keep the sums in one vector register. The vector clones of a function give the
 * same bits, as nothing here is fused or reordered.
 *
 * The backend owns the pool, the sampler and its threads' scratch; weights, buffers and KV are the
 * caller's to free. */
#include "kernels/backend.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/host.h"
#include "kernels/pool.h"

#if defined(__x86_64__) && defined(__gnu_linux__)
#define VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR_CLONES
#endif

#define LANES       16
#define MATMUL_TILE 16 /* rows of W and of x that are multiplied while they lie in cache */

struct weight {
	uint32_t rows, cols;
	float *data; /* [rows, cols] */
};

/* data [n_layers, n_pages, 2 (keys, values), n_kv_heads, 16, head_dim] */
struct kv {
	struct kv_shape shape;
	size_t row_bytes;  /* head_dim elements */
	size_t page_bytes; /* of one layer */
	uint8_t *data;
};

struct reference {
	struct backend backend;
	struct pool *pool;
	struct sampler *sampler;
	float *scratch;        /* [threads, scratch_floats] */
	size_t scratch_floats; /* enough for attention over any KV made so far */
};

static struct reference *reference_of(struct backend *b)
{
	return (struct reference *)b;
}

static int no_memory(struct backend *b)
{
	snprintf(b->error, sizeof(b->error), "no memory left");
	return -ENOMEM;
}

VECTOR_CLONES
static float dot(const float *a, const float *b, size_t n)
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
		return no_memory(b);
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

/* KV pages */

/* Of one thread: a block's scores, a key or value as f32, the block's output. */
static size_t attention_scratch(uint32_t head_dim)
{
	return ATTENTION_BLOCK + 2 * (size_t)head_dim;
}

static int grow_scratch(struct reference *ref, size_t floats)
{
	struct backend *b = &ref->backend;
	float *p;

	if (floats <= ref->scratch_floats)
		return 0;
	floats = (floats + LANES - 1) / LANES * LANES;
	p = host_alloc(pool_threads(ref->pool), floats * sizeof(float), "attention's scratch",
		b->error, sizeof(b->error));
	if (p == NULL)
		return -ENOMEM;
	free(ref->scratch);
	ref->scratch = p;
	ref->scratch_floats = floats;
	return 0;
}

static int reference_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret)
{
	struct kv *kv;
	size_t pages;

	assert(shape->dtype == DTYPE_F32 || shape->dtype == DTYPE_F16 ||
		shape->dtype == DTYPE_BF16);
	kv = calloc(1, sizeof(*kv));
	if (kv == NULL)
		return no_memory(b);
	kv->shape = *shape;
	kv->row_bytes = (size_t)shape->head_dim * dtype_info(shape->dtype)->block_bytes;
	if (__builtin_mul_overflow(kv->row_bytes, (size_t)2 * KV_PAGE_TOKENS * shape->n_kv_heads,
		    &kv->page_bytes) ||
		__builtin_mul_overflow((size_t)shape->n_layers, shape->n_pages, &pages)) {
		snprintf(b->error, sizeof(b->error), "the KV cache is too large to address");
		free(kv);
		return -ENOMEM;
	}
	kv->data = host_alloc(pages, kv->page_bytes, "the KV cache", b->error, sizeof(b->error));
	if (kv->data == NULL) {
		free(kv);
		return -ENOMEM;
	}
	*ret = kv;
	return 0;
}

static void reference_kv_free(struct backend *b, struct kv *kv)
{
	if (kv == NULL)
		return;
	free(kv->data);
	free(kv);
}

static uint8_t *kv_page(const struct kv *kv, uint32_t layer, uint32_t page)
{
	assert(layer < kv->shape.n_layers && page < kv->shape.n_pages);
	return kv->data + ((size_t)layer * kv->shape.n_pages + page) * kv->page_bytes;
}

/* The key or value row [head_dim] of one position. */
static uint8_t *kv_row(const struct kv *kv, uint32_t layer, const struct batch *batch,
	uint32_t slot, uint32_t position, uint32_t head, bool value)
{
	uint32_t entry = position / KV_PAGE_TOKENS, row = position % KV_PAGE_TOKENS;
	uint32_t page;

	assert(slot < batch->n_slots && entry < batch->page_table_stride);
	page = batch->page_table[(size_t)slot * batch->page_table_stride + entry];
	head += value ? kv->shape.n_kv_heads : 0;
	return kv_page(kv, layer, page) + ((size_t)head * KV_PAGE_TOKENS + row) * kv->row_bytes;
}

static int reference_kv_zero(struct backend *b, struct kv *kv, uint32_t page)
{
	for (uint32_t l = 0; l < kv->shape.n_layers; l++)
		memset(kv_page(kv, l, page), 0, kv->page_bytes);
	return 0;
}

static int reference_kv_read(
	struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host)
{
	memcpy(host, kv_page(kv, layer, page), kv->page_bytes);
	return 0;
}

static void kv_store(const struct kv *kv, const float *x, uint8_t *row)
{
	for (uint32_t i = 0; i < kv->shape.head_dim; i++) {
		uint16_t h;

		switch (kv->shape.dtype) {
		case DTYPE_F16: h = f32_to_f16(x[i]); break;
		case DTYPE_BF16: h = f32_to_bf16(x[i]); break;
		default: memcpy(row + 4 * (size_t)i, &x[i], 4); continue;
		}
		memcpy(row + 2 * (size_t)i, &h, 2);
	}
}

/* The row as f32: itself, or its copy in `scratch`. */
static const float *kv_load(const struct kv *kv, const uint8_t *row, float *scratch)
{
	if (kv->shape.dtype == DTYPE_F32)
		return (const float *)row;
	dequantize_row(kv->shape.dtype, row, scratch, kv->shape.head_dim);
	return scratch;
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
		float scale = 1.0f / sqrtf(dot(x, x, dim) / (float)dim + job->eps);

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
				float s = dot(job->x + i * cols, job->w->data + r * cols, cols);

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

/* x [head_dim] in place; cosines, then sines, rope_dim / 2 each */
static void rotate(const struct attention_shape *shape, const float *cos_sin, float *x)
{
	uint32_t half = shape->rope_dim / 2;

	for (uint32_t i = 0; i < half; i++) {
		bool halves = shape->rope_layout == ROPE_HALVES;
		float *a = halves ? &x[i] : &x[2 * i];
		float *b = halves ? &x[i + half] : &x[2 * i + 1];
		float c = cos_sin[i], s = cos_sin[half + i], a0 = *a, b0 = *b;

		*a = a0 * c - b0 * s;
		*b = b0 * c + a0 * s;
	}
}

static int reference_rope_kv(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const struct weight *rope, float *q, const float *k,
	const float *v, struct kv *kv, uint32_t layer)
{
	struct reference *ref = reference_of(b);
	uint32_t dim = shape->head_dim;
	float *rotated;
	int r = grow_scratch(ref, attention_scratch(shape->head_dim));

	if (r < 0)
		return r;
	assert(dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	assert(shape->rope_dim == rope->cols && shape->rope_dim <= dim);
	rotated = ref->scratch;
	for (size_t i = 0; i < batch->n_rows; i++) {
		uint32_t position = batch->positions[i], slot = batch->slots[i];

		assert(position < rope->rows);
		const float *cos_sin = rope->data + (size_t)position * rope->cols;

		for (size_t h = 0; h < shape->n_heads; h++)
			rotate(shape, cos_sin, q + (i * shape->n_heads + h) * dim);
		for (uint32_t h = 0; h < shape->n_kv_heads; h++) {
			size_t at = (i * shape->n_kv_heads + h) * dim;

			memcpy(rotated, k + at, dim * sizeof(float));
			rotate(shape, cos_sin, rotated);
			kv_store(kv, rotated, kv_row(kv, layer, batch, slot, position, h, false));
			kv_store(kv, v + at, kv_row(kv, layer, batch, slot, position, h, true));
		}
	}
	return 0;
}

struct attention_job {
	struct reference *ref;
	const struct batch *batch;
	const struct attention_shape *shape;
	const float *q;
	const struct kv *kv;
	uint32_t layer;
	float *y;
};

VECTOR_CLONES
static void add_scaled(float scale, const float *x, float *y, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] += scale * x[i];
}

/* One query head over the positions of one block: its maximum, its sum and its output by itself,
 * then merged into (max, sum, out) so far. */
static void attend_block(const struct attention_job *job, size_t row, uint32_t head, uint32_t begin,
	uint32_t end, float *scratch, float *max, float *sum, float *out)
{
	const struct batch *batch = job->batch;
	const struct attention_shape *shape = job->shape;
	uint32_t slot = batch->slots[row], dim = shape->head_dim;
	uint32_t kv_head = head / (shape->n_heads / shape->n_kv_heads);
	const float *q = job->q + (row * shape->n_heads + head) * dim;
	float *scores = scratch, *loaded = scores + ATTENTION_BLOCK, *block_out = loaded + dim;
	float block_max = -INFINITY, block_sum = 0;

	for (uint32_t p = begin; p < end; p++) {
		const uint8_t *k = kv_row(job->kv, job->layer, batch, slot, p, kv_head, false);
		float s = dot(q, kv_load(job->kv, k, loaded), dim) * shape->scale;

		scores[p - begin] = s;
		block_max = s > block_max ? s : block_max;
	}
	memset(block_out, 0, dim * sizeof(float));
	for (uint32_t p = begin; p < end; p++) {
		const uint8_t *v = kv_row(job->kv, job->layer, batch, slot, p, kv_head, true);
		float e = expf(scores[p - begin] - block_max);

		block_sum += e;
		add_scaled(e, kv_load(job->kv, v, loaded), block_out, dim);
	}

	float new_max = block_max > *max ? block_max : *max;
	float old_scale = expf(*max - new_max), block_scale = expf(block_max - new_max);
	for (uint32_t i = 0; i < dim; i++)
		out[i] = out[i] * old_scale + block_out[i] * block_scale;
	*sum = *sum * old_scale + block_sum * block_scale;
	*max = new_max;
}

/* Items are (row, query head). */
static void attend(void *arg, struct pool_range range)
{
	const struct attention_job *job = arg;
	const struct attention_shape *shape = job->shape;
	uint32_t dim = shape->head_dim;
	float *scratch = job->ref->scratch + range.thread * job->ref->scratch_floats;

	for (size_t item = range.begin; item < range.end; item++) {
		size_t row = item / shape->n_heads;
		uint32_t head = (uint32_t)(item % shape->n_heads);
		uint32_t end = job->batch->positions[row] + 1;
		uint32_t begin = shape->window > 0 && end > shape->window ? end - shape->window : 0;
		float max = -INFINITY, sum = 0, *y = job->y + item * dim;

		memset(y, 0, dim * sizeof(float));
		while (begin < end) {
			uint32_t next = (begin / ATTENTION_BLOCK + 1) * ATTENTION_BLOCK;

			next = next < end ? next : end;
			attend_block(job, row, head, begin, next, scratch, &max, &sum, y);
			begin = next;
		}
		for (uint32_t i = 0; i < dim; i++)
			y[i] /= sum;
	}
}

static int reference_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	struct reference *ref = reference_of(b);
	struct attention_job job = {
		.ref = ref,
		.batch = batch,
		.shape = shape,
		.q = q,
		.kv = kv,
		.layer = layer,
		.y = y,
	};
	int r = grow_scratch(ref, attention_scratch(shape->head_dim));

	if (r < 0)
		return r;
	assert(shape->n_heads % shape->n_kv_heads == 0);
	assert(shape->head_dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	pool_run(ref->pool, attend, &job, batch->n_rows * shape->n_heads, 1);
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
	.buffer_new = reference_buffer_new,
	.buffer_free = reference_buffer_free,
	.buffer_read = reference_buffer_read,
	.buffer_write = reference_buffer_write,
	.kv_new = reference_kv_new,
	.kv_free = reference_kv_free,
	.kv_zero = reference_kv_zero,
	.kv_read = reference_kv_read,
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
