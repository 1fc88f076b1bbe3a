/* One face for the processor's probe (kernels/probe.c) and a card's (its module). */
#include "engine/yardstick.h"

#include <errno.h>
#include <stdlib.h>

#define RANGES_LAYER 7

struct yardstick {
	struct prober *prober; /* NULL: a card's */
	const struct cuda_module *module;
	uint32_t card;
};

/* The matrices that every token is multiplied with. ranges [n_layers * RANGES_LAYER + 1] */
static void ranges_of(const struct weights *w, struct probe_range *ranges)
{
	const struct backend_ops *ops = w->output_backend->ops;
	uint32_t n = 0;

	for (uint32_t i = 0; i < w->model->config.n_layers; i++) {
		const struct layer_weights *l = &w->layers[i];
		const struct weight *matrices[RANGES_LAYER] = {
			l->wq, l->wk, l->wv, l->wo, l->gate, l->up, l->down};

		for (int k = 0; k < RANGES_LAYER; k++)
			ranges[n++] = (struct probe_range){
				ops->weight_data(matrices[k]), ops->weight_bytes(matrices[k])};
	}
	ranges[n] = (struct probe_range){ops->weight_data(w->output), ops->weight_bytes(w->output)};
}

int yardstick_new(const struct weights *w, const struct device_found *found, struct yardstick **ret)
{
	const size_t n = (size_t)w->model->config.n_layers * RANGES_LAYER + 1;
	struct yardstick *y = calloc(1, sizeof(*y));
	struct probe_range *ranges = NULL;
	int r = 0;

	if (!y)
		return -ENOMEM;
	y->module = found->module;
	y->card = found->card_index;
	if (!found->card) {
		ranges = calloc(n, sizeof(*ranges));
		r = -ENOMEM;
		if (ranges) {
			ranges_of(w, ranges);
			r = prober_new(w->output_backend->device.threads, ranges, n, &y->prober);
		}
		free(ranges);
	}
	if (r < 0) {
		free(y);
		return r;
	}
	*ret = y;
	return 0;
}

struct yardstick *yardstick_free(struct yardstick *y)
{
	if (y)
		prober_free(y->prober);
	free(y);
	return NULL;
}

int yardstick_run(struct yardstick *y, struct probe *ret, char *error, size_t error_size)
{
	*ret = (struct probe){0};
	if (!y->prober)
		return y->module->probe_read(y->card, &ret->read_gbps, error, error_size);
	prober_run(y->prober, ret);
	return 0;
}

double yardstick_prompt(struct yardstick *y, const struct model_config *c, uint32_t n, char *error,
	size_t error_size)
{
	const struct attention_shape *a = &c->attention;
	const uint32_t heads = a->n_heads * a->head_dim, kv_heads = a->n_kv_heads * a->head_dim;
	const struct {
		uint32_t n, rows, cols, times;
	} products[] = {
		{n, heads, c->dim, c->n_layers},
		{n, kv_heads, c->dim, 2 * c->n_layers},
		{n, c->dim, heads, c->n_layers},
		{n, c->ffn_dim, c->dim, 2 * c->n_layers},
		{n, c->dim, c->ffn_dim, c->n_layers},
		{1, c->vocab, c->dim, 1},
	};
	double seconds = 0, one;

	if (y->prober)
		return 0;
	for (size_t i = 0; i < sizeof(products) / sizeof(products[0]); i++) {
		if (y->module->probe_matmul(y->card, products[i].n, products[i].rows,
			    products[i].cols, &one, error, error_size) < 0)
			return 0;
		seconds += products[i].times * one;
	}
	return n / seconds;
}
