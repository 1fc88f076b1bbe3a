/* What the commands of zephctl share. */
#pragma once

#include "client/options.h"
#include "client/prompt.h"
#include "client/session.h"

struct control {
	struct session session;
	const char *command;
	struct options words; /* the command's words, as a prompt takes them */
	bool bos, special, json, version, help, has_id, has_uid;
	int64_t id, uid;
};

/* Complains of the command line. Returns -EINVAL. */
int control_usage(struct control *c, const char *what, const char *found);
/* Connects, calls, once more if the connection ends before the response to what may be done twice.
 * 1 with *ret, else 0 with *ret_code. */
int control_call(struct control *c, enum method m, const struct params *params, struct message *ret,
	enum exit_code *ret_code);
/* Prints the text; r is what writing it into the buffer came to. */
enum exit_code control_print(struct control *c, const msgpack_sbuffer *text, int r);
