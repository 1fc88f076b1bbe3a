/* The KV pages: keys stand element by element with the page's 16 positions side by side, values
 * position by position (kernel_attention.h tells why). Also the rotation, which is what writes
 * them. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOUCH_BYTES ((size_t)2 << 20)

int cpu_kv_new(struct backend *b, const struct kv_shape *shape, struct kv **ret)
{
	struct cpu *cpu = cpu_of(b);
	struct kv *kv = calloc(1, sizeof(*kv));
	size_t heads;

	if (!kv)
		return cpu_no_memory(cpu, "KV pages", sizeof(*kv));
	assert(shape->head_dim > 0 && shape->n_kv_heads > 0);
	kv->shape = *shape;
	kv->padded_dim = (shape->head_dim + 15) / 16 * 16;
	kv->element_bytes = shape->dtype == DTYPE_F32 ? 4 : shape->dtype == DTYPE_Q8_0 ? 1 : 2;
	if (shape->dtype == DTYPE_Q8_0)
		kv->scale_bytes = (size_t)shape->head_dim / 32 * KV_PAGE_TOKENS * sizeof(uint16_t);
	kv->head_bytes = ((size_t)shape->head_dim + kv->padded_dim) * KV_PAGE_TOKENS *
				 kv->element_bytes +
			 2 * kv->scale_bytes;
	kv->head_bytes = (kv->head_bytes + 63) / 64 * 64;
	if (__builtin_mul_overflow(
		    (size_t)shape->n_layers * shape->n_pages, (size_t)shape->n_kv_heads, &heads) ||
		__builtin_mul_overflow(heads, kv->head_bytes, &kv->bytes)) {
		free(kv);
		return cpu_no_memory(cpu, "KV pages", SIZE_MAX);
	}
	kv->data = cpu_memory_new(kv->bytes);
	if (!kv->data) {
		const size_t bytes = kv->bytes;

		free(kv);
		return cpu_no_memory(cpu, "KV pages", bytes);
	}
	*ret = kv;
	return 0;
}

void cpu_kv_free(struct backend *b, struct kv *kv)
{
	(void)b;
	if (!kv)
		return;
	cpu_memory_free(kv->data, kv->bytes);
	free(kv);
}

int cpu_kv_zero(struct backend *b, struct kv *kv, uint32_t page)
{
	(void)b;
	assert(page < kv->shape.n_pages);
	for (uint32_t layer = 0; layer < kv->shape.n_layers; layer++)
		memset(kv_head(kv, layer, page, 0), 0, kv->shape.n_kv_heads * kv->head_bytes);
	return 0;
}

/* A huge page at a time: that is what the kernel finds and clears at a first write, in a tenth of a
 * millisecond on a machine of one's own and in five where memory is the host's to give. */
bool cpu_kv_touch(struct backend *b, struct kv *kv, uint32_t n_pages)
{
	const size_t page_bytes = kv->shape.n_kv_heads * kv->head_bytes;
	const uint32_t first = kv->touched_pages;
	uint32_t n = (uint32_t)(TOUCH_BYTES / page_bytes);

	(void)b;
	assert(n_pages <= kv->shape.n_pages);
	if (first >= n_pages)
		return false;
	n = n == 0 ? 1 : n < n_pages - first ? n : n_pages - first;
	if (!cpu_memory_touch(kv->bytes, kv_head(kv, kv->touched_layers, first, 0), n * page_bytes))
		return false;
	if (++kv->touched_layers == kv->shape.n_layers) {
		kv->touched_layers = 0;
		kv->touched_pages += n;
	}
	return true;
}

/* Rows of Q8_0: of a page's keys (element d of position t at 16 d + t) or values (at dim t + d),
 * the scales of both [block][position]. */
#define Q8_BYTES 34 /* a block: f16 scale, 32 numbers */

static size_t q8_at(size_t dim, size_t t, size_t d, bool value)
{
	return value ? dim * t + d : KV_PAGE_TOKENS * d + t;
}

static void q8_write(uint8_t *to, size_t dim, size_t t, bool value, const uint8_t *row)
{
	for (size_t k = 0; k < dim / 32; k++, row += Q8_BYTES) {
		memcpy(to + dim * KV_PAGE_TOKENS + 2 * (k * KV_PAGE_TOKENS + t), row, 2);
		for (size_t i = 0; i < 32; i++)
			to[q8_at(dim, t, 32 * k + i, value)] = row[2 + i];
	}
}

static void q8_read(const uint8_t *from, size_t dim, size_t t, bool value, uint8_t *row)
{
	for (size_t k = 0; k < dim / 32; k++, row += Q8_BYTES) {
		memcpy(row, from + dim * KV_PAGE_TOKENS + 2 * (k * KV_PAGE_TOKENS + t), 2);
		for (size_t i = 0; i < 32; i++)
			row[2 + i] = from[q8_at(dim, t, 32 * k + i, value)];
	}
}

int cpu_kv_read(struct backend *b, struct kv *kv, uint32_t layer, uint32_t page, void *host)
{
	const size_t e = kv->element_bytes, dim = kv->shape.head_dim;
	const bool q8 = kv->shape.dtype == DTYPE_Q8_0;
	const size_t row = q8 ? dim / 32 * Q8_BYTES : dim * e;
	const size_t half = kv->shape.n_kv_heads * KV_PAGE_TOKENS * row;
	uint8_t *to = host;

	(void)b;
	assert(layer < kv->shape.n_layers && page < kv->shape.n_pages);
	for (uint32_t head = 0; head < kv->shape.n_kv_heads; head++) {
		const uint8_t *k = kv_head(kv, layer, page, head), *v = k + kv_values_offset(kv);

		for (size_t t = 0; t < KV_PAGE_TOKENS; t++, to += row) {
			if (q8) {
				q8_read(k, dim, t, false, to);
				q8_read(v, dim, t, true, to + half);
				continue;
			}
			for (size_t d = 0; d < dim; d++)
				memcpy(to + d * e, k + (d * KV_PAGE_TOKENS + t) * e, e);
			memcpy(to + half, v + t * kv->padded_dim * e, dim * e);
		}
	}
	return 0;
}

static size_t layer_bytes(const struct kv *kv)
{
	return kv->shape.n_kv_heads * kv->head_bytes;
}

size_t cpu_kv_page_bytes(const struct kv *kv)
{
	return kv->shape.n_layers * layer_bytes(kv);
}

int cpu_kv_save(struct backend *b, struct kv *kv, uint32_t page, void *host)
{
	(void)b;
	assert(page < kv->shape.n_pages);
	for (uint32_t layer = 0; layer < kv->shape.n_layers; layer++)
		memcpy((uint8_t *)host + layer * layer_bytes(kv), kv_head(kv, layer, page, 0),
			layer_bytes(kv));
	return 0;
}

int cpu_kv_restore(struct backend *b, struct kv *kv, uint32_t page, const void *host)
{
	(void)b;
	assert(page < kv->shape.n_pages);
	for (uint32_t layer = 0; layer < kv->shape.n_layers; layer++)
		memcpy(kv_head(kv, layer, page, 0), (const uint8_t *)host + layer * layer_bytes(kv),
			layer_bytes(kv));
	return 0;
}

struct rope_run {
	struct cpu *cpu;
	const struct batch *batch;
	const struct attention_shape *shape;
	const struct weight *rope;
	float *q;
	const float *k, *v;
	struct kv *kv;
	uint32_t layer;
	size_t table_at, elements_at; /* in a thread's scratch */
};

/* x [head_dim] in place by cosines and sines [rope_dim / 2] each */
static void rotate(const struct attention_shape *s, const float *cosine, float *x)
{
	const uint32_t half = s->rope_dim / 2, next = s->rope_layout == ROPE_HALVES ? half : 1;
	const uint32_t step = s->rope_layout == ROPE_HALVES ? 1 : 2;
	const float *sine = cosine + half;

	for (uint32_t i = 0; i < half; i++) {
		float *a = x + i * step, *b = a + next;
		const float u = *a, v = *b;

		*a = u * cosine[i] - v * sine[i];
		*b = v * cosine[i] + u * sine[i];
	}
}

/* x [n] to the KV's type */
static void elements(
	const struct cpu *cpu, const struct kv *kv, const float *x, uint32_t n, void *to)
{
	if (kv->shape.dtype == DTYPE_F32)
		memcpy(to, x, n * sizeof(float));
	else if (kv->shape.dtype == DTYPE_F16)
		cpu->isa.to_f16(x, n, to);
	else
		quantize_row(kv->shape.dtype, x, NULL, to, n);
}

static void write_key(struct kv *kv, uint8_t *keys, uint32_t in_page, const void *from)
{
	const uint32_t dim = kv->shape.head_dim;

	if (kv->shape.dtype == DTYPE_Q8_0)
		q8_write(keys, dim, in_page, false, from);
	else if (kv->element_bytes == 2)
		for (uint32_t d = 0; d < dim; d++)
			((uint16_t *)(void *)keys)[d * KV_PAGE_TOKENS + in_page] = ((
				const uint16_t *)from)[d];
	else
		for (uint32_t d = 0; d < dim; d++)
			((float *)(void *)keys)[d * KV_PAGE_TOKENS + in_page] = ((
				const float *)from)[d];
}

static void write_value(struct kv *kv, uint8_t *values, uint32_t in_page, const void *from)
{
	if (kv->shape.dtype == DTYPE_Q8_0)
		q8_write(values, kv->shape.head_dim, in_page, true, from);
	else
		memcpy(values + (size_t)in_page * kv->padded_dim * kv->element_bytes, from,
			kv->shape.head_dim * kv->element_bytes);
}

static void rope_rows(void *arg, struct pool_range range)
{
	const struct rope_run *r = arg;
	const struct attention_shape *s = r->shape;
	const struct batch *batch = r->batch;
	const uint32_t dim = s->head_dim;
	uint8_t *scratch = cpu_scratch_of(r->cpu, range.thread);
	float *head = (float *)(void *)scratch;
	float *table = (float *)(void *)(scratch + r->table_at);
	uint8_t *e = scratch + r->elements_at;

	for (uint32_t i = range.begin; i < range.end; i++) {
		const uint32_t position = batch->positions[i];
		const uint32_t page =
			batch->page_table[(size_t)batch->slots[i] * batch->page_table_stride +
					  position / KV_PAGE_TOKENS];
		const uint32_t in_page = position % KV_PAGE_TOKENS;

		assert(page < r->kv->shape.n_pages);
		if (s->rope_dim > 0)
			layout_row(r->rope, position, table);
		for (uint32_t h = 0; h < s->n_heads; h++)
			rotate(s, table, r->q + ((size_t)i * s->n_heads + h) * dim);
		for (uint32_t h = 0; h < s->n_kv_heads; h++) {
			uint8_t *keys = kv_head(r->kv, r->layer, page, h);
			uint8_t *values = keys + kv_values_offset(r->kv);
			const size_t from = ((size_t)i * s->n_kv_heads + h) * dim;

			memcpy(head, r->k + from, dim * sizeof(float));
			rotate(s, table, head);
			elements(r->cpu, r->kv, head, dim, e);
			write_key(r->kv, keys, in_page, e);
			elements(r->cpu, r->kv, r->v + from, dim, e);
			write_value(r->kv, values, in_page, e);
		}
	}
}

int cpu_rope_kv(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const struct weight *rope, float *q, const float *k, const float *v, struct kv *kv,
	uint32_t layer)
{
	struct rope_run run = {.cpu = cpu_of(b),
		.batch = batch,
		.shape = shape,
		.rope = rope,
		.q = q,
		.k = k,
		.v = v,
		.kv = kv,
		.layer = layer};
	const size_t head_bytes = (size_t)kv->padded_dim * sizeof(float);
	int r;

	assert(shape->head_dim == kv->shape.head_dim && shape->n_kv_heads == kv->shape.n_kv_heads);
	assert(shape->rope_dim == 0 || rope->cols == shape->rope_dim);
	run.elements_at = head_bytes;
	run.table_at = 2 * head_bytes;
	r = cpu_scratch(run.cpu, 2 * head_bytes + shape->rope_dim * sizeof(float));
	if (r < 0)
		return r;
	if (batch->n_rows <= 2)
		rope_rows(&run, (struct pool_range){0, batch->n_rows, 0});
	else
		pool_run(run.cpu->pool, rope_rows, &run, batch->n_rows, 4);
	return 0;
}
