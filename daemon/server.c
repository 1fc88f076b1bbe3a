/* The I/O thread: one event loop over listeners, peers, signals and the wake-ups of the other
 * threads. It owns all of them and ends in the order in which they need one another: peers, text
 * worker, hasher, engine, sessions. */
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include <systemd/sd-daemon.h>

#include "daemon/listen.h"
#include "daemon/log.h"
#include "daemon/peer.h"
#include "daemon/request.h"
#include "daemon/residence.h"

#define EXIT_REFUSED 78      /* EX_CONFIG: systemd does not start it again */
#define FLUSH_USEC   5000000 /* for the last answers at the end */
/* For clients whose connection started a daemon that cannot serve. */
#define LATECOMER_USEC 500000

uint64_t server_now_usec(const struct server *s)
{
	uint64_t now = 0;

	sd_event_now(s->event, CLOCK_MONOTONIC, &now);
	return now;
}

const char *server_state(const struct server *s)
{
	static const char *const names[] = {"loading", "ready", "unloaded", "failed", "failed"};

	return names[s->report.state];
}

static const char *model_name(const struct server *s)
{
	const char *path = s->config.model.path, *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int on_hash(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct server *s = userdata;

	const struct quantize_mix *mix = s->report.model ? s->report.model->quantize : NULL;
	const char *hash = model_hasher_hash(s->hasher);

	/* The same files quantised are another model. */
	if (hash[0])
		snprintf(s->model_hash, sizeof(s->model_hash), "%s%s%s", hash, mix ? ":" : "",
			mix ? mix->name : "");
	if (!s->model_hash[0])
		log_warning("the model's content hash could not be computed");
	s->hasher_source = sd_event_source_disable_unref(s->hasher_source);
	s->hasher = model_hasher_free(s->hasher);
	return 0;
}

static int on_text(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct server *s = userdata;
	struct text_task *t = text_worker_collect(s->text);

	while (t) {
		struct text_task *next = t->next;

		request_text_done(s, t);
		t = next;
	}
	return 0;
}

/* For the first time the model is there: the other threads start. */
static int start_readers(struct server *s)
{
	const struct engine_report *r = &s->report;
	int code;

	code = text_worker_new(r->model, s->replies, &s->text);
	if (code == 0)
		code = sd_event_add_io(
			s->event, &s->text_source, text_worker_fd(s->text), EPOLLIN, on_text, s);
	if (code < 0)
		return code;
	if (model_hasher_new(r->model, &r->key, r->device.threads, &s->hasher) < 0 ||
		sd_event_add_io(s->event, &s->hasher_source, model_hasher_fd(s->hasher), EPOLLIN,
			on_hash, s) < 0)
		log_warning("the model's content hash cannot be computed");
	if (r->model->template_error[0])
		log_warning("no chat: %s", r->model->template_error);
	if (r->model->window_note[0])
		log_info("%s", r->model->window_note);
	if (r->model->quantize)
		log_info("quantised to %s%s%s", r->model->quantize->name,
			r->model->quantize_note[0] ? ": " : "", r->model->quantize_note);
	return 0;
}

/* The weights are resident: whoever waited goes on. */
static int on_ready(struct server *s)
{
	const struct engine_report *r = &s->report;
	char status[320];
	int code;

	if (!s->text) {
		code = start_readers(s);
		if (code < 0)
			return code;
	}
	snprintf(status, sizeof(status), "ready: %s on %s (%s), context %u", model_name(s),
		r->device.kind, r->device.isa, r->stats.context);
	log_info("%s", status);
	if (r->packed)
		log_info("the weights were taken as they had been packed");
	if (r->device_note[0])
		log_info("%s", r->device_note);
	notify_ready(status);
	residence_loaded(s);
	request_model_ready(s);
	return 0;
}

static int on_grace(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct server *s = userdata;

	s->grace = sd_event_source_disable_unref(s->grace);
	listen_close(s);
	return 0;
}

static void on_refused(struct server *s)
{
	log_error("%s did not load: %s", model_name(s), s->report.error);
	request_model_ready(s); /* tells those who wait */
	server_stop(s, EXIT_REFUSED, E_MODEL, s->report.error);
}

static void on_unloaded(struct server *s, bool tried)
{
	char status[320];

	snprintf(status, sizeof(status), "unloaded: %s", model_name(s));
	notify_status(status);
	if (tried) {
		residence_load_failed(s);
	} else {
		log_info("%s", status);
		residence_unloaded(s);
	}
}

static void on_state(struct server *s, enum engine_state before)
{
	enum engine_state now = s->report.state;
	bool load_ended = s->report.loads != s->residence.loads;

	s->residence.loads = s->report.loads;
	if (now == ENGINE_LOADING) {
		notify_loading(&s->notify, model_name(s), s->report.load_done_bytes,
			s->report.load_total_bytes);
		request_model_progress(s);
	} else if (load_ended && now == ENGINE_READY) {
		s->load_usec = server_now_usec(s) - s->load_began_usec;
		if (on_ready(s) < 0) {
			log_error("out of memory at the start");
			server_stop(s, 1, E_ENGINE, "zephd could not start");
		}
	} else if (now == ENGINE_UNLOADED && (load_ended || now != before)) {
		on_unloaded(s, load_ended);
	} else if (now != before && now == ENGINE_REFUSED) {
		on_refused(s);
	} else if (now != before && now == ENGINE_BROKEN) {
		residence_broken(s);
	}
}

static void tell_kept(const struct engine_report *r)
{
	if (r->kept_bytes)
		log_info("the packed weights are kept for the next load: %.2f GB",
			(double)r->kept_bytes * 1e-9);
	else if (r->kept_error[0])
		log_warning("the packed weights are not kept for the next load: %s", r->kept_error);
}

static int on_engine(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct server *s = userdata;
	enum engine_state before = s->report.state;
	struct event *e;

	engine_thread_collect(s->engine, &e, &s->report);
	tell_kept(&s->report);
	while (e) {
		struct event *next = e->next;

		request_event(s, e);
		e = next;
	}
	on_state(s, before);
	return 0;
}

static bool all_said(const struct server *s)
{
	const struct peer *p;

	if (!TAILQ_EMPTY(&s->requests))
		return false;
	TAILQ_FOREACH(p, &s->peers, link)
	if (conn_unsent(&p->conn))
		return false;
	return true;
}

/* Runs after whatever else the loop did: settles the peers that changed. */
static int on_post(sd_event_source *source, void *userdata)
{
	struct server *s = userdata;
	struct peer *p;

	do {
		sessions_settle(s);
		while ((p = TAILQ_FIRST(&s->dirty))) {
			TAILQ_REMOVE(&s->dirty, p, dirty_link);
			p->dirty = false;
			peer_settle(p);
		}
	} while (s->sessions.wake); /* a lost peer's request has left its session */
	if (s->stopping && !s->grace && all_said(s))
		return sd_event_exit(s->event, s->exit_code);
	return 0;
}

static int on_flush_over(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct server *s = userdata;

	return sd_event_exit(s->event, s->exit_code);
}

void server_stop(struct server *s, int exit_code, enum rpc_error error, const char *reason)
{
	struct request *r, *next;

	if (s->stopping) {
		sd_event_exit(s->event, s->exit_code);
		return;
	}
	s->stopping = true;
	s->exit_code = exit_code;
	s->stop_error = error;
	snprintf(s->stop_reason, sizeof(s->stop_reason), "%s", reason);
	notify_stopping(reason);
	sd_event_add_time_relative(
		s->event, NULL, CLOCK_MONOTONIC, FLUSH_USEC, 0, on_flush_over, s);
	/* Whose connection started a daemon without a model shall hear why: for a moment, further
	 * ones are still taken. */
	if (exit_code != EXIT_REFUSED ||
		sd_event_add_time_relative(
			s->event, &s->grace, CLOCK_MONOTONIC, LATECOMER_USEC, 0, on_grace, s) < 0)
		listen_close(s);
	for (r = TAILQ_FIRST(&s->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		request_stop(r, error == E_CANCELLED ? FAILURE_CANCELLED : FAILURE_ENGINE, reason);
	}
}

static int on_stop_signal(
	sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	struct server *s = userdata;

	log_info(s->stopping ? "stopping at once" : "stopping");
	server_stop(s, 0, E_CANCELLED, "zephd is stopping");
	return 0;
}

static int on_reload_signal(
	sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	struct server *s = userdata;
	struct config fresh;
	char sentence[512];

	if (config_load(s->options, &fresh, sentence, sizeof(sentence)) < 0)
		log_error("the configuration stays as it was: %s", sentence);
	else if (config_reload(&s->config, &fresh))
		log_info("limits, defaults and classes are read anew; socket, model and engine "
			 "change with a restart");
	else
		log_info("limits, defaults and classes are read anew");
	return 0;
}

static int start(struct server *s)
{
	int r;

	r = sd_event_add_post(s->event, &s->post, on_post, s);
	if (r >= 0)
		r = sd_event_add_signal(s->event, &s->sigterm, SIGTERM, on_stop_signal, s);
	if (r >= 0)
		r = sd_event_add_signal(s->event, &s->sigint, SIGINT, on_stop_signal, s);
	if (r >= 0)
		r = sd_event_add_signal(s->event, &s->sighup, SIGHUP, on_reload_signal, s);
	if (r < 0) {
		log_error("the event loop: %s", strerror(-r));
		return r;
	}
	r = listen_open(s);
	if (r < 0)
		return r;
	r = engine_thread_new(&s->config, &s->engine);
	if (r >= 0)
		r = sd_event_add_io(s->event, &s->engine_source, engine_thread_fd(s->engine),
			EPOLLIN, on_engine, s);
	if (r >= 0)
		r = notify_init(&s->notify, s->event, s->engine);
	if (r < 0)
		log_error("the engine thread: %s", strerror(-r));
	if (r >= 0) {
		r = sessions_start(s);
		if (r < 0)
			log_error("the sessions' thread: %s", strerror(-r));
	}
	return r < 0 ? r : 0;
}

int server_new(const struct options *o, struct config *config, struct server **ret)
{
	struct server *s = calloc(1, sizeof(*s));
	int r;

	*ret = s;
	if (!s)
		return -ENOMEM;
	s->options = o;
	s->config = *config;
	*config = (struct config){}; /* consumed */
	TAILQ_INIT(&s->peers);
	TAILQ_INIT(&s->dirty);
	TAILQ_INIT(&s->requests);
	users_init(&s->users);
	s->replies = reply_memory_new();
	if (!s->replies) {
		log_error("out of memory");
		return -ENOMEM;
	}
	r = sd_event_new(&s->event);
	if (r < 0) {
		log_error("the event loop: %s", strerror(-r));
		return r;
	}
	s->started_usec = s->load_began_usec = server_now_usec(s);
	return start(s);
}

int server_run(struct server *s)
{
	int r = sd_event_loop(s->event);

	if (r < 0) {
		log_error("the event loop: %s", strerror(-r));
		return 1;
	}
	return r;
}

struct server *server_free(struct server *s)
{
	struct peer *p;
	struct request *r;

	if (!s)
		return NULL;
	listen_close(s);
	while ((p = TAILQ_FIRST(&s->peers)))
		peer_free(p);
	notify_done(&s->notify);
	sd_event_source_disable_unref(s->text_source);
	text_worker_free(s->text);
	sd_event_source_disable_unref(s->hasher_source);
	model_hasher_free(s->hasher);
	sd_event_source_disable_unref(s->engine_source);
	engine_thread_free(s->engine);
	while ((r = TAILQ_FIRST(&s->requests)))
		request_free(r); /* lost ones that the engine had */
	sessions_stop(s);
	reply_memory_free(s->replies);
	users_done(&s->users);
	sd_event_source_disable_unref(s->grace);
	sd_event_source_disable_unref(s->residence.idle);
	sd_event_source_disable_unref(s->post);
	sd_event_source_disable_unref(s->sigterm);
	sd_event_source_disable_unref(s->sigint);
	sd_event_source_disable_unref(s->sighup);
	sd_event_unref(s->event);
	config_done(&s->config);
	free(s);
	return NULL;
}
