/* The client's end of the protocol: connect, call, wait. The client library of zeph and zephctl. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/terminal.h"
#include "proto/conn.h"
#include "proto/message.h"

/* What a program's exit says (design: 1 is the answer "no"). */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_NO = 1,
	EXIT_USAGE = 2,
	EXIT_LOST = 3,    /* no daemon, or the connection was lost */
	EXIT_REFUSED = 4, /* for good */
	EXIT_BROKEN = 5,  /* the model, the device or the protocol */
	EXIT_AGAIN = 6,   /* busy, too late, cancelled by the daemon */
	EXIT_CUT = 7,     /* no whole answer of the wanted form */
};
enum exit_code exit_code_of(enum rpc_error e);

/* What a wait watches beside the connection. */
struct watch {
	struct output *out;     /* the answer on its way to stdout */
	int signal_fd;          /* a signalfd of SIGINT, SIGTERM, SIGHUP */
	uint64_t deadline_usec; /* on CLOCK_MONOTONIC; UINT64_MAX: none */
	int signal;             /* which one came, after -EINTR */
};

struct link {
	struct conn conn;
	uint32_t next_id;
	pid_t child;     /* ssh, or 0 */
	char error[512]; /* the last failure: "E_NAME: sentence", or a sentence */
};

uint64_t now_usec(void);

/* Connects to `socket` (or NULL: the usual places, or through $ZEPH_HOST) within timeout_usec.
 * 0, or a negative errno with l->error set. link_close() after either. */
int link_open(struct link *l, const char *socket, uint64_t timeout_usec);
void link_close(struct link *l);

/* Queues a request and returns its id; link_receive() sends it. */
uint32_t link_send(struct link *l, enum method m, const struct params *params);

/* Waits for the next response or notification and meanwhile writes what is queued to the daemon and
 * to w->out. 1: *ret is to be ended by message_done() before the next call; -EPIPE: the connection
 * has ended; -EPROTO: the daemon broke the protocol; -ETIMEDOUT; -EINTR: w->signal came; -ENOSTR:
 * nobody reads stdout any more; another negative errno: stdout failed. l->error says it in words
 * for -EPIPE and -EPROTO. A daemon that closes with an "error" notification leaves its text there,
 * and the result is -EPROTO. */
int link_receive(struct link *l, struct watch *w, struct message *ret);

/* Sends and waits for the response to it, dropping notifications. As link_receive(). */
int link_call(struct link *l, struct watch *w, enum method m, const struct params *params,
	struct message *ret);

/* Writes the rest of w->out. 0, -EINTR or stdout's errno as link_receive(). */
int link_drain(struct watch *w);

/* Writes what was queued as far as that goes at once: for a last cancel. */
void link_flush(struct link *l);
