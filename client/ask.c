/* Why: the one road from a prompt to an answer on stdout. Owns nothing beyond the call; the session
 * owns connection and output. */
#include "client/ask.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/choose.h"
#include "client/conversation.h"
#include "client/extract.h"
#include "client/json.h"

#define ENVELOPE_BYTES 4096 /* what a request holds beside its texts, at most */

enum method ask_method(const struct options *o)
{
	return o->n_choices > 0 ? METHOD_SCORE : o->raw ? METHOD_COMPLETE : METHOD_CHAT;
}

static void set(struct params *p, enum param which)
{
	p->set |= UINT64_C(1) << which;
}

void ask_params(const struct session *s, const struct options *o, const struct prompt *p,
	const char *text, size_t len, struct rpc_message messages[2], struct params *ret)
{
	struct params params = o->params;

	params.tag = s->tag;
	set(&params, PARAM_TAG);
	if (o->raw) {
		params.prompt = (struct rpc_text){text, len};
		set(&params, PARAM_PROMPT);
	} else {
		uint32_t n = 0;

		if (p->system)
			messages[n++] = (struct rpc_message){
				{"system", 6}, {p->system, p->system_len}};
		messages[n++] = (struct rpc_message){{"user", 4}, {text, len}};
		params.messages = messages;
		params.n_messages = n;
		set(&params, PARAM_MESSAGES);
	}
	if (o->n_choices > 0) {
		params.choices = o->choices;
		params.n_choices = o->n_choices;
		set(&params, PARAM_CHOICES);
	}
	/* a score streams its progress alone */
	params.stream = !o->no_stream && !o->json && !o->extract && !o->map;
	set(&params, PARAM_STREAM);
	if (s->bounded) {
		params.deadline_ms = (int64_t)((s->timeout_usec + 999) / 1000);
		set(&params, PARAM_DEADLINE_MS);
	}
	*ret = params;
}

enum exit_code ask_size(struct session *s, size_t bytes)
{
	int64_t limit = FRAME_BYTES_MAX;
	enum exit_code code = EXIT_DONE;
	struct message m;
	int r;

	if (bytes + ENVELOPE_BYTES <= FRAME_BYTES_MAX)
		return EXIT_DONE;
	r = link_call(&s->link, &s->watch, METHOD_HELLO, NULL, &m);
	if (r < 0)
		return session_fail(s, r);
	object_int(map_get(map_get(&m.result, "limits"), "frame_bytes"), &limit);
	message_done(&m);
	if (limit < 0 || bytes + ENVELOPE_BYTES > (uint64_t)limit) {
		session_complain(s,
			"E_TOO_LARGE: the prompt has %zu bytes, the daemon takes requests of at "
			"most %" PRId64,
			bytes, limit);
		code = EXIT_REFUSED;
	}
	return code;
}

/* [2, "progress", [{phase, position?, done?, total?}]] as a line on the terminal. */
static void show_progress(struct session *s, const msgpack_object *note)
{
	struct rpc_text phase;
	int64_t position, done, total;
	char line[80];

	if (!object_text(map_get(note, "phase"), &phase))
		return;
	if (phase.len == 7 && memcmp(phase.text, "loading", 7) == 0) {
		if (object_int(map_get(note, "done"), &done) &&
			object_int(map_get(note, "total"), &total) && total > 0 && done >= 0)
			snprintf(line, sizeof(line), "loading the model: %.0f%%",
				100.0 * (double)done / (double)total);
		else
			snprintf(line, sizeof(line), "loading the model");
	} else if (phase.len == 6 && memcmp(phase.text, "queued", 6) == 0) {
		if (object_int(map_get(note, "position"), &position))
			snprintf(line, sizeof(line), "waiting: place %" PRId64, position);
		else
			snprintf(line, sizeof(line), "waiting");
	} else if (phase.len == 7 && memcmp(phase.text, "prefill", 7) == 0 &&
		   object_int(map_get(note, "done"), &done) &&
		   object_int(map_get(note, "total"), &total) && total > 0 && done >= 0) {
		snprintf(line, sizeof(line), "reading the prompt: %.0f%%",
			100.0 * (double)done / (double)total);
	} else {
		return;
	}
	progress_show(&s->progress, line);
}

static bool method_is(const struct message *m, const char *name)
{
	return m->method.len == strlen(name) && memcmp(m->method.text, name, m->method.len) == 0;
}

/* A notification of the request `id`. *printed counts the answer's bytes, *begun is set by the
 * first token. 0 or -ENOMEM. */
static int take_note(
	struct session *s, const struct message *m, uint32_t id, bool *begun, size_t *printed)
{
	const msgpack_object *note = NULL;
	struct rpc_text text;
	int64_t whose;

	if (m->params.type == MSGPACK_OBJECT_ARRAY && m->params.via.array.size == 1)
		note = &m->params.via.array.ptr[0];
	if (!object_int(map_get(note, "id"), &whose) || whose != id)
		return 0;
	if (method_is(m, "progress") && !*begun)
		show_progress(s, note);
	if (!method_is(m, "token"))
		return 0;
	progress_erase(&s->progress);
	*begun = true;
	if (!object_text(map_get(note, "text"), &text))
		return 0;
	*printed += text.len;
	return output_text(&s->out, text.text, text.len);
}

static int64_t number_in(const msgpack_object *map, const char *key)
{
	int64_t v = 0;

	object_int(map_get(map, key), &v);
	return v;
}

static double float_in(const msgpack_object *map, const char *key)
{
	double v = 0;

	object_float(map_get(map, key), &v);
	return v;
}

void ask_stats(const struct session *s, const msgpack_object *result)
{
	const msgpack_object *usage = map_get(result, "usage"), *timing = map_get(result, "timing");
	struct rpc_text finish = {"?", 1};

	object_text(map_get(result, "finish"), &finish);
	session_complain(s,
		"%" PRId64 " prompt tokens (%" PRId64 " cached), %" PRId64 " new (%.*s); "
		"queue %.1f ms, prefill %.1f ms, first token %.1f ms, all %.1f ms, %.1f tokens/s",
		number_in(usage, "prompt_tokens"), number_in(usage, "cached_tokens"),
		number_in(usage, "completion_tokens"), (int)(finish.len < 32 ? finish.len : 32),
		finish.text, float_in(timing, "queue_ms"), float_in(timing, "prefill_ms"),
		float_in(timing, "first_token_ms"), float_in(timing, "total_ms"),
		float_in(timing, "tokens_per_s"));
}

int ask_json(msgpack_sbuffer *out, enum method method, const struct params *params,
	const msgpack_object *result, const char *more)
{
	msgpack_sbuffer packed;
	msgpack_unpacked sent;
	msgpack_packer pk;
	int r;

	msgpack_sbuffer_init(&packed);
	msgpack_unpacked_init(&sent);
	msgpack_packer_init(&pk, &packed, msgpack_sbuffer_write);
	params_encode(params, &pk);
	r = msgpack_unpack_next(&sent, packed.data, packed.size, NULL) == MSGPACK_UNPACK_SUCCESS
		    ? msgpack_sbuffer_write(out, "{\"request\":{\"method\":", 21)
		    : -ENOMEM;
	if (r == 0)
		r = json_write_text(out, method_name(method), strlen(method_name(method)));
	if (r == 0)
		r = msgpack_sbuffer_write(out, ",\"params\":", 10);
	if (r == 0)
		r = json_write(out, &sent.data.via.array.ptr[0]);
	if (r == 0)
		r = msgpack_sbuffer_write(out, "}", 1);
	for (uint32_t i = 0; i < result->via.map.size && r == 0; i++) {
		const msgpack_object_kv *kv = &result->via.map.ptr[i];
		struct rpc_text key;

		if (!object_text(&kv->key, &key))
			continue;
		r = msgpack_sbuffer_write(out, ",", 1);
		if (r == 0)
			r = json_write_text(out, key.text, key.len);
		if (r == 0)
			r = msgpack_sbuffer_write(out, ":", 1);
		if (r == 0)
			r = json_write(out, &kv->val);
	}
	if (r == 0)
		r = msgpack_sbuffer_write(out, more, strlen(more));
	if (r == 0)
		r = msgpack_sbuffer_write(out, "}\n", 2);
	msgpack_unpacked_destroy(&sent);
	msgpack_sbuffer_destroy(&packed);
	return r == 0 ? 0 : -ENOMEM;
}

enum exit_code ask_print(struct session *s, const struct options *o, const struct params *params,
	const msgpack_object *result, size_t skip)
{
	enum exit_code code = EXIT_DONE;
	struct rpc_text text, finish = {"", 0};
	const msgpack_object *saved;
	size_t at, len;
	int r = 0;

	if (o->n_choices > 0)
		return choose_print(s, o, params, result);
	if (result->type != MSGPACK_OBJECT_MAP || !object_text(map_get(result, "text"), &text)) {
		session_complain(s, "E_PROTOCOL: the daemon's result has no text");
		return EXIT_BROKEN;
	}
	object_text(map_get(result, "finish"), &finish);
	if (o->json) {
		msgpack_sbuffer out;

		msgpack_sbuffer_init(&out);
		r = ask_json(&out, ask_method(o), params, result, "");
		if (r == 0)
			r = output_text(&s->out, out.data, out.size);
		msgpack_sbuffer_destroy(&out);
	} else if (!o->extract) {
		if (skip < text.len)
			r = output_text(&s->out, text.text + skip, text.len - skip);
		if (r == 0)
			r = output_end(&s->out);
	} else if (extract_block(text.text, text.len,
			   finish.len == 4 && memcmp(finish.text, "stop", 4) == 0, &at, &len)) {
		r = output_text(&s->out, text.text + at, len);
		if (r == 0 && len > 0)
			r = output_end(&s->out);
	} else {
		session_complain(s, "the answer has no whole code block");
		code = EXIT_CUT;
	}
	if (r < 0) {
		session_complain(s, "out of memory");
		return EXIT_LOST;
	}
	saved = map_get(result, "saved");
	if (saved && saved->type == MSGPACK_OBJECT_BOOLEAN && !saved->via.boolean)
		session_complain(s, "the session is not on disk: it lasts as long as the daemon");
	if (o->stats)
		ask_stats(s, result);
	if (finish.len == 9 && memcmp(finish.text, "cancelled", 9) == 0) {
		session_complain(s, "E_CANCELLED: the request was cancelled from elsewhere");
		return EXIT_AGAIN;
	}
	return code;
}

/* One attempt: 1 with *ret, or a negative errno of link_receive() (-ENOMEM as well). */
static int attempt(struct session *s, const struct options *o, const struct params *params,
	bool *begun, enum exit_code *ret)
{
	const uint32_t id = link_send(&s->link, ask_method(o), params);
	size_t printed = 0;
	struct message m;
	int r;

	while ((r = link_receive(&s->link, &s->watch, &m)) == 1) {
		const bool mine = m.type == MESSAGE_RESPONSE && m.id == id;

		if (m.type == MESSAGE_NOTIFICATION)
			r = take_note(s, &m, id, begun, &printed);
		if (mine) {
			progress_erase(&s->progress);
			if (m.error.type != MSGPACK_OBJECT_NIL) {
				if (printed > 0)
					output_end(&s->out);
				*ret = session_refused(s, &m.error);
			} else {
				*ret = ask_print(s, o, params, &m.result, printed);
			}
		}
		message_done(&m);
		if (mine)
			return 1;
		if (r < 0)
			return r;
	}
	if (printed > 0)
		output_end(&s->out);
	return r;
}

enum exit_code ask(struct session *s, const struct options *o, struct prompt *p)
{
	struct rpc_message messages[2];
	struct params params;
	bool begun = false;

	session_start_clock(s);
	for (int again = 0;; again++) {
		enum exit_code code = session_open(s);
		int r;

		if (code == EXIT_DONE)
			code = ask_size(s, p->len + p->system_len);
		if (code == EXIT_DONE && p->system && params_has(&o->params, PARAM_SESSION))
			code = conversation_system(s, &o->params.session, p);
		if (code != EXIT_DONE)
			return code;
		ask_params(s, o, p, p->text, p->len, messages, &params);
		r = attempt(s, o, &params, &begun, &code);
		if (r == 1)
			return code;
		/* a session may have it already, where no token would have told */
		if (r != -EPIPE || begun || again > 0 ||
			(!params.stream && params_has(&params, PARAM_SESSION)))
			return session_fail(s, r);
		progress_erase(&s->progress);
		link_close(&s->link);
	}
}
