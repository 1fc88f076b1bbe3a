/* tokenizer.ggml.* of a GGUF: tokens, types, scores, merges, flags. What is read points into the
 * file's mapping. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/pretokenize.h"
#include "engine/source_gguf.h"

#define KEY(name) "tokenizer.ggml." name
#define OWN(name) "zeph.tokenizer." name /* gguf_model.c writes them */

static int flag(const struct gguf *g, const char *key, bool standard, bool *ret,
	const struct model_refusal *why)
{
	bool value = standard;
	int r = gguf_get_bool(g, key, &value);

	if (r < 0 && r != -ENOENT)
		return model_refuse(why, -EINVAL, "%s: not a boolean", key);
	*ret = value;
	return 0;
}

/* An id that the file names, -1 if it does not (or writes -1 as 32 bits). */
static int id(const struct gguf *g, const struct tokenizer_source *s, const char *key, int32_t *ret,
	const struct model_refusal *why)
{
	uint64_t v;
	int r = gguf_get_u64(g, key, &v);

	if (r == -ENOENT || (r == 0 && v == UINT32_MAX)) {
		*ret = -1;
		return 0;
	}
	if (r < 0)
		return model_refuse(why, -EINVAL, "%s: not a token id", key);
	if (v >= s->n)
		return model_refuse(
			why, -EINVAL, "%s: token %llu of %u", key, (unsigned long long)v, s->n);
	*ret = (int32_t)v;
	return 0;
}

static int read_tokens(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	struct gguf_strings *names;
	size_t n, i;
	int r;

	r = gguf_get_strings(g, KEY("tokens"), &names);
	if (r < 0)
		return model_refuse(why, r == -ENOMEM ? r : -EINVAL, KEY("tokens") ": %s",
			r == -ENOENT   ? "missing"
			: r == -ENOMEM ? "out of memory"
				       : "not an array of strings");
	n = gguf_strings_count(names);
	if (n == 0 || n > MODEL_VOCAB_MAX) {
		gguf_strings_free(names);
		return model_refuse(why, -EINVAL, KEY("tokens") ": %zu tokens, expected 1 to %d", n,
			MODEL_VOCAB_MAX);
	}
	s->tokens = calloc(n, sizeof(*s->tokens));
	if (s->tokens) {
		s->n = (uint32_t)n;
		for (i = 0; i < n; i++)
			s->tokens[i].text = gguf_strings_at(names, i);
	}
	gguf_strings_free(names);
	return s->tokens ? 0 : model_refuse(why, -ENOMEM, KEY("tokens") ": out of memory");
}

static int read_types(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	int32_t *kinds = NULL;
	size_t n, i;
	int r;

	r = gguf_get_i32s(g, KEY("token_type"), &kinds, &n);
	if (r == -ENOMEM)
		return model_refuse(why, r, KEY("token_type") ": out of memory");
	if (r < 0 && r != -ENOENT)
		return model_refuse(why, -EINVAL, KEY("token_type") ": not an array of integers");
	if (r == 0 && n != s->n) {
		free(kinds);
		return model_refuse(
			why, -EINVAL, KEY("token_type") ": %zu types for %u tokens", n, s->n);
	}
	for (i = 0; i < s->n; i++) {
		int32_t kind = r == 0 && kinds[i] != 0 ? kinds[i] : TOKEN_NORMAL;

		if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE) {
			free(kinds);
			return model_refuse(why, -EINVAL,
				KEY("token_type") ": token %zu has type %d, expected 0 to 6", i,
				kind);
		}
		s->tokens[i].kind = (enum token_kind)kind;
	}
	free(kinds);
	return 0;
}

static int read_scores(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	float *scores = NULL;
	size_t n, i;
	int r;

	r = gguf_get_f32s(g, KEY("scores"), &scores, &n);
	if (r == -ENOMEM)
		return model_refuse(why, r, KEY("scores") ": out of memory");
	if (r == -ENOENT && !s->byte_level)
		return model_refuse(why, -EINVAL, KEY("scores") ": missing");
	if (r < 0 && r != -ENOENT)
		return model_refuse(why, -EINVAL, KEY("scores") ": not an array of numbers");
	if (r == 0 && n != s->n) {
		free(scores);
		return model_refuse(
			why, -EINVAL, KEY("scores") ": %zu scores for %u tokens", n, s->n);
	}
	for (i = 0; r == 0 && i < s->n; i++) {
		if (isnan(scores[i])) {
			free(scores);
			return model_refuse(
				why, -EINVAL, KEY("scores") ": token %zu has no number", i);
		}
		s->tokens[i].score = scores[i];
	}
	free(scores);
	return 0;
}

/* The ids of the special tokens. What begins a text or ends a reply is control, whatever its type
 * says. */
static int read_specials(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	int32_t eot = -1, eom = -1;
	int r;

	if ((r = id(g, s, KEY("bos_token_id"), &s->bos, why)) < 0 ||
		(r = id(g, s, KEY("eos_token_id"), &s->eos, why)) < 0 ||
		(r = id(g, s, KEY("unknown_token_id"), &s->unknown, why)) < 0 ||
		(r = id(g, s, KEY("eot_token_id"), &eot, why)) < 0 ||
		(r = id(g, s, KEY("eom_token_id"), &eom, why)) < 0)
		return r;
	const int32_t control[] = {s->bos, s->eos, eot, eom};

	for (size_t i = 0; i < sizeof(control) / sizeof(*control); i++)
		if (control[i] >= 0)
			s->tokens[control[i]].kind = TOKEN_CONTROL;
	if (s->byte_level)
		return 0;
	/* What files of 2023 leave out, llama.cpp's standard for the kind. */
	if (s->bos < 0 && s->n > 1 && s->tokens[1].kind == TOKEN_CONTROL)
		s->bos = 1;
	if (s->eos < 0 && s->n > 2 && s->tokens[2].kind == TOKEN_CONTROL)
		s->eos = 2;
	if (s->unknown < 0 && s->tokens[0].kind == TOKEN_UNKNOWN)
		s->unknown = 0;
	return 0;
}

const struct gguf_special gguf_specials[] = {{"unk_token", KEY("unknown_token_id")},
	{"sep_token", KEY("seperator_token_id")}, {"pad_token", KEY("padding_token_id")},
	{"cls_token", KEY("cls_token_id")}, {"mask_token", KEY("mask_token_id")}, {NULL, NULL}};

/* What a template may call by name. Files name tokens that they do not have: those have no text. */
static int name_specials(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	const struct gguf_special *t;
	uint64_t token;

	for (t = gguf_specials; t->name; t++)
		if (gguf_get_u64(g, t->key, &token) == 0 && token < s->n &&
			tokenizer_source_name(s, (struct slice){t->name, strlen(t->name)},
				s->tokens[token].text) < 0)
			return model_refuse(why, -ENOMEM, "%s: out of memory", t->key);
	return 0;
}

/* "left right"; a part is at least one byte. */
static int read_merges(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	struct gguf_strings *lines;
	size_t n, i;
	int r;

	r = gguf_get_strings(g, KEY("merges"), &lines);
	if (r < 0)
		return model_refuse(why, r == -ENOMEM ? r : -EINVAL, KEY("merges") ": %s",
			r == -ENOENT   ? "missing"
			: r == -ENOMEM ? "out of memory"
				       : "not an array of strings");
	n = gguf_strings_count(lines);
	s->merges = calloc(n ? n : 1, sizeof(*s->merges));
	if (!s->merges)
		r = model_refuse(why, -ENOMEM, KEY("merges") ": out of memory");
	s->n_merges = n;
	for (i = 0; i < n && r == 0; i++) {
		struct slice line = gguf_strings_at(lines, i);
		const char *space = line.len > 1 ? memchr(line.text + 1, ' ', line.len - 1) : NULL;
		size_t left = space ? (size_t)(space - line.text) : 0;

		if (!space || left + 1 == line.len) {
			r = model_refuse(why, -EINVAL,
				KEY("merges") ": entry %zu, \"%.*s\", is no pair", i,
				(int)(line.len < 80 ? line.len : 80), line.text);
			break;
		}
		s->merges[i].left = (struct slice){line.text, left};
		s->merges[i].right = (struct slice){space + 1, line.len - left - 1};
	}
	gguf_strings_free(lines);
	return r;
}

static int read_byte_level(const struct gguf *g, struct tokenizer_source *s, bool *ret_adds_bos,
	const struct model_refusal *why)
{
	struct slice name = {.text = "default", .len = 7};
	const struct pretokenizer_kind *kind;
	bool adds_space = false;
	int r;

	r = gguf_get_string(g, KEY("pre"), &name);
	if (r < 0 && r != -ENOENT)
		return model_refuse(why, -EINVAL, KEY("pre") ": not a string");
	kind = pretokenizer_kind(name);
	if (!kind)
		return model_refuse(why, -ENOTSUP, KEY("pre") ": \"%.*s\" is not implemented",
			(int)(name.len < 80 ? name.len : 80), name.text);
	r = flag(g, KEY("add_space_prefix"), false, &adds_space, why);
	if (r < 0)
		return r;
	if (adds_space)
		return model_refuse(why, -ENOTSUP,
			KEY("add_space_prefix") ": true is not implemented for byte-level BPE");
	s->split = kind;
	s->ranked = true;
	*ret_adds_bos = kind->adds_bos;
	r = flag(g, OWN("whole_words"), kind->whole_words, &s->whole_words, why);
	return r < 0 ? r : read_merges(g, s, why);
}

/* What only zeph's own conversion of a tokenizer.json says. */
static int read_own(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	bool first = false;
	int r;

	if ((r = flag(g, OWN("space_first"), false, &first, why)) < 0 ||
		(r = flag(g, OWN("space_once"), false, &s->space_once, why)) < 0 ||
		(r = flag(g, OWN("defined_cuts"), false, &s->cuts_defined, why)) < 0 ||
		(r = flag(g, OWN("ranked"), false, &s->ranked, why)) < 0)
		return r;
	if (first)
		s->space_prefix = SPACE_FIRST;
	return s->ranked ? read_merges(g, s, why) : 0;
}

/* Flags of the normaliser that would change the text: none but the standard is implemented. */
static int read_sentencepiece(
	const struct gguf *g, struct tokenizer_source *s, const struct model_refusal *why)
{
	static const struct {
		const char *key;
		bool wanted;
	} flags[] = {
		{KEY("remove_extra_whitespaces"), false},
		{KEY("escape_whitespaces"), true},
		{KEY("treat_whitespace_as_suffix"), false},
	};
	bool value = false;
	size_t i;
	int r;

	for (i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		r = flag(g, flags[i].key, flags[i].wanted, &value, why);
		if (r < 0)
			return r;
		if (value != flags[i].wanted)
			return model_refuse(why, -ENOTSUP, "%s: %s is not implemented",
				flags[i].key, value ? "true" : "false");
	}
	if (gguf_has(g, KEY("precompiled_charsmap")))
		return model_refuse(why, -ENOTSUP,
			KEY("precompiled_charsmap") ": text normalisation is not implemented");
	r = flag(g, KEY("add_space_prefix"), true, &value, why);
	if (r < 0)
		return r;
	s->space_prefix = value ? SPACE_ALWAYS : SPACE_NEVER;
	return read_own(g, s, why);
}

/* add_bos_token or add_eos_token: what the file says, else the standard of its kind. */
static int read_addition(const struct gguf *g, const char *key, bool standard, int32_t token,
	bool *ret, const struct model_refusal *why)
{
	int r = flag(g, key, standard && token >= 0, ret, why);

	if (r == 0 && *ret && token < 0)
		return model_refuse(
			why, -EINVAL, "%s: true, but the file names no such token", key);
	return r;
}

int source_gguf_tokenizer(
	const struct gguf *g, struct tokenizer_source *ret, const struct model_refusal *why)
{
	struct tokenizer_source s = {.tokens_name = KEY("tokens"), .merges_name = KEY("merges")};
	bool adds_bos = true;
	struct slice model;
	int r;

	r = gguf_get_string(g, KEY("model"), &model);
	if (r < 0)
		return model_refuse(why, -EINVAL, KEY("model") ": %s",
			r == -ENOENT ? "missing" : "not a string");
	s.byte_level = model.len == 4 && memcmp(model.text, "gpt2", 4) == 0;
	if (!s.byte_level && !(model.len == 5 && memcmp(model.text, "llama", 5) == 0))
		return model_refuse(why, -ENOTSUP,
			KEY("model") ": \"%.*s\" is not implemented (gpt2 and llama are)",
			(int)(model.len < 80 ? model.len : 80), model.text);
	if ((r = read_tokens(g, &s, why)) < 0 || (r = read_types(g, &s, why)) < 0 ||
		(r = read_scores(g, &s, why)) < 0 || (r = read_specials(g, &s, why)) < 0 ||
		(r = name_specials(g, &s, why)) < 0 ||
		(r = s.byte_level ? read_byte_level(g, &s, &adds_bos, why)
				  : read_sentencepiece(g, &s, why)) < 0 ||
		(r = read_addition(g, KEY("add_bos_token"), adds_bos, s.bos, &s.adds_bos, why)) <
			0 ||
		(r = read_addition(g, KEY("add_eos_token"), false, s.eos, &s.adds_eos, why)) < 0) {
		tokenizer_source_done(&s);
		return r;
	}
	*ret = s;
	return 0;
}
