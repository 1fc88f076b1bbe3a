/* Which tensors a random model has, of which types, with what in them. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_model.h"
#include "engine/mkmodel.h"
#include "engine/quantize_mix.h"

static const struct mkmodel_shape shapes[] = {
	{"tiny", 2, 64, 256, 4, 2, 512, 2048, 0, 10000, false, MKMODEL_BYTE_BPE, "chatml"},
	{"mistral-tiny", 4, 256, 512, 8, 2, 1024, 2048, 64, 10000, false, MKMODEL_SENTENCEPIECE,
		"zephyr"},
	{"smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192, 0, 100000, true, MKMODEL_BYTE_BPE,
		"chatml"},
	{"zephyr-7b", 32, 4096, 14336, 32, 8, 32000, 32768, 4096, 10000, false,
		MKMODEL_SENTENCEPIECE, "zephyr"},
};

const struct mkmodel_shape *mkmodel_shape(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		if (strcmp(name, shapes[i].name) == 0)
			return &shapes[i];
	return NULL;
}

const char *mkmodel_shape_names(void)
{
	return "tiny, mistral-tiny, smollm2-135m, zephyr-7b";
}

/* The list under construction. */
struct plan {
	const struct mkmodel_options *options;
	struct gguf_writer *writer;
	struct mkmodel_tensor *tensors;
	size_t n;
	const struct quantize_mix *mix; /* of --type, or of most like it */
	bool mixed;                     /* by its rules */
	enum dtype dtype;               /* of all matrices where not mixed */
};

/* The type of a matrix: the one of --type, or what the mix gives it; another where the rows forbid
 * that, and then it says so. */
static enum dtype choose(const struct plan *p, const char *name, uint64_t cols)
{
	struct quantize_source t = {.dtype = DTYPE_F32, .cols = cols};
	const struct mkmodel_shape *s = p->options->shape;
	const struct quantize_shape shape = {s->n_layers, s->n_heads, s->n_kv_heads, s->tied};
	enum dtype wanted = p->dtype, got;
	char sentence[160];

	t.role = quantize_role_of(name, &t.layer);
	got = p->mixed ? quantize_mix_type(p->mix, &shape, &t, false, &wanted)
		       : quantize_fallback(wanted, cols);
	if (got != wanted && p->options->note) {
		snprintf(sentence, sizeof(sentence),
			"%s: rows of %llu elements are no multiple of %u, so %s stands in for %s",
			name, (unsigned long long)cols, dtype_info(wanted)->block_elements,
			dtype_info(got)->name, dtype_info(wanted)->name);
		p->options->note(p->options->userdata, sentence);
	}
	return got;
}

static void plan_matrix(
	struct plan *p, const char *name, uint32_t rows, uint32_t cols, float spread)
{
	struct mkmodel_tensor *t = &p->tensors[p->n++];
	const uint64_t dims[2] = {cols, rows};

	t->dtype = choose(p, name, cols);
	t->rows = rows;
	t->cols = cols;
	t->mean = 0;
	t->spread = spread;
	(void)dtype_row_bytes(t->dtype, cols, &t->row_bytes);
	t->offset = gguf_write_tensor(p->writer, name, t->dtype, 2, dims);
}

/* Norm weights near 1, but not 1: forgetting one shows. */
static void plan_norm(struct plan *p, const char *name, uint32_t cols)
{
	struct mkmodel_tensor *t = &p->tensors[p->n++];
	const uint64_t dims[1] = {cols};

	*t = (struct mkmodel_tensor){DTYPE_F32, 1, cols, 1, 0.1f, 0, cols * sizeof(float)};
	t->offset = gguf_write_tensor(p->writer, name, t->dtype, 1, dims);
}

/* 2 / sqrt(fan_in): with weights of this size a fault in any operation moves the logits. */
static float spread(uint32_t fan_in)
{
	return 2 / sqrtf((float)fan_in);
}

static void plan_layer(struct plan *p, uint32_t layer)
{
	const struct mkmodel_shape *s = p->options->shape;
	const uint32_t kv_dim = s->dim / s->n_heads * s->n_kv_heads;
	char name[64];

#define NAME(suffix) (snprintf(name, sizeof(name), "blk.%u." suffix ".weight", layer), name)
	plan_norm(p, NAME("attn_norm"), s->dim);
	plan_matrix(p, NAME("attn_q"), s->dim, s->dim, spread(s->dim));
	plan_matrix(p, NAME("attn_k"), kv_dim, s->dim, spread(s->dim));
	plan_matrix(p, NAME("attn_v"), kv_dim, s->dim, spread(s->dim));
	plan_matrix(p, NAME("attn_output"), s->dim, s->dim, spread(s->dim));
	plan_norm(p, NAME("ffn_norm"), s->dim);
	plan_matrix(p, NAME("ffn_gate"), s->ffn_dim, s->dim, spread(s->dim));
	plan_matrix(p, NAME("ffn_up"), s->ffn_dim, s->dim, spread(s->dim));
	plan_matrix(p, NAME("ffn_down"), s->dim, s->ffn_dim, spread(s->ffn_dim));
#undef NAME
}

static int write_metadata(struct plan *p, const struct model_refusal *why)
{
	const struct mkmodel_shape *s = p->options->shape;
	const uint32_t head = s->dim / s->n_heads;
	struct model_config c = {.n_layers = s->n_layers,
		.dim = s->dim,
		.ffn_dim = s->ffn_dim,
		.vocab = s->vocab,
		.context = s->context,
		.rms_eps = 1e-5f,
		.rope = {.theta = s->rope_theta},
		.attention = {.n_heads = s->n_heads,
			.n_kv_heads = s->n_kv_heads,
			.head_dim = head,
			.rope_dim = head,
			.window = s->window}};

	snprintf(c.name, sizeof(c.name), "random %s %s, seed %llu", s->name, p->options->type,
		(unsigned long long)p->options->seed);
	return gguf_write_config(p->writer, &c, p->mix, why);
}

__attribute__((format(printf, 4, 5))) static int fail(
	char *error, size_t size, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, size, format, args);
	va_end(args);
	return r;
}

int mkmodel_write(const struct mkmodel_options *o, int fd, char *error, size_t error_size)
{
	const struct mkmodel_shape *s = o->shape;
	const struct model_refusal why = {error, error_size};
	struct plan p = {.options = o};
	char name[16];
	uint32_t i;
	int r, dtype;

	/* q4_k is every matrix in that type, q4_k_m a mix. */
	dtype = dtype_from_name(o->type);
	p.mix = quantize_mix_find(o->type);
	if (!p.mix && dtype >= 0) {
		snprintf(name, sizeof(name), "%s_s", o->type);
		p.mix = quantize_mix_find(name);
	}
	if (!p.mix)
		return fail(error, error_size, -EINVAL,
			"type \"%s\" is none of %s, q3_k, q4_k, q5_k", o->type,
			quantize_mix_names());
	p.mixed = dtype < 0;
	p.dtype = p.mix->dtype;
	p.writer = gguf_writer_new();
	p.tensors = calloc(3 + 9 * (size_t)s->n_layers, sizeof(*p.tensors));
	if (!p.writer || !p.tensors) {
		r = fail(error, error_size, -ENOMEM, "no memory");
		goto out;
	}
	r = write_metadata(&p, &why);
	if (r < 0)
		goto out;
	r = mkmodel_write_vocabulary(p.writer, s);
	if (r < 0) {
		fail(error, error_size, r, "the vocabulary: %s", strerror(-r));
		goto out;
	}
	plan_matrix(&p, "token_embd.weight", s->vocab, s->dim, 1);
	for (i = 0; i < s->n_layers; i++)
		plan_layer(&p, i);
	plan_norm(&p, "output_norm.weight", s->dim);
	if (!s->tied)
		plan_matrix(&p, "output.weight", s->vocab, s->dim, spread(s->dim));
	r = gguf_writer_begin(p.writer, fd);
	if (r == 0)
		r = mkmodel_fill(p.writer, p.tensors, p.n, o);
	if (r < 0)
		fail(error, error_size, r, "writing the model: %s", strerror(-r));
out:
	free(p.tensors);
	gguf_writer_free(p.writer);
	return r;
}
