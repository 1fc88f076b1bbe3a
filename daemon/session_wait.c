/* How a request gets its session, adds to it and leaves it. A session is held by one request at a
 * time, those behind it go on in the order in which they came: all of that is found in the daemon's
 * list of requests, there is no other queue. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/answer.h"
#include "daemon/request.h"

#define DISK_USEC 2000000 /* then the answer comes all the same */

/* Chat, rewind and drop change it: one at a time. */
static bool changes(const struct request *r)
{
	return r->method != METHOD_SESSION_LIST && r->method != METHOD_SESSION_GET &&
	       r->method != METHOD_SESSION_FORK;
}

static bool same_session(const struct request *a, const struct request *b)
{
	return a->user == b->user && strcmp(a->session_name, b->session_name) == 0;
}

/* How many are before it: the one whose turn it is, and those who wait longer. The session may be
 * NULL: it is not there yet. */
static uint32_t place_of(const struct request *r, const struct session *session)
{
	const struct request *holder = session ? session->holder : NULL, *other;
	uint32_t place = holder && holder != r;

	TAILQ_FOREACH(other, &r->server->requests, link)
	{
		if (other == r)
			break;
		place += other->phase == PHASE_SESSION && other != holder && changes(other) &&
			 same_session(other, r);
	}
	return place;
}

static void tell_place(struct request *r, uint32_t place)
{
	if (place == r->session_place)
		return;
	r->session_place = place;
	answer_queued(r, place - 1); /* 0 is next */
}

static bool scan(struct server *s, struct session_owner *o)
{
	struct store_task *t;

	if (o->state == OWNER_SCANNING)
		return true;
	t = store_task_new(STORE_SCAN, o->uid);
	if (!t)
		return false;
	o->state = OWNER_SCANNING;
	session_store_submit(s->sessions.store, t);
	return true;
}

static bool load(struct server *s, struct session *session)
{
	struct store_task *t;

	if (session->loading)
		return true;
	t = store_task_new(STORE_LOAD, session->owner->uid);
	if (!t)
		return false;
	t->row = session->row;
	session->loading = true;
	session_store_submit(s->sessions.store, t);
	return true;
}

/* A new session for the request, seen by nobody else until something is added. */
static struct session *make(struct request *r, struct session_owner *o)
{
	struct session_table *t = &r->server->sessions.table;
	int64_t most = request_quota(r)->sessions_per_uid;
	struct session_row row = {};
	struct history none = {};
	struct session *session;

	if (o->n >= most) {
		request_fail(r, E_BUSY,
			"uid %u has %u sessions, all that it may have (zephctl sessions drop)",
			o->uid, o->n);
		return NULL;
	}
	snprintf(row.name, sizeof(row.name), "%s", r->session_name);
	session = session_add(t, o, &row);
	if (!session) {
		request_fail(r, E_ENGINE, "out of memory for a session");
		return NULL;
	}
	session->fresh = true;
	session_fill(t, session, &none);
	return session;
}

/* Is there room for what the request adds? Fails it where there is none. */
static bool fits(struct request *r, const struct session *session)
{
	const struct config_limits *limits = &r->server->config.limits;
	int64_t most = request_quota(r)->session_bytes_per_uid;
	const struct params *p = &r->call->params;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < p->n_messages; i++)
		bytes += history_message_bytes(&p->messages[i].role, &p->messages[i].content, 0);
	if (session->history.n + p->n_messages + 1 > MESSAGES_MAX)
		request_fail(r, E_TOO_LARGE,
			"the session has %u messages, with these and the reply it would have more "
			"than %u",
			session->history.n, MESSAGES_MAX);
	else if (session->history.bytes + bytes > (uint64_t)limits->session_bytes)
		request_fail(r, E_TOO_LARGE,
			"the session has %zu bytes, with these messages it would have more than "
			"%lld",
			session->history.bytes, (long long)limits->session_bytes);
	else if (session->owner->bytes + bytes > (uint64_t)most)
		request_fail(r, E_BUSY,
			"the sessions of uid %u have %llu bytes, with these messages they would "
			"have more than %lld (zephctl sessions drop)",
			session->owner->uid, (unsigned long long)session->owner->bytes,
			(long long)most);
	else
		return true;
	return false;
}

void session_wait(struct request *r)
{
	struct server *s = r->server;
	struct session_owner *o = session_owner_get(&s->sessions.table, r->user->uid);
	struct session *session;

	r->phase = PHASE_SESSION;
	if (!o || (o->state != OWNER_KNOWN && !scan(s, o))) {
		request_fail(r, E_ENGINE, "out of memory for sessions");
		return;
	}
	if (o->state != OWNER_KNOWN)
		return;
	if (r->method == METHOD_SESSION_LIST) {
		method_session(r, o, NULL);
		return;
	}
	session = session_find(o, r->session_name);
	if (changes(r)) {
		uint32_t place = place_of(r, session);

		if (place > 0) {
			tell_place(r, place);
			return;
		}
	}
	if (!session && r->method == METHOD_CHAT) {
		session = make(r, o);
		if (!session)
			return;
	} else if (!session || (session->fresh && r->method != METHOD_CHAT)) {
		request_fail(r, E_NOT_FOUND, "there is no session \"%s\"", r->session_name);
		return;
	}
	if (changes(r)) {
		session->holder = r;
		r->session = session;
	}
	if (!session->resident && r->method != METHOD_SESSION_DROP) {
		if (!load(s, session))
			request_fail(r, E_ENGINE, "out of memory for a session");
		return;
	}
	session_touch(&s->sessions.table, session);
	if (r->method != METHOD_CHAT)
		method_session(r, o, session);
	else if (fits(r, session))
		request_go_on(r);
}

void session_leave(struct request *r)
{
	struct session *session = r->session;

	if (!session)
		return;
	r->session = NULL;
	session->holder = NULL;
	if (session->fresh)
		session_remove(&r->server->sessions.table, session);
	r->server->sessions.wake = true;
}

void session_await_disk(struct request *r)
{
	uint64_t due = server_now_usec(r->server) + DISK_USEC;

	r->phase = PHASE_SAVING;
	if (!r->deadline)
		(void)request_set_deadline(r, due); /* without memory the disk is waited for */
	else if (sd_event_source_set_time(r->deadline, due) < 0 ||
		 sd_event_source_set_enabled(r->deadline, SD_EVENT_ONESHOT) < 0)
		r->deadline = sd_event_source_disable_unref(r->deadline);
}

/* The reply's messages; all or none. */
static int add(struct request *r, struct history *h, uint32_t tokens, struct reply_ids *ids)
{
	const struct rpc_text assistant = {"assistant", 9}, reply = {r->reply.text, r->reply.len};
	const struct params *p = &r->call->params;
	uint32_t before = h->n;
	int code = 0;

	for (uint32_t i = 0; code == 0 && i < p->n_messages; i++)
		code = history_add(
			h, &p->messages[i].role, &p->messages[i].content, i == 0, 0, NULL);
	if (code == 0)
		code = history_add(h, &assistant, &reply, false, tokens, ids);
	if (code < 0)
		history_cut(h, before);
	return code;
}

int session_commit(struct request *r, struct event *done, struct reply_ids *ids)
{
	struct session_table *t = &r->server->sessions.table;
	struct session *session = r->session;

	/* stopped before it began: nothing was said */
	if (done->finish == FINISH_CANCELLED && r->reply.n_tokens == 0)
		return 0;
	if (add(r, &session->history, done->prompt_tokens + done->completion_tokens, ids) < 0)
		return -ENOMEM;
	session->fresh = false;
	session_changed(t, session, time(NULL));
	r->last = done;
	session_save(r, session);
	session_leave(r);
	return 1;
}
