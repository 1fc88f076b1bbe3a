/* Everybody who has connected, by uid: what is charged to them now, and what they have used. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "daemon/meter.h"

#define USERS_NAMED 256 /* of all that are known: metrics must not grow without end */

struct user {
	TAILQ_ENTRY(user) link;
	uint32_t uid;
	/* charges: zero again when the last connection and request are gone */
	uint32_t connections, requests;
	uint64_t queued_tokens; /* of prompts that the engine has, waiting or running */
	uint64_t bytes;         /* buffers of connections, frames and replies of requests */
	/* since the start */
	uint64_t prompt_tokens, cached_tokens, completion_tokens, device_usec;
	uint64_t generated; /* tokens of replies as they come; the others count at a reply's end */
	struct meter meter;
	bool named; /* in metrics, by uid */
};

struct users {
	TAILQ_HEAD(, user) list;
	uint32_t n, n_connected; /* known; with a connection */
	uint32_t n_named;
	uint32_t connections;
	/* of all users since the start, those forgotten too */
	uint64_t prompt_tokens, cached_tokens, completion_tokens, device_usec;
	uint64_t generated;
	struct meter meter;
};

void users_init(struct users *u);
void users_done(struct users *u); /* asserts that nothing is charged any more */

/* The user, made if need be; NULL: no memory. */
struct user *users_get(struct users *u, uint32_t uid);

/* May `user` have one more connection, of `total` in all and `per_uid` each? A uid gets at most its
 * share of what the others leave: remaining / (n + 1). */
bool users_admit(const struct users *u, const struct user *user, int64_t total, int64_t per_uid);
void users_connected(struct users *u, struct user *user);
void users_disconnected(struct users *u, struct user *user);
