/* Why: both programs talk to the daemon in the same way, with signals, deadlines and a slow stdout
 * watched at once. A link owns its connection and the ssh that may carry it. */
#include "client/link.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/dial.h"
#include "proto/address.h"

/* A reply may be larger than this protocol's default, which the daemon's configuration sets. */
#define REPLY_FRAME_BYTES (4 * (size_t)REPLY_BYTES_MAX)
#define REPLY_FRAME_ITEMS (16u << 20)
#define BACKLOG_BYTES     (64u << 10) /* more text than this waiting for stdout stops the reading */

uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

enum exit_code exit_code_of(enum rpc_error e)
{
	switch (e) {
	case E_METHOD:
	case E_PARAMS:
	case E_TOO_LARGE:
	case E_PERMISSION:
	case E_NOT_FOUND: return EXIT_REFUSED;
	case E_BUSY:
	case E_CANCELLED:
	case E_TIMEOUT: return EXIT_AGAIN;
	default: return EXIT_BROKEN; /* E_MODEL, E_ENGINE, E_PROTOCOL, and what is not known */
	}
}

/* Who may connect, for EACCES: the socket's group by name, or by number where it has none. */
static void explain_access(const char *path, char *error, size_t size)
{
	const struct group *group;
	struct stat st;

	if (stat(path, &st) < 0) {
		snprintf(error, size,
			"E_PERMISSION: %s: permission denied (a folder above it is closed to you)",
			path);
		return;
	}
	group = getgrgid(st.st_gid);
	if (group)
		snprintf(error, size,
			"E_PERMISSION: %s: permission denied: ask to be put into the group %s",
			path, group->gr_name);
	else
		snprintf(error, size,
			"E_PERMISSION: %s: permission denied: ask to be put into the group %u",
			path, (unsigned)st.st_gid);
}

int link_open(struct link *l, const char *socket, uint64_t timeout_usec)
{
	const struct frame_limits limits = {REPLY_FRAME_BYTES, REPLY_FRAME_ITEMS, FRAME_DEPTH_MAX};
	const char *host = getenv("ZEPH_HOST");
	char path[256], sentence[400];
	int fd;

	*l = (struct link){.conn.fd = -1};
	if (host && host[0]) {
		fd = dial_host(host, socket, &l->child, l->error, sizeof(l->error));
	} else {
		fd = socket_connect(socket, timeout_usec, path, sizeof(path));
		if (fd == -EACCES)
			explain_access(path, l->error, sizeof(l->error));
		else if (fd < 0)
			snprintf(l->error, sizeof(l->error), "no daemon: %s",
				socket_error(fd, path, sentence, sizeof(sentence)));
	}
	conn_init(&l->conn, fd < 0 ? -1 : fd, &limits);
	return fd < 0 ? fd : 0;
}

void link_close(struct link *l)
{
	conn_done(&l->conn);
	if (l->child > 0) {
		/* its stdin has ended, so it goes; never wait for a hung network */
		kill(l->child, SIGTERM);
		waitpid(l->child, NULL, 0);
		l->child = 0;
	}
}

uint32_t link_send(struct link *l, enum method m, const struct params *params)
{
	const uint32_t id = l->next_id++;
	msgpack_packer pk;

	msgpack_packer_init(&pk, &l->conn, conn_write);
	message_pack_request(&pk, id, m, params);
	return id;
}

void link_flush(struct link *l)
{
	conn_flush(&l->conn);
}

/* The text of [2, "error", [{text}]], which the daemon sends before it closes. */
static void keep_complaint(struct link *l, const struct message *m)
{
	const msgpack_object *first = NULL;
	struct rpc_text t;

	if (m->params.type == MSGPACK_OBJECT_ARRAY && m->params.via.array.size > 0)
		first = &m->params.via.array.ptr[0];
	if (object_text(map_get(first, "text"), &t) || object_text(first, &t))
		snprintf(l->error, sizeof(l->error), "%.*s", (int)(t.len < 400 ? t.len : 400),
			t.text);
}

/* The next message that is there: 1, 0, -EPROTO or -ENOMEM. */
static int message_next(struct link *l, struct message *ret)
{
	char sentence[160];
	const char *data;
	size_t len;
	int r;

	for (;;) {
		r = conn_next(&l->conn, &data, &len);
		if (r == 0)
			return 0;
		if (r < 0)
			frame_error(r, &l->conn.scanner.limits, sentence, sizeof(sentence));
		else
			r = message_decode(data, len, ret, sentence, sizeof(sentence));
		if (r < 0) {
			snprintf(l->error, sizeof(l->error),
				"E_PROTOCOL: what came from the daemon is wrong: %s",
				r == -ENOMEM ? "out of memory" : sentence);
			return -EPROTO;
		}
		if (ret->type == MESSAGE_NOTIFICATION && ret->method.len == 5 &&
			memcmp(ret->method.text, "error", 5) == 0)
			keep_complaint(l, ret);
		else if (ret->type != MESSAGE_REQUEST)
			return 1;
		message_done(ret);
	}
}

static int signal_take(struct watch *w)
{
	struct signalfd_siginfo info;

	if (read(w->signal_fd, &info, sizeof(info)) != sizeof(info))
		return 0;
	w->signal = (int)info.ssi_signo;
	return -EINTR;
}

/* Milliseconds for poll(): -1 without a deadline, never past it. */
static int poll_timeout(const struct watch *w)
{
	uint64_t now, left_ms;

	if (w->deadline_usec == UINT64_MAX)
		return -1;
	now = now_usec();
	if (now >= w->deadline_usec)
		return 0;
	left_ms = (w->deadline_usec - now + 999) / 1000;
	return left_ms > 60000 ? 60000 : (int)left_ms;
}

/* Sleeps until one of them moves. fd -1: the connection is not watched. */
static int watch_wait(struct watch *w, int fd, short events, short *ret_events)
{
	struct pollfd p[3] = {{.fd = fd, .events = events},
		{.fd = w->out->fd, .events = output_pending(w->out) > 0 ? POLLOUT : 0},
		{.fd = w->signal_fd, .events = POLLIN}};

	if (poll(p, 3, poll_timeout(w)) < 0 && errno != EINTR)
		return -errno;
	*ret_events = p[0].revents;
	if (p[2].revents)
		return signal_take(w);
	if (p[1].revents & (POLLERR | POLLHUP))
		return -ENOSTR;
	if (p[1].revents & POLLOUT)
		return output_write(w->out);
	if (w->deadline_usec != UINT64_MAX && now_usec() >= w->deadline_usec)
		return -ETIMEDOUT;
	return 0;
}

int link_receive(struct link *l, struct watch *w, struct message *ret)
{
	struct conn *c = &l->conn;

	for (;;) {
		short events = POLLIN, got = 0;
		int r = message_next(l, ret);

		if (r != 0)
			return r;
		if (c->eof || c->fd < 0) {
			if (l->error[0])
				return -EPROTO;
			snprintf(l->error, sizeof(l->error), "the connection was lost");
			return -EPIPE;
		}
		/* A daemon that has closed its end may have answered before: go on reading. */
		if (conn_unsent(c) > 0 && c->error == 0 && conn_flush(c) > 0)
			events |= POLLOUT;
		if (c->error == -ENOMEM) {
			snprintf(l->error, sizeof(l->error), "out of memory");
			return -EPIPE;
		}
		r = watch_wait(
			w, output_pending(w->out) > BACKLOG_BYTES ? -1 : c->fd, events, &got);
		if (r < 0)
			return r;
		if (got & (POLLIN | POLLHUP | POLLERR)) {
			r = conn_read(c);
			if (r < 0)
				c->eof = true; /* lost; whole frames were all taken before */
		}
	}
}

int link_call(struct link *l, struct watch *w, enum method m, const struct params *params,
	struct message *ret)
{
	const uint32_t id = link_send(l, m, params);
	int r;

	while ((r = link_receive(l, w, ret)) == 1) {
		if (ret->type == MESSAGE_RESPONSE && ret->id == id)
			return 1;
		message_done(ret);
	}
	return r;
}

int link_drain(struct watch *w)
{
	while (output_pending(w->out) > 0) {
		short ignored;
		const uint64_t deadline = w->deadline_usec;
		int r;

		w->deadline_usec = UINT64_MAX; /* the daemon has done its part in time */
		r = watch_wait(w, -1, 0, &ignored);
		w->deadline_usec = deadline;
		if (r < 0)
			return r;
	}
	return 0;
}
