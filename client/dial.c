/* Why: a box with a card serves a laptop through the ssh that is there already, and zeph itself
 * needs no network code. Owns the ssh process until it hands it to the link. */
#include "client/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOST_BYTES_MAX 256
#define CARRY_BYTES    4096 /* a pipe that poll() calls writable takes PIPE_BUF without blocking */

/* "ssh://user@box:22" → "user@box" and "22" (or ""). */
static int url_split(const char *url, char host[HOST_BYTES_MAX], char port[8])
{
	const char *at, *colon;
	size_t n;

	if (strncmp(url, "ssh://", 6) != 0)
		return -EINVAL;
	url += 6;
	n = strcspn(url, "/");
	if (url[n] && url[n + 1])
		return -EINVAL;
	at = memchr(url, '@', n);
	colon = memchr(at ? at : url, ':', n - (size_t)(at ? at - url : 0));
	port[0] = 0;
	if (colon) {
		const size_t digits = n - (size_t)(colon + 1 - url);

		if (digits < 1 || digits > 5 || strspn(colon + 1, "0123456789") < digits)
			return -EINVAL;
		memcpy(port, colon + 1, digits);
		port[digits] = 0;
		n = (size_t)(colon - url);
	}
	if (n == 0 || n >= HOST_BYTES_MAX || url[0] == '-')
		return -EINVAL;
	memcpy(host, url, n);
	host[n] = 0;
	return 0;
}

/* The far shell's words: zeph --dial-stdio [-S 'PATH']. NULL: out of memory. */
static char *far_command(const char *socket)
{
	static const char base[] = "exec zeph --dial-stdio";
	char *command = malloc(sizeof(base) + (socket ? 4 * strlen(socket) + 8 : 0)), *p = command;

	if (!command)
		return NULL;
	p = stpcpy(p, base);
	if (socket) {
		p = stpcpy(p, " -S '");
		for (; *socket; socket++) {
			if (*socket == '\'')
				p = stpcpy(p, "'\\''");
			else
				*p++ = *socket;
		}
		stpcpy(p, "'");
	}
	return command;
}

static void run_ssh(int fd, const char *host, const char *port, const char *command)
{
	const char *argv[] = {"ssh", "-T", "-p", port, "--", host, command, NULL};
	const char *plain[] = {"ssh", "-T", "--", host, command, NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(fd, STDIN_FILENO) >= 0 && dup2(fd, STDOUT_FILENO) >= 0)
		execvp("ssh", (char *const *)(port[0] ? argv : plain));
	_exit(127);
}

int dial_host(const char *url, const char *socket, pid_t *ret_child, char *error, size_t size)
{
	char host[HOST_BYTES_MAX], port[8], *command;
	pid_t child;
	int fds[2], r;

	if (url_split(url, host, port) < 0) {
		snprintf(error, size, "ZEPH_HOST is %.200s, wanted ssh://[user@]host[:port]", url);
		return -EINVAL;
	}
	command = far_command(socket);
	r = command ? 0 : -ENOMEM;
	if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		r = -errno;
	if (r < 0) {
		snprintf(error, size, "no connection to %s: %s", host, strerror(-r));
		free(command);
		return r;
	}
	child = fork();
	if (child == 0)
		run_ssh(fds[1], host, port, command);
	r = child < 0 ? -errno : 0;
	free(command);
	close(fds[1]);
	if (r == 0 && fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	if (r < 0) {
		snprintf(error, size, "no connection to %s: %s", host, strerror(-r));
		close(fds[0]);
		return r;
	}
	*ret_child = child;
	return fds[0];
}

/* One direction: what was read and is not yet written. */
struct carry {
	int from, to;
	char bytes[CARRY_BYTES];
	size_t start, end;
	bool ended; /* `from` gives no more */
};

/* 1: go on, 0: all of it is carried, negative: `to` is lost. */
static int carry_move(struct carry *c, short in, short out)
{
	ssize_t n;

	if (c->start == c->end && in && !c->ended) {
		n = read(c->from, c->bytes, sizeof(c->bytes));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			c->ended = true;
		c->start = 0;
		c->end = n > 0 ? (size_t)n : 0;
	} else if (c->start < c->end && out) {
		n = write(c->to, c->bytes + c->start, c->end - c->start);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		c->start += n > 0 ? (size_t)n : 0;
	}
	return !(c->ended && c->start == c->end);
}

int dial_stdio(int fd)
{
	struct carry up = {.from = STDIN_FILENO, .to = fd},
		     down = {.from = fd, .to = STDOUT_FILENO};
	bool half_closed = false;

	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		struct pollfd p[4] = {{.fd = -1}, {.fd = -1}, {.fd = -1}, {.fd = STDOUT_FILENO}};
		int r;

		if (up.start < up.end)
			p[1] = (struct pollfd){.fd = fd, .events = POLLOUT};
		else if (!up.ended)
			p[0] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
		if (down.start < down.end)
			p[3].events = POLLOUT;
		else
			p[2] = (struct pollfd){.fd = fd, .events = POLLIN};
		if (poll(p, 4, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (p[3].revents & POLLERR)
			return -EPIPE; /* nobody reads: the daemon cancels when this ends */
		r = carry_move(&up, p[0].revents, p[1].revents);
		if (r < 0)
			up.start = up.end = 0, up.ended = true, r = 0;
		if (r == 0 && !half_closed) {
			shutdown(fd, SHUT_WR);
			half_closed = true;
		}
		r = carry_move(&down, p[2].revents, p[3].revents);
		if (r <= 0)
			return r;
	}
}
