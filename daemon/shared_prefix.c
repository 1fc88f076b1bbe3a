/* What a system message leaves in the prompts of everybody who sends it: conversations that begin
 * with it and go on differently are rendered and tokenised, and what their tokens have in common is
 * taken. So it holds whatever a template writes around the message, and wherever a token reaches
 * over its end. Owns nothing. */
#include "daemon/shared_prefix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int render(const struct model *m, const char *system, const char *user,
	struct token_list *ret, char *error, size_t error_size)
{
	const struct chat_message messages[] = {
		{"system", strlen("system"), system, strlen(system)},
		{"user", strlen("user"), user, strlen(user)},
	};
	struct rendering rendering = {};
	int r;

	r = template_render(m->template, messages, 2, true, &rendering, error, error_size);
	if (r < 0)
		return r;
	r = tokenizer_encode(m->tokenizer, rendering.spans, rendering.n_spans, 0, ret);
	/* BOS once, as in text.c */
	if (r == 0 && tokenizer_adds_bos(m->tokenizer) && tokenizer_bos(m->tokenizer) >= 0 &&
		(ret->n == 0 || ret->ids[0] != tokenizer_bos(m->tokenizer))) {
		token_list_done(ret);
		r = tokenizer_encode(
			m->tokenizer, rendering.spans, rendering.n_spans, TOKENIZE_BOS, ret);
	}
	if (r < 0)
		snprintf(error, error_size, "%s", strerror(-r));
	rendering_done(&rendering);
	return r;
}

int shared_prefix_tokens(const struct model *m, const char *system, struct token_list *ret,
	char *error, size_t error_size)
{
	/* a letter, a digit, what joins with spaces and line ends, what is no letter */
	static const char *const users[] = {"a", "Zz", "1", " ", "\n\nb", ".", "\xc3\xa9", "\""};
	struct token_list common = {}, other = {};
	char why[256] = "";
	int r = 0;

	if (!m->tokenizer || !m->template) {
		snprintf(error, error_size, "model.shared_prefix: the model has no chat template");
		return -EINVAL;
	}
	for (size_t i = 0; i < sizeof(users) / sizeof(*users) && r == 0; i++) {
		size_t n = 0;

		r = render(m, system, users[i], i ? &other : &common, why, sizeof(why));
		if (r < 0 || i == 0)
			continue;
		while (n < common.n && n < other.n && common.ids[n] == other.ids[n])
			n++;
		common.n = n;
		token_list_done(&other);
	}
	if (r < 0) {
		snprintf(error, error_size, "model.shared_prefix: %s", why);
		token_list_done(&common);
		token_list_done(&other);
		return r;
	}
	*ret = common;
	return 0;
}
