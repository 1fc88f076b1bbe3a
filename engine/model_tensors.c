/* The tensors that a configuration needs: each demanded with its exact shape, no other accepted. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/model_file.h"

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

static const struct {
	const char *name;
	bool required;
} layer_names[LAYER_TENSORS] = {
	[LAYER_ATTN_NORM] = {"attn_norm.weight", true},
	[LAYER_Q] = {"attn_q.weight", true},
	[LAYER_K] = {"attn_k.weight", true},
	[LAYER_V] = {"attn_v.weight", true},
	[LAYER_O] = {"attn_output.weight", true},
	[LAYER_BQ] = {"attn_q.bias", false},
	[LAYER_BK] = {"attn_k.bias", false},
	[LAYER_BV] = {"attn_v.bias", false},
	[LAYER_BO] = {"attn_output.bias", false},
	[LAYER_FFN_NORM] = {"ffn_norm.weight", true},
	[LAYER_GATE] = {"ffn_gate.weight", true},
	[LAYER_UP] = {"ffn_up.weight", true},
	[LAYER_DOWN] = {"ffn_down.weight", true},
};

static void layer_name(char name[64], uint32_t layer, enum layer_tensor which)
{
	snprintf(name, 64, "blk.%u.%s", layer, layer_names[which].name);
}

const struct gguf_tensor *model_layer_tensor(
	const struct gguf *g, uint32_t layer, enum layer_tensor which)
{
	char name[64];

	layer_name(name, layer, which);
	return gguf_tensor(g, name);
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
	case LAYER_ATTN_NORM:
	case LAYER_FFN_NORM:
	case LAYER_BO:
	case LAYER_TENSORS: break;
	}
	*ret_rows = rows;
	*ret_cols = cols;
}

/* "[576, 1536] f32", innermost first as the file has it. */
static void describe(const struct gguf_tensor *t, char text[128])
{
	int n = 0;
	uint32_t d;

	for (d = 0; d < t->n_dims; d++)
		n += snprintf(text + n, 128 - (size_t)n, "%s%llu", d ? ", " : "[",
			(unsigned long long)t->dims[d]);
	snprintf(text + n, 128 - (size_t)n, "]");
}

/* Found tensors are counted, so that what remains is what nothing would read. */
static int demand(const struct gguf *g, const char *name, bool required, uint32_t rows,
	uint32_t cols, size_t *found, const struct model_refusal *why)
{
	const struct gguf_tensor *t = gguf_tensor(g, name);
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
	(*found)++;
	return 0;
}

static bool expected_name(const struct model_config *c, struct gguf_string name)
{
	static const char *const fixed[] = {
		"token_embd.weight", "output_norm.weight", "output.weight"};
	char text[64];
	unsigned layer;
	int consumed = 0;
	size_t i;

	if (name.len >= sizeof(text))
		return false;
	memcpy(text, name.text, name.len);
	text[name.len] = '\0';
	for (i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
		if (strcmp(text, fixed[i]) == 0)
			return true;
	if (sscanf(text, "blk.%5u.%n", &layer, &consumed) != 1 || consumed == 0 ||
		layer >= c->n_layers)
		return false;
	for (i = 0; i < LAYER_TENSORS; i++)
		if (strcmp(text + consumed, layer_names[i].name) == 0)
			return true;
	return false;
}

/* Sums over all tensors, and the type that most bytes have. */
static void measure(const struct gguf *g, struct model_config *c)
{
	uint64_t bytes[DTYPE_COUNT] = {0};
	size_t i;
	unsigned d;

	c->parameters = 0;
	c->tensor_bytes = 0;
	for (i = 0; i < gguf_n_tensors(g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);

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
	const struct gguf *g, struct model_config *c, const struct model_refusal *why)
{
	const struct gguf_tensor *embed = gguf_tensor(g, "token_embd.weight");
	uint32_t rows, cols, layer, stated;
	uint64_t v;
	size_t found = 0, i;
	char name[64];
	int r;

	if (!embed)
		return model_refuse(why, -EINVAL,
			"tensor token_embd.weight: shape [%u, vocabulary] expected, found no such tensor",
			c->dim);
	if (embed->dims[1] < 2 || embed->dims[1] > MODEL_VOCAB_MAX)
		return model_refuse(why, -EINVAL,
			"tensor token_embd.weight: 2 to %d rows expected, found %llu",
			MODEL_VOCAB_MAX, (unsigned long long)embed->dims[1]);
	c->vocab = (uint32_t)embed->dims[1];
	stated = c->vocab;
	r = gguf_get_u64(g, "llama.vocab_size", &v);
	if (r == -EINVAL || (r == 0 && v != stated))
		return model_refuse(why, -EINVAL,
			"key llama.vocab_size: %u expected, the rows of token_embd.weight, found %s",
			stated, r == 0 ? "another number" : "another type");

	r = demand(g, "token_embd.weight", true, c->vocab, c->dim, &found, why);
	if (r < 0)
		return r;
	r = demand(g, "output_norm.weight", true, 1, c->dim, &found, why);
	if (r < 0)
		return r;
	r = demand(g, "output.weight", false, c->vocab, c->dim, &found, why);
	if (r < 0)
		return r;
	c->tied = !gguf_tensor(g, "output.weight");
	for (layer = 0; layer < c->n_layers; layer++)
		for (i = 0; i < LAYER_TENSORS; i++) {
			layer_name(name, layer, (enum layer_tensor)i);
			layer_shape(c, (enum layer_tensor)i, &rows, &cols);
			r = demand(g, name, layer_names[i].required, rows, cols, &found, why);
			if (r < 0)
				return r;
		}

	for (i = 0; found < gguf_n_tensors(g) && i < gguf_n_tensors(g); i++) {
		struct gguf_string s = gguf_tensor_at(g, i)->name;

		if (!expected_name(c, s))
			return model_refuse(why, -ENOTSUP,
				"tensor %.*s: zeph has no use for it, and ignoring it could change every "
				"answer",
				(int)(s.len < 100 ? s.len : 100), s.text);
	}
	measure(g, c);
	return 0;
}
