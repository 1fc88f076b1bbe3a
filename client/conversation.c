/* Why: see conversation.h. Owns nothing. */
#include "client/conversation.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The process's start in clock ticks since the boot; false where /proc does not say. */
static bool start_time(pid_t pid, unsigned long long *ret)
{
	char path[64], stat[1024], *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, stat, sizeof(stat) - 1);
	close(fd);
	stat[n > 0 ? n : 0] = 0;
	at = strrchr(stat, ')'); /* the program's name may hold anything */
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, " %llu", ret) == 1;
}

void conversation_name(char name[SESSION_NAME_BYTES_MAX + 1])
{
	const int terminal = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
	const pid_t leader = terminal >= 0 ? getsid(0) : -1;
	unsigned long long start;

	if (terminal >= 0)
		close(terminal);
	if (leader > 0 && start_time(leader, &start))
		snprintf(name, SESSION_NAME_BYTES_MAX + 1, "tty:%d:%llu", (int)leader, start);
	else
		snprintf(name, SESSION_NAME_BYTES_MAX + 1, "last");
}

static bool is(const struct rpc_text *t, const char *text, size_t len)
{
	return t->len == len && memcmp(t->text, text, len) == 0;
}

/* Does the history take this system prompt? */
static enum exit_code compare(struct session *s, const struct rpc_text *name,
	const msgpack_object *messages, struct prompt *p)
{
	const msgpack_object *first;
	struct rpc_text role = {"", 0}, content;

	if (!messages || messages->type != MSGPACK_OBJECT_ARRAY) {
		session_complain(s, "E_PROTOCOL: the daemon's session has no messages");
		return EXIT_BROKEN;
	}
	if (messages->via.array.size == 0)
		return EXIT_DONE;
	first = &messages->via.array.ptr[0];
	if (object_text(map_get(first, "role"), &role) && is(&role, "system", 6) &&
		object_text(map_get(first, "content"), &content) &&
		is(&content, p->system, p->system_len)) {
		free(p->system);
		p->system = NULL;
		p->system_len = 0;
		return EXIT_DONE;
	}
	session_complain(s,
		"E_PARAMS: the session %.*s began with %s system prompt; leave it out, or drop the "
		"session (zephctl sessions drop %.*s)",
		(int)name->len, name->text, is(&role, "system", 6) ? "another" : "no",
		(int)name->len, name->text);
	return EXIT_REFUSED;
}

enum exit_code conversation_system(struct session *s, const struct rpc_text *name, struct prompt *p)
{
	const struct params params = {.set = UINT64_C(1) << PARAM_NAME, .name = *name};
	struct rpc_text error;
	enum exit_code code = EXIT_DONE;
	struct message m;
	int r;

	r = link_call(&s->link, &s->watch, METHOD_SESSION_GET, &params, &m);
	if (r < 0)
		return session_fail(s, r);
	if (m.error.type == MSGPACK_OBJECT_NIL)
		code = compare(s, name, map_get(&m.result, "messages"), p);
	else if (!object_text(&m.error, &error) ||
		 rpc_error_parse(error.text, error.len) != E_NOT_FOUND)
		code = session_refused(s, &m.error);
	message_done(&m);
	return code;
}
