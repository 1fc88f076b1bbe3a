/* What quantising at load time makes of a model: told before a weight is touched. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/source.h"

static enum quantize_role layer_role(enum layer_tensor which)
{
	switch (which) {
	case LAYER_Q:
	case LAYER_K:
	case LAYER_GATE:
	case LAYER_UP: return QUANTIZE_PLAIN;
	case LAYER_V: return QUANTIZE_VALUES;
	case LAYER_O: return QUANTIZE_ATTENTION;
	case LAYER_DOWN: return QUANTIZE_DOWN;
	default: return QUANTIZE_KEEP;
	}
}

/* What the choice has come to. */
struct choice {
	struct model *m;
	struct quantize_shape shape;
	struct quantize_standins standins;
	bool changed;
};

/* t may be NULL, an optional tensor that is missing. */
static void choose(
	struct choice *c, const struct source_tensor *t, enum quantize_role role, uint32_t layer)
{
	enum dtype wanted, got;

	if (!t || role == QUANTIZE_KEEP)
		return;
	{
		const struct quantize_source source = {role, layer, t->dtype, t->dims[0]};

		got = quantize_mix_type(c->m->quantize, &c->shape, &source, false, &wanted);
	}
	quantize_standins_add(&c->standins, wanted, got, t->dims[0]);
	c->changed = c->changed || got != t->dtype;
	c->m->loaded_types[t - c->m->source->tensors] = got;
}

/* The configuration's sums, as model_tensors_check() makes them of the file's own types. */
static int measure(struct model *m, const struct model_refusal *why)
{
	uint64_t bytes[DTYPE_COUNT] = {0}, total = 0;
	unsigned d;
	size_t i;

	for (i = 0; i < m->source->n_tensors; i++) {
		const struct source_tensor *t = &m->source->tensors[i];
		const enum dtype dtype = m->loaded_types[i];
		size_t row_bytes = 0;

		if (!dtype_row_bytes(dtype, t->dims[0], &row_bytes))
			return model_refuse(why, -EINVAL, "tensor %.*s: too large",
				(int)(t->name.len < 100 ? t->name.len : 100), t->name.text);
		bytes[dtype] += row_bytes * t->dims[1];
		total += row_bytes * t->dims[1];
	}
	m->config.tensor_bytes = total;
	m->config.dtype = DTYPE_F32;
	for (d = 0; d < DTYPE_COUNT; d++)
		if (bytes[d] > bytes[m->config.dtype])
			m->config.dtype = (enum dtype)d;
	return 0;
}

int model_quantize(struct model *m, const char *name, const struct model_refusal *why)
{
	const struct model_config *config = &m->config;
	const struct model_source *s = m->source;
	struct choice c = {.m = m,
		.shape = {config->n_layers, config->attention.n_heads, config->attention.n_kv_heads,
			config->tied}};
	uint32_t layer;
	size_t i;

	if (!name)
		return 0;
	m->quantize = quantize_mix_find(name);
	if (!m->quantize)
		return model_refuse(why, -EINVAL, "quantize: one of %s expected, found \"%s\"",
			quantize_mix_names(), name);
	m->loaded_types = calloc(s->n_tensors, sizeof(*m->loaded_types));
	if (!m->loaded_types)
		return model_refuse(why, -ENOMEM, "no memory for %zu tensors", s->n_tensors);
	for (i = 0; i < s->n_tensors; i++)
		m->loaded_types[i] = s->tensors[i].dtype;
	choose(&c, s->fixed[TENSOR_EMBED], QUANTIZE_EMBED, 0);
	choose(&c, s->fixed[TENSOR_OUTPUT], QUANTIZE_OUTPUT, 0);
	for (layer = 0; layer < config->n_layers; layer++)
		for (i = 0; i < LAYER_TENSORS; i++)
			choose(&c, source_layer_tensor(s, layer, (enum layer_tensor)i),
				layer_role((enum layer_tensor)i), layer);
	if (c.changed)
		quantize_standins_say(&c.standins, m->quantize_note, sizeof(m->quantize_note));
	else
		snprintf(m->quantize_note, sizeof(m->quantize_note),
			"nothing is converted: no matrix is f32, f16 or bf16 and would change");
	return measure(m, why);
}
