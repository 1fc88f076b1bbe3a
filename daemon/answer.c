/* The shapes of protocol.md's results and notifications. Everything is packed straight into the
 * connection's buffer; a connection without memory for it is lost as a whole. */
#include "daemon/answer.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/peer.h"
#include "daemon/receipt.h"
#include "engine/utf8.h"

static void pack_uint(msgpack_packer *pk, const char *key, uint64_t value)
{
	pack_key(pk, key);
	msgpack_pack_uint64(pk, value);
}

static void pack_number(msgpack_packer *pk, const char *key, double value)
{
	pack_key(pk, key);
	msgpack_pack_double(pk, value);
}

static void pack_string(msgpack_packer *pk, const char *key, const char *value)
{
	pack_key(pk, key);
	if (value && value[0])
		pack_text(pk, value, strlen(value));
	else
		msgpack_pack_nil(pk);
}

static void pack_ids(msgpack_packer *pk, const int32_t *ids, size_t n)
{
	msgpack_pack_array(pk, n);
	for (size_t i = 0; i < n; i++)
		msgpack_pack_int32(pk, ids[i]);
}

/* Opens a notification's map with id and tag and room for `n` more keys. */
static msgpack_packer notification(struct request *r, const char *method, uint32_t n)
{
	msgpack_packer pk = peer_packer(r->peer);
	bool tagged = r->tag.kind != TAG_NONE;

	message_pack_notification(&pk, method);
	msgpack_pack_map(&pk, 1 + tagged + n);
	pack_uint(&pk, "id", r->rpc_id);
	if (tagged) {
		pack_key(&pk, "tag");
		pack_tag(&pk, &r->tag);
	}
	return pk;
}

static void pack_progress(struct request *r, const char *phase, uint64_t done, uint64_t total)
{
	if (!r->peer || !r->stream)
		return;
	msgpack_packer pk = notification(r, "progress", 3);
	pack_string(&pk, "phase", phase);
	pack_uint(&pk, "done", done);
	pack_uint(&pk, "total", total);
}

void answer_loading(struct request *r, uint64_t done_bytes, uint64_t total_bytes)
{
	pack_progress(r, "loading", done_bytes, total_bytes);
}

void answer_prefill(struct request *r, uint32_t done, uint32_t total)
{
	pack_progress(r, "prefill", done, total);
}

void answer_queued(struct request *r, uint32_t position)
{
	if (!r->peer || !r->stream)
		return;
	msgpack_packer pk = notification(r, "progress", 2);
	pack_string(&pk, "phase", "queued");
	pack_uint(&pk, "position", position);
}

void answer_tokens(struct request *r, const struct event *e, size_t logprobs_at)
{
	if (!r->peer || !r->stream)
		return;
	msgpack_packer pk = notification(r, "token", 3 + (e->n_logprobs > 0));
	pack_uint(&pk, "index", e->index);
	pack_key(&pk, "tokens");
	pack_ids(&pk, e->tokens, e->n_tokens);
	pack_key(&pk, "text");
	pack_text(&pk, e->text ? e->text : "", e->text_len);
	if (e->n_logprobs > 0) {
		const msgpack_sbuffer *b = &r->reply.logprobs;

		pack_key(&pk, "logprobs");
		msgpack_pack_array(&pk, e->n_logprobs);
		conn_write(&r->peer->conn, b->data + logprobs_at, b->size - logprobs_at);
	}
}

/* A token's text: its piece, a control token's name, valid UTF-8 in any case. */
static void pack_piece(msgpack_packer *pk, const struct model *m, int32_t token)
{
	struct slice piece = {};
	char small[256], *owned = NULL, *text = small;
	char *decoded = NULL;
	size_t len = 0;

	if (m->tokenizer && token >= 0 && (uint32_t)token < tokenizer_vocab(m->tokenizer)) {
		piece = tokenizer_piece(m->tokenizer, token);
		if (piece.len == 0 &&
			tokenizer_decode(m->tokenizer, &token, 1,
				DETOKENIZE_SPECIAL | DETOKENIZE_CONTINUE, &decoded, &len) == 0)
			piece = (struct slice){decoded, len};
	}
	len = utf8_repair(piece.text, piece.len, NULL);
	if (len > sizeof(small))
		text = owned = malloc(len);
	if (text) {
		utf8_repair(piece.text, piece.len, text);
		pack_text(pk, text, len);
	} else {
		pack_text(pk, "", 0);
	}
	free(owned);
	free(decoded);
}

static void pack_logprob(msgpack_packer *pk, const struct model *m, int32_t token, float logprob)
{
	pack_key(pk, "token");
	msgpack_pack_int32(pk, token);
	pack_key(pk, "text");
	pack_piece(pk, m, token);
	pack_key(pk, "logprob");
	if (isnan(logprob))
		msgpack_pack_nil(pk);
	else /* the protocol has no infinity */
		msgpack_pack_double(pk, logprob < -FLT_MAX ? -FLT_MAX : logprob);
}

void answer_pack_logprob(
	msgpack_packer *pk, const struct model *m, const struct token_logprob *l, bool with_top)
{
	msgpack_pack_map(pk, 3 + with_top);
	pack_logprob(pk, m, l->token, l->logprob);
	if (!with_top)
		return;
	pack_key(pk, "top");
	msgpack_pack_array(pk, l->n_top);
	for (uint32_t i = 0; i < l->n_top; i++) {
		msgpack_pack_map(pk, 3);
		pack_logprob(pk, m, l->top[i].token, l->top[i].logprob);
	}
}

static void pack_usage(msgpack_packer *pk, const struct event *done)
{
	pack_key(pk, "usage");
	msgpack_pack_map(pk, 3);
	pack_uint(pk, "prompt_tokens", done ? done->prompt_tokens : 0);
	pack_uint(pk, "cached_tokens", done ? done->cached_tokens : 0);
	pack_uint(pk, "completion_tokens", done ? done->completion_tokens : 0);
}

/* tokens_per_s is the speed of generating: without the first token, which the prompt's time is in,
 * where there are others. */
static void pack_timing(msgpack_packer *pk, const struct request *r, const struct event *done)
{
	double speed = 0;
	uint64_t total = done ? done->total_usec : server_now_usec(r->server) - r->arrived_usec;
	uint64_t queue = done ? done->queue_usec : total;

	if (done && done->completion_tokens > 1 && total > done->first_token_usec)
		speed = (done->completion_tokens - 1) * 1e6 / (total - done->first_token_usec);
	else if (done && done->completion_tokens == 1 && total > queue)
		speed = 1e6 / (total - queue);
	pack_key(pk, "timing");
	msgpack_pack_map(pk, 5);
	pack_number(pk, "queue_ms", queue / 1e3);
	pack_number(pk, "prefill_ms", done ? done->prefill_usec / 1e3 : 0);
	pack_key(pk, "first_token_ms");
	if (done && done->first_token_usec)
		msgpack_pack_double(pk, done->first_token_usec / 1e3);
	else
		msgpack_pack_nil(pk);
	pack_number(pk, "total_ms", total / 1e3);
	pack_number(pk, "tokens_per_s", speed);
}

/* A float as the shortest decimal that means it: 0.7, not 0.699999988. */
static void pack_float(msgpack_packer *pk, const char *key, float value)
{
	char text[32];
	double shortest = value;

	for (int digits = 6; digits <= 9; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, value);
		shortest = strtod(text, NULL);
		if ((float)shortest == value)
			break;
	}
	pack_number(pk, key, shortest);
}

static void pack_sampling(msgpack_packer *pk, const struct generation *g)
{
	pack_key(pk, "sampling");
	msgpack_pack_map(pk, 11);
	pack_key(pk, "do_sample");
	if (g->temperature > 0)
		msgpack_pack_true(pk);
	else
		msgpack_pack_false(pk);
	pack_uint(pk, "max_new_tokens", g->max_new_tokens);
	pack_float(pk, "temperature", g->temperature);
	pack_uint(pk, "top_k", g->top_k);
	pack_float(pk, "top_p", g->top_p);
	pack_float(pk, "min_p", g->min_p);
	pack_float(pk, "typical_p", g->typical_p);
	pack_float(pk, "repetition_penalty", g->repetition_penalty);
	pack_float(pk, "presence_penalty", g->presence_penalty);
	pack_float(pk, "frequency_penalty", g->frequency_penalty);
	pack_uint(pk, "penalty_window", g->penalty_window);
}

/* The model's hash is nil until it is computed, which `status` shows too. */
static void pack_receipt(msgpack_packer *pk, const struct request *r)
{
	const struct server *s = r->server;
	const struct engine_report *report = &s->report;

	bool chat = r->call && params_has(&r->call->params, PARAM_MESSAGES);
	bool draws = r->method != METHOD_SCORE;

	pack_key(pk, "receipt");
	msgpack_pack_map(pk, 9 + 2 * draws);
	pack_string(pk, "model", s->model_hash);
	pack_string(pk, "prompt", r->prompt_hash);
	pack_string(pk, "template", chat ? report->template_hash : NULL);
	if (draws) {
		pack_key(pk, "seed");
		msgpack_pack_int64(pk, (int64_t)r->generation.seed);
		pack_sampling(pk, &r->generation);
	}
	pack_string(pk, "backend", report->device.kind);
	pack_string(pk, "isa", report->device.isa);
	pack_string(pk, "activations",
		s->config.engine.activations == ACTIVATIONS_EXACT ? "exact" : "fast");
	pack_key(pk, "exact");
	report->device.inexact ? msgpack_pack_false(pk) : msgpack_pack_true(pk);
	pack_string(pk, "kv_type", report->model ? dtype_info(report->kv_dtype)->name : NULL);
	pack_string(pk, "build", receipt_build());
}

void answer_pack_ending(msgpack_packer *pk, const struct request *r, const struct event *done)
{
	pack_usage(pk, done);
	pack_timing(pk, r, done);
	pack_receipt(pk, r);
}

static const char *finish_name(const struct event *done)
{
	if (!done || done->finish == FINISH_CANCELLED)
		return "cancelled";
	return done->finish == FINISH_STOP ? "stop" : "length";
}

static void pack_stop(msgpack_packer *pk, const struct rpc_text *stop)
{
	size_t len = utf8_repair(stop->text, stop->len, NULL);
	char text[3 * STOP_TEXT_BYTES_MAX];

	assert(len <= sizeof(text));
	utf8_repair(stop->text, stop->len, text);
	pack_key(pk, "stop");
	pack_text(pk, text, len);
}

void answer_result(struct request *r, const struct event *done)
{
	const struct reply_buffer *reply = &r->reply;
	bool stopped = done && done->finish == FINISH_STOP && done->stop >= 0 && r->call &&
		       (uint32_t)done->stop < r->call->params.n_stop;

	if (!r->peer)
		return;
	msgpack_packer pk = peer_packer(r->peer);
	message_pack_result(&pk, r->rpc_id);
	msgpack_pack_map(&pk, 6 + stopped + r->generation.logprobs + (r->last != NULL));
	pack_key(&pk, "text");
	pack_text(&pk, reply->text ? reply->text : "", reply->len);
	pack_key(&pk, "tokens");
	pack_ids(&pk, reply->tokens, reply->n_tokens);
	pack_string(&pk, "finish", finish_name(done));
	if (stopped)
		pack_stop(&pk, &r->call->params.stop[done->stop]);
	answer_pack_ending(&pk, r, done);
	if (r->last) { /* it was added to its session */
		pack_key(&pk, "saved");
		if (r->saved)
			msgpack_pack_true(&pk);
		else
			msgpack_pack_false(&pk);
	}
	if (r->generation.logprobs) {
		pack_key(&pk, "logprobs");
		msgpack_pack_array(&pk, reply->n_logprobs);
		if (reply->logprobs.size)
			conn_write(&r->peer->conn, reply->logprobs.data, reply->logprobs.size);
	}
}

void answer_text(struct request *r, const struct text_task *t)
{
	if (!r->peer)
		return;
	msgpack_packer pk = peer_packer(r->peer);
	message_pack_result(&pk, r->rpc_id);
	switch (r->method) {
	case METHOD_TOKENIZE: msgpack_pack_map(&pk, 1); break;
	case METHOD_DETOKENIZE:
		msgpack_pack_map(&pk, 1);
		pack_key(&pk, "text");
		pack_text(&pk, t->text, t->text_len);
		return;
	default:
		msgpack_pack_map(&pk, 2);
		pack_key(&pk, "prompt");
		pack_text(&pk, t->text, t->text_len);
	}
	pack_key(&pk, "tokens");
	pack_ids(&pk, t->tokens.ids, t->tokens.n);
}

void answer_state(struct request *r)
{
	if (!r->peer)
		return;
	msgpack_packer pk = peer_packer(r->peer);
	message_pack_result(&pk, r->rpc_id);
	msgpack_pack_map(&pk, 1);
	pack_string(&pk, "state", server_state(r->server));
}

void answer_dropped(struct request *r, uint32_t pages)
{
	if (!r->peer)
		return;
	msgpack_packer pk = peer_packer(r->peer);
	message_pack_result(&pk, r->rpc_id);
	msgpack_pack_map(&pk, 2);
	pack_uint(&pk, "pages", pages);
	pack_uint(&pk, "replies", r->n_dropped);
}
