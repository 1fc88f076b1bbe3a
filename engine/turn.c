/* A reply stands inside a turn: some templates write a space before it, most an end token behind
 * it. Neither is known by name; the template itself is asked. */
#include "engine/turn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char answer[] = "zephyrus";
#define ANSWER_BYTES (sizeof(answer) - 1)

void turn_done(struct turn *t)
{
	free(t->lead);
	*t = (struct turn){};
}

/* The first end token of what the template writes. -1: there is none. */
static int written_end(const struct model *m, const char *text, size_t len, int32_t *ret)
{
	const struct text_span span = {text, len, true};
	struct token_list ids;
	int r = tokenizer_encode(m->tokenizer, &span, 1, 0, &ids);

	if (r < 0)
		return r;
	for (size_t i = ids.n; i-- > 0;)
		if (model_ends(m, ids.ids[i]))
			*ret = ids.ids[i];
	token_list_done(&ids);
	return 0;
}

int turn_find(const struct model *m, struct turn *ret)
{
	const struct chat_message messages[] = {
		{"user", 4, "question", 8},
		{"assistant", 9, answer, ANSWER_BYTES},
	};
	struct turn t = {.end = m->n_end_tokens > 0 ? m->end_tokens[0] : -1};
	struct rendering prompt = {}, whole = {};
	char error[64];
	const char *at;
	int r = 0;

	if (!m->template)
		goto out;
	r = template_render(m->template, messages, 1, true, &prompt, error, sizeof(error));
	if (r == 0)
		r = template_render(m->template, messages, 2, false, &whole, error, sizeof(error));
	if (r < 0) { /* it does not like this conversation */
		r = r == -ENOMEM ? r : 0;
		goto out;
	}
	at = memmem(whole.text, whole.len, answer, ANSWER_BYTES);
	if (!at)
		goto out;
	if ((size_t)(at - whole.text) > prompt.len &&
		memcmp(whole.text, prompt.text, prompt.len) == 0) {
		t.lead_len = (size_t)(at - whole.text) - prompt.len;
		t.lead = malloc(t.lead_len);
		if (!t.lead) {
			r = -ENOMEM;
			goto out;
		}
		memcpy(t.lead, whole.text + prompt.len, t.lead_len);
	}
	at += ANSWER_BYTES;
	r = written_end(m, at, (size_t)(whole.text + whole.len - at), &t.end);
out:
	rendering_done(&prompt);
	rendering_done(&whole);
	if (r < 0) {
		turn_done(&t);
		return r;
	}
	*ret = t;
	return 0;
}
