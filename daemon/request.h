/* One request on its way: text worker, engine, answer. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <msgpack.h>

#include "daemon/peer.h"
#include "daemon/server.h"

enum phase {
	PHASE_LOADING, /* waits for the model */
	PHASE_SESSION, /* waits for its session */
	PHASE_TEXT,    /* with the text worker */
	PHASE_QUEUED,  /* with the engine, which has not begun */
	PHASE_PREFILL,
	PHASE_GENERATE,
	PHASE_SAVING, /* waits for the disk */
};
const char *phase_name(enum phase p);

struct request {
	LIST_ENTRY(request) bucket;
	TAILQ_ENTRY(request) link, peer_link;
	struct server *server;
	struct peer *peer; /* NULL: lost; the engine's last word is awaited all the same */
	struct user *user;
	uint64_t id; /* the daemon's own, unique */
	uint32_t rpc_id;
	enum method method;
	enum class class; /* of who asked */
	struct rpc_tag tag;
	bool stream, echo;
	enum phase phase;
	uint64_t arrived_usec;
	uint64_t told_usec; /* when the last tokens came from the engine; 0: none did */
	uint64_t charged_bytes;
	sd_event_source *deadline;
	struct call *call; /* NULL while the text worker has it */

	/* its session (sessions.h) */
	char session_name[SESSION_NAME_BYTES_MAX + 1]; /* "": none; session.fork: the source */
	uint32_t session_place;                        /* that it was told; 0: none */
	struct session *session;                       /* that it holds, or NULL */
	struct session_row row;                        /* what it has made of it, for the answer */
	struct event *last; /* the engine's last word, while it is saved */
	bool unwritten;     /* there was no memory to save it with */
	bool saved;

	/* once it is a job */
	struct generation generation;
	uint32_t prompt_tokens;
	uint32_t n_dropped;      /* cache.drop: remembered replies */
	uint32_t charged_tokens; /* to the user's queue */
	char prompt_hash[65];
	struct score *score; /* method score: what is weighed */
	uint8_t prompt_digest[DIGEST_BYTES];
	uint8_t place[DIGEST_BYTES]; /* of the reply (reply_ids.h) */

	/* the reply so far */
	struct reply_buffer {
		char *text;
		size_t len, size;
		int32_t *tokens;
		uint32_t n_tokens, tokens_size;
		msgpack_sbuffer logprobs; /* packed, one after the other */
		uint32_t n_logprobs;
	} reply;
};

/* Takes the call over on success and starts on it; on failure the peer has been answered. */
int request_new(struct peer *p, struct call *c);

/* The model is there, or will not be: goes on with those that waited for it. */
void request_model_ready(struct server *s);
void request_model_progress(struct server *s);

/* What the other threads have to say; both take their argument over. */
void request_text_done(struct server *s, struct text_task *t);
void request_event(struct server *s, struct event *e);

/* For sessions: the request of that id, or NULL; an error, after which it is freed; its deadline (0
 * or -ENOMEM); on with it once it holds its session. */
struct request *request_find(struct server *s, uint64_t id);
void request_fail(struct request *r, enum rpc_error e, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
const struct config_quota *request_quota(const struct request *r); /* of its class */
int request_set_deadline(struct request *r, uint64_t usec);
void request_go_on(struct request *r);

/* The reply (request_reply.c): bytes that it costs; an event's tokens and text, and its logprobs,
 * packed as they will be sent (0 or -ENOMEM); the ids for prompts to come, or NULL: none say its
 * text, or no memory. */
void request_charge(struct request *r, size_t bytes);
int request_keep_tokens(struct request *r, const struct event *e);
int request_keep_logprobs(struct request *r, const struct event *e);
struct reply_ids *request_reply_ids(const struct request *r);

/* Ends a request. FAILURE_NONE: its own client asked, it gets what there is. Returns at once; the
 * answer may come later. May free the request. */
void request_stop(struct request *r, enum failure failure, const char *reason);
/* Its connection is gone: nobody is answered. May free the request. */
void request_orphan(struct request *r);
/* Counts how it ended; not for errors that its peer is told, which are counted there. */
void request_count(struct request *r, enum outcome o);
void request_pause(struct request *r, bool paused);
/* At the daemon's end, when no thread runs any more. */
void request_free(struct request *r);
