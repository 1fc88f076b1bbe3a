/* A model's metadata as a GGUF's keys, the other way round than source_gguf*.c. Owns nothing.
 *
 * Source of the keys: the GGUF specification and llama.cpp's converter, whose meaning other
 * programs expect. */
#include "engine/gguf_model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenize.h"
#include "engine/source_gguf.h"
#include "engine/vocabulary.h"

#define QUANTIZATION_VERSION 2 /* of the block formats: ggml's GGML_QNT_VERSION */
#define FILLER_BYTES         16
#define LLAMA(name)          "llama." name
#define KEY(name)            "tokenizer.ggml." name
#define OWN(name)            "zeph.tokenizer." name

static void write_text(struct gguf_writer *w, const char *key, const char *text)
{
	gguf_write_string(w, key, text, strlen(text));
}

/* ---- the configuration ---- */

static int write_rope(
	struct gguf_writer *w, const struct rope *rope, const struct model_refusal *why)
{
	double attention;

	gguf_write_f32(w, LLAMA("rope.freq_base"), rope->theta);
	if (rope->kind != ROPE_LINEAR && rope->kind != ROPE_YARN)
		return 0;
	write_text(w, LLAMA("rope.scaling.type"), rope->kind == ROPE_YARN ? "yarn" : "linear");
	gguf_write_f32(w, LLAMA("rope.scaling.factor"), (float)rope->factor);
	if (rope->kind == ROPE_LINEAR)
		return 0;
	if (rope->beta_fast != 32 || rope->beta_slow != 1 || !rope->truncate)
		return model_refuse(why, -ENOTSUP,
			"rope_scaling: %s expected: readers of GGUF know no other for this "
			"architecture",
			rope->truncate ? "beta_fast 32 and beta_slow 1" : "truncate true");
	attention = rope->attention_factor / rope_yarn_attention(rope->factor, 1);
	gguf_write_u32(w, LLAMA("rope.scaling.original_context_length"), rope->original_context);
	if (attention != 1)
		gguf_write_f32(w, LLAMA("rope.scaling.attn_factor"), (float)attention);
	return 0;
}

void gguf_write_storage(struct gguf_writer *w, const struct quantize_mix *mix)
{
	gguf_write_u32(w, "general.file_type", mix->file_type);
	gguf_write_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
}

int gguf_write_config(struct gguf_writer *w, const struct model_config *c,
	const struct quantize_mix *mix, const struct model_refusal *why)
{
	const struct attention_shape *a = &c->attention;

	write_text(w, "general.architecture", "llama");
	write_text(w, "general.type", "model");
	write_text(w, "general.name", c->name);
	gguf_write_storage(w, mix);
	gguf_write_u32(w, LLAMA("block_count"), c->n_layers);
	gguf_write_u32(w, LLAMA("context_length"), c->context);
	gguf_write_u32(w, LLAMA("embedding_length"), c->dim);
	gguf_write_u32(w, LLAMA("feed_forward_length"), c->ffn_dim);
	gguf_write_u32(w, LLAMA("attention.head_count"), a->n_heads);
	gguf_write_u32(w, LLAMA("attention.head_count_kv"), a->n_kv_heads);
	if (a->head_dim * a->n_heads != c->dim) {
		gguf_write_u32(w, LLAMA("attention.key_length"), a->head_dim);
		gguf_write_u32(w, LLAMA("attention.value_length"), a->head_dim);
	}
	gguf_write_f32(w, LLAMA("attention.layer_norm_rms_epsilon"), c->rms_eps);
	/* 0 as well: a name may be taken for that of a model that has one. */
	gguf_write_u32(w, LLAMA("attention.sliding_window"), a->window);
	gguf_write_u32(w, LLAMA("rope.dimension_count"), a->rope_dim);
	gguf_write_u32(w, LLAMA("vocab_size"), c->vocab);
	return write_rope(w, &c->rope, why);
}

void gguf_write_defaults(struct gguf_writer *w, const struct model_defaults *d)
{
	const struct {
		const char *key;
		float value;
	} numbers[] = {
		{"general.sampling.temp", d->temperature},
		{"general.sampling.top_p", d->top_p},
		{"general.sampling.min_p", d->min_p},
		{"general.sampling.penalty_repeat", d->repetition_penalty},
		{"zeph.sampling.typical_p", d->typical_p},
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		if (!isnan(numbers[i].value))
			gguf_write_f32(w, numbers[i].key, numbers[i].value);
	if (d->top_k >= 0)
		gguf_write_u32(w, "general.sampling.top_k", (uint32_t)d->top_k);
}

/* ---- the tokenizer ---- */

/* Where pairs have ranks, the scores that say the same: a piece scores higher the earlier it is
 * first put together, and all of those higher than what is no pair. (For a tokenizer.json that
 * transformers made of a tokenizer.model these are the scores of that.) */
static int rank_scores(const struct tokenizer_source *s, float *scores)
{
	char error[256], *text;
	size_t longest = 0, i;
	struct vocabulary *v;
	float next = 0;
	int32_t id;
	int r = vocabulary_new(s, &v, error, sizeof(error));

	if (r < 0)
		return r;
	for (i = 0; i < s->n_merges; i++)
		if (s->merges[i].left.len + s->merges[i].right.len > longest)
			longest = s->merges[i].left.len + s->merges[i].right.len;
	text = malloc(longest + 1);
	for (i = 0; i < s->n; i++)
		scores[i] = NAN;
	for (i = 0; text && i < s->n_merges; i++) {
		const struct merge_source *m = &s->merges[i];

		memcpy(text, m->left.text, m->left.len);
		memcpy(text + m->left.len, m->right.text, m->right.len);
		id = vocabulary_find(v, text, m->left.len + m->right.len);
		if (id >= 0 && isnan(scores[id]))
			scores[id] = next--;
	}
	for (i = 0; i < s->n; i++)
		if (isnan(scores[i]))
			scores[i] = s->tokens[i].kind == TOKEN_NORMAL ? next-- : 0;
	r = text ? 0 : -ENOMEM;
	free(text);
	vocabulary_free(v);
	return r;
}

/* A token without a text, or behind the last one, is one that no text becomes. */
static int write_tokens(struct gguf_writer *w, const struct tokenizer_source *s, uint32_t vocab)
{
	struct slice *texts = calloc(vocab, sizeof(*texts));
	char(*fillers)[FILLER_BYTES] = calloc(vocab, sizeof(*fillers));
	int32_t *types = calloc(vocab, sizeof(*types));
	float *scores = calloc(vocab, sizeof(*scores));
	int r = texts && fillers && types && scores ? 0 : -ENOMEM;
	uint32_t i;

	if (r == 0 && s->ranked && !s->byte_level)
		r = rank_scores(s, scores);
	for (i = 0; i < vocab && r == 0; i++) {
		if (i < s->n && s->tokens[i].text.len > 0) {
			texts[i] = s->tokens[i].text;
			types[i] = (int32_t)s->tokens[i].kind;
			if (!s->ranked)
				scores[i] = s->tokens[i].score;
		} else {
			texts[i].text = fillers[i];
			texts[i].len = (size_t)snprintf(fillers[i], FILLER_BYTES, "[PAD%u]", i);
			types[i] = TOKEN_CONTROL;
		}
	}
	if (r == 0) {
		gguf_write_strings(w, KEY("tokens"), texts, vocab);
		if (!s->byte_level)
			gguf_write_f32s(w, KEY("scores"), scores, vocab);
		gguf_write_i32s(w, KEY("token_type"), types, vocab);
	}
	free(texts);
	free(fillers);
	free(types);
	free(scores);
	return r;
}

/* "left right" */
static int write_merges(
	struct gguf_writer *w, const struct tokenizer_source *s, const struct model_refusal *why)
{
	struct slice *lines = calloc(s->n_merges ? s->n_merges : 1, sizeof(*lines));
	size_t bytes = 1, i;
	char *text, *at;
	int r = 0;

	for (i = 0; i < s->n_merges; i++)
		bytes += s->merges[i].left.len + 1 + s->merges[i].right.len;
	text = at = malloc(bytes);
	if (!lines || !text)
		r = -ENOMEM;
	for (i = 0; i < s->n_merges && r == 0; i++) {
		const struct slice left = s->merges[i].left, right = s->merges[i].right;

		if (memchr(left.text, ' ', left.len) || memchr(right.text, ' ', right.len))
			r = model_refuse(why, -ENOTSUP,
				"%s: entry %zu: a space, which GGUF has between the parts",
				s->merges_name, i);
		lines[i] = (struct slice){at, left.len + 1 + right.len};
		memcpy(at, left.text, left.len);
		at[left.len] = ' ';
		memcpy(at + left.len + 1, right.text, right.len);
		at += lines[i].len;
	}
	if (r == 0)
		gguf_write_strings(w, KEY("merges"), lines, s->n_merges);
	free(lines);
	free(text);
	return r;
}

static void write_id(struct gguf_writer *w, const char *key, int32_t id)
{
	if (id >= 0)
		gguf_write_u32(w, key, (uint32_t)id);
}

static int32_t find(const struct tokenizer_source *s, struct slice text)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->tokens[i].text.len == text.len &&
			memcmp(s->tokens[i].text.text, text.text, text.len) == 0)
			return (int32_t)i;
	return -1;
}

/* bos, eos, and what templates may name. */
static void write_specials(struct gguf_writer *w, const struct tokenizer_source *s)
{
	const struct gguf_special *known;
	size_t i;

	write_id(w, KEY("bos_token_id"), s->bos);
	write_id(w, KEY("eos_token_id"), s->eos);
	for (known = gguf_specials; known->name; known++) {
		int32_t id = strcmp(known->name, "unk_token") == 0 ? s->unknown : -1;

		for (i = 0; i < s->n_specials && id < 0; i++)
			if (s->specials[i].name.len == strlen(known->name) &&
				memcmp(s->specials[i].name.text, known->name,
					s->specials[i].name.len) == 0)
				id = find(s, s->specials[i].text);
		write_id(w, known->key, id);
	}
}

static bool has_defined(const struct tokenizer_source *s)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->tokens[i].kind == TOKEN_USER_DEFINED)
			return true;
	return false;
}

static void write_own(struct gguf_writer *w, const char *key, bool needed, bool value)
{
	if (needed)
		gguf_write_bool(w, key, value);
}

int gguf_write_tokenizer(struct gguf_writer *w, const struct tokenizer_source *s, uint32_t vocab,
	const struct model_refusal *why)
{
	int r;

	if (s->n == 0) {
		write_text(w, KEY("model"), "no_vocab");
		return 0;
	}
	write_text(w, KEY("model"), s->byte_level ? "gpt2" : "llama");
	write_text(w, KEY("pre"), s->byte_level ? s->split->name : "default");
	r = write_tokens(w, s, vocab);
	if (r == 0 && s->ranked)
		r = write_merges(w, s, why);
	if (r == -ENOMEM)
		return model_refuse(why, r, "%s: no memory", s->tokens_name);
	write_specials(w, s);
	gguf_write_bool(w, KEY("add_bos_token"), s->adds_bos);
	gguf_write_bool(w, KEY("add_eos_token"), s->adds_eos);
	gguf_write_bool(w, KEY("add_space_prefix"), s->space_prefix != SPACE_NEVER);
	if (s->byte_level) {
		write_own(w, OWN("whole_words"), s->whole_words != s->split->whole_words,
			s->whole_words);
		return r;
	}
	write_own(w, OWN("ranked"), s->ranked, true);
	write_own(w, OWN("space_first"), s->space_prefix == SPACE_FIRST, true);
	write_own(w, OWN("space_once"), s->space_once, true);
	write_own(w, OWN("defined_cuts"), s->cuts_defined && has_defined(s), true);
	return r;
}
