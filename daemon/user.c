/* The accounts. A user without charges is forgotten when there are too many, the oldest first; no
 * account with a charge ever goes. */
#include "daemon/user.h"

#include <assert.h>
#include <stdlib.h>

#define USERS_MAX 4096 /* remembered */

void users_init(struct users *u)
{
	*u = (struct users){};
	TAILQ_INIT(&u->list);
}

static bool idle(const struct user *user)
{
	return user->connections == 0 && user->requests == 0 && user->bytes == 0 &&
	       user->queued_tokens == 0;
}

void users_done(struct users *u)
{
	struct user *user;

	while ((user = TAILQ_FIRST(&u->list))) {
		assert(idle(user));
		TAILQ_REMOVE(&u->list, user, link);
		free(user);
	}
	assert(u->connections == 0 && u->n_connected == 0);
	u->n = u->n_named = 0;
}

struct user *users_get(struct users *u, uint32_t uid)
{
	struct user *user, *oldest = NULL;

	TAILQ_FOREACH(user, &u->list, link)
	{
		if (user->uid == uid)
			return user;
		if (!oldest && idle(user))
			oldest = user;
	}
	if (u->n >= USERS_MAX && oldest) {
		TAILQ_REMOVE(&u->list, oldest, link);
		u->n_named -= oldest->named;
		free(oldest);
		u->n--;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	user->named = u->n_named < USERS_NAMED;
	u->n_named += user->named;
	TAILQ_INSERT_TAIL(&u->list, user, link);
	u->n++;
	return user;
}

bool users_admit(const struct users *u, const struct user *user, int64_t total, int64_t per_uid)
{
	int64_t others = (int64_t)u->connections - user->connections;
	int64_t n_others = (int64_t)u->n_connected - (user->connections > 0);
	int64_t share = (total - others) / (n_others + 1);

	if (share > per_uid)
		share = per_uid;
	return user->connections < share;
}

void users_connected(struct users *u, struct user *user)
{
	u->n_connected += user->connections++ == 0;
	u->connections++;
}

void users_disconnected(struct users *u, struct user *user)
{
	assert(user->connections > 0 && u->connections > 0);
	u->n_connected -= --user->connections == 0;
	u->connections--;
}
