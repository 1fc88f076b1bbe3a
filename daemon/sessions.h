/* Sessions as a station on a request's way: it waits here for what is on disk and for its turn,
 * and after the reply until that is saved. */
#pragma once

#include <systemd/sd-event.h>

#include "daemon/session.h"
#include "daemon/session_store.h"

struct event;
struct server;

struct sessions {
	struct session_table table;
	struct session_store *store;
	sd_event_source *results, *hourly;
	bool wake;    /* somebody who waits may be able to go on */
	bool failing; /* the last save failed, and that was logged */
};

int sessions_start(struct server *s); /* 0 or a negative errno */
void sessions_stop(struct server *s); /* saves what is not saved; safe to call twice */
/* Runs after whatever else the loop did: those who wait go on. */
void sessions_settle(struct server *s);

/* A request that needs a session or asks about some. Goes on at once, later, or ends in an error;
 * may free the request. */
void session_wait(struct request *r);
/* Lets go of the session that the request holds, if any; one that nothing was added to goes. */
void session_leave(struct request *r);
/* The reply is there: adds the request's messages and the reply, saves, lets go. Returns 1 where
 * the answer waits for the disk (the event is taken over), 0 where it can be given at once, or
 * -ENOMEM: nothing was added. */
int session_commit(struct request *r, struct event *done, struct reply_ids *ids);
/* The disk has done what the request waited for, or did not (a negative errno): answers and frees
 * it. */
void session_written(struct request *r, int error);

/* The methods about sessions, once their turn has come; each ends the request or waits for the
 * disk (method_session.c). `session` is NULL for session.list. */
void method_session(struct request *r, struct session_owner *o, struct session *session);
/* Writes the session to disk and lets the request wait for that. */
void session_save(struct request *r, struct session *session);
/* Lets the request wait for the disk, and not for ever. */
void session_await_disk(struct request *r);
/* … until session_written(), which answers with this. */
void method_session_answer(struct request *r, int error);
