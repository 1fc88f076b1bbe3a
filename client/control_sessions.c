/* Why: a person looks at what the daemon keeps of conversations, and tidies. */
#include "client/control_sessions.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/json.h"
#include "client/numbers.h"

static int __attribute__((format(printf, 2, 3))) put(msgpack_sbuffer *out, const char *format, ...)
{
	char line[256];
	va_list arguments;
	int n;

	va_start(arguments, format);
	n = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (n >= (int)sizeof(line))
		n = sizeof(line) - 1;
	return msgpack_sbuffer_write(out, line, n > 0 ? (size_t)n : 0) < 0 ? -ENOMEM : 0;
}

static int64_t number(const msgpack_object *row, const char *key)
{
	int64_t v = 0;

	object_int(map_get(row, key), &v);
	return v;
}

/* "3 min": how long ago that was. */
static void age(int64_t then, char *text, size_t size)
{
	const int64_t seconds = (int64_t)time(NULL) - then;

	if (seconds < 60)
		snprintf(text, size, "%" PRId64 " s", seconds > 0 ? seconds : 0);
	else if (seconds < 3600)
		snprintf(text, size, "%" PRId64 " min", seconds / 60);
	else if (seconds < 2 * 86400)
		snprintf(text, size, "%" PRId64 " h", seconds / 3600);
	else
		snprintf(text, size, "%" PRId64 " days", seconds / 86400);
}

static int put_row(msgpack_sbuffer *out, const msgpack_object *row)
{
	struct rpc_text name = {"?", 1};
	char ago[32];

	object_text(map_get(row, "name"), &name);
	age(number(row, "used_at"), ago, sizeof(ago));
	return put(out, "%-24.*s %5" PRId64 " messages %7" PRId64 " tokens  %s ago\n",
		(int)name.len, name.text, number(row, "messages"), number(row, "tokens"), ago);
}

static int put_rows(msgpack_sbuffer *out, const msgpack_object *rows)
{
	int r = 0;

	if (rows->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	for (uint32_t i = 0; r == 0 && i < rows->via.array.size; i++)
		r = put_row(out, &rows->via.array.ptr[i]);
	return r;
}

/* Each message under its role, blank lines between. */
static int put_messages(msgpack_sbuffer *out, const msgpack_object *result)
{
	const msgpack_object *list = map_get(result, "messages");
	int r = 0;

	if (!list || list->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	for (uint32_t i = 0; r == 0 && i < list->via.array.size; i++) {
		const msgpack_object *m = &list->via.array.ptr[i];
		struct rpc_text role = {"?", 1}, content = {"", 0};

		object_text(map_get(m, "role"), &role);
		object_text(map_get(m, "content"), &content);
		r = put(out, "%s%.*s:\n", i ? "\n" : "", (int)(role.len < 64 ? role.len : 64),
			role.text);
		if (r == 0 && msgpack_sbuffer_write(out, content.text, content.len) < 0)
			r = -ENOMEM;
		if (r == 0 && (content.len == 0 || content.text[content.len - 1] != '\n'))
			r = put(out, "\n");
	}
	return r;
}

/* Calls and prints: as JSON, or by `write`. */
static enum exit_code show(struct control *c, enum method m, const struct params *params,
	int (*write)(msgpack_sbuffer *out, const msgpack_object *result))
{
	const msgpack_object *saved;
	enum exit_code code = EXIT_DONE;
	struct message answer;
	msgpack_sbuffer out;
	int r;

	if (!control_call(c, m, params, &answer, &code))
		return code;
	msgpack_sbuffer_init(&out);
	r = c->json ? json_write(&out, &answer.result) : write(&out, &answer.result);
	if (r < 0 || out.size > 0) /* no sessions, no line */
		code = control_print(c, &out, r);
	saved = map_get(&answer.result, "saved");
	if (code == EXIT_DONE && saved && saved->type == MSGPACK_OBJECT_BOOLEAN &&
		!saved->via.boolean)
		session_complain(
			&c->session, "the session is not on disk: it lasts as long as the daemon");
	msgpack_sbuffer_destroy(&out);
	message_done(&answer);
	return code;
}

static int put_dropped(msgpack_sbuffer *out, const msgpack_object *row)
{
	struct rpc_text name = {"?", 1};

	object_text(map_get(row, "name"), &name);
	return put(out, "dropped %.*s\n", (int)(name.len < 64 ? name.len : 64), name.text);
}

enum exit_code run_sessions(struct control *c)
{
	const struct word *words = c->words.words;
	const size_t n = c->words.n_words;
	const char *what = n > 0 ? words[0].text : "list";
	enum exit_code code = EXIT_DONE;
	struct params p = {.turns = 1};

	if (strcmp(what, "list") == 0 && n <= 1)
		return show(c, METHOD_SESSION_LIST, NULL, put_rows);
	for (size_t i = 1; i < n; i++)
		if (!session_name_valid(words[i].text, strlen(words[i].text)))
			return control_usage(
				       c, "wanted 1 to 64 of A-Z a-z 0-9 . _ : -", words[i].text),
			       EXIT_USAGE;
	if (n > 1)
		p.name = p.from = (struct rpc_text){words[1].text, strlen(words[1].text)};
	if ((strcmp(what, "show") == 0 || strcmp(what, "get") == 0) && n == 2) {
		p.set = UINT64_C(1) << PARAM_NAME;
		return show(c, METHOD_SESSION_GET, &p, put_messages);
	}
	if (strcmp(what, "fork") == 0 && n == 3) {
		p.set = UINT64_C(1) << PARAM_FROM | UINT64_C(1) << PARAM_TO;
		p.to = (struct rpc_text){words[2].text, strlen(words[2].text)};
		return show(c, METHOD_SESSION_FORK, &p, put_row);
	}
	if (strcmp(what, "rewind") == 0 && (n == 2 || n == 3)) {
		if (n == 3 && !number_int(words[2].text, &p.turns)) {
			control_usage(c, "wanted a number of turns", words[2].text);
			return EXIT_USAGE;
		}
		p.set = UINT64_C(1) << PARAM_NAME | UINT64_C(1) << PARAM_TURNS;
		return show(c, METHOD_SESSION_REWIND, &p, put_row);
	}
	if (strcmp(what, "drop") == 0 && n > 1) {
		p.set = UINT64_C(1) << PARAM_NAME;
		for (size_t i = 1; code == EXIT_DONE && i < n; i++) {
			p.name = (struct rpc_text){words[i].text, strlen(words[i].text)};
			code = show(c, METHOD_SESSION_DROP, &p, put_dropped);
		}
		return code;
	}
	control_usage(c, "wanted list, show NAME, fork NAME NEW, rewind NAME [N] or drop NAME...",
		"sessions");
	return EXIT_USAGE;
}
