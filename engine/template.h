/* Chat templates: messages to the text that the model was trained on.
 *
 * The templates in model files are Jinja. They are executed, with the environment that
 * transformers' apply_chat_template gives them (trim_blocks, lstrip_blocks, raise_exception,
 * strftime_now, tojson, bos_token …), bounded in steps, depth and output (limits.h). Strings carry
 * their provenance byte by byte: what the template wrote is trusted, what came from a message is
 * not (tokenizer.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "engine/tokenizer.h"
#include "engine/tokenizer_source.h"

struct chat_message {
	const char *role;
	size_t role_len;
	const char *content;
	size_t content_len;
};

struct template;

/* Compiles a template's source. tokens: what it may name beside bos_token and eos_token, whose
 * texts are bos and eos ("" if none). -EINVAL with the line and what is wrong; -ENOTSUP for a
 * construct that is not implemented, by name. */
int template_new(const char *source, size_t len, const char *bos, const char *eos,
	const struct special_token *tokens, size_t n_tokens, struct template **ret, char *error,
	size_t error_size);

/* A built-in by name: zephyr, mistral-instruct, chatml, llama-2, llama-3. -ENOENT for another name.
 */
int template_new_builtin(const char *name, const char *bos, const char *eos, struct template **ret,
	char *error, size_t error_size);

struct template *template_free(struct template *t); /* accepts NULL, returns NULL */
const char *template_source(const struct template *t, size_t *ret_len);

/* A rendering: `text` holds all bytes, `spans` cut it by provenance. */
struct rendering {
	char *text;
	size_t len;
	struct text_span *spans; /* pointing into text */
	size_t n_spans;
};
void rendering_done(struct rendering *r); /* frees and zeroes */

/* -EINVAL: the template refused the messages; the sentence is its own (raise_exception).
 * -ENOEXEC: the template itself failed (type error, undefined attribute). -E2BIG: a limit. -ENOMEM.
 */
int template_render(const struct template *t, const struct chat_message *messages,
	size_t n_messages, bool add_generation_prompt, struct rendering *ret, char *error,
	size_t error_size);
