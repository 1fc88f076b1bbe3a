/* Renders chat templates for the tests: one JSON object a line in, one out.
 *
 *   zeph-template [MODEL.gguf]
 *
 * In:  {"template": text | "builtin": name, "messages": [{"role", "content"}], "bos", "eos",
 *       "add_generation_prompt": bool}
 * Out: {"text", "spans": [[bytes, trusted], …], "tokens": [ids] by that model's tokenizer}
 *      {"error": sentence, "code": errno's name, "stage": "compile" or "render"} */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "engine/gguf.h"
#include "engine/source_gguf.h"
#include "engine/template.h"
#include "engine/tokenizer.h"

static const char *code_name(int r)
{
	switch (-r) {
	case EINVAL: return "EINVAL";
	case ENOEXEC: return "ENOEXEC";
	case ENOTSUP: return "ENOTSUP";
	case ENOENT: return "ENOENT";
	case E2BIG: return "E2BIG";
	case ENOMEM: return "ENOMEM";
	default: return "?";
	}
}

static const char *text_of(const json_t *request, const char *key)
{
	const char *text = json_string_value(json_object_get(request, key));

	return text ? text : "";
}

static json_t *failed(int r, const char *error, const char *stage)
{
	char valid[600];
	json_t *out = json_object();

	snprintf(valid, sizeof(valid), "%s", error);
	json_object_set_new(out, "error", json_string(valid));
	if (!json_object_get(out, "error"))
		json_object_set_new(out, "error", json_string("(not UTF-8)"));
	json_object_set_new(out, "code", json_string(code_name(r)));
	json_object_set_new(out, "stage", json_string(stage));
	return out;
}

static json_t *tokens_of(const struct tokenizer *t, const struct rendering *r)
{
	json_t *out = json_array();
	struct token_list ids = {0};

	if (tokenizer_encode(t, r->spans, r->n_spans, TOKENIZE_MODEL, &ids) < 0)
		json_array_append_new(out, json_string("failed"));
	for (size_t i = 0; i < ids.n; i++)
		json_array_append_new(out, json_integer(ids.ids[i]));
	token_list_done(&ids);
	return out;
}

static json_t *rendered(const struct tokenizer *t, const struct rendering *r)
{
	json_t *out = json_object(), *spans = json_array();
	size_t i;

	/* json_stringn refuses what is not UTF-8: then the bytes stand as numbers. */
	json_t *text = json_stringn(r->text, r->len);

	if (!text) {
		text = json_array();
		for (i = 0; i < r->len; i++)
			json_array_append_new(text, json_integer((unsigned char)r->text[i]));
	}
	for (i = 0; i < r->n_spans; i++)
		json_array_append_new(spans,
			json_pack("[I, b]", (json_int_t)r->spans[i].len, r->spans[i].trusted));
	json_object_set_new(out, "text", text);
	json_object_set_new(out, "spans", spans);
	if (t)
		json_object_set_new(out, "tokens", tokens_of(t, r));
	return out;
}

/* "tokens": {name: text, additional_special_tokens: [text, …]}; room for 32. */
static size_t tokens_from(const json_t *request, struct special_token *tokens)
{
	json_t *all = json_object_get(request, "tokens"), *value, *one;
	const char *name;
	size_t n = 0, i;

	json_object_foreach(all, name, value)
	{
		if (json_is_string(value) && n < 32)
			tokens[n++] = (struct special_token){{name, strlen(name)},
				{json_string_value(value), json_string_length(value)}};
		json_array_foreach(value, i, one)
		{
			if (n < 32)
				tokens[n++] = (struct special_token){
					{"", 0}, {json_string_value(one), json_string_length(one)}};
		}
	}
	return n;
}

static json_t *answer(const struct tokenizer *tokenizer, const json_t *request)
{
	struct special_token tokens[32];
	const json_t *messages = json_object_get(request, "messages");
	const json_t *source = json_object_get(request, "template");
	size_t n = json_array_size(messages), i;
	struct chat_message *list = calloc(n + 1, sizeof(*list));
	struct template *t = NULL;
	struct rendering rendering = {0};
	char error[512] = "";
	json_t *out;
	int r;

	if (source)
		r = template_new(json_string_value(source), json_string_length(source),
			text_of(request, "bos"), text_of(request, "eos"), tokens,
			tokens_from(request, tokens), &t, error, sizeof(error));
	else
		r = template_new_builtin(text_of(request, "builtin"), text_of(request, "bos"),
			text_of(request, "eos"), &t, error, sizeof(error));
	if (r < 0) {
		free(list);
		return failed(r, error, "compile");
	}
	for (i = 0; i < n; i++) {
		const json_t *role = json_object_get(json_array_get(messages, i), "role");
		const json_t *content = json_object_get(json_array_get(messages, i), "content");

		list[i] = (struct chat_message){.role = json_string_value(role),
			.role_len = json_string_length(role),
			.content = json_string_value(content),
			.content_len = json_string_length(content)};
	}
	r = template_render(t, list, n,
		json_is_true(json_object_get(request, "add_generation_prompt")), &rendering, error,
		sizeof(error));
	out = r < 0 ? failed(r, error, "render") : rendered(tokenizer, &rendering);
	rendering_done(&rendering);
	template_free(t);
	free(list);
	return out;
}

/* NULL after a message. */
static struct tokenizer *read_tokenizer(const char *path)
{
	char error[256];
	const struct model_refusal why = {error, sizeof(error)};
	struct tokenizer_source source = {0};
	struct tokenizer *t = NULL;
	struct gguf *g = NULL;
	int r;

	r = gguf_open(path, &g, error, sizeof(error));
	if (r == 0)
		r = source_gguf_tokenizer(g, &source, &why);
	if (r == 0)
		r = tokenizer_new(&source, &t, error, sizeof(error));
	if (r < 0)
		fprintf(stderr, "zeph-template: %s: %s\n", path, error);
	tokenizer_source_done(&source);
	gguf_close(g);
	return t;
}

int main(int argc, char **argv)
{
	struct tokenizer *t = argc > 1 ? read_tokenizer(argv[1]) : NULL;
	char *line = NULL;
	size_t capacity = 0;
	ssize_t n;
	int status = argc > 1 && !t ? 1 : 0;

	while (status == 0 && (n = getline(&line, &capacity, stdin)) > 0) {
		json_error_t e;
		json_t *request = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &e), *out;

		if (!request) {
			fprintf(stderr, "zeph-template: %s\n", e.text);
			status = 2;
			break;
		}
		out = answer(t, request);
		json_dumpf(out, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
		json_decref(out);
		json_decref(request);
	}
	free(line);
	tokenizer_free(t);
	return status;
}
