/* The tensors that a configuration needs, whatever their format calls them: each demanded with its
 * exact shape, no other accepted. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/source.h"

int model_refuse(const struct model_refusal *why, int r, const char *format, ...)
{
	va_list args;
	size_t i;

	if (why->size == 0)
		return r;
	va_start(args, format);
	vsnprintf(why->text, why->size, format, args);
	va_end(args);
	/* Names come from the file: nothing but printable ASCII leaves here. */
	for (i = 0; why->text[i]; i++)
		if (why->text[i] < 0x20 || why->text[i] == 0x7f)
			why->text[i] = '?';
	return r;
}

#define NAME_BYTES 128

static void layer_name(const struct model_source *s, char name[NAME_BYTES], uint32_t layer,
	enum layer_tensor which)
{
	snprintf(
		name, NAME_BYTES, "%s%u.%s", s->names->layer_prefix, layer, s->names->layer[which]);
}

static enum {
	REFUSED,
	OPTIONAL,
	REQUIRED
} presence(const struct model_source *s, enum layer_tensor which)
{
	bool stated;

	switch (which) {
	case LAYER_BQ:
	case LAYER_BK:
	case LAYER_BV:
	case LAYER_BO: stated = s->attention_bias; break;
	case LAYER_BGATE:
	case LAYER_BUP:
	case LAYER_BDOWN: stated = s->mlp_bias; break;
	default: return REQUIRED;
	}
	return s->biases == BIASES_OPTIONAL ? OPTIONAL : stated ? REQUIRED : REFUSED;
}

/* rows x cols elements; a vector has one row. */
static void layer_shape(const struct model_config *c, enum layer_tensor which, uint32_t *ret_rows,
	uint32_t *ret_cols)
{
	const uint32_t q = c->attention.n_heads * c->attention.head_dim;
	const uint32_t kv = c->attention.n_kv_heads * c->attention.head_dim;
	uint32_t rows = 1, cols = c->dim;

	switch (which) {
	case LAYER_Q: rows = q; break;
	case LAYER_K:
	case LAYER_V: rows = kv; break;
	case LAYER_O: rows = c->dim, cols = q; break;
	case LAYER_BQ: cols = q; break;
	case LAYER_BK:
	case LAYER_BV: cols = kv; break;
	case LAYER_GATE:
	case LAYER_UP: rows = c->ffn_dim; break;
	case LAYER_DOWN: rows = c->dim, cols = c->ffn_dim; break;
	case LAYER_BGATE:
	case LAYER_BUP: cols = c->ffn_dim; break;
	case LAYER_ATTN_NORM:
	case LAYER_FFN_NORM:
	case LAYER_BO:
	case LAYER_BDOWN:
	case LAYER_TENSORS: break;
	}
	*ret_rows = rows;
	*ret_cols = cols;
}

/* "[576, 1536]", innermost first. */
static void describe(const struct source_tensor *t, char text[128])
{
	int n = 0;
	uint32_t d;

	for (d = 0; d < t->n_dims; d++)
		n += snprintf(text + n, 128 - (size_t)n, "%s%llu", d ? ", " : "[",
			(unsigned long long)t->dims[d]);
	snprintf(text + n, 128 - (size_t)n, "%s]", t->n_dims ? "" : "[");
}

/* t may be NULL. */
static int demand(const struct source_tensor *t, const char *name, bool required, uint32_t rows,
	uint32_t cols, const struct model_refusal *why)
{
	char expected[48], shape[128];
	bool vector = rows == 1;

	snprintf(expected, sizeof(expected), vector ? "[%u]" : "[%u, %u]", cols, rows);
	if (!t && !required)
		return 0;
	if (!t)
		return model_refuse(why, -EINVAL,
			"tensor %s: shape %s expected, found no such tensor", name, expected);
	if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1) {
		describe(t, shape);
		return model_refuse(why, -EINVAL, "tensor %s: shape %s expected, found %s", name,
			expected, shape);
	}
	if (vector && dtype_info(t->dtype)->block_elements != 1)
		return model_refuse(why, -ENOTSUP,
			"tensor %s: type f32, f16 or bf16 expected, found %s", name,
			dtype_info(t->dtype)->name);
	return 0;
}

/* The place that a name stands for, or NULL. */
static const struct source_tensor **find_place(
	struct model_source *s, const struct model_config *c, struct slice name)
{
	const size_t prefix = strlen(s->names->layer_prefix);
	uint32_t layer = 0;
	size_t i, at;

	for (i = 0; i < MODEL_TENSORS; i++)
		if (s->names->fixed[i] && strlen(s->names->fixed[i]) == name.len &&
			memcmp(s->names->fixed[i], name.text, name.len) == 0)
			return &s->fixed[i];
	if (name.len <= prefix || memcmp(name.text, s->names->layer_prefix, prefix) != 0)
		return NULL;
	for (at = prefix; at < name.len && name.text[at] >= '0' && name.text[at] <= '9'; at++) {
		if (at > prefix && layer == 0)
			return NULL; /* 00 is not 0 */
		layer = layer * 10 + (uint32_t)(name.text[at] - '0');
		if (layer >= c->n_layers)
			return NULL;
	}
	if (at == prefix || at == name.len || name.text[at] != '.')
		return NULL;
	at++;
	for (i = 0; i < LAYER_TENSORS; i++)
		if (strlen(s->names->layer[i]) == name.len - at &&
			memcmp(s->names->layer[i], name.text + at, name.len - at) == 0)
			return presence(s, (enum layer_tensor)i) == REFUSED
				       ? NULL
				       : &s->layers[(size_t)layer * LAYER_TENSORS + i];
	return NULL;
}

/* Puts every tensor to its place. */
static int sort(
	struct model_source *s, const struct model_config *c, const struct model_refusal *why)
{
	size_t i;

	s->layers = calloc((size_t)c->n_layers * LAYER_TENSORS, sizeof(*s->layers));
	if (!s->layers)
		return model_refuse(why, -ENOMEM, "no memory for %u layers", c->n_layers);
	for (i = 0; i < s->n_tensors; i++) {
		const struct source_tensor *t = &s->tensors[i];
		const struct source_tensor **place = find_place(s, c, t->name);

		if (!place)
			return model_refuse(why, -ENOTSUP,
				"tensor %.*s: zeph has no use for it, and ignoring it could change every "
				"answer",
				(int)(t->name.len < 100 ? t->name.len : 100), t->name.text);
		if (*place)
			return model_refuse(why, -EINVAL, "tensor %.*s: found twice",
				(int)(t->name.len < 100 ? t->name.len : 100), t->name.text);
		*place = t;
	}
	return 0;
}

/* Sums over all tensors, and the type that most bytes have. */
static void measure(const struct model_source *s, struct model_config *c)
{
	uint64_t bytes[DTYPE_COUNT] = {0};
	size_t i;
	unsigned d;

	c->parameters = 0;
	c->tensor_bytes = 0;
	for (i = 0; i < s->n_tensors; i++) {
		const struct source_tensor *t = &s->tensors[i];

		c->parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
		c->tensor_bytes += t->bytes;
		bytes[t->dtype] += t->bytes;
	}
	c->dtype = DTYPE_F32;
	for (d = 0; d < DTYPE_COUNT; d++)
		if (bytes[d] > bytes[c->dtype])
			c->dtype = (enum dtype)d;
}

int model_tensors_check(
	struct model_source *s, struct model_config *c, const struct model_refusal *why)
{
	const char *const embed_name = s->names->fixed[TENSOR_EMBED];
	const struct source_tensor *embed;
	uint32_t rows, cols, layer;
	char name[NAME_BYTES];
	size_t i;
	int r;

	r = sort(s, c, why);
	if (r < 0)
		return r;
	embed = s->fixed[TENSOR_EMBED];
	if (!embed)
		return model_refuse(why, -EINVAL,
			"tensor %s: shape [%u, vocabulary] expected, found no such tensor",
			embed_name, c->dim);
	if (embed->dims[1] < 2 || embed->dims[1] > MODEL_VOCAB_MAX)
		return model_refuse(why, -EINVAL, "tensor %s: 2 to %d rows expected, found %llu",
			embed_name, MODEL_VOCAB_MAX, (unsigned long long)embed->dims[1]);
	c->vocab = (uint32_t)embed->dims[1];
	if (s->stated_vocab && s->stated_vocab != c->vocab)
		return model_refuse(why, -EINVAL,
			"key %s: %u expected, the rows of %s, found another number", s->vocab_name,
			c->vocab, embed_name);
	c->tied = s->ties == TIED || (s->ties == TIES_BY_ABSENCE && !s->fixed[TENSOR_OUTPUT]);

	const struct {
		enum model_tensor which;
		bool required;
		uint32_t rows, cols;
	} fixed[] = {
		{TENSOR_EMBED, true, c->vocab, c->dim},
		{TENSOR_OUTPUT_NORM, true, 1, c->dim},
		{TENSOR_OUTPUT, !c->tied, c->vocab, c->dim},
		{TENSOR_ROPE, false, 1, c->attention.rope_dim / 2},
	};

	for (i = 0; i < sizeof(fixed) / sizeof(*fixed); i++) {
		r = demand(s->fixed[fixed[i].which], s->names->fixed[fixed[i].which],
			fixed[i].required, fixed[i].rows, fixed[i].cols, why);
		if (r < 0)
			return r;
	}
	for (layer = 0; layer < c->n_layers; layer++)
		for (i = 0; i < LAYER_TENSORS; i++) {
			layer_name(s, name, layer, (enum layer_tensor)i);
			layer_shape(c, (enum layer_tensor)i, &rows, &cols);
			r = demand(source_layer_tensor(s, layer, (enum layer_tensor)i), name,
				presence(s, (enum layer_tensor)i) == REQUIRED, rows, cols, why);
			if (r < 0)
				return r;
		}
	measure(s, c);
	return 0;
}
