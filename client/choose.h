/* --choose and --is: answers that a script branches on. */
#pragma once

#include "client/options.h"
#include "client/session.h"

/* Appends what a score came to: the likeliest choice; nothing for --is, whose answer is the exit
 * code, EXIT_DONE or EXIT_NO; one object for --json. EXIT_AGAIN for a cancelled one, EXIT_BROKEN;
 * complains of these. */
enum exit_code choose_print(struct session *s, const struct options *o, const struct params *params,
	const msgpack_object *result);
