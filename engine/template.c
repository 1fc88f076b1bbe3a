/* Chat templates: the environment that transformers gives them, messages as values, and the
 * rendering cut by provenance.
 *
 * A struct template owns one arena with its tree and source and is not changed after template_new:
 * any number of threads may render it. Each rendering has a machine and an arena of its own. */
#include "engine/template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_syntax.h"
#include "engine/limits.h"

struct template
{
	struct jinja_arena arena;
	const struct jinja_node *body;
	const char *source;
	size_t len;
	/* The special tokens, trusted: by name, or of the list of those that have none. */
	struct template_token {
		const struct jinja_string *name; /* or NULL */
		const struct jinja_string *text;
	} * tokens;
	size_t n_tokens;
};

static void template_token(
	struct jinja *j, struct template *t, struct slice name, struct slice text)
{
	t->tokens[t->n_tokens++] = (struct template_token){
		name.len > 0 ? jinja_text(j, name.text, name.len, true).string : NULL,
		jinja_text(j, text.text, text.len, true).string};
}

int template_new(const char *source, size_t len, const char *bos, const char *eos,
	const struct special_token *tokens, size_t n_tokens, struct template **ret, char *error,
	size_t error_size)
{
	const struct slice bos_token = {"bos_token", 9}, eos_token = {"eos_token", 9};
	struct jinja *j;
	struct template *t;
	char *copy;
	int r;

	j = calloc(1, sizeof(*j));
	t = calloc(1, sizeof(*t));
	if (!j || !t) {
		free(j);
		free(t);
		return -ENOMEM;
	}
	j->arena.max_bytes = TEMPLATE_MEMORY_BYTES_MAX;
	j->error = error;
	j->error_size = error_size;
	if (setjmp(j->escape) == 0) {
		if (len > TEMPLATE_BYTES_MAX)
			jinja_fail(j, -EINVAL,
				"the template has %zu bytes: at most %d are possible", len,
				TEMPLATE_BYTES_MAX);
		copy = jinja_take(j, len + 1, 1);
		memcpy(copy, source, len);
		t->source = copy;
		t->len = len;
		t->tokens = jinja_take(j, n_tokens + 2, sizeof(*t->tokens));
		template_token(j, t, bos_token, (struct slice){bos, strlen(bos)});
		template_token(j, t, eos_token, (struct slice){eos, strlen(eos)});
		for (size_t i = 0; i < n_tokens; i++)
			template_token(j, t, tokens[i].name, tokens[i].text);
		t->body = jinja_parse(j, copy, len);
	}
	t->arena = j->arena;
	r = j->code == -E2BIG ? -EINVAL : j->code;
	free(j);
	if (r < 0) {
		template_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

struct template *template_free(struct template *t)
{
	if (t)
		jinja_arena_done(&t->arena);
	free(t);
	return NULL;
}

const char *template_source(const struct template *t, size_t *ret_len)
{
	*ret_len = t->len;
	return t->source;
}

/* A message's text, not copied: the caller's bytes outlive the rendering. */
static struct jinja_value template_untrusted(struct jinja *j, const char *text, size_t len)
{
	struct jinja_string *s = jinja_take(j, 1, sizeof(*s));

	*s = (struct jinja_string){.text = len > 0 ? text : "", .len = len, .trusted = false};
	return jinja_from(s);
}

static struct jinja_value template_messages(
	struct jinja *j, const struct chat_message *messages, size_t n_messages)
{
	struct jinja_value list = jinja_list_new(j, JINJA_PLAIN, n_messages);
	size_t i;

	for (i = 0; i < n_messages; i++) {
		const struct chat_message *m = &messages[i];
		struct jinja_value dict = jinja_dict_new(j, JINJA_DICT);

		jinja_dict_put(j, dict.dict, jinja_literal(j, "role"),
			template_untrusted(j, m->role, m->role_len));
		jinja_dict_put(j, dict.dict, jinja_literal(j, "content"),
			template_untrusted(j, m->content, m->content_len));
		jinja_list_add(j, list, dict);
	}
	return list;
}

static void template_define(struct jinja *j, const char *name, struct jinja_value v)
{
	jinja_set(j, j->globals, jinja_literal(j, name).string, v);
}

static void template_define_tokens(struct jinja *j, const struct template *t)
{
	struct jinja_value list = jinja_list_new(j, JINJA_PLAIN, t->n_tokens);
	size_t i, unnamed = 0;

	for (i = 0; i < t->n_tokens; i++) {
		if (t->tokens[i].name) {
			jinja_set(j, j->globals, t->tokens[i].name, jinja_from(t->tokens[i].text));
		} else {
			jinja_list_add(j, list, jinja_from(t->tokens[i].text));
			unnamed++;
		}
	}
	if (unnamed > 0)
		template_define(j, "additional_special_tokens", list);
}

void rendering_done(struct rendering *r)
{
	free(r->text);
	free(r->spans);
	*r = (struct rendering){0};
}

/* The string as the caller's own, cut where the provenance changes. */
static int template_cut(const struct jinja_string *s, struct rendering *ret)
{
	struct rendering r = {.text = malloc(s->len + 1), .len = s->len};
	size_t i, n = 0;

	for (i = 0; i < s->len; i++)
		n += i == 0 || jinja_trusted_at(s, i) != jinja_trusted_at(s, i - 1);
	r.spans = calloc(n > 0 ? n : 1, sizeof(*r.spans));
	if (!r.text || !r.spans) {
		rendering_done(&r);
		return -ENOMEM;
	}
	if (s->len > 0)
		memcpy(r.text, s->text, s->len);
	r.text[s->len] = 0;
	for (i = 0; i < s->len; i++) {
		bool trusted = jinja_trusted_at(s, i);

		if (r.n_spans == 0 || r.spans[r.n_spans - 1].trusted != trusted)
			r.spans[r.n_spans++] = (struct text_span){
				.text = r.text + i, .trusted = trusted};
		r.spans[r.n_spans - 1].len++;
	}
	*ret = r;
	return 0;
}

int template_render(const struct template *t, const struct chat_message *messages,
	size_t n_messages, bool add_generation_prompt, struct rendering *ret, char *error,
	size_t error_size)
{
	struct jinja *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->arena.max_bytes = TEMPLATE_MEMORY_BYTES_MAX;
	j->error = error;
	j->error_size = error_size;
	if (setjmp(j->escape) == 0) {
		const struct jinja_string *out;

		j->globals = jinja_scope_new(j, NULL);
		jinja_define_functions(j, j->globals);
		template_define_tokens(j, t);
		template_define(j, "messages", template_messages(j, messages, n_messages));
		template_define(j, "add_generation_prompt", jinja_bool(add_generation_prompt));
		template_define(j, "tools", jinja_none());
		template_define(j, "documents", jinja_none());
		out = jinja_run(j, t->body);
		r = template_cut(out, ret);
	} else {
		r = j->code;
	}
	jinja_arena_done(&j->arena);
	free(j);
	return r;
}
