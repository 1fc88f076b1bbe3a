/* The engine's thread and its two meeting places. The mailbox and the outbox are lists behind one
 * mutex each; a flag beside the mailbox is read between layers, so that a cancel does not wait for
 * the step to end. */
#include "daemon/engine_thread.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/engine_load.h"
#include "daemon/turns.h"
#include "engine/event.h"

#define PROGRESS_USEC 100000 /* between two reports of a load */

enum order_kind {
	ORDER_SUBMIT,
	ORDER_CANCEL,
	ORDER_PAUSE,
	ORDER_RESUME,
	ORDER_DROP_CACHE,
	ORDER_UNLOAD,
	ORDER_LOAD,
};

struct order {
	struct order *next;
	enum order_kind kind;
	struct job *job;      /* SUBMIT: owned */
	struct event *answer; /* DROP_CACHE: owned */
	uint32_t uid;
	bool all;
	uint64_t id;
	enum failure failure;
	char reason[256];
};

struct engine_thread {
	pthread_t thread;
	struct engine_setup setup;
	int wake_fd; /* eventfd: the outbox or the report changed */

	pthread_mutex_t mail_lock;
	pthread_cond_t mail_came;
	struct order *mail, **mail_end;
	bool pinged;
	atomic_bool urgent;      /* a cancel or the end is in the mail */
	atomic_bool interactive; /* an interactive job is */
	atomic_bool quit;
	_Atomic uint64_t beat_usec;

	pthread_mutex_t out_lock;
	struct event *out, **out_end;
	struct engine_report report;

	/* the thread's own */
	struct engine_load load;
	struct event *emitted, **emitted_end; /* by this step */
	uint64_t told_usec;
	bool patience_over; /* the wait for mail has ended without any */
};

static uint64_t now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void beat(struct engine_thread *t)
{
	atomic_store(&t->beat_usec, now_usec());
}

static void wake_io(struct engine_thread *t)
{
	uint64_t one = 1;
	ssize_t n = write(t->wake_fd, &one, sizeof(one));

	/* EAGAIN: the counter is full, so the loop is awake already */
	assert(n == sizeof(one) || errno == EAGAIN);
}

/* The engine's sink: collects what a step says, so that the outbox is locked once a step. */
static void emit(void *userdata, struct event *event)
{
	struct engine_thread *t = userdata;

	event->next = NULL;
	*t->emitted_end = event;
	t->emitted_end = &event->next;
}

/* The engine's question between layers. */
static bool stop_asked(void *userdata)
{
	struct engine_thread *t = userdata;

	beat(t);
	return atomic_load(&t->urgent) ||
	       (atomic_load(&t->interactive) && engine_runs_batch(t->load.engine));
}

static int load_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	struct engine_thread *t = userdata;
	uint64_t now = now_usec();

	atomic_store(&t->beat_usec, now);
	if (now - t->told_usec >= PROGRESS_USEC || done_bytes == total_bytes) {
		t->told_usec = now;
		pthread_mutex_lock(&t->out_lock);
		t->report.load_done_bytes = done_bytes;
		t->report.load_total_bytes = total_bytes;
		pthread_mutex_unlock(&t->out_lock);
		wake_io(t);
	}
	return atomic_load(&t->quit);
}

/* On the packer's thread. */
static void kept(void *userdata, uint64_t bytes, const char *why)
{
	struct engine_thread *t = userdata;

	pthread_mutex_lock(&t->out_lock);
	t->report.kept_bytes = bytes;
	snprintf(t->report.kept_error, sizeof(t->report.kept_error), "%s", why ? why : "");
	pthread_mutex_unlock(&t->out_lock);
	wake_io(t);
}

/* The weights for the next load, where there is a place for them. */
static void keep_packed(struct engine_thread *t)
{
	const struct packed_place place = engine_load_place(&t->setup, &t->load);
	const struct packer_told told = {kept, t};
	int r;

	if (!place.folder || !file_key_known(&t->report.key))
		return;
	r = packer_new(&place, t->load.weights, &told, &t->load.packer);
	if (r < 0)
		kept(t, 0, strerror(-r));
}

/* Hands over what the step said, and the numbers as they are now. */
static void publish(struct engine_thread *t, enum engine_state state, const char *error)
{
	struct engine_stats stats;
	bool news;

	if (t->load.engine)
		engine_stats(t->load.engine, &stats);
	pthread_mutex_lock(&t->out_lock);
	news = t->emitted || t->report.state != state;
	if (t->emitted) {
		*t->out_end = t->emitted;
		t->out_end = t->emitted_end;
		t->emitted = NULL;
		t->emitted_end = &t->emitted;
	}
	if (t->report.state != state && error)
		snprintf(t->report.error, sizeof(t->report.error), "%s", error);
	t->report.state = state;
	if (t->load.engine)
		t->report.stats = stats;
	pthread_mutex_unlock(&t->out_lock);
	if (news)
		wake_io(t);
}

static struct order *order_free(struct order *o)
{
	if (o) {
		job_free(o->job);
		event_free(o->answer);
	}
	free(o);
	return NULL;
}

/* A device that fails at it tells so at its next step. */
static void drop_cache(struct engine_thread *t, struct order *o)
{
	struct engine *e = t->load.engine;
	int64_t pages = e ? engine_drop_cache(e, o->uid, o->all) : 0;

	o->answer->done = pages > 0 ? (uint32_t)pages : 0;
	emit(t, o->answer);
	o->answer = NULL; /* consumed */
}

static void obey(struct engine *e, struct order *o)
{
	if (!e)
		return; /* a cancel or a pause that came too late */
	switch (o->kind) {
	case ORDER_SUBMIT:
		engine_submit(e, o->job);
		o->job = NULL; /* consumed */
		break;
	case ORDER_CANCEL: engine_cancel(e, o->id, o->failure, o->reason); break;
	case ORDER_PAUSE: engine_pause(e, o->id, true); break;
	case ORDER_RESUME: engine_pause(e, o->id, false); break;
	default: assert(!"an order of the thread's own");
	}
}

/* Waits for mail; where jobs wait for a paused one's pages, not for ever: it has to give them up
 * after a while. */
static void wait_for_mail(struct engine_thread *t)
{
	struct timespec until;

	if (t->report.stats.queued == 0) {
		pthread_cond_wait(&t->mail_came, &t->mail_lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	t->patience_over = pthread_cond_timedwait(&t->mail_came, &t->mail_lock, &until) ==
			   ETIMEDOUT;
	beat(t);
}

/* Takes all mail; waits for some if `idle`. */
static struct order *take_mail(struct engine_thread *t, bool idle)
{
	struct order *mail;

	t->patience_over = false;

	pthread_mutex_lock(&t->mail_lock);
	while (idle && !t->mail && !t->patience_over && !atomic_load(&t->quit)) {
		if (t->pinged) {
			t->pinged = false;
			beat(t);
		}
		wait_for_mail(t);
	}
	mail = t->mail;
	t->mail = NULL;
	t->mail_end = &t->mail;
	t->pinged = false;
	if (!atomic_load(&t->quit))
		atomic_store(&t->urgent, false);
	atomic_store(&t->interactive, false);
	pthread_mutex_unlock(&t->mail_lock);
	beat(t);
	return mail;
}

/* Makes the engine resident and reports it; the state that it leads to. */
static enum engine_state load(struct engine_thread *t)
{
	const struct weights_progress progress = {load_progress, t};
	const struct engine_sink sink = {emit, t};
	struct engine_report report = {};
	bool first = !t->load.model;
	int r;

	t->told_usec = 0;
	r = engine_load(&t->setup, &progress, &sink, &t->load, &report);
	pthread_mutex_lock(&t->out_lock);
	report.loads = ++t->report.loads;
	if (r == 0) {
		report.state = ENGINE_READY;
		report.load_done_bytes = t->report.load_done_bytes;
		report.load_total_bytes = t->report.load_total_bytes;
		report.kept_bytes = t->report.kept_bytes;
		memcpy(report.kept_error, t->report.kept_error, sizeof(report.kept_error));
		t->report = report;
	} else {
		t->report.state = first ? ENGINE_REFUSED : ENGINE_UNLOADED;
		memcpy(t->report.error, report.error, sizeof(report.error));
	}
	report.state = t->report.state;
	pthread_mutex_unlock(&t->out_lock);
	wake_io(t);
	if (r == 0) {
		engine_set_stop(t->load.engine, stop_asked, t);
		keep_packed(t);
	}
	return report.state;
}

/* A load that is not the first: whoever asks meanwhile hears that it is loading. */
static enum engine_state load_again(struct engine_thread *t)
{
	pthread_mutex_lock(&t->out_lock);
	t->report.state = ENGINE_LOADING;
	t->report.load_done_bytes = 0;
	t->report.error[0] = 0;
	pthread_mutex_unlock(&t->out_lock);
	wake_io(t);
	return load(t);
}

static enum engine_state unload(struct engine_thread *t)
{
	engine_load_drop(&t->load);
	pthread_mutex_lock(&t->out_lock);
	t->report.state = ENGINE_UNLOADED;
	t->report.error[0] = 0;
	t->report.layers_on_device = 0;
	t->report.weight_bytes = 0;
	t->report.stats.running = t->report.stats.queued = 0;
	t->report.stats.pages = t->report.stats.pages_used = t->report.stats.pages_cached = 0;
	pthread_mutex_unlock(&t->out_lock);
	wake_io(t);
	return ENGINE_UNLOADED;
}

/* The failure in the device's own words. */
static const char *device_error(const struct engine_thread *t)
{
	for (uint32_t i = 0; i < t->load.placement.n_backends; i++)
		if (t->load.placement.backends[i]->error[0])
			return t->load.placement.backends[i]->error;
	return "no reason given";
}

static void serve(struct engine_thread *t)
{
	enum engine_state state = ENGINE_READY;
	bool idle = false;

	while (!atomic_load(&t->quit)) {
		struct order *mail = take_mail(t, idle);
		int r;

		while (mail) {
			struct order *next = mail->next;

			if (mail->kind == ORDER_UNLOAD || mail->kind == ORDER_LOAD) {
				publish(t, state, NULL); /* what the orders before it brought */
				if (mail->kind == ORDER_UNLOAD && t->load.engine)
					state = unload(t);
				else if (mail->kind == ORDER_LOAD && state == ENGINE_UNLOADED)
					state = load_again(t);
			} else if (mail->kind == ORDER_DROP_CACHE) {
				drop_cache(t, mail);
			} else {
				obey(t->load.engine, mail);
			}
			order_free(mail);
			mail = next;
		}
		r = state == ENGINE_READY ? engine_step(t->load.engine) : 0;
		if (r < 0)
			state = ENGINE_BROKEN;
		publish(t, state, r < 0 ? device_error(t) : NULL);
		idle = r <= 0 && !(state == ENGINE_READY && engine_prepare(t->load.engine));
	}
}

static void *thread_main(void *userdata)
{
	struct engine_thread *t = userdata;

	turns_lengthen();
	beat(t);
	if (load(t) == ENGINE_READY)
		serve(t);
	return NULL;
}

int engine_thread_new(const struct config *c, struct engine_thread **ret)
{
	struct engine_thread *t = calloc(1, sizeof(*t));
	pthread_condattr_t monotonic;
	int r;

	assert(c->model.path);
	if (!t)
		return -ENOMEM;
	t->mail_end = &t->mail;
	t->out_end = &t->out;
	t->emitted_end = &t->emitted;
	pthread_mutex_init(&t->mail_lock, NULL);
	pthread_mutex_init(&t->out_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&t->mail_came, &monotonic);
	pthread_condattr_destroy(&monotonic);
	beat(t);
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = t->wake_fd < 0 ? -errno : engine_setup_init(&t->setup, c);
	if (r == 0)
		r = -pthread_create(&t->thread, NULL, thread_main, t);
	if (r < 0) {
		if (t->wake_fd >= 0)
			close(t->wake_fd);
		engine_setup_done(&t->setup);
		free(t);
		return r;
	}
	pthread_setname_np(t->thread, "zephd-engine");
	*ret = t;
	return 0;
}

static void free_events(struct event *e)
{
	while (e) {
		struct event *next = e->next;

		event_free(e);
		e = next;
	}
}

struct engine_thread *engine_thread_free(struct engine_thread *t)
{
	if (!t)
		return NULL;
	pthread_mutex_lock(&t->mail_lock);
	atomic_store(&t->quit, true);
	atomic_store(&t->urgent, true);
	pthread_cond_signal(&t->mail_came);
	pthread_mutex_unlock(&t->mail_lock);
	pthread_join(t->thread, NULL);

	engine_load_done(&t->load);
	while (t->mail) {
		struct order *next = t->mail->next;

		order_free(t->mail);
		t->mail = next;
	}
	free_events(t->out);
	free_events(t->emitted);
	pthread_cond_destroy(&t->mail_came);
	pthread_mutex_destroy(&t->out_lock);
	pthread_mutex_destroy(&t->mail_lock);
	engine_setup_done(&t->setup);
	close(t->wake_fd);
	free(t);
	return NULL;
}

int engine_thread_fd(const struct engine_thread *t)
{
	return t->wake_fd;
}

void engine_thread_collect(
	struct engine_thread *t, struct event **ret_events, struct engine_report *ret)
{
	uint64_t count;

	/* first the counter, then the list: what comes in between wakes the loop once more */
	if (read(t->wake_fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
	pthread_mutex_lock(&t->out_lock);
	*ret_events = t->out;
	t->out = NULL;
	t->out_end = &t->out;
	*ret = t->report;
	t->report.kept_bytes = 0;
	t->report.kept_error[0] = 0;
	pthread_mutex_unlock(&t->out_lock);
}

static struct order *order_new(enum order_kind kind, uint64_t id)
{
	struct order *o = calloc(1, sizeof(*o));

	if (o) {
		o->kind = kind;
		o->id = id;
	}
	return o;
}

static int post(struct engine_thread *t, struct order *o, bool urgent)
{
	pthread_mutex_lock(&t->mail_lock);
	*t->mail_end = o;
	t->mail_end = &o->next;
	if (urgent)
		atomic_store(&t->urgent, true);
	if (o->kind == ORDER_SUBMIT && !o->job->batch_priority)
		atomic_store(&t->interactive, true);
	pthread_mutex_unlock(&t->mail_lock);
	pthread_cond_signal(&t->mail_came); /* unlocked: who wakes does not wait for us */
	return 0;
}

int engine_thread_submit(struct engine_thread *t, struct job *job)
{
	struct order *o = order_new(ORDER_SUBMIT, job->id);

	if (!o)
		return -ENOMEM;
	o->job = job;
	return post(t, o, false);
}

int engine_thread_cancel(
	struct engine_thread *t, uint64_t id, enum failure failure, const char *reason)
{
	struct order *o = order_new(ORDER_CANCEL, id);

	if (!o)
		return -ENOMEM;
	o->failure = failure;
	snprintf(o->reason, sizeof(o->reason), "%s", reason ? reason : "");
	return post(t, o, true);
}

int engine_thread_pause(struct engine_thread *t, uint64_t id, bool paused)
{
	struct order *o = order_new(paused ? ORDER_PAUSE : ORDER_RESUME, id);

	return o ? post(t, o, false) : -ENOMEM;
}

int engine_thread_drop_cache(struct engine_thread *t, uint64_t id, uint32_t uid, bool all)
{
	struct order *o = order_new(ORDER_DROP_CACHE, id);

	if (o)
		o->answer = event_new(EVENT_DROPPED, id);
	if (!o || !o->answer) {
		order_free(o);
		return -ENOMEM;
	}
	o->uid = uid;
	o->all = all;
	return post(t, o, false);
}

static int post_plain(struct engine_thread *t, enum order_kind kind)
{
	struct order *o = order_new(kind, 0);

	return o ? post(t, o, true) : -ENOMEM;
}

int engine_thread_unload(struct engine_thread *t)
{
	return post_plain(t, ORDER_UNLOAD);
}

int engine_thread_load(struct engine_thread *t)
{
	return post_plain(t, ORDER_LOAD);
}

uint64_t engine_thread_beat(const struct engine_thread *t)
{
	return atomic_load(&t->beat_usec);
}

void engine_thread_ping(struct engine_thread *t)
{
	pthread_mutex_lock(&t->mail_lock);
	t->pinged = true;
	pthread_cond_signal(&t->mail_came);
	pthread_mutex_unlock(&t->mail_lock);
}
