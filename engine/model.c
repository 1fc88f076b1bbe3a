/* A loaded model's immutable half: file, configuration, tokenizer, template, what ends a reply.
 *
 * struct model owns all of it and is shared by every thread; weight values are weights.c's. */
#include "engine/model.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/source.h"

/* What the files call it, or their own name without folder and extension; printable. */
static void read_name(const struct model_source *from, const char *path, char *ret, size_t size)
{
	size_t len = strlen(path), i;
	struct slice s = from->name;

	while (len > 1 && path[len - 1] == '/')
		len--;
	if (s.len == 0) {
		s.text = memrchr(path, '/', len);
		s.text = s.text && len > 1 ? s.text + 1 : path;
		s.len = len - (size_t)(s.text - path);
		if (s.len > 5 && memcmp(s.text + s.len - 5, ".gguf", 5) == 0)
			s.len -= 5;
	}
	for (i = 0; i < s.len && i < size - 1; i++)
		ret[i] = s.text[i] >= 0x20 && s.text[i] < 0x7f ? s.text[i] : '?';
	ret[i] = '\0';
}

/* What the administrator says about the window counts. */
static int set_window(
	struct model *m, const struct model_options *options, const struct model_refusal *why)
{
	uint32_t *window = &m->config.attention.window;

	if (!options || options->sliding_window < 0)
		return 0;
	if (options->sliding_window > INT32_MAX)
		return model_refuse(why, -EINVAL,
			"model.sliding_window: 0 to %d expected, found %lld", INT32_MAX,
			(long long)options->sliding_window);
	m->window_note[0] = '\0';
	if (*window != (uint32_t)options->sliding_window)
		snprintf(m->window_note, sizeof(m->window_note),
			"sliding window %lld by model.sliding_window (the file says %u; 0 is none)",
			(long long)options->sliding_window, *window);
	*window = (uint32_t)options->sliding_window;
	return 0;
}

static int read_tokenizer(struct model *m, const struct model_refusal *why)
{
	const struct tokenizer_source *from = &m->source->tokenizer;

	if (from->n == 0)
		return 0;
	if (from->n > m->config.vocab)
		return model_refuse(why, -EINVAL,
			"%s: at most %u tokens expected, the rows of %s, found %u",
			from->tokens_name, m->config.vocab, m->source->names->fixed[TENSOR_EMBED],
			from->n);
	return tokenizer_new(from, &m->tokenizer, why->text, why->size);
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
	const struct slice source = m->source->chat_template;
	int r;

	if (!m->tokenizer) {
		if (builtin)
			return model_refuse(why, -EINVAL,
				"model.template \"%s\" needs a tokenizer, and the model has none",
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
	if (source.len == 0) {
		memcpy(m->template_error, m->source->template_error, sizeof(m->template_error));
		r = 0;
		goto out;
	}
	r = template_new(source.text, source.len, bos, eos, m->source->tokenizer.specials,
		m->source->tokenizer.n_specials, &m->template, m->template_error,
		sizeof(m->template_error));
	r = r == -ENOMEM ? model_refuse(why, r, "no memory for the template") : 0;
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
	static const char *const markers[] = {"<|im_end|>", "<|eot_id|>"};
	size_t i;

	for (i = 0; i < m->source->n_end_ids; i++) {
		int32_t id = m->source->end_ids[i];

		if ((uint32_t)id >= m->config.vocab)
			return model_refuse(why, -EINVAL,
				"end token %d: a token id below %u expected", id, m->config.vocab);
		add_end(m, id);
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
	struct stat st;
	int r;

	m = calloc(1, sizeof(*m));
	if (m)
		m->source = calloc(1, sizeof(*m->source));
	if (!m || !m->source) {
		model_free(m);
		return model_refuse(&why, -ENOMEM, "no memory for the model");
	}
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		r = source_read_hf(m->source, path, &why);
	else
		r = source_read_gguf(m->source, path, &why);
	m->config = m->source->config;
	m->defaults = m->source->defaults;
	memcpy(m->window_note, m->source->window_note, sizeof(m->window_note));
	if (r < 0 || (r = set_window(m, options, &why)) < 0 ||
		(r = model_tensors_check(m->source, &m->config, &why)) < 0 ||
		(r = read_tokenizer(m, &why)) < 0 ||
		(r = read_template(m, options ? options->template_name : NULL, &why)) < 0 ||
		(r = read_end_tokens(m, &why)) < 0 ||
		(r = model_quantize(m, options ? options->quantize : NULL, &why)) < 0) {
		model_free(m);
		return r;
	}
	read_name(m->source, path, m->config.name, sizeof(m->config.name));
	if (!options || !options->keeps_tokenizer)
		tokenizer_source_done(&m->source->tokenizer);
	*ret = m;
	return 0;
}

int source_add_end(struct model_source *s, int32_t id)
{
	uint32_t i;

	for (i = 0; i < s->n_end_ids; i++)
		if (s->end_ids[i] == id)
			return 0;
	if (s->n_end_ids == sizeof(s->end_ids) / sizeof(*s->end_ids))
		return -EINVAL;
	s->end_ids[s->n_end_ids++] = id;
	return 0;
}

struct model_source *source_free(struct model_source *s)
{
	if (!s)
		return NULL;
	tokenizer_source_done(&s->tokenizer);
	free(s->tensors);
	free(s->layers);
	if (s->close)
		s->close(s->files);
	free(s);
	return NULL;
}

struct model *model_free(struct model *m)
{
	if (!m)
		return NULL;
	template_free(m->template);
	tokenizer_free(m->tokenizer);
	source_free(m->source);
	free(m->loaded_types);
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
