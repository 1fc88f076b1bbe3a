/* One request's life. It belongs to the I/O thread; the text worker gets its call and gives it
 * back, the engine gets a job under the request's id, and events find their request by that id. A
 * request whose client is gone stays until the engine's last word, so that what it used is
 * charged. */
#include "daemon/request.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/answer.h"
#include "daemon/generation.h"
#include "daemon/log.h"
#include "daemon/residence.h"

const char *phase_name(enum phase p)
{
	static const char *const names[] = {
		"loading", "session", "text", "queued", "prefill", "generate", "saving"};

	return names[p];
}

/* Asks for the engine. */
static bool generates(const struct request *r)
{
	return r->method == METHOD_CHAT || r->method == METHOD_COMPLETE ||
	       r->method == METHOD_SCORE;
}

static bool about_sessions(const struct request *r)
{
	return r->method >= METHOD_SESSION_LIST && r->method <= METHOD_SESSION_DROP;
}

/* The engine has its job. */
static bool with_engine(const struct request *r)
{
	return r->phase >= PHASE_QUEUED && r->phase <= PHASE_GENERATE;
}

static bool steers_model(const struct request *r)
{
	return r->method == METHOD_MODEL_LOAD || r->method == METHOD_MODEL_UNLOAD;
}

struct request *request_find(struct server *s, uint64_t id)
{
	struct request *r;

	LIST_FOREACH(r, &s->buckets[id % REQUEST_BUCKETS], bucket)
	if (r->id == id)
		return r;
	return NULL;
}

static void leave_peer(struct request *r)
{
	if (!r->peer)
		return;
	TAILQ_REMOVE(&r->peer->requests, r, peer_link);
	r->peer->n_requests--;
	peer_touch(r->peer);
	r->peer = NULL;
}

void request_free(struct request *r)
{
	leave_peer(r);
	session_leave(r);
	residence_used(r->server);
	LIST_REMOVE(r, bucket);
	TAILQ_REMOVE(&r->server->requests, r, link);
	r->user->requests--;
	r->user->bytes -= r->charged_bytes;
	r->user->queued_tokens -= r->charged_tokens;
	sd_event_source_disable_unref(r->deadline);
	call_free(r->call);
	event_free(r->last);
	score_free(r->score);
	free(r->reply.text);
	free(r->reply.tokens);
	msgpack_sbuffer_destroy(&r->reply.logprobs);
	free(r);
}

void request_count(struct request *r, enum outcome o)
{
	if (o == OUTCOME_CANCELLED)
		r->server->cancelled++;
	else
		r->server->done++;
	meter_outcome(&r->user->meter, r->class, o);
	meter_outcome(&r->server->users.meter, r->class, o);
}

/* Answers with an error and frees. */
static void fail(struct request *r, enum rpc_error e, const char *sentence)
{
	if (e == E_CANCELLED)
		r->server->cancelled++;
	else
		r->server->failed++;
	if (r->peer) {
		peer_answer_error(r->peer, r->rpc_id, e, "%s", sentence);
	} else {
		meter_outcome(&r->user->meter, r->class, OUTCOME_ERRORS + e);
		meter_outcome(&r->server->users.meter, r->class, OUTCOME_ERRORS + e);
	}
	request_free(r);
}

void request_fail(struct request *r, enum rpc_error e, const char *format, ...)
{
	char sentence[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	fail(r, e, sentence);
}

/* The result, as the engine's last word has it or without any. */
static void answer(struct request *r, const struct event *done)
{
	if (r->method == METHOD_SCORE)
		score_answer(r, done);
	else
		answer_result(r, done);
}

static enum rpc_error failure_error(enum failure f)
{
	switch (f) {
	case FAILURE_CANCELLED: return E_CANCELLED;
	case FAILURE_TIMEOUT: return E_TIMEOUT;
	case FAILURE_TOO_LARGE: return E_TOO_LARGE;
	default: return E_ENGINE;
	}
}

void request_stop(struct request *r, enum failure failure, const char *reason)
{
	if (r->phase == PHASE_SAVING)
		return; /* it is done; the answer is near */
	if (with_engine(r)) {
		/* without memory for the order it runs to its end */
		(void)engine_thread_cancel(r->server->engine, r->id, failure, reason);
	} else if (failure != FAILURE_NONE) {
		fail(r, failure_error(failure), reason);
	} else if (!generates(r)) {
		fail(r, E_CANCELLED, "cancelled by its own client");
	} else {
		request_count(r, OUTCOME_CANCELLED);
		answer(r, NULL);
		request_free(r);
	}
}

void request_orphan(struct request *r)
{
	leave_peer(r);
	if (r->phase == PHASE_SAVING)
		return;
	if (with_engine(r)) {
		(void)engine_thread_cancel(r->server->engine, r->id, FAILURE_NONE, NULL);
	} else {
		request_count(r, OUTCOME_CANCELLED);
		request_free(r);
	}
}

void request_pause(struct request *r, bool paused)
{
	if (r->stream && with_engine(r))
		(void)engine_thread_pause(r->server->engine, r->id, paused);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct request *r = userdata;

	if (r->phase == PHASE_SAVING)
		session_written(r, -ETIMEDOUT);
	else
		request_stop(r, FAILURE_TIMEOUT, "deadline_ms passed");
	return 0;
}

int request_set_deadline(struct request *r, uint64_t usec)
{
	return sd_event_add_time(r->server->event, &r->deadline, CLOCK_MONOTONIC, usec, 1000,
		       on_deadline, r) < 0
		       ? -ENOMEM
		       : 0;
}

/* Gives the call to the text worker. */
static void start_text(struct request *r)
{
	struct text_task *t = calloc(1, sizeof(*t));

	if (!t || (r->session && history_copy(&r->session->history, &t->history) < 0)) {
		free(t);
		fail(r, E_ENGINE, "out of memory for the request's text");
		return;
	}
	r->phase = PHASE_TEXT;
	t->id = r->id;
	t->uid = r->user->uid;
	t->call = r->call;
	r->call = NULL; /* consumed */
	text_worker_submit(r->server->text, t);
}

/* model.load or model.unload, where the state is what it asked for. */
static bool steered(const struct request *r)
{
	return r->method == METHOD_MODEL_UNLOAD ? r->server->report.state == ENGINE_UNLOADED
						: residence_ready(r->server);
}

/* cache.drop: what is remembered of replies goes at once; the engine thread drops its pages and
 * answers, with an engine or without. */
static void drop_cache(struct request *r)
{
	const struct params *p = &r->call->params;
	bool all = !params_has(p, PARAM_UID);
	uint32_t uid = all ? 0 : (uint32_t)p->uid;

	r->n_dropped = reply_memory_drop(r->server->replies, uid, all);
	r->phase = PHASE_QUEUED;
	if (engine_thread_drop_cache(r->server->engine, r->id, uid, all) < 0)
		fail(r, E_ENGINE, "out of memory for the order");
}

/* Goes on as far as the model's state allows; may free the request. */
static void advance(struct request *r)
{
	struct server *s = r->server;
	const struct engine_report *report = &s->report;

	if (steers_model(r) && steered(r)) {
		request_count(r, OUTCOME_DONE);
		answer_state(r);
		request_free(r);
	} else if (!steers_model(r) && (generates(r) ? residence_ready(s) : s->text != NULL)) {
		if (r->session_name[0] && !r->session)
			session_wait(r);
		else
			start_text(r);
	} else if (report->state == ENGINE_BROKEN && !s->residence.restarting) {
		fail(r, E_ENGINE, "the device failed, zephd is about to start anew");
	} else if (report->state == ENGINE_REFUSED ||
		   (report->state == ENGINE_UNLOADED && report->error[0] &&
			   !s->residence.loading)) {
		fail(r, E_MODEL, report->error);
	}
}

void request_go_on(struct request *r)
{
	r->phase = PHASE_LOADING;
	advance(r);
}

/* The session that the parameters name. */
static void take_name(struct request *r, const struct params *p)
{
	const struct rpc_text *name = params_has(p, PARAM_SESSION) ? &p->session
				      : params_has(p, PARAM_NAME)  ? &p->name
				      : params_has(p, PARAM_FROM)  ? &p->from
								   : NULL;

	if (name)
		memcpy(r->session_name, name->text, name->len); /* short and valid: checked */
}

int request_new(struct peer *p, struct call *c)
{
	struct server *s = p->server;
	struct request *r = calloc(1, sizeof(*r));
	const struct params *params = &c->params;

	if (!r)
		goto no_memory;
	r->server = s;
	r->arrived_usec = server_now_usec(s);
	if (params_has(params, PARAM_DEADLINE_MS)) {
		uint64_t usec = (uint64_t)params->deadline_ms * 1000;
		uint64_t deadline = usec > UINT64_MAX / 2 ? UINT64_MAX / 2 : usec;

		if (request_set_deadline(r, r->arrived_usec + deadline) < 0) {
			free(r);
			goto no_memory;
		}
	}
	r->peer = p;
	r->user = p->user;
	r->id = ++s->last_request;
	r->rpc_id = c->message.id;
	r->method = c->method;
	r->class = peer_class(p);
	r->tag = params->tag;
	r->stream = params_has(params, PARAM_STREAM) && params->stream;
	r->phase = PHASE_LOADING;
	r->call = c;
	take_name(r, params);
	msgpack_sbuffer_init(&r->reply.logprobs);
	TAILQ_INSERT_TAIL(&p->requests, r, peer_link);
	p->n_requests++;
	TAILQ_INSERT_TAIL(&s->requests, r, link);
	LIST_INSERT_HEAD(&s->buckets[r->id % REQUEST_BUCKETS], r, bucket);
	r->user->requests++;
	request_charge(r, sizeof(*r) + c->frame_len);
	residence_used(s);
	if (r->method == METHOD_CACHE_DROP) {
		drop_cache(r);
		return 0;
	}
	if (about_sessions(r)) {
		session_wait(r);
		return 0;
	}
	if (r->method == METHOD_MODEL_UNLOAD) {
		char reason[64];

		snprintf(reason, sizeof(reason), "uid %u unloads the model", r->user->uid);
		residence_unload(s, reason);
	} else if (generates(r) || r->method == METHOD_MODEL_LOAD) {
		residence_want(s);
	}
	if (s->report.state == ENGINE_LOADING)
		answer_loading(r, s->report.load_done_bytes, s->report.load_total_bytes);
	else if (s->residence.loading)
		answer_loading(r, 0, s->report.load_total_bytes);
	advance(r);
	return 0;

no_memory:
	peer_answer_error(p, c->message.id, E_BUSY, "out of memory for another request");
	return -ENOMEM;
}

void request_model_ready(struct server *s)
{
	struct request *r, *next;

	for (r = TAILQ_FIRST(&s->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		if (r->phase == PHASE_LOADING)
			advance(r);
	}
}

void request_model_progress(struct server *s)
{
	struct request *r;

	TAILQ_FOREACH(r, &s->requests, link)
	if (r->phase == PHASE_LOADING)
		answer_loading(r, s->report.load_done_bytes, s->report.load_total_bytes);
}

const struct config_quota *request_quota(const struct request *r)
{
	return &r->server->config.classes.quota[r->class];
}

/* May the uid have so many prompt tokens more with the engine? One request it always may. */
static bool queue_has_room(
	const struct request *r, uint64_t tokens, char *sentence, size_t sentence_size)
{
	uint64_t has = r->user->queued_tokens;
	uint64_t most = (uint64_t)request_quota(r)->prompt_tokens_per_uid;

	if (has == 0 || has + tokens <= most)
		return true;
	snprintf(sentence, sentence_size,
		"the queue for uid %u is full (%llu prompt tokens, and this one's %llu would "
		"exceed %llu)",
		r->user->uid, (unsigned long long)has, (unsigned long long)tokens,
		(unsigned long long)most);
	return false;
}

static void submit(struct request *r, struct text_task *t)
{
	char sentence[512];
	enum rpc_error error;
	uint64_t tokens;
	struct job *job = generation_job(r, t, &error, sentence, sizeof(sentence));

	if (!job) {
		fail(r, error, sentence);
		return;
	}
	tokens = r->prompt_tokens + (t->score ? t->score->n_tokens : 0);
	if (!queue_has_room(r, tokens, sentence, sizeof(sentence))) {
		job_free(job);
		fail(r, E_BUSY, sentence);
		return;
	}
	assert(residence_ready(r->server)); /* who leaves that state stops those with the worker */
	if (engine_thread_submit(r->server->engine, job) < 0) {
		job_free(job);
		fail(r, E_ENGINE, "out of memory for the request");
		return;
	}
	r->phase = PHASE_QUEUED;
	r->charged_tokens = (uint32_t)tokens;
	r->user->queued_tokens += r->charged_tokens;
	memcpy(r->prompt_digest, t->prompt_digest, DIGEST_BYTES);
	memcpy(r->place, t->place, DIGEST_BYTES);
	r->call = t->call;
	r->score = t->score;
	t->call = NULL; /* consumed */
	t->score = NULL;
	if (r->peer && r->peer->paused)
		request_pause(r, true);
}

void request_text_done(struct server *s, struct text_task *t)
{
	struct request *r = request_find(s, t->id);
	uint64_t reply_bytes = (uint64_t)s->config.limits.reply_bytes;

	if (!r) { /* cancelled in between */
	} else if (t->error != RPC_OK) {
		fail(r, t->error, t->sentence);
	} else if (generates(r)) {
		submit(r, t);
	} else if (t->tokens.n * 5 + t->text_len + 64 > reply_bytes) {
		fail(r, E_TOO_LARGE, "the result is over limits.reply_bytes");
	} else {
		request_count(r, OUTCOME_DONE);
		answer_text(r, t);
		request_free(r);
	}
	text_task_free(t);
}

/* What the request used, for the journal: never what it was about. */
static void account(const struct request *r, const struct event *e)
{
	static const char *const finishes[] = {"stop", "length", "cancelled"};

	log_journal("request %llu of uid %u: %s, %s, %u prompt tokens (%u cached), %u new, "
		    "%.3f s of the device, %.3f s in all",
		(unsigned long long)r->id, r->user->uid, method_name(r->method),
		e->failure ? rpc_error_name(failure_error(e->failure)) : finishes[e->finish],
		e->prompt_tokens, e->cached_tokens, e->completion_tokens, e->device_usec / 1e6,
		e->total_usec / 1e6);
}

/* What it used, to its user and to all. */
static void charge_use(struct request *r, const struct event *e)
{
	struct user *user = r->user;
	struct users *all = &r->server->users;

	user->prompt_tokens += e->prompt_tokens;
	user->completion_tokens += e->completion_tokens;
	user->cached_tokens += e->cached_tokens;
	user->device_usec += e->device_usec;
	all->prompt_tokens += e->prompt_tokens;
	all->completion_tokens += e->completion_tokens;
	all->cached_tokens += e->cached_tokens;
	all->device_usec += e->device_usec;
	meter_time(&user->meter, METER_QUEUE, e->queue_usec, 1);
	meter_time(&all->meter, METER_QUEUE, e->queue_usec, 1);
	if (e->first_token_usec) {
		meter_time(&user->meter, METER_FIRST_TOKEN, e->first_token_usec, 1);
		meter_time(&all->meter, METER_FIRST_TOKEN, e->first_token_usec, 1);
	}
}

/* n tokens came together: each has its part of the time since the last ones; of the reply's first
 * ones the first has none, and the others came with it. */
static void time_tokens(struct request *r, uint32_t n)
{
	uint64_t now = server_now_usec(r->server);
	uint32_t gaps = r->told_usec ? n : n - 1;

	if (n == 0)
		return;
	if (gaps > 0) {
		uint64_t usec = r->told_usec ? (now - r->told_usec) / n : 0;

		meter_time(&r->user->meter, METER_BETWEEN_TOKENS, usec, gaps);
		meter_time(&r->server->users.meter, METER_BETWEEN_TOKENS, usec, gaps);
	}
	r->told_usec = now;
	r->user->generated += n;
	r->server->users.generated += n;
}

/* Returns true where the event was taken over: the answer comes when the session is saved. */
static bool on_done(struct request *r, struct event *e)
{
	struct reply_ids *ids;
	int saving = 0;

	charge_use(r, e);
	account(r, e);
	if (e->failure != FAILURE_NONE) {
		fail(r, failure_error(e->failure), e->reason);
		return false;
	}
	ids = request_reply_ids(r);
	if (ids)
		reply_memory_add(r->server->replies, r->user->uid, ids);
	if (r->session)
		saving = session_commit(r, e, ids);
	reply_ids_unref(ids);
	if (saving < 0) {
		fail(r, E_ENGINE, "out of memory for the session");
		return false;
	}
	request_count(r, e->finish == FINISH_CANCELLED ? OUTCOME_CANCELLED
			 : r->method == METHOD_SCORE   ? OUTCOME_DONE
			 : e->finish == FINISH_STOP    ? OUTCOME_STOP
						       : OUTCOME_LENGTH);
	if (saving)
		return true;
	answer(r, e);
	request_free(r);
	return false;
}

/* As on_done(). */
static bool on_event(struct request *r, struct event *e)
{
	size_t logprobs_at = r->reply.logprobs.size;
	int code = 0;

	switch (e->kind) {
	case EVENT_QUEUED:
		r->phase = PHASE_QUEUED; /* perhaps again: it had to give way */
		answer_queued(r, e->position);
		break;
	case EVENT_PREFILL:
		r->phase = e->done < e->total ? PHASE_PREFILL : PHASE_GENERATE;
		answer_prefill(r, e->done, e->total);
		break;
	case EVENT_ECHO: code = request_keep_logprobs(r, e); break;
	case EVENT_TOKENS:
		r->phase = PHASE_GENERATE;
		time_tokens(r, e->n_tokens);
		code = request_keep_tokens(r, e);
		if (code == 0)
			code = request_keep_logprobs(r, e);
		if (code == 0)
			answer_tokens(r, e, logprobs_at);
		break;
	case EVENT_SCORE: score_event(r->score, e); break;
	case EVENT_DROPPED:
		request_count(r, OUTCOME_DONE);
		answer_dropped(r, e->done);
		request_free(r);
		return false;
	case EVENT_DONE: return on_done(r, e);
	}
	if (code < 0)
		request_stop(r, FAILURE_MEMORY, "out of memory for the reply");
	return false;
}

void request_event(struct server *s, struct event *e)
{
	struct request *r = request_find(s, e->job);

	if (!r || !on_event(r, e))
		event_free(e);
}
