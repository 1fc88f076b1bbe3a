/* A loaded model's immutable half: file, configuration, tokenizer, template, what ends a reply.
 *
 * struct model owns all of it and is shared by every thread; weight values are weights.c's. */
#include "engine/model.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model_file.h"

/* general.name, or the file's own without its folder and extension; printable. */
static void read_name(const struct gguf *g, const char *path, char *ret, size_t size)
{
	const char *slash = strrchr(path, '/');
	struct gguf_string s;
	size_t i;

	if (gguf_get_string(g, "general.name", &s) < 0 || s.len == 0) {
		s.text = slash ? slash + 1 : path;
		s.len = strlen(s.text);
		if (s.len > 5 && strcmp(s.text + s.len - 5, ".gguf") == 0)
			s.len -= 5;
	}
	for (i = 0; i < s.len && i < size - 1; i++)
		ret[i] = s.text[i] >= 0x20 && s.text[i] < 0x7f ? s.text[i] : '?';
	ret[i] = '\0';
}

static int read_tokenizer(struct model *m, const struct model_refusal *why)
{
	struct gguf_string kind;
	uint32_t n;
	int r;

	r = gguf_get_string(m->file, "tokenizer.ggml.model", &kind);
	if (r == -ENOENT)
		return 0;
	if (r == 0 && ((kind.len == 4 && memcmp(kind.text, "none", 4) == 0) ||
			      (kind.len == 8 && memcmp(kind.text, "no_vocab", 8) == 0)))
		return 0;
	r = tokenizer_new(m->file, &m->tokenizer, why->text, why->size);
	if (r < 0)
		return r;
	n = tokenizer_vocab(m->tokenizer);
	if (n > m->config.vocab)
		return model_refuse(why, -EINVAL,
			"key tokenizer.ggml.tokens: at most %u tokens expected, the rows of "
			"token_embd.weight, found %u",
			m->config.vocab, n);
	return 0;
}

/* A special token's text; "" where there is none. Malloc'ed, or NULL without memory. */
static char *token_text(const struct tokenizer *t, int32_t id)
{
	char *text;
	size_t len;

	if (id < 0 || tokenizer_decode(
			      t, &id, 1, DETOKENIZE_SPECIAL | DETOKENIZE_CONTINUE, &text, &len) < 0)
		return strdup("");
	return text;
}

/* A template that the administrator named must exist; one in the file may fail to compile, which
 * costs the model its chat and nothing else. */
static int read_template(struct model *m, const char *builtin, const struct model_refusal *why)
{
	char *bos, *eos;
	struct gguf_string source;
	int r;

	if (!m->tokenizer) {
		if (builtin)
			return model_refuse(why, -EINVAL,
				"model.template \"%s\" needs a tokenizer, and the file has none",
				builtin);
		return 0;
	}
	bos = token_text(m->tokenizer, tokenizer_bos(m->tokenizer));
	eos = token_text(m->tokenizer, tokenizer_eos(m->tokenizer));
	if (!bos || !eos) {
		r = model_refuse(why, -ENOMEM, "no memory for the template");
		goto out;
	}
	if (builtin) {
		r = template_new_builtin(builtin, bos, eos, &m->template, why->text, why->size);
		goto out;
	}
	r = gguf_get_string(m->file, "tokenizer.chat_template", &source);
	if (r == -ENOENT) {
		r = 0;
	} else if (r < 0) {
		snprintf(m->template_error, sizeof(m->template_error),
			"key tokenizer.chat_template: a string expected, found another type");
		r = 0;
	} else {
		r = template_new(source.text, source.len, bos, eos, &m->template, m->template_error,
			sizeof(m->template_error));
		if (r == -ENOMEM)
			r = model_refuse(why, r, "no memory for the template");
		else
			r = 0;
	}
out:
	free(bos);
	free(eos);
	return r;
}

static void add_end(struct model *m, int32_t id)
{
	if (id < 0 || model_ends(m, id))
		return;
	assert(m->n_end_tokens < MODEL_END_TOKENS_MAX);
	m->end_tokens[m->n_end_tokens++] = id;
}

/* True if the template writes that text right after an assistant's turn: asked of the template
 * itself, by rendering a conversation that ends in one. */
static bool ends_turn(const struct template *t, const char *marker)
{
	static const char answer[] = "zephyrus";
	const struct chat_message messages[] = {
		{"user", 4, "question", 8},
		{"assistant", 9, answer, sizeof(answer) - 1},
	};
	struct rendering text;
	char error[64];
	const char *at, *end;
	bool found = false;

	if (template_render(t, messages, 2, false, &text, error, sizeof(error)) < 0)
		return false;
	end = text.text + text.len;
	at = memmem(text.text, text.len, answer, sizeof(answer) - 1);
	if (at) {
		at += sizeof(answer) - 1;
		while (at < end && (*at == ' ' || *at == '\n'))
			at++;
		found = (size_t)(end - at) >= strlen(marker) &&
			memcmp(at, marker, strlen(marker)) == 0;
	}
	rendering_done(&text);
	return found;
}

static int read_end_tokens(struct model *m, const struct model_refusal *why)
{
	static const char *const keys[] = {"tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
	static const char *const markers[] = {"<|im_end|>", "<|eot_id|>"};
	uint64_t v;
	size_t i;
	int r;

	for (i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		r = gguf_get_u64(m->file, keys[i], &v);
		if (r == -ENOENT)
			continue;
		if (r < 0 || v >= m->config.vocab)
			return model_refuse(why, -EINVAL,
				"key %s: a token id below %u expected, found %s", keys[i],
				m->config.vocab, r < 0 ? "another type" : "a higher one");
		add_end(m, (int32_t)v);
	}
	if (!m->tokenizer)
		return 0;
	add_end(m, tokenizer_eos(m->tokenizer));
	for (i = 0; m->template && i < sizeof(markers) / sizeof(*markers); i++) {
		int32_t id = tokenizer_find(m->tokenizer, markers[i], strlen(markers[i]));

		if (id >= 0 && ends_turn(m->template, markers[i]))
			add_end(m, id);
	}
	return 0;
}

int model_open(const char *path, const struct model_options *options, struct model **ret,
	char *error, size_t error_size)
{
	const struct model_refusal why = {error, error_size};
	struct model *m;
	int r;

	m = calloc(1, sizeof(*m));
	if (!m)
		return model_refuse(&why, -ENOMEM, "no memory for the model");
	if ((r = gguf_open(path, &m->file, error, error_size)) < 0 ||
		(r = model_config_read(m->file, options, &m->config, m->window_note,
			 sizeof(m->window_note), &why)) < 0 ||
		(r = model_tensors_check(m->file, &m->config, &why)) < 0 ||
		(r = model_defaults_read(m->file, &m->defaults, &why)) < 0 ||
		(r = read_tokenizer(m, &why)) < 0 ||
		(r = read_template(m, options ? options->template_name : NULL, &why)) < 0 ||
		(r = read_end_tokens(m, &why)) < 0) {
		model_free(m);
		return r;
	}
	read_name(m->file, path, m->config.name, sizeof(m->config.name));
	*ret = m;
	return 0;
}

struct model *model_free(struct model *m)
{
	if (!m)
		return NULL;
	template_free(m->template);
	tokenizer_free(m->tokenizer);
	gguf_close(m->file);
	free(m);
	return NULL;
}

bool model_ends(const struct model *m, int32_t token)
{
	uint32_t i;

	for (i = 0; i < m->n_end_tokens; i++)
		if (m->end_tokens[i] == token)
			return true;
	return false;
}
