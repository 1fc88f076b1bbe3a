/* One run of a client program: its connection, its outputs, its signals, and how it ends. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "client/link.h"
#include "client/terminal.h"

struct session {
	const char *program; /* "zeph" */
	const char *socket;  /* or NULL */
	uint64_t timeout_usec;
	bool bounded; /* the timeout holds for the whole answer */
	enum color color;
	struct link link;
	struct watch watch;
	struct output out;
	struct progress progress;
	struct rpc_tag tag; /* of every request that generates */
	bool reader_gone;   /* nobody reads stdout any more */
};

/* Makes the standard descriptors safe and takes the signals. 0 or a negative errno. */
int session_begin(struct session *s, const char *program);

/* Starts the clock of a bounded session: the deadline is now plus the timeout. */
void session_start_clock(struct session *s);

/* Connects. EXIT_DONE, or what the program exits with after a complaint. */
enum exit_code session_open(struct session *s);

/* Tells the daemon to stop what carries the session's tag. */
void session_cancel(struct session *s);

/* What a negative result of link_receive() comes to: complains, cancels where that is due. */
enum exit_code session_fail(struct session *s, int error);

/* A complaint in printf's words. */
void session_complain(const struct session *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* An error response: complains with its text. */
enum exit_code session_refused(const struct session *s, const msgpack_object *error);

/* Writes what is left of the answer, closes everything; where a signal or a gone reader ended the
 * run, dies of it. Returns the exit code. */
int session_end(struct session *s, enum exit_code code);
