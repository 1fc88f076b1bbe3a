/* Why: daemon and client share one way from a socket's bytes to frames and back. A conn owns its fd
 * and both buffers; frames handed out lie in the input buffer. */
#include "proto/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES_MAX  (64u << 10) /* of one conn_read(), for fairness */
#define READ_BYTES_MIN  (4u << 10)  /* less room than this is made larger */
#define KEEP_BYTES_MAX  (64u << 10) /* an empty buffer larger than this is given back */
#define WRITE_BYTES_MAX (1u << 20)  /* of one conn_flush(), for fairness */

void conn_init(struct conn *c, int fd, const struct frame_limits *limits)
{
	*c = (struct conn){.fd = fd};
	frame_scanner_init(&c->scanner, limits);
}

void conn_done(struct conn *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	free(c->in);
	free(c->out);
	*c = (struct conn){.fd = -1, .eof = true, .error = -EPIPE};
}

/* Makes room for `want` further bytes behind *end: moves what is there to the front when that frees
 * at least half (so that moving costs nothing on average), else doubles. */
static int buffer_reserve(char **buffer, size_t *size, size_t *start, size_t *end, size_t want)
{
	const size_t used = *end - *start;
	size_t need, grown = *size > 0 ? *size : READ_BYTES_MAX;
	char *p;

	if (*size - *end >= want)
		return 0;
	if (__builtin_add_overflow(used, want, &need))
		return -ENOMEM;
	if (need <= *size && *start >= *size / 2) {
		memmove(*buffer, *buffer + *start, used);
	} else {
		while (grown < need || grown - used < used)
			if (__builtin_mul_overflow(grown, 2, &grown))
				return -ENOMEM;
		p = malloc(grown);
		if (!p)
			return -ENOMEM;
		if (used > 0)
			memcpy(p, *buffer + *start, used);
		free(*buffer);
		*buffer = p;
		*size = grown;
	}
	*start = 0;
	*end = used;
	return 0;
}

/* An empty buffer starts over, and a large one is given back. */
static void buffer_rewind(char **buffer, size_t *size, size_t *start, size_t *end)
{
	if (*start < *end)
		return;
	*start = *end = 0;
	if (*size > KEEP_BYTES_MAX) {
		free(*buffer);
		*buffer = NULL;
		*size = 0;
	}
}

int conn_read(struct conn *c)
{
	size_t room;
	ssize_t n;
	int r;

	if (c->eof)
		return -EPIPE;
	buffer_rewind(&c->in, &c->in_size, &c->in_start, &c->in_end);
	r = buffer_reserve(&c->in, &c->in_size, &c->in_start, &c->in_end, READ_BYTES_MIN);
	if (r < 0)
		return r;
	room = c->in_size - c->in_end;
	do {
		n = recv(c->fd, c->in + c->in_end, room < READ_BYTES_MAX ? room : READ_BYTES_MAX,
			MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (n == 0) {
		c->eof = true;
		return -EPIPE;
	}
	c->in_end += (size_t)n;
	return 1;
}

int conn_next(struct conn *c, const char **ret_data, size_t *ret_len)
{
	const size_t seen = c->in_start + c->in_scanned;
	size_t used;
	int r;

	if (c->scan_error < 0)
		return c->scan_error;
	if (seen == c->in_end)
		return 0;
	r = frame_scan(&c->scanner, c->in + seen, c->in_end - seen, &used);
	if (r < 0)
		return c->scan_error = r;
	if (r == 0) {
		c->in_scanned = c->in_end - c->in_start;
		return 0;
	}
	*ret_data = c->in + c->in_start;
	*ret_len = c->in_scanned + used;
	c->in_start = seen + used;
	c->in_scanned = 0;
	return 1;
}

size_t conn_partial(const struct conn *c)
{
	return c->in_end - c->in_start;
}

bool conn_partial_id(const struct conn *c, uint32_t *ret_id)
{
	const size_t n = conn_partial(c);

	return n > 0 && frame_request_id(c->in + c->in_start, n, ret_id);
}

int conn_put(struct conn *c, const void *data, size_t len)
{
	int r;

	if (c->error < 0)
		return c->error;
	buffer_rewind(&c->out, &c->out_size, &c->out_start, &c->out_end);
	r = buffer_reserve(&c->out, &c->out_size, &c->out_start, &c->out_end, len);
	if (r < 0)
		return c->error = r;
	if (len > 0)
		memcpy(c->out + c->out_end, data, len);
	c->out_end += len;
	return 0;
}

int conn_flush(struct conn *c)
{
	size_t budget = WRITE_BYTES_MAX;

	if (c->error < 0)
		return c->error;
	while (c->out_start < c->out_end && budget > 0) {
		const size_t left = c->out_end - c->out_start;
		const ssize_t n = send(c->fd, c->out + c->out_start, left < budget ? left : budget,
			MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN)
				return 1;
			return c->error = errno == ECONNRESET ? -EPIPE : -errno;
		}
		c->out_start += (size_t)n;
		c->bytes_written += (uint64_t)n;
		budget -= (size_t)n;
	}
	buffer_rewind(&c->out, &c->out_size, &c->out_start, &c->out_end);
	return conn_unsent(c) > 0;
}

size_t conn_unsent(const struct conn *c)
{
	return c->out_end - c->out_start;
}

int conn_write(void *c, const char *data, size_t len)
{
	return conn_put(c, data, len) < 0 ? -1 : 0;
}
