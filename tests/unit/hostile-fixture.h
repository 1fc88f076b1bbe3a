/* What the tests of damaged model files do with a model that loads all the same: text is tokenised
 * and brought back, a conversation rendered, and its weights given to a backend now and then. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/model.h"

#define WEIGHTS_EVERY 97 /* loads */

static void use_text(const struct model *m, const char *text, size_t text_len)
{
	const struct text_span span = {text, text_len, true};
	const struct chat_message messages[] = {{"user", 4, text, text_len}};
	struct rendering rendering;
	struct token_list tokens;
	char error[256], *back;
	size_t len;

	if (m->tokenizer &&
		tokenizer_encode(m->tokenizer, &span, 1, TOKENIZE_MODEL, &tokens) == 0) {
		if (tokenizer_decode(m->tokenizer, tokens.ids, tokens.n, DETOKENIZE_SPECIAL, &back,
			    &len) == 0)
			free(back);
		token_list_done(&tokens);
	}
	if (m->template && template_render(m->template, messages, 1, true, &rendering, error,
				   sizeof(error)) == 0)
		rendering_done(&rendering);
}

static void use_weights(const struct model *m, struct backend *b)
{
	struct weights *w;
	char error[256] = "", hex[65];

	assert_int_equal(model_hash(m, 1, NULL, hex), 0);
	if (weights_load(m, &b, 1, &(struct weights_options){.context = 4}, &w, error,
		    sizeof(error)) == 0)
		weights_free(w);
	else
		assert_true(error[0] != '\0');
}
