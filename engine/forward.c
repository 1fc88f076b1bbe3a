/* The transformer, one page: what a Llama or Mistral layer does, in the order of the papers
 * (Touvron et al. 2023; Jiang et al. 2023). Every line is an operation of the layer's backend. */
#include "engine/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Carries n rows of the residual stream from one backend's memory to another's. */
static int carry(struct workspace *ws, uint32_t dim, uint32_t n, struct backend *from,
	const float *x, struct backend *to, float *y, struct backend **ret_failed)
{
	int r;

	*ret_failed = from;
	r = from->ops->buffer_read(from, x, ws->carry, (size_t)n * dim);
	if (r < 0)
		return r;
	*ret_failed = to;
	return to->ops->buffer_write(to, y, ws->carry, (size_t)n * dim);
}

static uint32_t backend_index(const struct weights *w, const struct backend *b)
{
	uint32_t i = 0;

	while (w->backends[i] != b)
		i++;
	assert(i < w->n_backends);
	return i;
}

/* g [n, ffn_dim] = silu(h Wg + bg) * (h Wu + bu) with h = rmsnorm(x): few models have these biases,
 * no backend fuses them. */
static int gate_up_biased(struct backend *b, uint32_t n, const struct layer_weights *l,
	const struct model_config *c, const struct workspace_buffers *s)
{
	int r;

	r = b->ops->rmsnorm(b, n, s->x, l->ffn_norm, c->rms_eps, s->h);
	if (r == 0)
		r = b->ops->matmul(b, n, s->h, l->gate, l->bgate, s->g);
	if (r == 0)
		r = b->ops->matmul(b, n, s->h, l->up, l->bup, s->u);
	if (r == 0)
		r = b->ops->swiglu(b, n, c->ffn_dim, s->g, s->u, s->g);
	return r;
}

/* x [n, dim] += attention(rmsnorm(x)) Wo; x += (silu(h Wg) * (h Wu)) Wd with h = rmsnorm(x) */
static int layer(const struct layer_weights *l, const struct model_config *c, struct kv *kv,
	const struct workspace_buffers *s, const struct batch *batch)
{
	struct backend *b = l->backend;
	uint32_t n = batch->n_rows;
	int r;

	r = backend_qkv(b, batch,
		&(struct qkv_args){
			.shape = &c->attention,
			.x = s->x,
			.norm = l->attn_norm,
			.eps = c->rms_eps,
			.wq = l->wq,
			.wk = l->wk,
			.wv = l->wv,
			.bq = l->bq,
			.bk = l->bk,
			.bv = l->bv,
			.rope = l->rope,
			.kv = kv,
			.layer = l->kv_layer,
			.h = s->h,
			.k = s->k,
			.v = s->v,
			.q = s->q,
		});
	if (r == 0)
		r = b->ops->attention(b, batch, &c->attention, s->q, kv, l->kv_layer, s->o);
	if (r == 0)
		r = backend_matmul_add(b, n, s->o, l->wo, l->bo, s->h, s->x);
	if (r == 0 && (l->bgate || l->bup))
		r = gate_up_biased(b, n, l, c, s);
	else if (r == 0)
		r = backend_gate_up(b, n,
			&(struct gate_up_args){
				.x = s->x,
				.norm = l->ffn_norm,
				.eps = c->rms_eps,
				.gate = l->gate,
				.up = l->up,
				.h = s->h,
				.u = s->u,
				.y = s->g,
			});
	if (r == 0)
		r = backend_matmul_add(b, n, s->g, l->down, l->bdown, s->h, s->x);
	return r;
}

/* Do the part's rows take part in the layer, or in the output that comes behind the layers? */
static bool part_takes(const struct forward_part *part, uint32_t layer, uint32_t n_layers)
{
	return part->layer == layer && (layer < part->to || layer == n_layers);
}

/* The batch without its first rows. */
static struct batch batch_behind(const struct batch *whole, uint32_t first)
{
	struct batch b = *whole;

	b.n_rows -= first;
	b.tokens += first;
	b.slots += first;
	b.positions += first;
	return b;
}

/* Tells all backends which rows the next operations are about. */
static int announce(const struct weights *w, const struct batch *batch, struct backend **ret_failed)
{
	int r = 0;

	for (uint32_t i = 0; i < w->n_backends && r == 0; i++) {
		*ret_failed = w->backends[i];
		r = w->backends[i]->ops->batch_begin(w->backends[i], batch);
	}
	return r;
}

int forward(const struct weights *w, struct kv_pool *kv, struct workspace *ws,
	const struct batch *batch, struct forward_part *part, const uint32_t *logit_rows,
	uint32_t n_logits, const struct forward_watch *watch, struct backend **ret_failed)
{
	const struct model_config *c = &w->model->config;
	uint32_t first = UINT32_MAX, at = backend_index(w, w->embed_backend);
	struct backend *b = w->embed_backend;
	struct batch rows = *batch;
	int r = 0;

	assert(batch->n_rows > 0 && batch->n_rows <= ws->max_rows && n_logits <= ws->max_logits);
	assert(!part || (part->n_rows <= batch->n_rows && part->layer <= part->to));
	for (uint32_t i = 0; i <= c->n_layers && r == 0; i++) {
		struct backend *next = i < c->n_layers ? w->layers[i].backend : w->output_backend;
		const uint32_t to = backend_index(w, next);
		struct workspace_buffers s = ws->buffers[to];
		uint32_t behind;

		*ret_failed = b;
		if (watch)
			r = watch->before(watch->userdata, i);
		if (r < 0)
			return r;
		behind = part && !part_takes(part, i, c->n_layers) ? part->n_rows : 0;
		if (first != behind) {
			first = behind;
			rows = batch_behind(batch, first);
			if (rows.n_rows > 0)
				r = announce(w, &rows, ret_failed);
		}
		s.x += (size_t)first * c->dim;
		*ret_failed = b;
		if (r == 0 && i == 0 && rows.n_rows > 0)
			r = b->ops->embed(
				b, &rows, w->embed, ws->buffers[at].x + (size_t)first * c->dim);
		if (r == 0 && next != b && rows.n_rows > 0)
			r = carry(ws, c->dim, rows.n_rows, b,
				ws->buffers[at].x + (size_t)first * c->dim, next, s.x, ret_failed);
		b = next;
		at = to;
		if (r < 0 || i == c->n_layers || rows.n_rows == 0)
			continue;
		*ret_failed = b;
		r = layer(&w->layers[i], c, kv->kvs[at], &s, &rows);
		if (part && first == 0)
			part->layer = i + 1;
	}
	if (r == 0 && n_logits > 0) {
		const struct workspace_buffers *s = &ws->buffers[at];

		r = b->ops->gather(b, n_logits, c->dim, logit_rows, s->x, s->h);
		if (r == 0)
			r = b->ops->rmsnorm(b, n_logits, s->h, w->output_norm, c->rms_eps, s->h);
		if (r == 0)
			r = b->ops->matmul(b, n_logits, s->h, w->output, NULL, ws->logits);
	}
	return r;
}

/* Twice the residual stream's width, twice each of the heads', the KV heads' and the FFN's. */
uint64_t workspace_bytes(const struct model_config *c, uint32_t max_rows, uint32_t max_logits)
{
	const struct attention_shape *a = &c->attention;
	uint64_t heads = (uint64_t)(a->n_heads + a->n_kv_heads) * a->head_dim;
	uint64_t row = 2 * (c->dim + heads + c->ffn_dim);

	return (max_rows * row + (uint64_t)max_logits * c->vocab) * sizeof(float);
}

int workspace_new(const struct weights *w, uint32_t max_rows, uint32_t max_logits,
	struct workspace **ret, char *error, size_t error_size)
{
	const struct model_config *c = &w->model->config;
	const struct attention_shape *a = &c->attention;
	size_t rows = max_rows, heads = (size_t)a->n_heads * a->head_dim,
	       kv_heads = (size_t)a->n_kv_heads * a->head_dim;
	struct workspace *ws;
	struct backend *b = NULL;
	int r = 0;

	assert(max_logits <= max_rows);
	ws = calloc(1, sizeof(*ws));
	if (ws)
		ws->buffers = calloc(w->n_backends, sizeof(*ws->buffers));
	if (ws && w->n_backends > 1)
		ws->carry = malloc(rows * c->dim * sizeof(float));
	if (!ws || !ws->buffers || (w->n_backends > 1 && !ws->carry)) {
		workspace_free(w, ws);
		snprintf(error, error_size, "no memory for a workspace of %u rows", max_rows);
		return -ENOMEM;
	}
	ws->max_rows = max_rows;
	ws->max_logits = max_logits;
	for (uint32_t i = 0; i < w->n_backends && r == 0; i++) {
		struct workspace_buffers *s = &ws->buffers[i];
		const struct {
			float **buffer;
			size_t floats;
		} wanted[] = {
			{&s->x, rows * c->dim},
			{&s->h, rows * c->dim},
			{&s->q, rows * heads},
			{&s->o, rows * heads},
			{&s->k, rows * kv_heads},
			{&s->v, rows * kv_heads},
			{&s->g, rows * c->ffn_dim},
			{&s->u, rows * c->ffn_dim},
		};

		b = w->backends[i];
		for (size_t k = 0; k < sizeof(wanted) / sizeof(*wanted) && r == 0; k++)
			r = b->ops->buffer_new(b, wanted[k].floats, wanted[k].buffer);
	}
	if (r == 0) {
		b = w->output_backend;
		r = b->ops->buffer_new(b, (size_t)max_logits * c->vocab, &ws->logits);
	}
	if (r < 0) {
		snprintf(error, error_size, "no workspace for %u rows: %s", max_rows, b->error);
		workspace_free(w, ws);
		return r;
	}
	*ret = ws;
	return 0;
}

struct workspace *workspace_free(const struct weights *w, struct workspace *ws)
{
	if (!ws)
		return NULL;
	for (uint32_t i = 0; ws->buffers && i < w->n_backends; i++) {
		struct workspace_buffers *s = &ws->buffers[i];
		float *buffers[] = {s->x, s->h, s->q, s->o, s->k, s->v, s->g, s->u};

		for (size_t k = 0; k < sizeof(buffers) / sizeof(*buffers); k++)
			w->backends[i]->ops->buffer_free(w->backends[i], buffers[k]);
	}
	if (ws->logits)
		w->output_backend->ops->buffer_free(w->output_backend, ws->logits);
	free(ws->buffers);
	free(ws->carry);
	free(ws);
	return NULL;
}
