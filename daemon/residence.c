/* One step at a time: an order to the engine thread is given when the state that the one before it
 * leads to has been seen. Owns the idle timer. */
#include "daemon/residence.h"

#include <stdio.h>

#include "daemon/log.h"
#include "daemon/request.h"

#define RESTARTS_USEC                                                                              \
	600000000ull /* within so long the engine is started anew RESTARTS_MAX times */

bool residence_ready(const struct server *s)
{
	return s->report.state == ENGINE_READY && !s->residence.unloading && s->text;
}

static bool anybody_waits(const struct server *s)
{
	const struct request *r;

	TAILQ_FOREACH(r, &s->requests, link)
	if (r->phase == PHASE_LOADING && r->method != METHOD_MODEL_UNLOAD)
		return true;
	return false;
}

void residence_want(struct server *s)
{
	struct residence *at = &s->residence;

	if (s->report.state != ENGINE_UNLOADED || at->unloading || at->loading || s->stopping)
		return;
	if (engine_thread_load(s->engine) < 0)
		return; /* the next request asks again */
	at->loading = true;
	s->load_began_usec = server_now_usec(s);
	log_info("loading the model again");
}

/* Gives the order, or waits with it for the load that is under way. */
static void unload(struct server *s)
{
	s->residence.unloading = true;
	if (s->report.state != ENGINE_LOADING && !s->residence.loading &&
		engine_thread_unload(s->engine) < 0)
		s->residence.unloading = false; /* no memory: it stays */
}

void residence_unload(struct server *s, const char *reason)
{
	struct request *r, *next;

	if (s->report.state == ENGINE_UNLOADED && !s->residence.loading)
		return;
	for (r = TAILQ_FIRST(&s->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		if (r->method != METHOD_MODEL_UNLOAD)
			request_stop(r, FAILURE_CANCELLED, reason);
	}
	if (!s->residence.unloading) {
		log_info("unloading the model: %s", reason);
		unload(s);
	}
}

static int on_idle(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct server *s = userdata;
	uint64_t now = server_now_usec(s);
	uint64_t idle = (uint64_t)s->config.model.idle_seconds * 1000000;
	uint64_t due = s->residence.used_usec + idle;
	char reason[64];

	if (!TAILQ_EMPTY(&s->requests))
		due = now + idle;
	if (now >= due) {
		if (residence_ready(s)) {
			snprintf(reason, sizeof(reason), "no request for %lld seconds",
				(long long)s->config.model.idle_seconds);
			residence_unload(s, reason);
		}
		return sd_event_source_set_enabled(source, SD_EVENT_OFF);
	}
	sd_event_source_set_time(source, due);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

void residence_used(struct server *s)
{
	s->residence.used_usec = server_now_usec(s);
}

void residence_loaded(struct server *s)
{
	struct residence *at = &s->residence;
	uint64_t due;
	int r = 0;

	at->loading = at->restarting = false;
	residence_used(s);
	if (at->unloading)
		unload(s);
	if (s->config.model.idle_seconds == 0)
		return;
	due = at->used_usec + (uint64_t)s->config.model.idle_seconds * 1000000;
	if (!at->idle)
		r = sd_event_add_time(s->event, &at->idle, CLOCK_MONOTONIC, due, 10000, on_idle, s);
	else if (sd_event_source_set_time(at->idle, due) < 0 ||
		 sd_event_source_set_enabled(at->idle, SD_EVENT_ONESHOT) < 0)
		r = -1;
	if (r < 0)
		log_warning("no timer: an idle model stays loaded");
}

void residence_load_failed(struct server *s)
{
	bool restarting = s->residence.restarting;

	s->residence.loading = s->residence.restarting = s->residence.unloading = false;
	log_error("the model did not load again: %s", s->report.error);
	request_model_ready(s); /* tells those who wait */
	if (restarting)         /* a new process may find it well */
		server_stop(s, 1, E_ENGINE, "the device failed and does not come back");
}

void residence_unloaded(struct server *s)
{
	s->residence.unloading = false;
	request_model_ready(s);
	if (s->residence.restarting || anybody_waits(s))
		residence_want(s);
}

void residence_broken(struct server *s)
{
	struct residence *at = &s->residence;
	uint64_t now = server_now_usec(s), *oldest = &at->restarts[at->n_restarts % RESTARTS_MAX];
	struct request *r, *next;

	log_error("the device failed: %s", s->report.error);
	for (r = TAILQ_FIRST(&s->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		request_stop(r, FAILURE_ENGINE, "the device failed");
	}
	if (s->stopping)
		return;
	if (at->n_restarts >= RESTARTS_MAX && now - *oldest < RESTARTS_USEC) {
		log_error("the device fails again and again: ending");
		server_stop(s, 1, E_ENGINE, "the device fails again and again, zephd ends");
		return;
	}
	*oldest = now;
	at->n_restarts++;
	at->restarting = true;
	log_info("starting the engine anew");
	unload(s);
}
