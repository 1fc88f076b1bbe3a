/* engine/model, weights and hash: what a llama-architecture file must hold, and that everything
 * that zeph would have to ignore is refused by name. Files are written here with gguf_write. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/gguf_write.h"
#include "engine/mkmodel.h"
#include "engine/model.h"
#include "engine/source.h"

/* Two layers of dim 8, 2 heads of 4, 1 KV head, ffn 12, vocabulary 10. */
struct sample {
	const char *without_key;    /* left out */
	const char *without_tensor; /* left out */
	const char *key;            /* one key more, or another value */
	uint32_t u32;
	const char *string;
	float f32;
	enum { EXTRA_NONE, EXTRA_U32, EXTRA_STRING, EXTRA_F32, EXTRA_BOOL } kind;
	const char *tensor; /* one tensor more, or of another shape */
	uint64_t dims[4];
	enum dtype dtype;
	const char *name;
	bool output, biases;
};

struct writing {
	struct gguf_writer *w;
	const struct sample *s;
};

static bool left_out(const struct writing *x, const char *key)
{
	return (x->s->without_key && strcmp(key, x->s->without_key) == 0) ||
	       (x->s->key && strcmp(key, x->s->key) == 0);
}

static void u32(struct writing *x, const char *key, uint32_t v)
{
	if (!left_out(x, key))
		gguf_write_u32(x->w, key, v);
}

static void f32(struct writing *x, const char *key, float v)
{
	if (!left_out(x, key))
		gguf_write_f32(x->w, key, v);
}

static void string(struct writing *x, const char *key, const char *v)
{
	if (!left_out(x, key))
		gguf_write_string(x->w, key, v, strlen(v));
}

static void tensor(struct writing *x, const char *name, uint64_t cols, uint64_t rows)
{
	const uint64_t dims[2] = {cols, rows};

	if (x->s->without_tensor && strcmp(name, x->s->without_tensor) == 0)
		return;
	if (x->s->tensor && strcmp(name, x->s->tensor) == 0)
		return;
	gguf_write_tensor(x->w, name, DTYPE_F32, rows == 1 ? 1 : 2, dims);
}

static void layer(struct writing *x, unsigned i)
{
	static const struct {
		const char *name;
		uint64_t cols, rows;
		bool bias;
	} tensors[] = {
		{"attn_norm.weight", 8, 1, false},
		{"attn_q.weight", 8, 8, false},
		{"attn_k.weight", 8, 4, false},
		{"attn_v.weight", 8, 4, false},
		{"attn_output.weight", 8, 8, false},
		{"attn_q.bias", 8, 1, true},
		{"attn_k.bias", 4, 1, true},
		{"attn_v.bias", 4, 1, true},
		{"attn_output.bias", 8, 1, true},
		{"ffn_norm.weight", 8, 1, false},
		{"ffn_gate.weight", 8, 12, false},
		{"ffn_up.weight", 8, 12, false},
		{"ffn_down.weight", 12, 8, false},
	};
	char name[64];
	size_t k;

	for (k = 0; k < sizeof(tensors) / sizeof(*tensors); k++) {
		if (tensors[k].bias && !x->s->biases)
			continue;
		snprintf(name, sizeof(name), "blk.%u.%s", i, tensors[k].name);
		tensor(x, name, tensors[k].cols, tensors[k].rows);
	}
}

static int write_sample(const struct sample *s)
{
	struct writing x = {gguf_writer_new(), s};
	int fd = memfd_create("model", MFD_CLOEXEC);
	uint32_t n_dims;

	assert_non_null(x.w);
	assert_true(fd >= 0);
	string(&x, "general.architecture", "llama");
	string(&x, "general.name", s->name ? s->name : "sample");
	u32(&x, "llama.block_count", 2);
	u32(&x, "llama.context_length", 64);
	u32(&x, "llama.embedding_length", 8);
	u32(&x, "llama.feed_forward_length", 12);
	u32(&x, "llama.attention.head_count", 2);
	u32(&x, "llama.attention.head_count_kv", 1);
	f32(&x, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	if (s->kind == EXTRA_U32)
		gguf_write_u32(x.w, s->key, s->u32);
	if (s->kind == EXTRA_STRING)
		gguf_write_string(x.w, s->key, s->string, strlen(s->string));
	if (s->kind == EXTRA_F32)
		gguf_write_f32(x.w, s->key, s->f32);
	if (s->kind == EXTRA_BOOL)
		gguf_write_bool(x.w, s->key, s->u32 != 0);
	tensor(&x, "token_embd.weight", 8, 10);
	tensor(&x, "output_norm.weight", 8, 1);
	if (s->output)
		tensor(&x, "output.weight", 8, 10);
	layer(&x, 0);
	layer(&x, 1);
	if (s->tensor) {
		for (n_dims = 1; n_dims < 4 && s->dims[n_dims] != 0; n_dims++)
			;
		gguf_write_tensor(x.w, s->tensor, s->dtype, n_dims, s->dims);
	}
	assert_int_equal(gguf_writer_begin(x.w, fd), 0);
	gguf_writer_free(x.w);
	return fd;
}

static int open_sample(const struct sample *s, const struct model_options *options,
	struct model **ret, char error[256])
{
	char path[64];
	int fd = write_sample(s), r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	error[0] = '\0';
	r = model_open(path, options, ret, error, 256);
	close(fd);
	return r;
}

static struct model *accept(const struct sample *s, const struct model_options *options)
{
	struct model *m = NULL;
	char error[256];

	if (open_sample(s, options, &m, error) < 0)
		fail_msg("refused: %s", error);
	return m;
}

/* Refused with that error, in a sentence that holds all three. */
static void refuse(const struct sample *s, int r, const char *a, const char *b, const char *c)
{
	struct model *const untouched = (struct model *)0x1;
	struct model *m = untouched;
	char error[256];

	assert_int_equal(open_sample(s, NULL, &m, error), r);
	assert_ptr_equal(m, untouched);
	if (!strstr(error, a) || !strstr(error, b) || !strstr(error, c))
		fail_msg("\"%s\" lacks \"%s\", \"%s\" or \"%s\"", error, a, b, c);
}

static void a_plain_file_is_read(void **state)
{
	const struct sample s = {0};
	struct model *m = accept(&s, NULL);
	const struct model_config *c = &m->config;

	assert_string_equal(c->architecture, "llama");
	assert_string_equal(c->name, "sample");
	assert_int_equal(c->n_layers, 2);
	assert_int_equal(c->dim, 8);
	assert_int_equal(c->ffn_dim, 12);
	assert_int_equal(c->vocab, 10);
	assert_int_equal(c->context, 64);
	assert_true(c->rms_eps == 1e-5f);
	assert_true(c->rope.theta == 10000);
	assert_int_equal(c->attention.n_heads, 2);
	assert_int_equal(c->attention.n_kv_heads, 1);
	assert_int_equal(c->attention.head_dim, 4);
	assert_int_equal(c->attention.rope_dim, 4);
	assert_int_equal(c->attention.rope_layout, ROPE_INTERLEAVED);
	assert_int_equal(c->attention.window, 0);
	assert_true(c->attention.scale == 0.5f);
	assert_true(c->tied);
	assert_int_equal(c->dtype, DTYPE_F32);
	assert_int_equal(c->parameters, 80 + 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 96));
	assert_int_equal(c->tensor_bytes, 4 * c->parameters);
	assert_null(m->tokenizer);
	assert_null(m->template);
	assert_int_equal(m->n_end_tokens, 0);
	assert_string_equal(m->window_note, "");
	assert_true(isnan(m->defaults.temperature) && isnan(m->defaults.top_p));
	assert_int_equal(m->defaults.top_k, -1);
	model_free(m);
}

static void an_output_matrix_unties(void **state)
{
	const struct sample s = {.output = true};
	struct model *m = accept(&s, NULL);

	assert_false(m->config.tied);
	model_free(m);
}

static void biases_are_optional(void **state)
{
	const struct sample s = {.biases = true};

	model_free(accept(&s, NULL));
}

static void every_needed_key_is_demanded_by_name(void **state)
{
	static const char *const keys[] = {"general.architecture", "llama.block_count",
		"llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
		"llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"};
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		const struct sample missing = {.without_key = keys[i]};
		const struct sample wrong = {.key = keys[i], .kind = EXTRA_BOOL};

		refuse(&missing, -EINVAL, keys[i], "expected", "no such key");
		refuse(&wrong, -EINVAL, keys[i], "expected", "another type");
	}
}

static void numbers_have_ranges(void **state)
{
	static const struct {
		const char *key;
		uint32_t v;
	} cases[] = {
		{"llama.block_count", 0},
		{"llama.block_count", MODEL_LAYERS_MAX + 1},
		{"llama.context_length", 0},
		{"llama.context_length", MODEL_CONTEXT_MAX + 1},
		{"llama.embedding_length", 0},
		{"llama.embedding_length", MODEL_DIM_MAX + 1},
		{"llama.feed_forward_length", UINT32_MAX},
		{"llama.attention.head_count", 0},
		{"llama.attention.head_count", 3},
		{"llama.attention.head_count_kv", 0},
		{"llama.attention.head_count_kv", 3},
		{"llama.attention.key_length", 1},
		{"llama.attention.key_length", 40000},
		{"llama.attention.value_length", 2},
		{"llama.rope.dimension_count", 0},
		{"llama.rope.dimension_count", 3},
		{"llama.rope.dimension_count", 6},
		{"llama.rope.freq_base", 0},
		{"llama.attention.layer_norm_rms_epsilon", 0},
		{"llama.attention.layer_norm_rms_epsilon", 2},
		{"llama.attention.sliding_window", UINT32_MAX},
		{"llama.vocab_size", 11},
		{"general.sampling.top_p", 2},
		{"tokenizer.ggml.eos_token_id", 10},
		{"tokenizer.ggml.eot_token_id", UINT32_MAX},
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct sample s = {.key = cases[i].key, .kind = EXTRA_U32, .u32 = cases[i].v};

		refuse(&s, -EINVAL, cases[i].key, "expected", "found");
	}
}

static void a_number_that_is_none_is_refused(void **state)
{
	const struct sample nan = {.key = "llama.rope.freq_base", .kind = EXTRA_F32, .f32 = NAN};
	const struct sample inf = {
		.key = "llama.rope.freq_base", .kind = EXTRA_F32, .f32 = INFINITY};

	refuse(&nan, -EINVAL, "llama.rope.freq_base", "expected", "nan");
	refuse(&inf, -EINVAL, "llama.rope.freq_base", "expected", "inf");
}

static void other_architectures_are_refused_by_name(void **state)
{
	const struct sample s = {
		.key = "general.architecture", .kind = EXTRA_STRING, .string = "qwen2"};

	refuse(&s, -ENOTSUP, "general.architecture", "llama", "qwen2");
}

static void what_is_not_implemented_is_refused_by_name(void **state)
{
	static const struct sample cases[] = {
		{.key = "llama.expert_count", .kind = EXTRA_U32, .u32 = 8},
		{.key = "llama.expert_used_count", .kind = EXTRA_U32, .u32 = 2},
		{.key = "llama.logit_scale", .kind = EXTRA_F32, .f32 = 0.5f},
		{.key = "llama.embedding_scale", .kind = EXTRA_F32, .f32 = 12},
		{.key = "llama.residual_scale", .kind = EXTRA_F32, .f32 = 0.2f},
		{.key = "llama.rope.scaling.type", .kind = EXTRA_STRING, .string = "longrope"},
		{.key = "llama.rope.scaling.attn_factor", .kind = EXTRA_F32, .f32 = 2},
		{.key = "llama.rope.scaling.yarn_log_multiplier", .kind = EXTRA_F32, .f32 = 0.1f},
		{.key = "llama.attention.causal", .kind = EXTRA_BOOL, .u32 = 0},
		{.key = "llama.use_parallel_residual", .kind = EXTRA_BOOL, .u32 = 1},
		{.key = "llama.final_logit_softcapping", .kind = EXTRA_F32, .f32 = 30},
		{.key = "llama.attention.clamp_kqv", .kind = EXTRA_STRING, .string = "x"},
		{.key = "llama.something.new", .kind = EXTRA_U32, .u32 = 0},
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		refuse(&cases[i], -ENOTSUP, cases[i].key, "", "");
}

static void neutral_values_are_accepted(void **state)
{
	static const struct sample cases[] = {
		{.key = "llama.expert_count", .kind = EXTRA_U32, .u32 = 0},
		{.key = "llama.logit_scale", .kind = EXTRA_F32, .f32 = 1},
		{.key = "llama.rope.scaling.factor", .kind = EXTRA_F32, .f32 = 1},
		{.key = "llama.rope.scaling.type", .kind = EXTRA_STRING, .string = "none"},
		{.key = "llama.attention.causal", .kind = EXTRA_BOOL, .u32 = 1},
		{.key = "llama.vocab_size", .kind = EXTRA_U32, .u32 = 10},
		{.key = "llama.attention.key_length", .kind = EXTRA_U32, .u32 = 4},
		{.key = "llama.attention.value_length", .kind = EXTRA_U32, .u32 = 4},
		{.key = "general.size_label", .kind = EXTRA_STRING, .string = "tiny"},
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		model_free(accept(&cases[i], NULL));
}

static void a_partial_rotation_is_read(void **state)
{
	const struct sample s = {.key = "llama.rope.dimension_count", .kind = EXTRA_U32, .u32 = 2};
	struct model *m = accept(&s, NULL);

	assert_int_equal(m->config.attention.rope_dim, 2);
	model_free(m);
}

static void every_needed_tensor_is_demanded_with_its_shape(void **state)
{
	static const struct {
		const char *name;
		uint64_t cols, rows;
		const char *expected;
	} cases[] = {
		{"token_embd.weight", 16, 10, "[8, 10]"},
		{"output_norm.weight", 4, 0, "[8]"},
		{"blk.0.attn_norm.weight", 8, 2, "[8]"},
		{"blk.1.attn_q.weight", 8, 4, "[8, 8]"},
		{"blk.0.attn_k.weight", 8, 8, "[8, 4]"},
		{"blk.1.attn_v.weight", 4, 8, "[8, 4]"},
		{"blk.0.attn_output.weight", 8, 0, "[8, 8]"},
		{"blk.1.ffn_norm.weight", 12, 0, "[8]"},
		{"blk.0.ffn_gate.weight", 12, 8, "[8, 12]"},
		{"blk.1.ffn_up.weight", 8, 13, "[8, 12]"},
		{"blk.0.ffn_down.weight", 8, 12, "[12, 8]"},
	};
	char found[32];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct sample missing = {.without_tensor = cases[i].name};
		const struct sample other = {
			.tensor = cases[i].name, .dims = {cases[i].cols, cases[i].rows}};

		refuse(&missing, -EINVAL, cases[i].name, "expected", "no such tensor");
		snprintf(found, sizeof(found),
			cases[i].rows ? "found [%llu, %llu]" : "found [%llu]",
			(unsigned long long)cases[i].cols, (unsigned long long)cases[i].rows);
		refuse(&other, -EINVAL, cases[i].name, cases[i].expected, found);
	}
}

static void tensors_without_use_are_refused_by_name(void **state)
{
	static const char *const names[] = {"blk.0.attn_q_norm.weight", "blk.2.attn_norm.weight",
		"blk.0.attn_norm", "blk.00.attn_norm.weightx", "blk.-1.attn_norm.weight",
		"token_embd.bias", "x"};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const struct sample s = {.tensor = names[i], .dims = {8}};

		refuse(&s, -ENOTSUP, names[i], "no use", "");
	}
}

static void vectors_are_not_quantised(void **state)
{
	/* Q8_0 has blocks of 32: no vector of this model is one, so the shape is refused first */
	const struct sample f16 = {.tensor = "output_norm.weight", .dims = {8}, .dtype = DTYPE_F16};
	const struct sample q8 = {
		.tensor = "output_norm.weight", .dims = {32}, .dtype = DTYPE_Q8_0};

	model_free(accept(&f16, NULL));
	refuse(&q8, -EINVAL, "output_norm.weight", "[8]", "found [32]");
}

static void mistral_and_zephyr_get_their_window_by_name(void **state)
{
	static const struct {
		const char *name;
		uint32_t window;
	} cases[] = {
		{"huggingfaceh4_zephyr-7b-beta", 4096},
		{"Zephyr 7B Beta", 4096},
		{"mistralai_Mistral-7B-v0.1", 4096},
		{"mistral-7b-v0.2", 0},
		{"zephyr-7b-alpha", 0},
		{"sample", 0},
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct sample s = {.name = cases[i].name};
		struct model *m = accept(&s, NULL);

		assert_int_equal(m->config.attention.window, cases[i].window);
		if (cases[i].window)
			assert_non_null(strstr(m->window_note, "4096"));
		else
			assert_string_equal(m->window_note, "");
		model_free(m);
	}
}

static void the_files_window_beats_the_name_and_the_option_beats_both(void **state)
{
	const struct sample s = {.name = "zephyr-7b-beta",
		.key = "llama.attention.sliding_window",
		.kind = EXTRA_U32,
		.u32 = 32};
	const struct sample unsaid = {.name = "zephyr-7b-beta"};
	const struct model_options own = {.sliding_window = -1}, none = {.sliding_window = 0},
				   more = {.sliding_window = 100};
	struct model *m;

	m = accept(&s, &own);
	assert_int_equal(m->config.attention.window, 32);
	assert_string_equal(m->window_note, "");
	model_free(m);
	m = accept(&s, &more);
	assert_int_equal(m->config.attention.window, 100);
	assert_non_null(strstr(m->window_note, "100"));
	model_free(m);
	m = accept(&unsaid, &none);
	assert_int_equal(m->config.attention.window, 0);
	model_free(m);
}

static void sampling_defaults_are_read(void **state)
{
	const struct sample s = {.key = "general.sampling.temp", .kind = EXTRA_F32, .f32 = 0.25f};
	struct model *m = accept(&s, NULL);

	assert_true(m->defaults.temperature == 0.25f);
	assert_true(isnan(m->defaults.top_p));
	model_free(m);
}

static void end_tokens_need_no_tokenizer(void **state)
{
	const struct sample s = {.key = "tokenizer.ggml.eot_token_id", .kind = EXTRA_U32, .u32 = 9};
	struct model *m = accept(&s, NULL);

	assert_int_equal(m->n_end_tokens, 1);
	assert_true(model_ends(m, 9));
	assert_false(model_ends(m, 8));
	assert_false(model_ends(m, -1));
	model_free(m);
}

/* ---- complete models ---- */

static struct model *made(const char *shape, const char *type, uint64_t seed, uint32_t threads)
{
	const struct mkmodel_options o = {
		.shape = mkmodel_shape(shape), .type = type, .seed = seed, .threads = threads};
	int fd = memfd_create("made", MFD_CLOEXEC);
	struct model *m = NULL;
	char path[64], error[256];

	assert_true(fd >= 0);
	if (mkmodel_write(&o, fd, error, sizeof(error)) < 0)
		fail_msg("mkmodel: %s", error);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (model_open(path, NULL, &m, error, sizeof(error)) < 0)
		fail_msg("refused: %s", error);
	close(fd);
	return m;
}

static void the_tiny_models_chat(void **state)
{
	static const char *const shapes[] = {"tiny", "mistral-tiny"};
	struct model *m;
	size_t i;

	for (i = 0; i < 2; i++) {
		m = made(shapes[i], "q4_0", 1, 1);
		assert_non_null(m->tokenizer);
		assert_int_equal(tokenizer_vocab(m->tokenizer), m->config.vocab);
		assert_string_equal(m->template_error, "");
		assert_non_null(m->template);
		assert_int_equal(m->n_end_tokens, 1);
		assert_int_equal(m->end_tokens[0], 2);
		assert_int_equal(m->config.attention.window, i == 0 ? 0 : 64);
		model_free(m);
	}
}

static void the_hash_is_of_the_contents(void **state)
{
	struct model *a = made("tiny", "q8_0", 1, 1), *b = made("tiny", "q8_0", 1, 3);
	struct model *c = made("tiny", "q8_0", 2, 1);
	_Atomic bool stop = true;
	char ha[65], hb[65], hc[65];

	assert_int_equal(model_hash(a, 1, NULL, ha), 0);
	assert_int_equal(model_hash(b, 4, NULL, hb), 0);
	assert_int_equal(model_hash(c, 0, NULL, hc), 0);
	assert_int_equal(strlen(ha), 64);
	assert_int_equal(strspn(ha, "0123456789abcdef"), 64);
	assert_string_equal(ha, hb);
	assert_string_not_equal(ha, hc);
	assert_int_equal(model_hash(a, 2, &stop, ha), -ECANCELED);
	assert_string_equal(ha, hb);
	model_free(a);
	model_free(b);
	model_free(c);
}

struct reports {
	unsigned n;
	uint64_t last, total;
	unsigned stop_at;
};

static int report(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	struct reports *r = userdata;

	assert_true(done_bytes > r->last && done_bytes <= total_bytes);
	r->last = done_bytes;
	r->total = total_bytes;
	return ++r->n == r->stop_at;
}

static void weights_go_up_once_each(void **state)
{
	struct model *m = made("tiny", "q4_0", 1, 1);
	struct reports seen = {0};
	const struct weights_progress progress = {report, &seen};
	struct backend *b;
	struct weights *w;
	char error[256];

	assert_int_equal(backend_new_reference(1, &b), 0);
	if (weights_load(m, &b, 1, &(struct weights_options){.context = 32, .progress = &progress},
		    &w, error, sizeof(error)) < 0)
		fail_msg("refused: %s", error);
	assert_int_equal(seen.n, m->source->n_tensors);
	assert_int_equal(seen.last, seen.total);
	assert_int_equal(seen.total, m->config.tensor_bytes);
	assert_ptr_not_equal(w->output, w->embed);
	assert_int_equal(w->n_backends, 1);
	assert_ptr_equal(w->layers[1].rope, w->ropes[0]);
	assert_int_equal(w->layers[1].kv_layer, 1);
	assert_null(w->layers[0].bq);
	assert_true(w->bytes > 0);
	weights_free(w);

	/* a load can be stopped at any tensor, and leaves nothing behind */
	for (seen.stop_at = 1; seen.stop_at <= m->source->n_tensors; seen.stop_at++) {
		seen.n = 0;
		seen.last = 0;
		assert_int_equal(
			weights_load(m, &b, 1,
				&(struct weights_options){.context = 32, .progress = &progress}, &w,
				error, sizeof(error)),
			-ECANCELED);
	}
	backend_free(b);
	model_free(m);
}

static void layers_lie_where_they_are_placed(void **state)
{
	static const uint32_t placement[] = {1, 0, 1, 0};
	const struct sample tied = {0};
	struct model *m = made("mistral-tiny", "q4_0", 1, 1);
	struct backend *b[2];
	struct weights *w;
	char error[256];

	assert_int_equal(backend_new_reference(1, &b[0]), 0);
	assert_int_equal(backend_new_reference(1, &b[1]), 0);
	if (weights_load(m, b, 2, &(struct weights_options){.placement = placement, .context = 32},
		    &w, error, sizeof(error)) < 0)
		fail_msg("refused: %s", error);
	assert_ptr_equal(w->embed_backend, b[1]);
	assert_ptr_equal(w->output_backend, b[0]);
	assert_ptr_equal(w->layers[2].backend, b[1]);
	assert_int_equal(w->layers[2].kv_layer, 1);
	assert_ptr_equal(w->layers[2].rope, w->ropes[1]);
	assert_int_equal(w->layers[3].kv_layer, 1);
	weights_free(w);
	model_free(m);

	/* a tied table is shared on one backend and doubled on two */
	m = accept(&tied, NULL);
	if (weights_load(
		    m, b, 2, &(struct weights_options){.context = 8}, &w, error, sizeof(error)) < 0)
		fail_msg("refused: %s", error);
	assert_ptr_equal(w->output, w->embed);
	weights_free(w);
	if (weights_load(m, b, 2, &(struct weights_options){.placement = placement, .context = 8},
		    &w, error, sizeof(error)) < 0)
		fail_msg("refused: %s", error);
	assert_ptr_not_equal(w->output, w->embed);
	weights_free(w);
	model_free(m);
	backend_free(b[0]);
	backend_free(b[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plain_file_is_read),
		cmocka_unit_test(an_output_matrix_unties),
		cmocka_unit_test(biases_are_optional),
		cmocka_unit_test(every_needed_key_is_demanded_by_name),
		cmocka_unit_test(numbers_have_ranges),
		cmocka_unit_test(a_number_that_is_none_is_refused),
		cmocka_unit_test(other_architectures_are_refused_by_name),
		cmocka_unit_test(what_is_not_implemented_is_refused_by_name),
		cmocka_unit_test(neutral_values_are_accepted),
		cmocka_unit_test(a_partial_rotation_is_read),
		cmocka_unit_test(every_needed_tensor_is_demanded_with_its_shape),
		cmocka_unit_test(tensors_without_use_are_refused_by_name),
		cmocka_unit_test(vectors_are_not_quantised),
		cmocka_unit_test(mistral_and_zephyr_get_their_window_by_name),
		cmocka_unit_test(the_files_window_beats_the_name_and_the_option_beats_both),
		cmocka_unit_test(sampling_defaults_are_read),
		cmocka_unit_test(end_tokens_need_no_tokenizer),
		cmocka_unit_test(the_tiny_models_chat),
		cmocka_unit_test(the_hash_is_of_the_contents),
		cmocka_unit_test(weights_go_up_once_each),
		cmocka_unit_test(layers_lie_where_they_are_placed),
	};

	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
