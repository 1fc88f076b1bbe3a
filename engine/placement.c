/* From a device's name and a model to an engine whose layers all have a place. Owns the backends
 * while it builds; then the caller does. */
#include "engine/placement.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/source.h"

/* What a backend of a card keeps for itself: staging, a sampler's and attention's partial results.
 */
#define CARD_SCRATCH_BYTES (192ull << 20)
/* What it keeps beside that where cuBLASLt serves prompts: weights and activations as bf16,
 * cuBLASLt's workspace. */
#define CARD_INEXACT_BYTES (128ull << 20)

/* What one load is made of. */
struct load {
	const struct model *m;
	const struct placement_options *p;
	int kv_type;
	const struct engine_options *options;
	const struct engine_sink *sink;
	const struct weights_progress *progress;
	struct device_found found;
	char *error;
	size_t error_size;

	struct placement placement;
	struct engine_options o; /* as this try has it */
	struct weights *weights;
	struct engine *engine;
};

/* Bytes of a tensor on a card: those of the type that it is loaded as, each plane aligned. */
static uint64_t card_bytes(const struct model *m, const struct source_tensor *t)
{
	size_t row_bytes = 0;
	uint64_t bytes;

	if (!t || !dtype_row_bytes(model_loaded_type(m, t), t->dims[0], &row_bytes))
		return 0;
	bytes = row_bytes * t->dims[1];
	return bytes + bytes / 64 + 1024;
}

/* What the fit must know; layer_bytes [n_layers]. */
static struct fit_ask ask(const struct load *l, uint64_t *layer_bytes)
{
	const struct model_config *c = &l->m->config;
	const struct model_source *s = l->m->source;
	const struct source_tensor *embed = s->fixed[TENSOR_EMBED];
	struct engine_options o = l->o;
	struct fit_ask a = {
		.n_layers = c->n_layers,
		.layer_bytes = layer_bytes,
		.embed_bytes = card_bytes(l->m, embed),
		.output_bytes = card_bytes(l->m, s->fixed[TENSOR_OUTPUT_NORM]) +
				card_bytes(l->m, c->tied ? embed : s->fixed[TENSOR_OUTPUT]),
		.kv_bytes = kv_page_bytes(c, o.kv_dtype) / c->n_layers,
		.context_pages = engine_context_pages(c, &o),
		.kv_wanted_bytes = o.kv_bytes,
		.free_bytes = l->found.free_bytes,
		.tied = c->tied,
	};

	a.shared_bytes = engine_workspace_bytes(c, &o) + CARD_SCRATCH_BYTES +
			 (uint64_t)o.context * c->attention.rope_dim * sizeof(float);
	if (l->placement.backends[0]->device.inexact)
		a.shared_bytes += CARD_INEXACT_BYTES;
	for (uint32_t i = 0; i < c->n_layers; i++) {
		layer_bytes[i] = 0;
		for (unsigned k = 0; k < LAYER_TENSORS; k++)
			layer_bytes[i] += card_bytes(
				l->m, source_layer_tensor(s, i, (enum layer_tensor)k));
	}
	return a;
}

static void drop(struct load *l)
{
	l->engine = engine_free(l->engine);
	l->weights = weights_free(l->weights);
}

/* Weights and engine on the placement's backends, the last layers_on_device layers on the first. */
static int build(struct load *l)
{
	const uint32_t n = l->m->config.n_layers, split = n - l->placement.layers_on_device;
	uint32_t *of_layer = calloc(n, sizeof(*of_layer));
	struct weights_options o;
	int r;

	if (!of_layer) {
		snprintf(l->error, l->error_size, "no memory for the placement of %u layers", n);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < split; i++)
		of_layer[i] = 1;
	o = (struct weights_options){of_layer, l->o.context, l->progress, l->p->packed};
	r = weights_load(l->m, l->placement.backends, l->placement.n_backends, &o, &l->weights,
		l->error, l->error_size);
	free(of_layer);
	if (r == 0)
		r = engine_new(l->weights, &l->o, l->sink, &l->engine, l->error, l->error_size);
	if (r < 0)
		drop(l);
	return r;
}

/* The processor: beside a card that holds a part, or instead of one that holds nothing. */
static int open_processor(struct load *l)
{
	int r = backend_new_cpu(l->p->device.threads, l->p->device.activations,
		&l->placement.backends[l->placement.n_backends]);

	if (r < 0)
		snprintf(l->error, l->error_size, "the processor: %s", strerror(-r));
	else
		l->placement.n_backends++;
	return r;
}

/* What follows from the device, where it was not asked for. */
static void choose_options(struct load *l)
{
	if (l->o.prefill_tokens == 0)
		l->o.prefill_tokens = device_prefill_tokens(l->placement.backends[0]);
	l->o.kv_dtype = l->kv_type >= 0 ? (enum dtype)l->kv_type
					: device_kv_dtype(l->placement.backends[0],
						  l->p->device.activations);
}

/* All layers on one backend of the host. */
static int load_on_host(struct load *l)
{
	choose_options(l);
	l->placement.layers_on_device = l->m->config.n_layers;
	return build(l);
}

/* Nothing runs on the card, for want of memory or for what `why` says: the processor takes over, if
 * the choice was ours. */
static int give_up_card(struct load *l, const struct fit *f, const char *why)
{
	char name[96], *note = l->placement.note;

	snprintf(name, sizeof(name), "%s", l->placement.backends[0]->device.name);
	if (l->p->gpu_layers == 0)
		snprintf(
			note, sizeof(l->placement.note), "on the processor: model.gpu_layers is 0");
	else if (why)
		snprintf(note, sizeof(l->placement.note), "on the processor: %s: %s", name, why);
	else
		snprintf(note, sizeof(l->placement.note),
			"on the processor: %s has %.2f GB free, and not one layer fits; the whole "
			"model needs %.2f GB",
			name, (double)l->found.free_bytes * 1e-9, (double)f->needed_bytes * 1e-9);
	if (!l->found.automatic) {
		snprintf(l->error, l->error_size, "device %s: %s", l->p->device.device,
			note + strlen("on the processor: "));
		return -ENOMEM;
	}
	placement_done(&l->placement);
	l->o = *l->options;
	if (open_processor(l) < 0)
		return -ENOMEM;
	return load_on_host(l);
}

static void tell_split(struct load *l, const struct fit *f)
{
	const struct placement *p = &l->placement;

	if (l->p->gpu_layers >= 0)
		snprintf(l->placement.note, sizeof(l->placement.note),
			"%u of %u layers on %s, the first %u on the processor: model.gpu_layers is "
			"%lld",
			p->layers_on_device, l->m->config.n_layers, p->backends[0]->device.name,
			l->m->config.n_layers - p->layers_on_device, (long long)l->p->gpu_layers);
	else
		snprintf(l->placement.note, sizeof(l->placement.note),
			"%u of %u layers on %s, the first %u on the processor: the card had %.2f GB "
			"free, the whole model needs %.2f GB",
			p->layers_on_device, l->m->config.n_layers, p->backends[0]->device.name,
			l->m->config.n_layers - p->layers_on_device,
			(double)l->found.free_bytes * 1e-9, (double)f->needed_bytes * 1e-9);
}

/* As many layers on the card as fit, and fewer again where it had less room than it seemed. */
static int load_on_card(struct load *l)
{
	const uint32_t n = l->m->config.n_layers;
	uint64_t *layer_bytes = calloc(n, sizeof(*layer_bytes));
	struct fit_ask a;
	struct fit f;
	uint32_t layers;
	bool tried;
	int r;

	if (!layer_bytes) {
		snprintf(l->error, l->error_size, "no memory for the placement of %u layers", n);
		return -ENOMEM;
	}
	choose_options(l);
	a = ask(l, layer_bytes);
	f = fit_card(&a);
	layers = f.layers;
	if (l->p->gpu_layers >= 0)
		layers = l->p->gpu_layers < n ? (uint32_t)l->p->gpu_layers : n;
	tried = layers > 0;
	for (r = -ENOMEM; layers > 0; layers -= layers > 8 ? layers / 8 : 1) {
		l->placement.layers_on_device = layers;
		l->o.kv_bytes = fit_kv_bytes(&a, layers);
		if (layers < n && l->placement.n_backends == 1) {
			r = open_processor(l);
			if (r < 0)
				break;
		}
		r = build(l);
		if (r != -ENOMEM)
			break;
	}
	free(layer_bytes);
	/* What a card cannot do (a tensor type, say), the processor may, if the choice was ours. */
	if (layers == 0 || (r < 0 && r != -ECANCELED && l->found.automatic))
		return give_up_card(l, &f, tried ? l->error : NULL);
	if (r == 0 && layers < n)
		tell_split(l, &f);
	return r;
}

/* What the device was asked for and does not do. */
static void tell_device(struct placement *p)
{
	const char *more = p->backends[0]->device.note;
	const size_t len = strlen(p->note);

	if (more[0])
		snprintf(p->note + len, sizeof(p->note) - len, "%s%s", len > 0 ? "; " : "", more);
}

int placement_load(const struct model *m, const struct placement_options *p, int kv_type,
	struct engine_options *o, const struct engine_sink *sink,
	const struct weights_progress *progress, struct placement *ret,
	struct weights **ret_weights, struct engine **ret_engine, char *error, size_t error_size)
{
	struct load l = {
		.m = m,
		.p = p,
		.kv_type = kv_type,
		.options = o,
		.sink = sink,
		.progress = progress,
		.error = error,
		.error_size = error_size,
		.o = *o,
	};
	int r;

	if (l.o.context == 0 || l.o.context > m->config.context)
		l.o.context = m->config.context;
	if (kv_type >= 0 && !kv_type_check(&m->config, (enum dtype)kv_type, error, error_size))
		return -EINVAL;
	r = device_open(&p->device, &l.placement.backends[0], &l.found, error, error_size);
	if (r < 0)
		return r;
	l.placement.n_backends = 1;
	memcpy(l.placement.note, l.found.note, sizeof(l.placement.note));
	r = l.found.card ? load_on_card(&l) : load_on_host(&l);
	if (r < 0) {
		drop(&l);
		placement_done(&l.placement);
		return r;
	}
	tell_device(&l.placement);
	*o = l.o;
	*ret = l.placement;
	*ret_weights = l.weights;
	*ret_engine = l.engine;
	return 0;
}

void placement_done(struct placement *p)
{
	for (uint32_t i = 0; i < p->n_backends; i++)
		p->backends[i] = backend_free(p->backends[i]);
	p->n_backends = 0;
}
