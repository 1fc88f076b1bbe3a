/* Why: `zeph --map` asks about many lines at once, so that the daemon can batch them. Answers wait
 * in slots, owned here, until those before them are printed. */
#include "client/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Requests not yet printed: half of what one connection may have in flight. */
#define WINDOW (IN_FLIGHT_MAX / 2)

/* A request in the window: its text, and its response once that came. */
struct slot {
	uint32_t id;
	char *text;
	size_t len;
	bool done;
	msgpack_sbuffer packed;    /* [error, result]: the frame's bytes are gone by then */
	msgpack_unpacked response; /* its objects; texts lie in `packed` */
};

struct batch {
	struct session *session;
	const struct options *options;
	const struct prompt *prompt;
	size_t at; /* of the next line in the prompt's text */
	size_t sent, printed;
	struct slot slots[WINDOW];
};

static void slot_done(struct slot *slot)
{
	msgpack_unpacked_destroy(&slot->response);
	msgpack_sbuffer_destroy(&slot->packed);
	free(slot->text);
	*slot = (struct slot){0};
}

/* Keeps a response until its turn. 0 or -ENOMEM. */
static int slot_keep(struct slot *slot, const struct message *m)
{
	msgpack_packer pk;

	msgpack_packer_init(&pk, &slot->packed, msgpack_sbuffer_write);
	if (msgpack_pack_array(&pk, 2) < 0 || msgpack_pack_object(&pk, m->error) < 0 ||
		msgpack_pack_object(&pk, m->result) < 0 ||
		msgpack_unpack_next(&slot->response, slot->packed.data, slot->packed.size, NULL) !=
			MSGPACK_UNPACK_SUCCESS)
		return -ENOMEM;
	slot->done = true;
	return 0;
}

/* The template with the line at each {}. NULL: out of memory. */
static char *fill(const char *template, const char *line, size_t n, size_t *ret_len)
{
	size_t places = 0, len;
	char *text, *p;

	for (const char *t = template; (t = strstr(t, "{}")); t += 2)
		places++;
	if (__builtin_mul_overflow(places, n, &len) ||
		__builtin_add_overflow(len, strlen(template), &len))
		return NULL;
	text = p = malloc(len + 1);
	if (!text)
		return NULL;
	for (;;) {
		const char *brace = strstr(template, "{}");
		const size_t plain = brace ? (size_t)(brace - template) : strlen(template);

		memcpy(p, template, plain);
		p += plain;
		if (!brace)
			break;
		memcpy(p, line, n);
		p += n;
		template = brace + 2;
	}
	*ret_len = (size_t)(p - text);
	return text;
}

static bool lines_left(const struct batch *b)
{
	return b->at < b->prompt->len;
}

/* Sends the next line's request. EXIT_DONE or what went wrong. */
static enum exit_code send_next(struct batch *b)
{
	const char *line = b->prompt->text + b->at;
	const char *newline = memchr(line, '\n', b->prompt->len - b->at);
	const size_t n = newline ? (size_t)(newline - line) : b->prompt->len - b->at;
	struct slot *slot = &b->slots[b->sent % WINDOW];
	struct rpc_message messages[2];
	struct params params;

	slot->text = fill(b->options->map, line, n, &slot->len);
	if (!slot->text) {
		session_complain(b->session, "out of memory");
		return EXIT_LOST;
	}
	ask_params(b->session, b->options, b->prompt, slot->text, slot->len, messages, &params);
	params.batch_priority = true;
	params.set |= UINT64_C(1) << PARAM_PRIORITY;
	slot->id = link_send(&b->session->link, ask_method(b->options), &params);
	b->sent++;
	b->at += n + 1;
	return EXIT_DONE;
}

/* Prints the answers whose turn it is. */
static enum exit_code print_ready(struct batch *b)
{
	while (b->printed < b->sent && b->slots[b->printed % WINDOW].done) {
		struct slot *slot = &b->slots[b->printed % WINDOW];
		const msgpack_object *pair = slot->response.data.via.array.ptr;
		struct rpc_message messages[2];
		struct params params;
		enum exit_code code;

		if (pair[0].type != MSGPACK_OBJECT_NIL) {
			code = session_refused(b->session, &pair[0]);
		} else {
			ask_params(b->session, b->options, b->prompt, slot->text, slot->len,
				messages, &params);
			b->session->out.line_open = true; /* each answer has its line */
			code = ask_print(b->session, b->options, &params, &pair[1], 0);
		}
		if (code != EXIT_DONE)
			return code;
		slot_done(slot);
		b->printed++;
	}
	return EXIT_DONE;
}

/* Until all lines are answered: EXIT_DONE, or a failure; *ret_lost is set where another attempt
 * could help. */
static enum exit_code run(struct batch *b, bool *ret_lost)
{
	struct session *s = b->session;

	for (;;) {
		enum exit_code code = print_ready(b);
		struct message m;
		int r;

		while (code == EXIT_DONE && lines_left(b) && b->sent - b->printed < WINDOW)
			code = send_next(b);
		if (code != EXIT_DONE || b->printed == b->sent)
			return code;
		r = link_receive(&s->link, &s->watch, &m);
		if (r < 0) {
			*ret_lost = r == -EPIPE && b->printed == 0;
			return *ret_lost ? EXIT_LOST : session_fail(s, r);
		}
		for (size_t i = b->printed; i < b->sent && m.type == MESSAGE_RESPONSE; i++) {
			struct slot *slot = &b->slots[i % WINDOW];

			if (slot->id == m.id && !slot->done && slot_keep(slot, &m) < 0) {
				message_done(&m);
				session_complain(s, "out of memory");
				return EXIT_LOST;
			}
		}
		message_done(&m);
	}
}

/* Bytes of the longest request's text, at most. */
static size_t longest(const struct options *o, const struct prompt *p)
{
	size_t most = 0, run = 0, places = 0;

	for (size_t i = 0; i < p->len; i++) {
		run = p->text[i] == '\n' ? 0 : run + 1;
		most = run > most ? run : most;
	}
	for (const char *t = o->map; (t = strstr(t, "{}")); t += 2)
		places++;
	return __builtin_mul_overflow(most, places, &most) || most > SIZE_MAX / 2
		       ? SIZE_MAX / 2
		       : most + strlen(o->map);
}

enum exit_code ask_map(struct session *s, const struct options *o, const struct prompt *p)
{
	struct batch b = {.session = s, .options = o, .prompt = p};
	enum exit_code code;

	session_start_clock(s);
	for (int again = 0;; again++) {
		bool lost = false;

		code = session_open(s);
		if (code == EXIT_DONE)
			code = ask_size(s, longest(o, p) + p->system_len);
		if (code == EXIT_DONE)
			code = run(&b, &lost);
		for (size_t i = 0; i < WINDOW; i++)
			slot_done(&b.slots[i]);
		if (!lost)
			break;
		if (again > 0)
			return session_fail(s, -EPIPE);
		link_close(&s->link);
		b = (struct batch){.session = s, .options = o, .prompt = p};
	}
	if (code != EXIT_DONE && s->watch.signal == 0)
		session_cancel(s);
	return code;
}
