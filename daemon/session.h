/* The sessions that the daemon knows: by uid and name, with their messages while there is room and
 * on disk otherwise. The I/O thread's; nothing here touches a disk or a request. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "daemon/session_file.h"

struct request;

struct session {
	TAILQ_ENTRY(session) link; /* of its owner, by when it was used, the latest first */
	struct session_owner *owner;
	struct session_row row; /* true also while the messages are on disk alone */
	struct history history; /* while resident */
	bool resident, loading;
	bool fresh;             /* made by the request that holds it: nobody else sees it yet */
	uint64_t version;       /* of the memory; new with each change */
	uint64_t written;       /* the version that is being written; 0: none, or that failed */
	bool dirty;             /* no file holds this version */
	uint64_t touched;       /* for what leaves memory first */
	struct request *holder; /* whose turn it is */
};

struct session_owner {
	LIST_ENTRY(session_owner) link;
	uint32_t uid;
	enum { OWNER_UNKNOWN, OWNER_SCANNING, OWNER_KNOWN } state; /* of what is on disk */
	TAILQ_HEAD(, session) list;
	uint32_t n;
	uint64_t bytes; /* of all, in memory or not */
};

struct session_table {
	LIST_HEAD(, session_owner) owners;
	uint64_t clock; /* counts touches and changes */
	uint64_t resident_bytes;
};

/* Made if missing; NULL: no memory. */
struct session_owner *session_owner_get(struct session_table *t, uint32_t uid);
struct session *session_find(const struct session_owner *o, const char *name);
/* A new one without messages; NULL: no memory. */
struct session *session_add(
	struct session_table *t, struct session_owner *o, const struct session_row *row);
void session_remove(struct session_table *t, struct session *s);
void session_table_done(struct session_table *t);

/* Gives the session its messages. Takes the history over. */
void session_fill(struct session_table *t, struct session *s, struct history *h);
/* Its history has changed: row, version and sums follow. */
void session_changed(struct session_table *t, struct session *s, int64_t now);
/* It is used: others leave memory before it. */
void session_touch(struct session_table *t, struct session *s);
/* Messages that are on disk too leave memory until at most `most` bytes are in it, those of `keep`
 * and of sessions in use last of all: never. */
void session_table_shrink(struct session_table *t, uint64_t most, const struct session *keep);
