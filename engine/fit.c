/* What goes on a card. The last layers go there, with the output matrix behind them: it is read for
 * every token, while the embedding table, of which a token reads one row, may stay on the host. */
#include "engine/fit.h"

#include <assert.h>

/* Pages that must fit with any number of layers. */
static uint64_t pages_least(const struct fit_ask *a)
{
	uint64_t wanted = a->kv_wanted_bytes / a->n_layers / a->kv_bytes;
	uint64_t most = (uint64_t)a->context_pages * FIT_CONTEXTS_MAX;

	if (a->kv_wanted_bytes == 0)
		return a->context_pages;
	return wanted < most ? wanted : most;
}

/* Everything on the card but KV. */
static uint64_t fixed_bytes(const struct fit_ask *a, uint32_t layers)
{
	uint64_t bytes = a->shared_bytes + a->output_bytes;

	if (layers == a->n_layers)
		bytes += a->tied ? 0 : a->embed_bytes;
	for (uint32_t i = a->n_layers - layers; i < a->n_layers; i++)
		bytes += a->layer_bytes[i];
	return bytes;
}

static uint64_t needed_bytes(const struct fit_ask *a, uint32_t layers)
{
	return fixed_bytes(a, layers) + layers * a->kv_bytes * pages_least(a) + FIT_RESERVE_BYTES;
}

uint64_t fit_kv_bytes(const struct fit_ask *a, uint32_t layers)
{
	uint64_t pages = (uint64_t)a->context_pages * FIT_CONTEXTS_MAX, least = a->context_pages;
	uint64_t used = fixed_bytes(a, layers) + FIT_RESERVE_BYTES;
	uint64_t page = a->n_layers * a->kv_bytes, fits;

	if (a->kv_wanted_bytes)
		return a->kv_wanted_bytes;
	if (layers > 0) {
		fits = a->free_bytes > used ? (a->free_bytes - used) / (layers * a->kv_bytes) : 0;
		pages = fits < pages ? fits : pages;
	}
	if (layers < a->n_layers) {
		fits = FIT_HOST_KV_BYTES / ((a->n_layers - layers) * a->kv_bytes);
		pages = fits < pages ? fits : pages;
	}
	/* With a card, one context was promised; the host alone keeps to its bound. */
	if (layers > 0 && pages < least)
		pages = least;
	return pages * page;
}

struct fit fit_card(const struct fit_ask *a)
{
	struct fit f = {.needed_bytes = needed_bytes(a, a->n_layers)};

	assert(a->n_layers > 0 && a->kv_bytes > 0 && a->context_pages > 0);
	f.layers = a->n_layers;
	while (f.layers > 0 && needed_bytes(a, f.layers) > a->free_bytes)
		f.layers--;
	f.kv_bytes = fit_kv_bytes(a, f.layers);
	return f;
}
