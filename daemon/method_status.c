/* status: the state of the model, the device, the queue and the users, as far as the caller may see
 * them. */
#include <string.h>
#include <unistd.h>

#include "daemon/dispatch.h"
#include "daemon/peer.h"
#include "daemon/request.h"
#include "engine/utf8.h"

static void pack_number(msgpack_packer *pk, const char *key, uint64_t value)
{
	pack_key(pk, key);
	msgpack_pack_uint64(pk, value);
}

void status_pack_text(msgpack_packer *pk, const char *text)
{
	size_t len = strlen(text);
	char repaired[3 * 512];

	len = utf8_repair(text, len < 512 ? len : 512, repaired);
	if (len)
		pack_text(pk, repaired, len);
	else
		msgpack_pack_nil(pk);
}

static void pack_string(msgpack_packer *pk, const char *key, const char *text)
{
	pack_key(pk, key);
	status_pack_text(pk, text);
}

static void pack_model(msgpack_packer *pk, const struct server *s)
{
	const struct model *m = s->report.model;

	pack_key(pk, "model");
	if (!m) {
		msgpack_pack_nil(pk);
		return;
	}
	msgpack_pack_map(pk, 13);
	pack_string(pk, "name", m->config.name);
	pack_string(pk, "hash", s->model_hash);
	pack_string(pk, "architecture", m->config.architecture);
	pack_string(pk, "type", dtype_info(m->config.dtype)->name);
	pack_string(pk, "quantize", m->quantize ? m->quantize->name : "");
	pack_string(pk, "quantize_note", m->quantize_note);
	pack_number(pk, "parameters", m->config.parameters);
	pack_number(pk, "bytes", m->config.tensor_bytes);
	pack_number(pk, "context", s->report.stats.context);
	pack_number(pk, "sliding_window", m->config.attention.window);
	pack_string(pk, "sliding_window_note", m->window_note);
	pack_string(pk, "template", s->report.template_hash);
	pack_string(pk, "template_error", m->template_error);
}

static void pack_device(msgpack_packer *pk, const struct server *s)
{
	const struct engine_report *r = &s->report;

	pack_key(pk, "device");
	if (!r->model) {
		msgpack_pack_nil(pk);
		return;
	}
	msgpack_pack_map(pk, 11);
	pack_string(pk, "kind", r->device.kind);
	pack_string(pk, "name", r->device.name);
	pack_string(pk, "isa", r->device.isa);
	pack_number(pk, "threads", r->device.threads);
	pack_number(pk, "memory_bytes", r->device.memory_bytes);
	pack_number(pk, "used_bytes", r->weight_bytes + r->page_bytes * r->stats.pages);
	pack_number(pk, "layers", r->model->config.n_layers);
	pack_number(pk, "layers_on_device", r->layers_on_device);
	pack_string(pk, "note", r->device_note);
	pack_string(pk, "activations",
		s->config.engine.activations == ACTIVATIONS_EXACT ? "exact" : "fast");
	pack_key(pk, "exact");
	r->device.inexact ? msgpack_pack_false(pk) : msgpack_pack_true(pk);
}

static bool running(const struct request *r)
{
	return r->phase >= PHASE_PREFILL;
}

static void pack_requests(msgpack_packer *pk, const struct peer *p, bool all)
{
	const struct server *s = p->server;
	uint32_t n_running = 0, n_queued = 0, n_mine = 0;
	const struct request *r;

	TAILQ_FOREACH(r, &s->requests, link)
	{
		n_running += running(r);
		n_queued += !running(r);
		n_mine += all || r->user == p->user;
	}
	pack_key(pk, "requests");
	msgpack_pack_map(pk, 6);
	pack_number(pk, "running", n_running);
	pack_number(pk, "queued", n_queued);
	pack_number(pk, "done", s->done);
	pack_number(pk, "failed", s->failed);
	pack_number(pk, "cancelled", s->cancelled);
	pack_key(pk, "mine");
	msgpack_pack_array(pk, n_mine);
	TAILQ_FOREACH(r, &s->requests, link)
	{
		if (!all && r->user != p->user)
			continue;
		msgpack_pack_map(pk, 5);
		pack_key(pk, "tag");
		pack_tag(pk, &r->tag);
		pack_string(pk, "method", method_name(r->method));
		pack_number(pk, "age_ms", (server_now_usec(s) - r->arrived_usec) / 1000);
		pack_string(pk, "phase", phase_name(r->phase));
		pack_number(pk, "uid", r->user->uid);
	}
}

static void pack_user(msgpack_packer *pk, const struct server *s, const struct user *user)
{
	uint32_t n_running = 0, n_queued = 0;
	const struct request *r;

	TAILQ_FOREACH(r, &s->requests, link)
	{
		n_running += r->user == user && running(r);
		n_queued += r->user == user && !running(r);
	}
	msgpack_pack_map(pk, 11);
	pack_number(pk, "uid", user->uid);
	pack_number(pk, "running", n_running);
	pack_number(pk, "queued", n_queued);
	pack_number(pk, "connections", user->connections);
	pack_number(pk, "charged_bytes", user->bytes);
	pack_number(pk, "queued_tokens", user->queued_tokens);
	pack_number(pk, "reply_memory_bytes", reply_memory_bytes(s->replies, user->uid, false));
	pack_number(pk, "prompt_tokens", user->prompt_tokens);
	pack_number(pk, "cached_tokens", user->cached_tokens);
	pack_number(pk, "completion_tokens", user->completion_tokens);
	pack_key(pk, "device_s");
	msgpack_pack_double(pk, user->device_usec / 1e6);
}

void method_status(struct peer *p, const struct call *c)
{
	const struct server *s = p->server;
	const struct engine_stats *stats = &s->report.stats;
	bool all = peer_class(p) == CLASS_MANAGE;
	const struct user *user;
	msgpack_packer pk = peer_packer(p);

	message_pack_result(&pk, c->message.id);
	msgpack_pack_map(&pk, 13);
	pack_string(&pk, "state", server_state(s));
	pack_key(&pk, "error");
	if (s->report.error[0])
		status_pack_text(&pk, s->report.error);
	else
		msgpack_pack_nil(&pk);
	pack_key(&pk, "loading");
	msgpack_pack_map(&pk, 2);
	pack_number(&pk, "done", s->report.load_done_bytes);
	pack_number(&pk, "total", s->report.load_total_bytes);
	pack_string(&pk, "version", ZEPH_VERSION);
	pack_number(&pk, "pid", (uint64_t)getpid());
	pack_key(&pk, "uptime_s");
	msgpack_pack_double(&pk, (server_now_usec(s) - s->started_usec) / 1e6);
	pack_model(&pk, s);
	pack_device(&pk, s);
	pack_requests(&pk, p, all);
	pack_key(&pk, "kv");
	msgpack_pack_map(&pk, 12);
	pack_number(&pk, "page_tokens", KV_PAGE_TOKENS);
	pack_number(&pk, "pages", stats->pages);
	pack_number(&pk, "used", stats->pages_used);
	pack_number(&pk, "cached", stats->pages_cached);
	pack_number(&pk, "shared_tokens", stats->shared_tokens);
	pack_number(&pk, "reused_tokens", stats->cached_tokens);
	pack_number(&pk, "preempted", stats->preempted);
	pack_number(&pk, "swapped", stats->pages_swapped);
	pack_number(&pk, "restored", stats->pages_restored);
	pack_number(&pk, "recomputed_tokens", stats->recomputed_tokens);
	pack_number(&pk, "swap_bytes", stats->swap_bytes);
	pack_string(&pk, "type", s->report.model ? dtype_info(s->report.kv_dtype)->name : "");
	pack_number(&pk, "connections", s->users.connections);
	/* as they come: who asks twice knows the speed */
	pack_key(&pk, "tokens");
	msgpack_pack_map(&pk, 2);
	pack_number(&pk, "prompt", all ? stats->prompt_tokens : p->user->prompt_tokens);
	pack_number(&pk, "generated", all ? s->users.generated : p->user->generated);
	pack_key(&pk, "users");
	msgpack_pack_array(&pk, all ? s->users.n : 1);
	TAILQ_FOREACH(user, &s->users.list, link)
	if (all || user == p->user)
		pack_user(&pk, s, user);
}
