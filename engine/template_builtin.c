/* The built-in templates, for files that carry none. Each writes the format that the model's
 * publisher documents:
 *   zephyr            <|role|> line, content, </s>, for each message; the tokenizer adds BOS
 *   mistral-instruct  <s>[INST] user [/INST] assistant</s>, a system message leads the first user's
 *   chatml            <|im_start|>role line, content, <|im_end|>
 *   llama-2           <s>[INST] <<SYS>> system <</SYS>> user [/INST] assistant </s>
 *   llama-3           <|start_header_id|>role<|end_header_id|>, content, <|eot_id|>
 * They give what the published templates give, with two differences. What those of zephyr and
 * llama-2 drop without a word, a role that they do not know or a system message between turns, is
 * refused. Mistral's has a space before [INST], for tokenizers that put none of their own behind a
 * control token; those of files without a template do, and the ids that come out are those of
 * mistral-common. */
#include "engine/template.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char zephyr[] =
	"{% for message in messages %}"
	"{% if message.role not in ('system', 'user', 'assistant') %}"
	"{{ raise_exception('Roles are system, user and assistant.') }}"
	"{% endif %}"
	"{{ '<|' ~ ('system' if message.role == 'system' else 'user' if message.role == 'user' "
	"else 'assistant') ~ '|>\\n' ~ message.content ~ eos_token ~ '\\n' }}"
	"{% endfor %}"
	"{% if messages and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

/* Lets users and assistants take turns, a user first, behind an optional system message, which
 * stands in `system`, the rest in `turns`. */
#define TAKE_TURNS                                                                                 \
	"{% set system = messages[0].content if messages and messages[0].role == 'system' %}"      \
	"{% set turns = messages[1:] if system is defined else messages %}"                        \
	"{% for message in turns %}"                                                               \
	"{% if message.role != ('user' if loop.index0 is even else 'assistant') %}"                \
	"{{ raise_exception('After an optional system message, user and assistant must take "      \
	"turns, a user first.') }}"                                                                \
	"{% endif %}"                                                                              \
	"{% endfor %}"

static const char mistral_instruct[] = TAKE_TURNS
	"{{ bos_token }}"
	"{% for message in turns %}"
	"{% if message.role == 'user' %}"
	"{{ '[INST] ' ~ (system ~ '\\n\\n' if loop.first and system is defined else '') ~ "
	"message.content ~ ' [/INST]' }}"
	"{% else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}"
	"{% endfor %}";

static const char chatml[] =
	"{% for message in messages %}"
	"{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
	"{% endfor %}"
	"{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static const char llama_2[] = TAKE_TURNS
	"{% for message in turns %}"
	"{% set content = message.content %}"
	"{% if loop.first and system is defined %}"
	"{% set content = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' ~ content %}"
	"{% endif %}"
	"{% if message.role == 'user' %}"
	"{{ bos_token ~ '[INST] ' ~ content.strip() ~ ' [/INST]' }}"
	"{% else %}{{ ' ' ~ content.strip() ~ ' ' ~ eos_token }}{% endif %}"
	"{% endfor %}";

static const char llama_3[] =
	"{% for message in messages %}"
	"{{ (bos_token if loop.first else '') ~ '<|start_header_id|>' ~ message.role ~ "
	"'<|end_header_id|>\\n\\n' ~ message.content | trim ~ '<|eot_id|>' }}"
	"{% endfor %}"
	"{% if add_generation_prompt %}"
	"{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
	"{% endif %}";

int template_new_builtin(const char *name, const char *bos, const char *eos, struct template **ret,
	char *error, size_t error_size)
{
	static const struct {
		const char *name, *source;
	} builtins[] = {
		{"chatml", chatml},
		{"llama-2", llama_2},
		{"llama-3", llama_3},
		{"mistral-instruct", mistral_instruct},
		{"zephyr", zephyr},
	};
	size_t i;

	for (i = 0; i < sizeof(builtins) / sizeof(builtins[0]); i++)
		if (strcmp(builtins[i].name, name) == 0)
			return template_new(builtins[i].source, strlen(builtins[i].source), bos,
				eos, NULL, 0, ret, error, error_size);
	snprintf(error, error_size,
		"no template is named '%.64s': there are chatml, llama-2, llama-3, "
		"mistral-instruct and zephyr",
		name);
	return -ENOENT;
}
