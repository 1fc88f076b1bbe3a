/* What a chat template writes around an assistant's reply. */
#pragma once

#include "engine/model.h"

struct turn {
	char *lead; /* [lead_len] between the generation prompt and the reply: mostly nothing, a
		       space with some; malloc'ed */
	size_t lead_len;
	int32_t end; /* the token that ends the turn; -1: the model has none */
};
void turn_done(struct turn *t); /* frees and zeroes */

/* Asks the template by rendering a short conversation. The end is the first of the model's end
 * tokens among those that the template writes behind the reply; where it writes none, the first of
 * the model's own. -ENOMEM or 0. */
int turn_find(const struct model *m, struct turn *ret);
