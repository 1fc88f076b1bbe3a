/* The I/O thread's state: listeners, peers, requests, and the ends of the other threads. Only that
 * thread touches it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <systemd/sd-event.h>

#include "daemon/config.h"
#include "daemon/engine_thread.h"
#include "daemon/notify.h"
#include "daemon/receipt.h"
#include "daemon/sessions.h"
#include "daemon/text_worker.h"
#include "daemon/user.h"

#define LISTENERS_MAX   8
#define REQUEST_BUCKETS 1024

struct peer;
struct request;
struct server;

TAILQ_HEAD(peer_list, peer);
TAILQ_HEAD(request_list, request);
LIST_HEAD(request_bucket, request);

struct listener {
	struct server *server;
	int fd, lock_fd; /* lock_fd -1: the socket was handed over by systemd */
	char *path;      /* NULL: likewise */
	bool use_only;   /* whoever comes here is in class use at most */
	sd_event_source *source;
};

#define RESTARTS_MAX 3

/* When the model is on the device (residence.c). */
struct residence {
	bool unloading, loading; /* wanted or ordered, not yet seen */
	bool restarting;         /* after a failure */
	uint32_t loads;          /* of the report that was handled last */
	uint64_t used_usec;      /* a request came or went */
	sd_event_source *idle;
	uint64_t restarts[RESTARTS_MAX]; /* when the last ones were */
	uint32_t n_restarts;
};

struct server {
	sd_event *event;
	sd_event_source *post, *sigterm, *sigint, *sighup, *accept_pause, *grace;
	const struct options *options; /* for a reload */
	struct config config;
	struct notify notify;

	struct listener listeners[LISTENERS_MAX];
	uint32_t n_listeners;
	struct users users;
	struct peer_list peers;
	struct peer_list dirty; /* to be settled before the loop waits again */

	struct request_list requests; /* in order of arrival */
	struct request_bucket buckets[REQUEST_BUCKETS];
	uint64_t last_request, last_peer;
	uint64_t done, failed, cancelled; /* requests since the start */

	struct engine_thread *engine;
	sd_event_source *engine_source;
	struct engine_report report;
	struct residence residence;
	struct sessions sessions;
	struct reply_memory *replies;
	struct text_worker *text; /* once the model is there */
	sd_event_source *text_source;
	struct model_hasher *hasher;
	sd_event_source *hasher_source;
	char model_hash[80]; /* the files', and ":q4_k_m" where they are quantised; "": not known */

	uint64_t started_usec;
	uint64_t load_began_usec, load_usec; /* the last load: took so long, 0 until it is done */
	bool stopping;
	int exit_code;
	enum rpc_error stop_error; /* what requests get while stopping */
	char stop_reason[600];
};

/* Starts everything but the loop. 0, or a negative errno after logging why. *ret is to be freed in
 * either case. */
int server_new(const struct options *o, struct config *config, struct server **ret);
struct server *server_free(struct server *s); /* accepts NULL, returns NULL */
int server_run(struct server *s);             /* until it is stopped: the exit status */

/* Answers everybody, then ends the loop. Requests get `error` with the reason. A second call ends
 * it at once. */
void server_stop(struct server *s, int exit_code, enum rpc_error error, const char *reason);

uint64_t server_now_usec(const struct server *s); /* CLOCK_MONOTONIC */
const char *server_state(const struct server *s); /* "loading", "ready", "unloaded", "failed" */
