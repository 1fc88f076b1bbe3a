/* Asking: one prompt whose answer streams, or many whose answers come in order. */
#pragma once

#include "client/options.h"
#include "client/prompt.h"
#include "client/session.h"

/* Asks once and prints; once more if the connection ends before the first token. In a session the
 * system prompt is left out of *p where it is there already. */
enum exit_code ask(struct session *s, const struct options *o, struct prompt *p);

/* Asks for each line of p->text, put in place of {} in the template; answers come in the lines'
 * order, each ends in a newline. */
enum exit_code ask_map(struct session *s, const struct options *o, const struct prompt *p);

/* For ask.c and map.c: the request about one text. `messages` has room for two. */
void ask_params(const struct session *s, const struct options *o, const struct prompt *p,
	const char *text, size_t len, struct rpc_message messages[2], struct params *ret);
enum method ask_method(const struct options *o);

/* Asks the daemon how large a request may be where that is in doubt: EXIT_DONE where `bytes` of
 * text pass. */
enum exit_code ask_size(struct session *s, size_t bytes);

/* Appends {"request":{"method":…,"params":…}, all that the daemon answered, and `more`}: one line.
 * 0 or -ENOMEM. */
int ask_json(msgpack_sbuffer *out, enum method method, const struct params *params,
	const msgpack_object *result, const char *more);
/* --stats: one line on stderr. */
void ask_stats(const struct session *s, const msgpack_object *result);

/* Appends the answer as the options want it (--json, -x, plain). EXIT_DONE, EXIT_NO, EXIT_AGAIN
 * for a cancelled one, EXIT_CUT, EXIT_BROKEN; complains of all but the first two. skip: bytes of
 * the text printed already. */
enum exit_code ask_print(struct session *s, const struct options *o, const struct params *params,
	const msgpack_object *result, size_t skip);
