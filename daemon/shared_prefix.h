/* The administrator's system message as the tokens that all prompts with it begin with. */
#pragma once

#include <stddef.h>

#include "engine/model.h"

/* 0, or a negative errno and a sentence: the model has no template, or its template refuses a
 * system message. */
int shared_prefix_tokens(const struct model *m, const char *system, struct token_list *ret,
	char *error, size_t error_size);
