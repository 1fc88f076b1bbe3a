/* One connection: frames in, answers out, and whose it is. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <msgpack.h>

#include "daemon/call.h"
#include "daemon/identity.h"
#include "daemon/server.h"
#include "proto/conn.h"

enum peer_state {
	PEER_OPEN,
	PEER_HALF,    /* it sends no more; what is pending is answered */
	PEER_CLOSING, /* what is in the buffer is written, then it is closed */
	PEER_LOST,    /* nobody is there any more */
};

struct peer {
	struct server *server;
	TAILQ_ENTRY(peer) link, dirty_link;
	struct conn conn;
	struct identity identity;
	uint64_t number; /* counts up */
	struct user *user;
	bool use_only;
	enum peer_state state;
	bool dirty;
	struct request_list requests; /* unanswered, in order of arrival */
	uint32_t n_requests;

	sd_event_source *io, *timer;
	uint32_t events;        /* that io waits for */
	uint64_t frame_usec;    /* when the frame that has begun began; 0: none */
	uint64_t stall_usec;    /* since when no byte was taken; 0: nothing is unsent */
	uint64_t stall_bytes;   /* conn.bytes_written then */
	bool stalled;           /* its requests have ended for that */
	bool paused;            /* its streaming requests have left the batch */
	uint64_t charged_bytes; /* buffers, charged to the user */
};

/* Takes the fd over. A connection over a limit is told so and closed. */
void peer_new(struct server *s, int fd, bool use_only);
/* Forgets the connection: its requests are cancelled. */
void peer_free(struct peer *p);

enum class peer_class(const struct peer *p);
const struct config_quota *peer_quota(const struct peer *p); /* of its class */

/* What follows only fills the buffer and marks the peer; peer_settle() writes. */
msgpack_packer peer_packer(struct peer *p);
void peer_touch(struct peer *p);
void peer_answer_error(struct peer *p, uint32_t id, enum rpc_error e, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* The peer broke the protocol: it is told, as the answer to the request where its id is known, and
 * closed. */
void peer_violation(struct peer *p, bool has_id, uint32_t id, const char *sentence);

/* After a round of the loop: writes, charges, pauses, waits or closes. May free the peer. */
void peer_settle(struct peer *p);
