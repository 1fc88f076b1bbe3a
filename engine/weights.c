/* The weights on their devices: every tensor of the file handed to its backend, once.
 *
 * struct weights owns the backends' handles; backends and model belong to the caller and outlive
 * it. After a tensor is handed over nothing needs its pages, so they leave the process (the page
 * cache may keep them). What packed.h has kept is handed over from there. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/convert.h"
#include "engine/model.h"
#include "engine/packed.h"
#include "engine/source.h"

/* What the steps of one load share. */
struct load {
	struct weights *w;
	const struct weights_progress *progress;
	struct pool *pool; /* for converting; NULL where nothing is */
	uint64_t done_bytes;
	struct model_refusal why;
};

/* Advice for the whole pages inside the tensor's data; its failure costs speed only. */
static void advise(const struct source_tensor *t, int advice)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = ((uintptr_t)t->data + page - 1) & ~(page - 1);
	uintptr_t to = ((uintptr_t)t->data + t->bytes) & ~(page - 1);

	if (from < to)
		(void)madvise((void *)from, to - from, advice);
}

/* What putting t has led to. */
static int taken(struct load *l, struct backend *b, const struct tensor *t, int r,
	const struct weight *weight)
{
	if (r == -ENOTSUP && b->error[0] == '\0')
		return model_refuse(&l->why, r, "tensor %s: the %s backend does not run type %s",
			t->name, b->ops->name, dtype_info(t->dtype)->name);
	if (r < 0 && b->error[0] != '\0')
		return model_refuse(&l->why, r, "%s", b->error); /* it names the tensor */
	if (r < 0)
		return model_refuse(&l->why, r, "tensor %s: %s", t->name, strerror(-r));
	l->w->bytes += b->ops->weight_bytes(weight);
	for (uint32_t i = 0; i < l->w->n_backends; i++)
		if (l->w->backends[i] == b)
			l->w->backend_bytes[i] += b->ops->weight_bytes(weight);
	return 0;
}

static int put(struct load *l, struct backend *b, const struct tensor *t, struct weight **ret)
{
	int r;

	b->error[0] = '\0';
	r = b->ops->weight_put(b, t, ret);
	return taken(l, b, t, r, r == 0 ? *ret : NULL);
}

/* As put(), if the tensor's packed bytes were kept: *ret is then there. */
static int adopt(struct load *l, struct backend *b, const struct tensor *t, enum dtype as,
	struct weight **ret)
{
	struct tensor packed = *t;
	int r;

	packed.dtype = as;
	packed.data = packed_tensor(l->w->packed, &packed, &packed.bytes);
	if (!packed.data)
		return 0;
	b->error[0] = '\0';
	r = b->ops->weight_adopt(b, &packed, ret);
	if (r == -EINVAL) /* packed by other rules: the file's own bytes do */
		return 0;
	return taken(l, b, t, r, r == 0 ? *ret : NULL);
}

/* Norms and biases are f32 on every backend, whatever the file's type: they are few bytes, and a
 * 16-bit one stands for its value exactly. */
static int put_vector(struct load *l, struct backend *b, struct tensor t, struct weight **ret)
{
	float *values = malloc((size_t)t.cols * sizeof(*values));
	int r;

	if (!values)
		return model_refuse(&l->why, -ENOMEM, "no memory for tensor %s", t.name);
	dequantize_row(t.dtype, t.data, values, t.cols);
	t.dtype = DTYPE_F32;
	t.data = values;
	t.bytes = (size_t)t.cols * sizeof(*values);
	r = put(l, b, &t, ret);
	free(values);
	return r;
}

/* Puts the tensor as the type that the loaded model has: the converted rows live as long as that
 * takes. */
static int put_converted(
	struct load *l, struct backend *b, struct tensor *t, enum dtype to, struct weight **ret)
{
	struct tensor converted = *t;
	size_t row_bytes = 0;
	void *data;
	int r;

	if (to == t->dtype)
		return put(l, b, t, ret);
	converted.dtype = to;
	if (!dtype_row_bytes(to, t->cols, &row_bytes) ||
		__builtin_mul_overflow(row_bytes, (size_t)t->rows, &converted.bytes))
		return model_refuse(&l->why, -EINVAL, "tensor %s: too large", t->name);
	data = malloc(converted.bytes);
	if (!data)
		return model_refuse(&l->why, -ENOMEM, "tensor %s: no memory for %zu bytes", t->name,
			converted.bytes);
	converted.data = data;
	r = convert_tensor(l->pool, t, to, data, l->why.text, l->why.size);
	if (r == 0)
		r = put(l, b, &converted, ret);
	free(data);
	t->bytes = converted.bytes;
	return r;
}

/* NULL (an optional tensor that is missing) leaves *ret NULL. */
static int put_tensor(
	struct load *l, struct backend *b, const struct source_tensor *t, struct weight **ret)
{
	char name[128];
	struct tensor tensor;
	enum dtype as;
	int r;

	if (!t)
		return 0;
	/* model_tensors_check() has accepted the name and the shape. */
	assert(t->name.len < sizeof(name));
	memcpy(name, t->name.text, t->name.len);
	name[t->name.len] = '\0';
	tensor = (struct tensor){
		.name = name,
		.dtype = t->dtype,
		.rows = (uint32_t)t->dims[1],
		.cols = (uint32_t)t->dims[0],
		.data = t->data,
		.bytes = t->bytes,
	};
	as = model_loaded_type(l->w->model, t);
	if (l->w->packed) {
		r = adopt(l, b, &tensor, as, ret);
		if (r < 0 || *ret)
			return r; /* packed_open() has told how far they are */
	}
	advise(t, MADV_WILLNEED);
	r = t->n_dims == 1 && t->dtype != DTYPE_F32 ? put_vector(l, b, tensor, ret)
						    : put_converted(l, b, &tensor, as, ret);
	if (r < 0)
		return r;
	advise(t, MADV_DONTNEED);
	/* A tied table that two devices hold goes up twice and counts once. */
	l->done_bytes += tensor.bytes;
	if (l->done_bytes > l->w->model->config.tensor_bytes)
		l->done_bytes = l->w->model->config.tensor_bytes;
	if (l->progress && l->progress->report &&
		l->progress->report(l->progress->userdata, l->done_bytes,
			l->w->model->config.tensor_bytes) != 0)
		return model_refuse(&l->why, -ECANCELED, "the load was cancelled");
	return 0;
}

struct weight **weights_of_layer(struct layer_weights *l, enum layer_tensor which)
{
	switch (which) {
	case LAYER_ATTN_NORM: return &l->attn_norm;
	case LAYER_Q: return &l->wq;
	case LAYER_K: return &l->wk;
	case LAYER_V: return &l->wv;
	case LAYER_O: return &l->wo;
	case LAYER_BQ: return &l->bq;
	case LAYER_BK: return &l->bk;
	case LAYER_BV: return &l->bv;
	case LAYER_BO: return &l->bo;
	case LAYER_FFN_NORM: return &l->ffn_norm;
	case LAYER_GATE: return &l->gate;
	case LAYER_UP: return &l->up;
	case LAYER_DOWN: return &l->down;
	case LAYER_BGATE: return &l->bgate;
	case LAYER_BUP: return &l->bup;
	case LAYER_BDOWN: return &l->bdown;
	case LAYER_TENSORS: break;
	}
	assert(!"no tensor of a layer");
	return NULL;
}

static int load_layer(struct load *l, uint32_t layer)
{
	struct layer_weights *lw = &l->w->layers[layer];
	const struct model_source *s = l->w->model->source;
	unsigned i;
	int r;

	for (i = 0; i < LAYER_TENSORS; i++) {
		const enum layer_tensor which = (enum layer_tensor)i;

		r = put_tensor(l, lw->backend, source_layer_tensor(s, layer, which),
			weights_of_layer(lw, which));
		if (r < 0)
			return r;
	}
	return 0;
}

/* Malloc'ed, or NULL where the files have none. */
static int read_divisors(const struct load *l, float **ret)
{
	const struct source_tensor *t = l->w->model->source->fixed[TENSOR_ROPE];
	float *values;
	size_t i, n;

	*ret = NULL;
	if (!t)
		return 0;
	n = t->dims[0];
	values = malloc(n * sizeof(*values));
	if (!values)
		return model_refuse(&l->why, -ENOMEM, "no memory for the divisors of RoPE");
	dequantize_row(t->dtype, t->data, values, n);
	for (i = 0; i < n; i++)
		if (!(values[i] > 0 && isfinite(values[i]))) {
			free(values);
			return model_refuse(&l->why, -EINVAL,
				"tensor %.*s: positive numbers expected, element %zu is none",
				(int)t->name.len, t->name.text, i);
		}
	*ret = values;
	return 0;
}

/* One table computed here, a copy on every backend that runs a layer. */
static int load_ropes(struct load *l, uint32_t positions)
{
	const struct model_config *c = &l->w->model->config;
	const uint32_t dim = c->attention.rope_dim;
	struct tensor t = {.name = "rope", .dtype = DTYPE_F32, .rows = positions, .cols = dim};
	float *table, *divisors;
	uint32_t i;
	int r;

	if (__builtin_mul_overflow((size_t)positions * dim, sizeof(*table), &t.bytes))
		return model_refuse(
			&l->why, -ENOMEM, "no memory for %u positions of RoPE", positions);
	table = malloc(t.bytes);
	if (!table)
		return model_refuse(&l->why, -ENOMEM,
			"no memory for %u positions of RoPE (%zu bytes)", positions, t.bytes);
	r = read_divisors(l, &divisors);
	if (r < 0) {
		free(table);
		return r;
	}
	rope_table(table, positions, dim, &c->rope, divisors);
	free(divisors);
	t.data = table;
	for (i = 0; i < l->w->n_backends && r == 0; i++)
		r = put(l, l->w->backends[i], &t, &l->w->ropes[i]);
	free(table);
	return r;
}

static int load(struct load *l, uint32_t positions)
{
	struct weights *w = l->w;
	const struct source_tensor *const *fixed = w->model->source->fixed;
	uint32_t i;
	int r;

	r = load_ropes(l, positions);
	if (r < 0)
		return r;
	r = put_tensor(l, w->embed_backend, fixed[TENSOR_EMBED], &w->embed);
	if (r < 0)
		return r;
	for (i = 0; i < w->model->config.n_layers; i++) {
		r = load_layer(l, i);
		if (r < 0)
			return r;
	}
	r = put_tensor(l, w->output_backend, fixed[TENSOR_OUTPUT_NORM], &w->output_norm);
	if (r < 0)
		return r;
	if (!w->model->config.tied)
		return put_tensor(l, w->output_backend, fixed[TENSOR_OUTPUT], &w->output);
	if (w->output_backend != w->embed_backend)
		return put_tensor(l, w->output_backend, fixed[TENSOR_EMBED], &w->output);
	w->output = w->embed;
	return 0;
}

/* Every layer gets its backend, its rope and its place among the backend's layers. */
static int place(struct weights *w, const uint32_t *placement)
{
	uint32_t *n_layers, n = w->model->config.n_layers, i, b;

	n_layers = calloc(w->n_backends, sizeof(*n_layers));
	if (!n_layers)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		b = placement ? placement[i] : 0;
		assert(b < w->n_backends);
		w->layers[i].backend = w->backends[b];
		w->layers[i].kv_layer = n_layers[b]++;
	}
	w->embed_backend = w->layers[0].backend;
	w->output_backend = w->layers[n - 1].backend;
	free(n_layers);
	return 0;
}

/* What was kept of them, if they were; want of it is no failure. */
static int open_packed(struct load *l, const struct weights_options *o)
{
	struct backend *b = l->w->backends[0];
	int r;

	if (!o->packed || l->w->n_backends > 1 || !b->ops->weight_layout)
		return 0;
	r = packed_open(
		o->packed, l->w->model, b->ops->weight_layout(b), o->progress, &l->w->packed);
	if (r == -ECANCELED)
		return model_refuse(&l->why, r, "the load was cancelled");
	if (r == 0)
		l->done_bytes = l->w->model->config.tensor_bytes;
	return 0;
}

/* Everything that one load needs beside the weights, then they. */
static int load_with(struct load *l, const struct weights_options *o)
{
	const struct model *m = l->w->model;
	int r = open_packed(l, o);

	if (r == 0 && m->quantize) {
		r = pool_new(l->w->backends[0]->device.threads, &l->pool);
		if (r < 0)
			return model_refuse(&l->why, r, "no threads to convert the weights");
	}
	if (r == 0)
		r = load(l, o->context ? o->context : m->config.context);
	pool_free(l->pool);
	return r;
}

int weights_load(const struct model *m, struct backend *const *backends, uint32_t n_backends,
	const struct weights_options *o, struct weights **ret, char *error, size_t error_size)
{
	struct load l = {.progress = o->progress, .why = {error, error_size}};
	struct weights *w;
	uint32_t i, b;
	int r = -ENOMEM;

	assert(n_backends > 0);
	w = calloc(1, sizeof(*w));
	if (!w)
		return model_refuse(&l.why, -ENOMEM, "no memory for the weights' handles");
	l.w = w;
	w->model = m;
	w->n_backends = n_backends;
	w->layers = calloc(m->config.n_layers, sizeof(*w->layers));
	w->ropes = calloc(n_backends, sizeof(*w->ropes));
	w->backends = calloc(n_backends, sizeof(*w->backends));
	w->backend_bytes = calloc(n_backends, sizeof(*w->backend_bytes));
	if (w->layers && w->ropes && w->backends && w->backend_bytes) {
		memcpy(w->backends, backends, n_backends * sizeof(*backends));
		r = place(w, o->placement);
	}
	if (r < 0)
		r = model_refuse(&l.why, r, "no memory for the weights' handles");
	else
		r = load_with(&l, o);
	if (r < 0) {
		weights_free(w);
		return r;
	}
	for (i = 0; i < m->config.n_layers; i++)
		for (b = 0; b < n_backends; b++)
			if (w->layers[i].backend == backends[b]) {
				w->layers[i].rope = w->ropes[b];
				break;
			}
	*ret = w;
	return 0;
}

static void drop(struct backend *b, struct weight *weight)
{
	if (b)
		b->ops->weight_free(b, weight);
}

struct weights *weights_free(struct weights *w)
{
	uint32_t i;

	if (!w)
		return NULL;
	for (i = 0; w->layers && i < w->model->config.n_layers; i++) {
		struct layer_weights *l = &w->layers[i];
		unsigned k;

		for (k = 0; k < LAYER_TENSORS; k++)
			drop(l->backend, *weights_of_layer(l, (enum layer_tensor)k));
	}
	if (w->output != w->embed)
		drop(w->output_backend, w->output);
	drop(w->output_backend, w->output_norm);
	drop(w->embed_backend, w->embed);
	for (i = 0; w->ropes && w->backends && i < w->n_backends; i++)
		drop(w->backends[i], w->ropes[i]);
	packed_free(w->packed);
	free(w->layers);
	free(w->ropes);
	free(w->backends);
	free(w->backend_bytes);
	free(w);
	return NULL;
}

uint64_t weights_bytes_on(const struct weights *w, const struct backend *b)
{
	uint32_t i = 0;

	while (w->backends[i] != b)
		i++;
	assert(i < w->n_backends);
	return w->backend_bytes[i];
}
