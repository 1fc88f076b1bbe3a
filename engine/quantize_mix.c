/* The mixes: llama.cpp's rules for models of the llama architecture.
 *
 * Source of the rules and of the file type numbers: llama.cpp, src/llama-quant.cpp
 * (llama_tensor_get_type, tensor_type_fallback) and include/llama.h (enum llama_ftype) as of August
 * 2026; tests/golden/quantize-types.json holds what it does. Which tensors matter most, and so get
 * more bits: the output, the values' projection, the way down out of the feed-forward network, and
 * there the first and the last layers. */
#include "engine/quantize_mix.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MIX_PLAIN, MIX_Q2_K, MIX_Q3_K_M, MIX_Q3_K_L, MIX_Q4_K_S, MIX_Q45_K_M, MIX_IQ4 };

/* The rules that a mix follows beside those of the output. */
static const struct {
	struct quantize_mix mix;
	int rules;
} mixes[] = {
	{{"f32", DTYPE_F32, 0}, MIX_PLAIN},
	{{"f16", DTYPE_F16, 1}, MIX_PLAIN},
	{{"bf16", DTYPE_BF16, 32}, MIX_PLAIN},
	{{"q8_0", DTYPE_Q8_0, 7}, MIX_PLAIN},
	{{"q4_0", DTYPE_Q4_0, 2}, MIX_PLAIN},
	{{"q4_1", DTYPE_Q4_1, 3}, MIX_PLAIN},
	{{"q5_0", DTYPE_Q5_0, 8}, MIX_PLAIN},
	{{"q5_1", DTYPE_Q5_1, 9}, MIX_PLAIN},
	{{"q2_k", DTYPE_Q2_K, 10}, MIX_Q2_K},
	{{"q3_k_s", DTYPE_Q3_K, 11}, MIX_PLAIN},
	{{"q3_k_m", DTYPE_Q3_K, 12}, MIX_Q3_K_M},
	{{"q3_k_l", DTYPE_Q3_K, 13}, MIX_Q3_K_L},
	{{"q4_k_s", DTYPE_Q4_K, 14}, MIX_Q4_K_S},
	{{"q4_k_m", DTYPE_Q4_K, 15}, MIX_Q45_K_M},
	{{"q5_k_s", DTYPE_Q5_K, 16}, MIX_PLAIN},
	{{"q5_k_m", DTYPE_Q5_K, 17}, MIX_Q45_K_M},
	{{"q6_k", DTYPE_Q6_K, 18}, MIX_PLAIN},
	{{"iq4_nl", DTYPE_IQ4_NL, 25}, MIX_IQ4},
	{{"iq4_xs", DTYPE_IQ4_XS, 30}, MIX_IQ4},
};

const struct quantize_mix *quantize_mix_find(const char *name)
{
	for (size_t i = 0; i < sizeof(mixes) / sizeof(*mixes); i++)
		if (strcasecmp(name, mixes[i].mix.name) == 0)
			return &mixes[i].mix;
	return NULL;
}

const char *quantize_mix_names(void)
{
	return "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k_s, q3_k_m, q3_k_l, "
	       "q4_k_s, q4_k_m, q5_k_s, q5_k_m, q6_k, iq4_nl, iq4_xs";
}

static int rules_of(const struct quantize_mix *mix)
{
	for (size_t i = 0; i < sizeof(mixes) / sizeof(*mixes); i++)
		if (mix == &mixes[i].mix)
			return mixes[i].rules;
	assert(!"a mix of quantize_mix_find() expected");
	return MIX_PLAIN;
}

/* The first eighth of the layers, the last eighth, and every third between. */
static bool more_bits(uint32_t layer, uint32_t n)
{
	return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static enum dtype values_type(
	int rules, const struct quantize_shape *s, uint32_t layer, enum dtype plain)
{
	const bool shared = s->n_kv_heads > 0 && s->n_heads / s->n_kv_heads >= 4;
	enum dtype type = plain;

	switch (rules) {
	case MIX_Q2_K: type = shared ? DTYPE_Q4_K : DTYPE_Q3_K; break;
	case MIX_Q3_K_M: type = layer < 2 ? DTYPE_Q5_K : DTYPE_Q4_K; break;
	case MIX_Q3_K_L: type = DTYPE_Q5_K; break;
	case MIX_Q4_K_S: type = layer < 4 ? DTYPE_Q5_K : plain; break;
	case MIX_Q45_K_M: type = more_bits(layer, s->n_layers) ? DTYPE_Q6_K : plain; break;
	case MIX_IQ4: type = shared ? DTYPE_Q5_K : plain; break;
	default: break;
	}
	/* Llama-2-70B's own rule: eight heads share its small matrix of values. */
	if (s->n_layers == 80 && s->n_heads != s->n_kv_heads &&
		(type == DTYPE_Q3_K || type == DTYPE_Q4_K))
		type = DTYPE_Q5_K;
	return type;
}

static enum dtype down_type(int rules, uint32_t layer, uint32_t n, enum dtype plain)
{
	switch (rules) {
	case MIX_Q2_K: return DTYPE_Q3_K;
	case MIX_Q3_K_M: return layer < n / 16 ? DTYPE_Q5_K : DTYPE_Q4_K;
	case MIX_Q3_K_L: return DTYPE_Q5_K;
	case MIX_Q4_K_S:
	case MIX_IQ4: return layer < n / 8 ? DTYPE_Q5_K : plain;
	case MIX_Q45_K_M: return more_bits(layer, n) ? DTYPE_Q6_K : plain;
	default: return plain;
	}
}

static enum dtype attention_output_type(int rules, enum dtype plain)
{
	switch (rules) {
	case MIX_Q2_K: return DTYPE_Q3_K;
	case MIX_Q3_K_M: return DTYPE_Q4_K;
	case MIX_Q3_K_L: return DTYPE_Q5_K;
	default: return plain;
	}
}

enum quantize_role quantize_role_of(const char *name, uint32_t *ret_layer)
{
	static const struct {
		const char *name;
		enum quantize_role role;
	} layer_roles[] = {
		{"attn_q.weight", QUANTIZE_PLAIN},
		{"attn_k.weight", QUANTIZE_PLAIN},
		{"attn_v.weight", QUANTIZE_VALUES},
		{"attn_output.weight", QUANTIZE_ATTENTION},
		{"ffn_gate.weight", QUANTIZE_PLAIN},
		{"ffn_up.weight", QUANTIZE_PLAIN},
		{"ffn_down.weight", QUANTIZE_DOWN},
	};
	unsigned layer = 0;
	int at = 0;

	*ret_layer = 0;
	if (strcmp(name, "output.weight") == 0)
		return QUANTIZE_OUTPUT;
	if (strcmp(name, "token_embd.weight") == 0)
		return QUANTIZE_EMBED;
	if (sscanf(name, "blk.%5u.%n", &layer, &at) != 1 || at == 0)
		return QUANTIZE_KEEP;
	*ret_layer = layer;
	for (size_t i = 0; i < sizeof(layer_roles) / sizeof(*layer_roles); i++)
		if (strcmp(name + at, layer_roles[i].name) == 0)
			return layer_roles[i].role;
	return QUANTIZE_KEEP;
}

static enum dtype rule(const struct quantize_mix *mix, const struct quantize_shape *s,
	const struct quantize_source *t)
{
	const int rules = rules_of(mix);

	if (dtype_info(mix->dtype)->block_elements == 1)
		return mix->dtype;
	switch (t->role) {
	case QUANTIZE_EMBED:
		if (!s->tied)
			return mix->dtype;
		/* fallthrough */
	case QUANTIZE_OUTPUT: return mix->dtype == DTYPE_Q8_0 ? DTYPE_Q8_0 : DTYPE_Q6_K;
	case QUANTIZE_VALUES: return values_type(rules, s, t->layer, mix->dtype);
	case QUANTIZE_ATTENTION: return attention_output_type(rules, mix->dtype);
	case QUANTIZE_DOWN: return down_type(rules, t->layer, s->n_layers, mix->dtype);
	default: return mix->dtype;
	}
}

enum dtype quantize_fallback(enum dtype wanted, uint64_t cols)
{
	enum dtype got = wanted;

	if (cols % dtype_info(wanted)->block_elements == 0)
		return wanted;
	switch (wanted) {
	case DTYPE_Q2_K:
	case DTYPE_Q3_K: got = DTYPE_Q4_0; break;
	case DTYPE_Q4_K: got = DTYPE_Q5_0; break;
	case DTYPE_Q5_K: got = DTYPE_Q5_1; break;
	case DTYPE_Q6_K: got = DTYPE_Q8_0; break;
	case DTYPE_IQ4_XS: got = DTYPE_IQ4_NL; break;
	default: break;
	}
	return cols % dtype_info(got)->block_elements == 0 ? got : DTYPE_F16;
}

enum dtype quantize_mix_type(const struct quantize_mix *mix, const struct quantize_shape *shape,
	const struct quantize_source *t, bool again, enum dtype *ret_wanted)
{
	*ret_wanted = t->dtype;
	if (t->role == QUANTIZE_KEEP || (!again && dtype_info(t->dtype)->block_elements != 1))
		return t->dtype;
	*ret_wanted = rule(mix, shape, t);
	return quantize_fallback(*ret_wanted, t->cols);
}

void quantize_standins_add(
	struct quantize_standins *s, enum dtype wanted, enum dtype got, uint64_t cols)
{
	uint32_t i = 0;

	if (wanted == got)
		return;
	while (i < s->n_items && (s->items[i].wanted != wanted || s->items[i].got != got))
		i++;
	assert(i < sizeof(s->items) / sizeof(*s->items)); /* each wanted type has one got and f16 */
	if (i == s->n_items) {
		s->n_items++;
		s->items[i].wanted = wanted;
		s->items[i].got = got;
		s->items[i].cols = cols;
	}
	s->items[i].n++;
}

void quantize_standins_say(const struct quantize_standins *s, char *ret, size_t size)
{
	size_t n = 0;

	assert(size > 0);
	ret[0] = '\0';
	for (uint32_t i = 0; i < s->n_items && n < size; i++) {
		const uint32_t block = dtype_info(s->items[i].wanted)->block_elements;

		n += (size_t)snprintf(ret + n, size - n, "%s%s stands in for %s in %u tensor%s",
			i ? ", " : "", dtype_info(s->items[i].got)->name,
			dtype_info(s->items[i].wanted)->name, s->items[i].n,
			s->items[i].n == 1 ? "" : "s");
		/* The same reason stands once, at the end. */
		if (i + 1 < s->n_items && s->items[i + 1].cols == s->items[i].cols &&
			dtype_info(s->items[i + 1].wanted)->block_elements == block)
			continue;
		if (n < size)
			n += (size_t)snprintf(ret + n, size - n,
				" (rows of %llu elements are no multiple of %u)",
				(unsigned long long)s->items[i].cols, block);
	}
}
