/* A non-blocking stream connection: bytes in, whole frames out; frames in, bytes out. The same code
 * serves daemon and client. It owns its fd. Nothing here blocks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

#include "proto/frame.h"

struct conn {
	int fd;
	struct frame_scanner scanner;
	char *in; /* [in_size] bytes read and not yet consumed */
	size_t in_size, in_start, in_end;
	size_t in_scanned; /* bytes after in_start that the scanner has seen */
	char *out;         /* [out_size] bytes to write */
	size_t out_size, out_start, out_end;
	bool eof;               /* the peer will send no more */
	int scan_error;         /* frame_scan()'s failure: nothing further can be read */
	int error;              /* the output's failure: nothing further can be written */
	uint64_t bytes_written; /* in all: tells a slow reader from a stopped one */
};

void conn_init(struct conn *c, int fd, const struct frame_limits *limits); /* takes the fd over */
void conn_done(struct conn *c); /* closes and frees; safe to call twice */

/* Reads what is there, up to a bound for fairness. 1: bytes came; 0: nothing now; -EPIPE: end of
 * stream (c->eof is set; frames already read can still be taken); another negative errno: the
 * connection is lost. */
int conn_read(struct conn *c);

/* The next whole frame: 1 with *ret_data pointing into the buffer, valid until the next conn_read()
 * or conn_next(); 0: none yet; negative: frame_scan()'s errors, and nothing further can be read. */
int conn_next(struct conn *c, const char **ret_data, size_t *ret_len);

/* Bytes of a frame that has begun and is not complete. */
size_t conn_partial(const struct conn *c);

/* The id of the request whose frame is broken or incomplete, if its first bytes say it. */
bool conn_partial_id(const struct conn *c, uint32_t *ret_id);

/* Appends to the output; nothing is written yet. 0, or a negative errno (-ENOMEM), which
 * conn_flush() repeats: a message of which a part is missing is never followed by others. */
int conn_put(struct conn *c, const void *data, size_t len);

/* Writes what the socket takes, up to a bound for fairness. 1: bytes are left; 0: all written;
 * negative errno: lost (-EPIPE). */
int conn_flush(struct conn *c);

/* Bytes not yet taken by the socket. */
size_t conn_unsent(const struct conn *c);

/* A msgpack write callback that appends to the connection: msgpack_packer_init(&pk, c, conn_write).
 */
int conn_write(void *c, const char *data, size_t len);
