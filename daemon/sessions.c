/* The disk's results, and what happens without a request: waking, sweeping, the end. Owns the
 * store. */
#include "daemon/sessions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "daemon/answer.h"
#include "daemon/log.h"
#include "daemon/request.h"

#define RESIDENT_BYTES_MAX (64u << 20) /* of messages that are on disk, too */
#define HOUR_USEC          3600000000ull
#define DAY_SECONDS        86400

/* Gives the session to the store, if there is memory for that; `request` awaits it, or 0. */
static bool write_session(struct server *s, struct session *session, uint64_t request)
{
	struct store_task *t = store_task_new(STORE_SAVE, session->owner->uid);

	if (!t || history_copy(&session->history, &t->history) < 0) {
		store_task_free(t);
		return false;
	}
	t->row = session->row;
	t->request = request;
	t->version = session->written = session->version;
	session_store_submit(s->sessions.store, t);
	return true;
}

void session_save(struct request *r, struct session *session)
{
	r->saved = false;
	session_await_disk(r);
	if (!write_session(r->server, session, r->id))
		r->server->sessions.wake = r->unwritten = true;
}

/* What a failure was not saved for is tried again. */
static void write_dirty(struct server *s)
{
	struct session_owner *o;
	struct session *session;

	LIST_FOREACH(o, &s->sessions.table.owners, link)
	TAILQ_FOREACH(session, &o->list, link)
	if (session->dirty && session->resident && session->written != session->version)
		write_session(s, session, 0);
}

static void on_scanned(struct server *s, struct store_task *t)
{
	struct session_owner *o = session_owner_get(&s->sessions.table, t->uid);
	struct request *r, *next;

	if (!o || o->state != OWNER_SCANNING)
		return;
	o->state = t->error < 0 ? OWNER_UNKNOWN : OWNER_KNOWN;
	for (uint32_t i = 0; t->error == 0 && i < t->n; i++)
		if (!session_find(o, t->rows[i].name) &&
			!session_add(&s->sessions.table, o, &t->rows[i]))
			t->error = -ENOMEM;
	if (t->error == 0)
		return;
	o->state = OWNER_UNKNOWN; /* the next request tries again */
	for (r = TAILQ_FIRST(&s->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		if (r->phase == PHASE_SESSION && r->user->uid == t->uid)
			request_fail(r, E_ENGINE, "the sessions of uid %u cannot be read: %s",
				t->uid, strerror(-t->error));
	}
}

static void on_loaded(struct server *s, struct store_task *t)
{
	struct session_owner *o = session_owner_get(&s->sessions.table, t->uid);
	struct session *session = o ? session_find(o, t->row.name) : NULL;
	struct history none = {};
	struct request *r, *next;

	if (!session || session->resident)
		return;
	session->loading = false;
	if (t->error == 0) {
		session_fill(&s->sessions.table, session, &t->history);
		session_table_shrink(&s->sessions.table, RESIDENT_BYTES_MAX, session);
	} else if (t->error == -ENOENT || t->error == -EBADMSG) {
		/* gone, or set aside: as if it had never been */
		if (session->holder) {
			session_fill(&s->sessions.table, session, &none);
			session->fresh = true;
		} else {
			session_remove(&s->sessions.table, session);
		}
	} else {
		for (r = TAILQ_FIRST(&s->requests); r; r = next) {
			next = TAILQ_NEXT(r, link);
			if (r->phase == PHASE_SESSION && r->user->uid == t->uid &&
				strcmp(r->session_name, t->row.name) == 0)
				request_fail(r, E_ENGINE, "the session cannot be read: %s",
					strerror(-t->error));
		}
	}
}

static void on_saved(struct server *s, struct store_task *t)
{
	struct session_owner *o = session_owner_get(&s->sessions.table, t->uid);
	struct session *session = o ? session_find(o, t->row.name) : NULL;
	struct request *r = request_find(s, t->request);

	if (session && session->version == t->version) {
		session->dirty = t->error != 0;
		session->written = t->error ? 0 : t->version;
	}
	if (t->error && !s->sessions.failing)
		log_warning("sessions are not saved: %s", strerror(-t->error));
	else if (!t->error && s->sessions.failing)
		log_info("sessions are saved again");
	s->sessions.failing = t->error != 0;
	session_table_shrink(&s->sessions.table, RESIDENT_BYTES_MAX, NULL);
	if (r && r->phase == PHASE_SAVING)
		session_written(r, t->error);
}

static void on_dropped(struct server *s, struct store_task *t)
{
	struct session_owner *o = session_owner_get(&s->sessions.table, t->uid);
	struct session *session = o ? session_find(o, t->row.name) : NULL;
	struct request *r = request_find(s, t->request);

	if (r && r->phase == PHASE_SAVING)
		session_written(r, t->error);
	else if (!t->error && session && !session->holder && session->version == t->version)
		session_remove(&s->sessions.table, session); /* nobody waited so long */
}

static void on_swept(struct server *s, struct store_task *t)
{
	struct session *session, *next;
	struct session_owner *o;

	if (t->n)
		log_info("removed %u sessions that nobody used for limits.session_days", t->n);
	LIST_FOREACH(o, &s->sessions.table.owners, link)
	for (session = TAILQ_FIRST(&o->list); session; session = next) {
		next = TAILQ_NEXT(session, link);
		if (!session->holder && !session->dirty && session->row.used_at < t->before)
			session_remove(&s->sessions.table, session);
	}
}

static int on_results(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct server *s = userdata;
	struct store_task *t = session_store_collect(s->sessions.store), *next;

	for (; t; t = next) {
		next = t->next;
		if (t->damaged)
			log_warning("%u files of sessions of uid %u are damaged and set aside",
				t->damaged, t->uid);
		switch (t->kind) {
		case STORE_SCAN: on_scanned(s, t); break;
		case STORE_LOAD: on_loaded(s, t); break;
		case STORE_SAVE: on_saved(s, t); break;
		case STORE_DROP: on_dropped(s, t); break;
		case STORE_SWEEP: on_swept(s, t); break;
		}
		store_task_free(t);
	}
	s->sessions.wake = true;
	return 0;
}

static void sweep(struct server *s)
{
	int64_t days = s->config.limits.session_days;
	struct store_task *t = days > 0 ? store_task_new(STORE_SWEEP, 0) : NULL;

	if (!t)
		return; /* or in an hour */
	t->before = time(NULL) - days * DAY_SECONDS;
	session_store_submit(s->sessions.store, t);
}

static int on_hour(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct server *s = userdata;

	sweep(s);
	write_dirty(s);
	sd_event_source_set_time(source, usec + HOUR_USEC);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int sessions_start(struct server *s)
{
	struct sessions *at = &s->sessions;
	int r = session_store_new(&at->store);

	if (r == 0)
		r = sd_event_add_io(s->event, &at->results, session_store_fd(at->store), EPOLLIN,
			on_results, s);
	if (r >= 0)
		r = sd_event_add_time(s->event, &at->hourly, CLOCK_MONOTONIC,
			server_now_usec(s) + HOUR_USEC, 60000000, on_hour, s);
	if (r >= 0)
		sweep(s);
	return r < 0 ? r : 0;
}

void sessions_stop(struct server *s)
{
	if (s->sessions.store)
		write_dirty(s);
	s->sessions.results = sd_event_source_disable_unref(s->sessions.results);
	s->sessions.hourly = sd_event_source_disable_unref(s->sessions.hourly);
	s->sessions.store = session_store_free(s->sessions.store);
	session_table_done(&s->sessions.table);
}

void sessions_settle(struct server *s)
{
	struct request *r, *next;

	while (s->sessions.wake) {
		s->sessions.wake = false;
		for (r = TAILQ_FIRST(&s->requests); r; r = next) {
			next = TAILQ_NEXT(r, link);
			if (r->phase == PHASE_SESSION)
				session_wait(r);
			else if (r->phase == PHASE_SAVING && r->unwritten)
				session_written(r, -ENOMEM);
		}
	}
}

void session_written(struct request *r, int error)
{
	r->saved = error == 0;
	if (r->method == METHOD_CHAT) {
		answer_result(r, r->last);
		request_free(r);
	} else {
		method_session_answer(r, error);
	}
}
