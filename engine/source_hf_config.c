/* What config.json and generation_config.json say, as transformers (4.57) reads them: its
 * configuration classes give the defaults, its modelling code the keys that matter. What those do
 * and the engine does not is refused by name; what they do not read is not read here either. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/source_hf.h"

#define CONFIG     "config.json"
#define GENERATION "generation_config.json"

static int refuse_value(const char *file, const char *key, const char *expected, const char *found,
	const struct model_refusal *why)
{
	return model_refuse(why, -ENOTSUP,
		"%s: %s: %s expected, found \"%.60s\", which is not implemented", file, key,
		expected, found);
}

static int read_architecture(const json_t *config, struct model_config *c, bool *ret_mistral,
	const struct model_refusal *why)
{
	const json_t *list = json_member(config, "architectures");
	const char *name = json_string_value(json_array_get(list, 0)), *type;
	int r;

	if (json_array_size(list) != 1 || !name)
		return model_refuse(why, -EINVAL,
			CONFIG ": architectures: a list of one name expected, found %s",
			list ? "something else" : "no such key");
	if (strcmp(name, "MistralForCausalLM") != 0 && strcmp(name, "LlamaForCausalLM") != 0)
		return refuse_value(CONFIG, "architectures",
			"MistralForCausalLM or LlamaForCausalLM", name, why);
	*ret_mistral = name[0] == 'M';
	strcpy(c->architecture, *ret_mistral ? "mistral" : "llama");
	r = json_get_string(config, CONFIG, "model_type", &type, why);
	if (r == 0 && type && strcmp(type, c->architecture) != 0)
		return refuse_value(CONFIG, "model_type", c->architecture, type, why);
	return r;
}

/* Values that would be another arithmetic. */
static int check_unsupported(const json_t *config, bool mistral, const struct model_refusal *why)
{
	const double one = 1;
	const char *text;
	double partial;
	size_t i;
	int r;

	if (json_member(config, "quantization_config"))
		return model_refuse(why, -ENOTSUP,
			CONFIG ": quantization_config: quantised checkpoints are not implemented "
			       "(GGUF files and bf16, f16 or f32 directories are)");
	for (i = 0; i < 2; i++) {
		const char *key = i == 0 ? "hidden_act" : "hidden_activation";

		r = json_get_string(config, CONFIG, key, &text, why);
		if (r < 0)
			return r;
		if (text && strcmp(text, "silu") != 0)
			return refuse_value(CONFIG, key, "silu", text, why);
	}
	r = json_get_number(config, CONFIG, "partial_rotary_factor", &one, 0, 1, &partial, why);
	if (r < 0)
		return r;
	if (partial != 1)
		return refuse_value(CONFIG, "partial_rotary_factor", "1", "another number", why);
	if (!mistral && json_member(config, "sliding_window"))
		return model_refuse(why, -ENOTSUP,
			CONFIG ": sliding_window: LlamaForCausalLM has none in transformers; null "
			       "expected");
	return 0;
}

static int read_biases(
	struct model_source *s, const json_t *config, bool mistral, const struct model_refusal *why)
{
	int r;

	s->biases = BIASES_STATED;
	if ((r = json_get_bool(config, CONFIG, "attention_bias", false, &s->attention_bias, why)) <
			0 ||
		(r = json_get_bool(config, CONFIG, "mlp_bias", false, &s->mlp_bias, why)) < 0)
		return r;
	if (mistral && (s->attention_bias || s->mlp_bias))
		return model_refuse(why, -ENOTSUP,
			CONFIG ": %s: MistralForCausalLM has none in transformers; false expected",
			s->attention_bias ? "attention_bias" : "mlp_bias");
	return 0;
}

static int read_attention(
	const json_t *config, struct model_config *c, bool mistral, const struct model_refusal *why)
{
	struct attention_shape *a = &c->attention;
	const json_t *window = json_object_get(config, "sliding_window");
	const uint32_t eight = 8, window_default = 4096;
	uint32_t otherwise;
	int r;

	r = json_get_u32(
		config, CONFIG, "num_attention_heads", NULL, 1, MODEL_DIM_MAX, &a->n_heads, why);
	if (r < 0)
		return r;
	r = json_get_u32(config, CONFIG, "num_key_value_heads", mistral ? &eight : &a->n_heads, 1,
		a->n_heads, &a->n_kv_heads, why);
	if (r < 0)
		return r;
	if (a->n_heads % a->n_kv_heads != 0)
		return model_refuse(why, -EINVAL,
			CONFIG
			": num_key_value_heads: a divisor of the %u heads expected, found %u",
			a->n_heads, a->n_kv_heads);
	if (!json_member(config, "head_dim") && c->dim % a->n_heads != 0)
		return model_refuse(why, -EINVAL,
			CONFIG ": num_attention_heads: a divisor of hidden_size %u expected, found "
			       "%u",
			c->dim, a->n_heads);
	otherwise = c->dim / a->n_heads;
	r = json_get_u32(config, CONFIG, "head_dim", &otherwise, 2, MODEL_DIM_MAX / a->n_heads,
		&a->head_dim, why);
	if (r < 0)
		return r;
	if (a->head_dim < 2 || a->head_dim % 2 != 0)
		return model_refuse(why, -EINVAL,
			CONFIG ": an even number of elements per head expected, found %u",
			a->head_dim);
	a->rope_dim = a->head_dim;
	a->rope_layout = ROPE_HALVES;
	a->scale = (float)(1 / sqrt((double)a->head_dim));
	if (!mistral || json_is_null(window))
		return 0;
	return json_get_u32(
		config, CONFIG, "sliding_window", &window_default, 1, INT32_MAX, &a->window, why);
}

static int read_yarn(const json_t *scaling, const char *where, const struct model_config *c,
	struct rope *rope, const struct model_refusal *why)
{
	const double fast = 32, slow = 1, none = 0;
	double mscale, mscale_all;
	int r;

	if ((r = json_get_u32(scaling, where, "original_max_position_embeddings", &c->context, 1,
		     MODEL_CONTEXT_MAX, &rope->original_context, why)) < 0 ||
		(r = json_get_number(scaling, where, "beta_fast", &fast, 1e-3, 1e6,
			 &rope->beta_fast, why)) < 0 ||
		(r = json_get_number(scaling, where, "beta_slow", &slow, 1e-3, 1e6,
			 &rope->beta_slow, why)) < 0 ||
		(r = json_get_number(scaling, where, "mscale", &none, 0, 1e3, &mscale, why)) < 0 ||
		(r = json_get_number(
			 scaling, where, "mscale_all_dim", &none, 0, 1e3, &mscale_all, why)) < 0 ||
		(r = json_get_bool(scaling, where, "truncate", true, &rope->truncate, why)) < 0)
		return r;
	rope->attention_factor = mscale > 0 && mscale_all > 0
					 ? rope_yarn_attention(rope->factor, mscale) /
						   rope_yarn_attention(rope->factor, mscale_all)
					 : rope_yarn_attention(rope->factor, 1);
	return json_get_number(scaling, where, "attention_factor", &rope->attention_factor, 1e-3,
		1e3, &rope->attention_factor, why);
}

static int read_llama3(const json_t *scaling, const char *where, struct rope *rope,
	const struct model_refusal *why)
{
	int r;

	if ((r = json_get_u32(scaling, where, "original_max_position_embeddings", NULL, 1,
		     MODEL_CONTEXT_MAX, &rope->original_context, why)) < 0 ||
		(r = json_get_number(scaling, where, "low_freq_factor", NULL, 1e-3, 1e6,
			 &rope->low_freq_factor, why)) < 0 ||
		(r = json_get_number(scaling, where, "high_freq_factor", NULL, 1e-3, 1e6,
			 &rope->high_freq_factor, why)) < 0)
		return r;
	if (rope->high_freq_factor <= rope->low_freq_factor)
		return model_refuse(why, -EINVAL,
			"%s: high_freq_factor: more than low_freq_factor expected", where);
	return 0;
}

/* rope_scaling as transformers 4 writes it, or rope_parameters, 5's, which holds rope_theta too. */
static int read_rope(const json_t *config, struct model_config *c, const struct model_refusal *why)
{
	static const char *const plain[] = {"type", "rope_type", "rope_theta", NULL};
	static const char *const linear[] = {"type", "rope_type", "rope_theta", "factor", NULL};
	static const char *const llama3[] = {"type", "rope_type", "rope_theta", "factor",
		"low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL};
	static const char *const yarn[] = {"type", "rope_type", "rope_theta", "factor",
		"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
		"mscale", "mscale_all_dim", "truncate", "finetuned", NULL};
	const json_t *old = json_member(config, "rope_scaling"),
		     *new = json_member(config, "rope_parameters");
	const json_t *scaling = old ? old : new;
	const char *where = old ? CONFIG ": rope_scaling" : CONFIG ": rope_parameters", *type;
	const char *const *known;
	struct rope *rope = &c->rope;
	double theta = 10000;
	int r;

	if (old && new && !json_equal(old, new))
		return model_refuse(why, -EINVAL,
			CONFIG ": rope_scaling and rope_parameters: one of them expected");
	r = json_get_number(config, CONFIG, "rope_theta", &theta, 1, 1e12, &theta, why);
	if (r < 0)
		return r;
	rope->theta = (float)theta;
	if (!scaling)
		return 0;
	if (!json_is_object(scaling))
		return model_refuse(why, -EINVAL, "%s: an object expected", where);
	if ((r = json_get_number(scaling, where, "rope_theta", &theta, 1, 1e12, &theta, why)) < 0 ||
		(r = json_get_string(scaling, where, "type", &type, why)) < 0)
		return r;
	if (!type && (r = json_get_string(scaling, where, "rope_type", &type, why)) < 0)
		return r;
	rope->theta = (float)theta;
	if (!type || strcmp(type, "default") == 0) {
		known = plain;
	} else if (strcmp(type, "linear") == 0) {
		rope->kind = ROPE_LINEAR;
		known = linear;
	} else if (strcmp(type, "llama3") == 0) {
		rope->kind = ROPE_LLAMA3;
		known = llama3;
	} else if (strcmp(type, "yarn") == 0) {
		rope->kind = ROPE_YARN;
		known = yarn;
	} else {
		return refuse_value(
			where, "rope_type", "default, linear, llama3 or yarn", type, why);
	}
	r = json_only(scaling, where, "rope_type", known, why);
	if (r < 0 || rope->kind == ROPE_UNSCALED)
		return r;
	r = json_get_number(scaling, where, "factor", NULL, 1, 1e6, &rope->factor, why);
	if (r == 0 && rope->kind == ROPE_LLAMA3)
		r = read_llama3(scaling, where, rope, why);
	if (r == 0 && rope->kind == ROPE_YARN)
		r = read_yarn(scaling, where, c, rope, why);
	return r;
}

/* eos_token_id: a number or a list. */
static int read_end_ids(struct model_source *s, const json_t *object, const char *file,
	const struct model_refusal *why)
{
	const json_t *v = json_member(object, "eos_token_id");
	const size_t n = json_is_array(v) ? json_array_size(v) : v ? 1 : 0;
	size_t i;

	for (i = 0; i < n; i++) {
		const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;

		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
			json_integer_value(id) >= MODEL_VOCAB_MAX)
			return model_refuse(why, -EINVAL,
				"%s: eos_token_id: a token id or a list of them expected", file);
		if (source_add_end(s, (int32_t)json_integer_value(id)) < 0)
			return model_refuse(
				why, -EINVAL, "%s: eos_token_id: too many of them", file);
	}
	return 0;
}

int hf_read_config(struct model_source *s, const struct hf *hf, const struct model_refusal *why)
{
	struct model_config *c = &s->config;
	const json_t *config = hf->config;
	const double eps_default = 1e-6;
	uint32_t vocab, context_default;
	bool mistral = false, tied;
	double eps;
	int r;

	r = read_architecture(config, c, &mistral, why);
	if (r < 0)
		return r;
	context_default = mistral ? 131072 : 2048;
	if ((r = check_unsupported(config, mistral, why)) < 0 ||
		(r = json_get_u32(config, CONFIG, "num_hidden_layers", NULL, 1, MODEL_LAYERS_MAX,
			 &c->n_layers, why)) < 0 ||
		(r = json_get_u32(config, CONFIG, "hidden_size", NULL, 1, MODEL_DIM_MAX, &c->dim,
			 why)) < 0 ||
		(r = json_get_u32(config, CONFIG, "intermediate_size", NULL, 1, MODEL_DIM_MAX,
			 &c->ffn_dim, why)) < 0 ||
		(r = json_get_u32(config, CONFIG, "vocab_size", NULL, 2, MODEL_VOCAB_MAX, &vocab,
			 why)) < 0 ||
		(r = json_get_u32(config, CONFIG, "max_position_embeddings", &context_default, 1,
			 MODEL_CONTEXT_MAX, &c->context, why)) < 0 ||
		(r = json_get_number(
			 config, CONFIG, "rms_norm_eps", &eps_default, 1e-12, 1, &eps, why)) < 0 ||
		(r = json_get_bool(config, CONFIG, "tie_word_embeddings", false, &tied, why)) < 0 ||
		(r = read_biases(s, config, mistral, why)) < 0 ||
		(r = read_attention(config, c, mistral, why)) < 0 ||
		(r = read_rope(config, c, why)) < 0 ||
		(r = read_end_ids(s, config, CONFIG, why)) < 0)
		return r;
	c->rms_eps = (float)eps;
	s->stated_vocab = vocab;
	s->vocab_name = CONFIG ": vocab_size";
	s->ties = tied ? TIED : UNTIED;
	return 0;
}

/* Keys that would change what generate() answers, with the values that do not. */
static int check_generation(const json_t *g, const struct model_refusal *why)
{
	static const struct {
		const char *key;
		double neutral;
	} numbers[] = {{"num_beams", 1}, {"num_beam_groups", 1}, {"no_repeat_ngram_size", 0},
		{"encoder_repetition_penalty", 1}, {"penalty_alpha", 0}, {"epsilon_cutoff", 0},
		{"eta_cutoff", 0}, {"diversity_penalty", 0}, {"min_length", 0},
		{"guidance_scale", 1}};
	static const char *const lists[] = {"bad_words_ids", "force_words_ids", "suppress_tokens",
		"begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
		"sequence_bias", "stop_strings", "exponential_decay_length_penalty",
		"min_new_tokens", "watermarking_config"};
	size_t i;
	double v;
	int r;

	for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		r = json_get_number(g, GENERATION, numbers[i].key, &numbers[i].neutral, -HUGE_VAL,
			HUGE_VAL, &v, why);
		if (r < 0)
			return r;
		if (v != numbers[i].neutral)
			return model_refuse(why, -ENOTSUP,
				GENERATION ": %s: %g expected, found %g, which is not implemented "
					   "as a default",
				numbers[i].key, numbers[i].neutral, v);
	}
	for (i = 0; i < sizeof(lists) / sizeof(*lists); i++)
		if (json_member(g, lists[i]))
			return model_refuse(why, -ENOTSUP,
				GENERATION ": %s: not implemented as a default; null expected",
				lists[i]);
	return 0;
}

int hf_read_defaults(struct model_source *s, const struct hf *hf, const struct model_refusal *why)
{
	const json_t *g = hf->generation;
	const double none = NAN;
	const uint32_t unsaid = UINT32_MAX;
	double temperature = NAN, top_p = NAN, min_p = NAN, typical_p = NAN, penalty = NAN;
	uint32_t top_k = unsaid;
	bool samples = true;
	int r;

	if (g && ((r = check_generation(g, why)) < 0 ||
			 (r = json_get_bool(g, GENERATION, "do_sample", true, &samples, why)) < 0 ||
			 (r = json_get_number(g, GENERATION, "temperature", &none, 0, 100,
				  &temperature, why)) < 0 ||
			 (r = json_get_number(g, GENERATION, "top_p", &none, 0, 1, &top_p, why)) <
				 0 ||
			 (r = json_get_number(g, GENERATION, "min_p", &none, 0, 1, &min_p, why)) <
				 0 ||
			 (r = json_get_number(
				  g, GENERATION, "typical_p", &none, 0, 1, &typical_p, why)) < 0 ||
			 (r = json_get_number(g, GENERATION, "repetition_penalty", &none, 1e-3, 1e3,
				  &penalty, why)) < 0 ||
			 (r = json_get_u32(g, GENERATION, "top_k", &unsaid, 0, MODEL_VOCAB_MAX,
				  &top_k, why)) < 0 ||
			 (r = read_end_ids(s, g, GENERATION, why)) < 0))
		return r;
	s->defaults.temperature = samples ? (float)temperature : 0;
	s->defaults.top_p = (float)top_p;
	s->defaults.min_p = (float)min_p;
	s->defaults.typical_p = (float)typical_p;
	s->defaults.top_k = (int32_t)top_k;
	s->defaults.repetition_penalty = (float)penalty;
	return 0;
}
