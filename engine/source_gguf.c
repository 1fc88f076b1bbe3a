/* A llama-architecture GGUF as a model's source: its metadata checked and bounded, its tensors by
 * their names. The source keeps the file open.
 *
 * The rule for everything here: a key that changes the arithmetic is either implemented or, unless
 * it has its neutral value, refused by name. Nothing is ignored in silence. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/source_gguf.h"

#define ARCHITECTURE "llama"
#define PREFIX       ARCHITECTURE "."

/* An integer key: required where `otherwise` is NULL. */
static int read_u32(const struct gguf *g, const char *key, const uint32_t *otherwise, uint32_t low,
	uint32_t high, uint32_t *ret, const struct model_refusal *why)
{
	uint64_t v;
	int r;

	r = gguf_get_u64(g, key, &v);
	if (r == -ENOENT && otherwise)
		v = *otherwise;
	else if (r == -ENOENT)
		return model_refuse(why, -EINVAL,
			"key %s: an integer of %u to %u expected, found no such key", key, low,
			high);
	else if (r < 0)
		return model_refuse(why, -EINVAL,
			"key %s: an integer of %u to %u expected, found another type", key, low,
			high);
	if (v < low || v > high)
		return model_refuse(why, -EINVAL,
			"key %s: an integer of %u to %u expected, found %llu", key, low, high,
			(unsigned long long)v);
	*ret = (uint32_t)v;
	return 0;
}

static int read_float(const struct gguf *g, const char *key, const float *otherwise, double low,
	double high, float *ret, const struct model_refusal *why)
{
	double v;
	int r;

	r = gguf_get_f64(g, key, &v);
	if (r == -ENOENT && otherwise) {
		*ret = *otherwise;
		return 0;
	}
	if (r == -ENOENT)
		return model_refuse(why, -EINVAL,
			"key %s: a number of %g to %g expected, found no such key", key, low, high);
	if (r < 0)
		return model_refuse(why, -EINVAL,
			"key %s: a number of %g to %g expected, found another type", key, low,
			high);
	if (!(v >= low && v <= high))
		return model_refuse(why, -EINVAL, "key %s: a number of %g to %g expected, found %g",
			key, low, high, v);
	*ret = (float)v;
	return 0;
}

/* Keys that are read below, or say nothing about the arithmetic. */
static const char *const known_keys[] = {
	PREFIX "attention.head_count",
	PREFIX "attention.head_count_kv",
	PREFIX "attention.key_length",
	PREFIX "attention.layer_norm_rms_epsilon",
	PREFIX "attention.sliding_window",
	PREFIX "attention.value_length",
	PREFIX "block_count",
	PREFIX "context_length",
	PREFIX "embedding_length",
	PREFIX "feed_forward_length",
	PREFIX "rope.dimension_count",
	PREFIX "rope.freq_base",
	PREFIX "rope.scale_linear",
	PREFIX "rope.scaling.attn_factor",
	PREFIX "rope.scaling.factor",
	PREFIX "rope.scaling.finetuned",
	PREFIX "rope.scaling.original_context_length",
	PREFIX "rope.scaling.type",
	PREFIX "tensor_data_layout",
	PREFIX "vocab_size",
};

/* Keys that are accepted with the value that changes nothing. */
static const struct neutral {
	const char *key;
	double value;
	const char *what;
} neutral_keys[] = {
	{PREFIX "attention.causal", 1, "attention that is not causal"},
	{PREFIX "attention.clamp_kqv", 0, "clamped projections"},
	{PREFIX "attention.max_alibi_bias", 0, "ALiBi"},
	{PREFIX "attn_logit_softcapping", 0, "soft-capped attention"},
	{PREFIX "embedding_scale", 1, "an embedding scale"},
	{PREFIX "expert_count", 0, "mixture of experts"},
	{PREFIX "expert_used_count", 0, "mixture of experts"},
	{PREFIX "final_logit_softcapping", 0, "soft-capped logits"},
	{PREFIX "logit_scale", 1, "a logit scale"},
	{PREFIX "residual_scale", 1, "a residual scale"},
	{PREFIX "use_parallel_residual", 0, "parallel residuals"},
};

static bool is(struct slice s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.text, text, s.len) == 0;
}

static int check_key(const struct gguf *g, struct slice key, const struct model_refusal *why)
{
	size_t i;

	for (i = 0; i < sizeof(known_keys) / sizeof(*known_keys); i++)
		if (is(key, known_keys[i]))
			return 0;
	for (i = 0; i < sizeof(neutral_keys) / sizeof(*neutral_keys); i++) {
		const struct neutral *n = &neutral_keys[i];
		double v;
		bool b;

		if (!is(key, n->key))
			continue;
		if (gguf_get_bool(g, n->key, &b) == 0)
			v = b;
		else if (gguf_get_f64(g, n->key, &v) < 0)
			v = NAN;
		if (v == n->value)
			return 0;
		return model_refuse(why, -ENOTSUP,
			"key %s: %s is not implemented; %g, which changes nothing, expected",
			n->key, n->what, n->value);
	}
	return model_refuse(why, -ENOTSUP,
		"key %.*s: zeph does not know what it means, and ignoring it could change every answer",
		(int)(key.len < 100 ? key.len : 100), key.text);
}

/* rope.scaling.*, as llama.cpp reads it: without a type, a factor is linear. YaRN's attention
 * factor is attn_factor (1 + 0.1 ln factor). Llama 3's frequencies come as a tensor. */
static int read_rope(const struct gguf *g, struct model_config *c, const struct model_refusal *why)
{
	const float theta = 10000, one = 1;
	float factor, old_factor, attention_factor;
	struct rope *rope = &c->rope;
	struct slice type = {"", 0};
	int r;

	r = gguf_get_string(g, PREFIX "rope.scaling.type", &type);
	if (r < 0 && r != -ENOENT)
		return model_refuse(why, -EINVAL,
			"key " PREFIX "rope.scaling.type: a string expected, found another type");
	if ((r = read_float(g, PREFIX "rope.freq_base", &theta, 1, 1e12, &rope->theta, why)) < 0 ||
		(r = read_float(g, PREFIX "rope.scale_linear", &one, 1, 1e6, &old_factor, why)) <
			0 ||
		(r = read_float(
			 g, PREFIX "rope.scaling.factor", &old_factor, 1, 1e6, &factor, why)) < 0 ||
		(r = read_float(g, PREFIX "rope.scaling.attn_factor", &one, 1e-3, 1e3,
			 &attention_factor, why)) < 0)
		return r;
	if (attention_factor != 1 && !is(type, "yarn"))
		return model_refuse(why, -ENOTSUP,
			"key " PREFIX
			"rope.scaling.attn_factor: 1 expected without yarn, found %g, "
			"which is not implemented",
			(double)attention_factor);
	rope->factor = factor;
	rope->attention_factor = attention_factor;
	if (type.len == 0 || is(type, "linear")) {
		rope->kind = factor == 1 ? ROPE_UNSCALED : ROPE_LINEAR;
	} else if (is(type, "none")) {
		rope->kind = ROPE_UNSCALED;
	} else if (is(type, "yarn")) {
		rope->kind = ROPE_YARN;
		rope->beta_fast = 32;
		rope->beta_slow = 1;
		rope->truncate = true;
		rope->attention_factor *= rope_yarn_attention(factor, 1);
		return read_u32(g, PREFIX "rope.scaling.original_context_length", NULL, 1,
			MODEL_CONTEXT_MAX, &rope->original_context, why);
	} else {
		return model_refuse(why, -ENOTSUP,
			"key " PREFIX "rope.scaling.type: \"none\", \"linear\" or \"yarn\" "
			"expected, found \"%.*s\", which is not implemented",
			(int)(type.len < 40 ? type.len : 40), type.text);
	}
	return 0;
}

static int read_attention(
	const struct gguf *g, struct model_config *c, const struct model_refusal *why)
{
	struct attention_shape *a = &c->attention;
	uint32_t value_length, otherwise;
	int r;

	r = read_u32(g, PREFIX "attention.head_count", NULL, 1, MODEL_DIM_MAX, &a->n_heads, why);
	if (r < 0)
		return r;
	r = read_u32(g, PREFIX "attention.head_count_kv", &a->n_heads, 1, a->n_heads,
		&a->n_kv_heads, why);
	if (r < 0)
		return r;
	if (a->n_heads % a->n_kv_heads != 0)
		return model_refuse(why, -EINVAL,
			"key " PREFIX
			"attention.head_count_kv: a divisor of the %u heads expected, "
			"found %u",
			a->n_heads, a->n_kv_heads);
	if (!gguf_has(g, PREFIX "attention.key_length") && c->dim % a->n_heads != 0)
		return model_refuse(why, -EINVAL,
			"key " PREFIX "attention.head_count: a divisor of " PREFIX
			"embedding_length %u expected, found %u",
			c->dim, a->n_heads);
	otherwise = c->dim / a->n_heads;
	r = read_u32(g, PREFIX "attention.key_length", &otherwise, 2, MODEL_DIM_MAX / a->n_heads,
		&a->head_dim, why);
	if (r < 0)
		return r;
	if (a->head_dim % 2 != 0)
		return model_refuse(why, -EINVAL,
			"an even number of elements per head expected, found %u", a->head_dim);
	otherwise = a->head_dim;
	r = read_u32(g, PREFIX "attention.value_length", &otherwise, a->head_dim, a->head_dim,
		&value_length, why);
	if (r < 0)
		return r;
	r = read_u32(
		g, PREFIX "rope.dimension_count", &otherwise, 2, a->head_dim, &a->rope_dim, why);
	if (r < 0)
		return r;
	if (a->rope_dim % 2 != 0)
		return model_refuse(why, -EINVAL,
			"key " PREFIX "rope.dimension_count: an even number expected, found %u",
			a->rope_dim);
	/* A GGUF of this architecture has the rows of wq and wk permuted for this layout. */
	a->rope_layout = ROPE_INTERLEAVED;
	a->scale = (float)(1 / sqrt((double)a->head_dim));
	otherwise = 0;
	return read_u32(
		g, PREFIX "attention.sliding_window", &otherwise, 0, INT32_MAX, &a->window, why);
}

/* Files made before the key existed are Mistral-7B-v0.1 and its fine-tune Zephyr-7B-beta, whose
 * config.json says 4096. A name is compared by its letters and digits alone. */
static bool had_window(struct slice name)
{
	char letters[128];
	size_t i, n = 0;

	for (i = 0; i < name.len && n < sizeof(letters) - 1; i++) {
		char ch = name.text[i];

		if (ch >= 'A' && ch <= 'Z')
			ch = (char)(ch - 'A' + 'a');
		if ((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9'))
			letters[n++] = ch;
	}
	letters[n] = '\0';
	return strstr(letters, "zephyr7bbeta") || strstr(letters, "mistral7bv01");
}

#define WINDOW_UNNAMED 4096 /* keys */

static void guess_window(const struct gguf *g, struct model_source *s)
{
	struct slice name;

	if (gguf_has(g, PREFIX "attention.sliding_window") ||
		gguf_get_string(g, "general.name", &name) < 0 || !had_window(name))
		return;
	s->config.attention.window = WINDOW_UNNAMED;
	snprintf(s->window_note, sizeof(s->window_note),
		"sliding window %u by the model's name; the file has no " PREFIX
		"attention.sliding_window",
		WINDOW_UNNAMED);
}

static int read_config(
	const struct gguf *g, struct model_config *ret, const struct model_refusal *why)
{
	struct model_config c = {.architecture = ARCHITECTURE};
	struct slice s;
	size_t i;
	int r;

	r = gguf_get_string(g, "general.architecture", &s);
	if (r < 0)
		return model_refuse(why, -EINVAL,
			"key general.architecture: a string expected, found %s",
			r == -ENOENT ? "no such key" : "another type");
	if (!is(s, ARCHITECTURE))
		return model_refuse(why, -ENOTSUP,
			"key general.architecture: \"" ARCHITECTURE
			"\" expected, found \"%.*s\", which is not implemented",
			(int)(s.len < 40 ? s.len : 40), s.text);
	for (i = 0; i < gguf_n_keys(g); i++) {
		s = gguf_key_at(g, i);
		if (s.len < strlen(PREFIX) || memcmp(s.text, PREFIX, strlen(PREFIX)) != 0)
			continue;
		r = check_key(g, s, why);
		if (r < 0)
			return r;
	}
	if ((r = read_u32(g, PREFIX "block_count", NULL, 1, MODEL_LAYERS_MAX, &c.n_layers, why)) <
			0 ||
		(r = read_u32(g, PREFIX "embedding_length", NULL, 1, MODEL_DIM_MAX, &c.dim, why)) <
			0 ||
		(r = read_u32(g, PREFIX "feed_forward_length", NULL, 1, MODEL_DIM_MAX, &c.ffn_dim,
			 why)) < 0 ||
		(r = read_u32(g, PREFIX "context_length", NULL, 1, MODEL_CONTEXT_MAX, &c.context,
			 why)) < 0 ||
		(r = read_float(g, PREFIX "attention.layer_norm_rms_epsilon", NULL, 1e-12, 1,
			 &c.rms_eps, why)) < 0 ||
		(r = read_rope(g, &c, why)) < 0 || (r = read_attention(g, &c, why)) < 0)
		return r;
	*ret = c;
	return 0;
}

static int read_defaults(
	const struct gguf *g, struct model_defaults *ret, const struct model_refusal *why)
{
	const float none = NAN;
	struct model_defaults d;
	uint32_t top_k;
	int r;

	if ((r = read_float(g, "general.sampling.temp", &none, 0, 100, &d.temperature, why)) < 0 ||
		(r = read_float(g, "general.sampling.top_p", &none, 0, 1, &d.top_p, why)) < 0 ||
		(r = read_float(g, "general.sampling.min_p", &none, 0, 1, &d.min_p, why)) < 0 ||
		(r = read_float(g, "zeph.sampling.typical_p", &none, 0, 1, &d.typical_p, why)) <
			0 ||
		(r = read_float(g, "general.sampling.penalty_repeat", &none, 1e-3, 1e3,
			 &d.repetition_penalty, why)) < 0)
		return r;
	d.top_k = -1;
	if (gguf_has(g, "general.sampling.top_k")) {
		r = read_u32(g, "general.sampling.top_k", NULL, 0, MODEL_VOCAB_MAX, &top_k, why);
		if (r < 0)
			return r;
		d.top_k = (int32_t)top_k;
	}
	*ret = d;
	return 0;
}

const struct source_names gguf_names = {
	.fixed = {[TENSOR_EMBED] = "token_embd.weight",
		[TENSOR_OUTPUT_NORM] = "output_norm.weight",
		[TENSOR_OUTPUT] = "output.weight",
		[TENSOR_ROPE] = "rope_freqs.weight"},
	.layer_prefix = "blk.",
	.layer = {[LAYER_ATTN_NORM] = "attn_norm.weight",
		[LAYER_Q] = "attn_q.weight",
		[LAYER_K] = "attn_k.weight",
		[LAYER_V] = "attn_v.weight",
		[LAYER_O] = "attn_output.weight",
		[LAYER_BQ] = "attn_q.bias",
		[LAYER_BK] = "attn_k.bias",
		[LAYER_BV] = "attn_v.bias",
		[LAYER_BO] = "attn_output.bias",
		[LAYER_FFN_NORM] = "ffn_norm.weight",
		[LAYER_GATE] = "ffn_gate.weight",
		[LAYER_UP] = "ffn_up.weight",
		[LAYER_DOWN] = "ffn_down.weight",
		[LAYER_BGATE] = "ffn_gate.bias",
		[LAYER_BUP] = "ffn_up.bias",
		[LAYER_BDOWN] = "ffn_down.bias"},
};

static int read_tensors(
	const struct gguf *g, struct model_source *s, const struct model_refusal *why)
{
	size_t n = gguf_n_tensors(g), i;

	s->tensors = calloc(n ? n : 1, sizeof(*s->tensors));
	if (!s->tensors)
		return model_refuse(why, -ENOMEM, "no memory for a list of %zu tensors", n);
	for (i = 0; i < n; i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		struct source_tensor *to = &s->tensors[i];

		to->name = t->name;
		to->dtype = t->dtype;
		to->n_dims = t->n_dims;
		memcpy(to->dims, t->dims, sizeof(to->dims));
		to->data = t->data;
		to->bytes = t->bytes;
	}
	s->n_tensors = n;
	s->names = &gguf_names;
	return 0;
}

static int read_tokenizer(
	const struct gguf *g, struct model_source *s, const struct model_refusal *why)
{
	struct slice kind;
	int r = gguf_get_string(g, "tokenizer.ggml.model", &kind);

	if (r == -ENOENT || (r == 0 && (is(kind, "none") || is(kind, "no_vocab"))))
		return 0;
	return source_gguf_tokenizer(g, &s->tokenizer, why);
}

static int read_end_ids(
	const struct gguf *g, struct model_source *s, const struct model_refusal *why)
{
	static const char *const keys[] = {"tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
	const struct gguf_tensor *embed = gguf_tensor(g, gguf_names.fixed[TENSOR_EMBED]);
	const uint64_t vocab = embed ? embed->dims[1] : MODEL_VOCAB_MAX;
	uint64_t v;
	size_t i;
	int r;

	for (i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		r = gguf_get_u64(g, keys[i], &v);
		if (r == -ENOENT)
			continue;
		if (r < 0 || v >= vocab || v > INT32_MAX)
			return model_refuse(why, -EINVAL,
				"key %s: a token id below %llu expected, found %s", keys[i],
				(unsigned long long)vocab, r < 0 ? "another type" : "a higher one");
		source_add_end(s, (int32_t)v);
	}
	return 0;
}

static void close_gguf(void *files)
{
	gguf_close(files);
}

int source_read_gguf(struct model_source *s, const char *path, const struct model_refusal *why)
{
	struct gguf *g;
	uint64_t vocab;
	int r;

	r = gguf_open(path, &g, why->text, why->size);
	if (r < 0)
		return r;
	s->files = g;
	s->gguf = g;
	s->close = close_gguf;
	s->metadata[0].text = gguf_metadata(g, &s->metadata[0].len);
	s->n_metadata = 1;
	if ((r = read_config(g, &s->config, why)) < 0 || (r = read_tensors(g, s, why)) < 0 ||
		(r = read_defaults(g, &s->defaults, why)) < 0 ||
		(r = read_tokenizer(g, s, why)) < 0 || (r = read_end_ids(g, s, why)) < 0)
		return r;
	guess_window(g, s);
	s->vocab_name = PREFIX "vocab_size";
	r = gguf_get_u64(g, s->vocab_name, &vocab);
	if (r == -EINVAL || (r == 0 && vocab == 0))
		return model_refuse(why, -EINVAL,
			"key %s: the rows of token_embd.weight expected, found %s", s->vocab_name,
			r == 0 ? "0" : "another type");
	s->stated_vocab = r == 0 ? vocab : 0;
	if (gguf_get_string(g, "general.name", &s->name) < 0)
		s->name.len = 0;
	r = gguf_get_string(g, "tokenizer.chat_template", &s->chat_template);
	if (r == -EINVAL)
		snprintf(s->template_error, sizeof(s->template_error),
			"key tokenizer.chat_template: a string expected, found another type");
	return 0;
}
