/* Why: model output is hostile to terminals (titles, clipboard, keys), so on a terminal no control
 * character passes; everywhere else bytes pass as they are. An output owns its buffer, not its fd.
 */
#include "client/terminal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/text.h"

#define WRITE_BYTES 4096 /* PIPE_BUF: a pipe that poll() calls writable takes as much at once */

void output_init(struct output *o, int fd)
{
	*o = (struct output){.fd = fd, .terminal = isatty(fd), .line_open = true};
}

void output_done(struct output *o)
{
	if (!o)
		return;
	free(o->buffer);
	*o = (struct output){.fd = -1};
}

size_t output_pending(const struct output *o)
{
	return o->end - o->start;
}

static int queue(struct output *o, const char *bytes, size_t n)
{
	if (n == 0)
		return 0;
	if (o->start == o->end)
		o->start = o->end = 0;
	if (o->size - o->end < n) {
		const size_t used = o->end - o->start;
		size_t size = o->size > 0 ? o->size : 8192;
		char *p;

		if (n > SIZE_MAX / 4 - used)
			return -ENOMEM;
		while (size < used + n)
			size *= 2;
		p = malloc(size);
		if (!p)
			return -ENOMEM;
		if (used > 0)
			memcpy(p, o->buffer + o->start, used);
		free(o->buffer);
		o->buffer = p;
		o->size = size;
		o->start = 0;
		o->end = used;
	}
	memcpy(o->buffer + o->end, bytes, n);
	o->end += n;
	o->line_open = bytes[n - 1] != '\n';
	return 0;
}

/* A character as a terminal may see it: at most 4 bytes. Returns how many. */
static size_t harmless(const char *s, size_t n, uint32_t code, bool one_line, char shown[4])
{
	if (code == UINT32_MAX) {
		memcpy(shown, "\xef\xbf\xbd", 3); /* U+FFFD */
		return 3;
	}
	if (code == 0x7f || code < 0x20 || (code >= 0x80 && code <= 0x9f)) {
		if (!one_line && (code == '\n' || code == '\t')) {
			shown[0] = (char)code;
			return 1;
		}
		shown[0] = '^';
		shown[1] = code == 0x7f ? '?' : (char)(0x40 | (code & 0x1f));
		return 2;
	}
	memcpy(shown, s, n);
	return n;
}

size_t terminal_line(const char *text, size_t len, size_t columns, char *out)
{
	size_t n = 0, i = 0;

	for (size_t column = 0; i < len && column < columns; column++) {
		uint32_t code;
		const size_t used = text_decode(text + i, len - i, &code);

		n += harmless(text + i, used, code, true, out + n);
		i += used;
	}
	return n;
}

static int queue_harmless(struct output *o, const char *text, size_t n, bool last)
{
	const size_t held = last ? 0 : text_incomplete(text, n);
	size_t i = 0;

	while (i < n - held) {
		char shown[4];
		uint32_t code;
		const size_t used = text_decode(text + i, n - held - i, &code);
		const int r = queue(o, shown, harmless(text + i, used, code, false, shown));

		if (r < 0)
			return r;
		i += used;
	}
	memcpy(o->held, text + n - held, held);
	o->n_held = held;
	return 0;
}

int output_text(struct output *o, const char *text, size_t n)
{
	/* A held beginning is completed by one more byte at a time: at most three of them. */
	if (!o->terminal)
		return queue(o, text, n);
	while (o->n_held > 0 && n > 0) {
		char joined[8];
		const size_t len = o->n_held + 1;
		int r;

		memcpy(joined, o->held, o->n_held);
		joined[o->n_held] = *text++;
		n--;
		o->n_held = 0;
		r = queue_harmless(o, joined, len, false);
		if (r < 0)
			return r;
	}
	return n > 0 ? queue_harmless(o, text, n, false) : 0;
}

int output_end(struct output *o)
{
	char held[4];
	const size_t n = o->n_held;
	int r = 0;

	memcpy(held, o->held, n);
	if (n > 0)
		r = queue_harmless(o, held, n, true);
	if (r == 0 && o->line_open)
		r = queue(o, "\n", 1);
	return r;
}

int output_write(struct output *o)
{
	const size_t n = output_pending(o) < WRITE_BYTES ? output_pending(o) : WRITE_BYTES;
	ssize_t wrote;

	if (n == 0)
		return 0;
	wrote = write(o->fd, o->buffer + o->start, n);
	if (wrote < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : errno == EPIPE ? -ENOSTR : -errno;
	o->start += (size_t)wrote;
	return 0;
}

/* stderr is small and for people: what does not go out is dropped. */
static void tell(const char *bytes, size_t n)
{
	while (n > 0) {
		const ssize_t wrote = write(STDERR_FILENO, bytes, n);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return;
		bytes += wrote;
		n -= (size_t)wrote;
	}
}

void progress_init(struct progress *p, bool quiet)
{
	const char *term = getenv("TERM");

	*p = (struct progress){
		.enabled = !quiet && isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0};
}

void progress_show(struct progress *p, const char *line)
{
	char bytes[160];
	int n;

	if (!p->enabled)
		return;
	n = snprintf(bytes, sizeof(bytes), "\r\033[K%.100s", line);
	tell(bytes, (size_t)n);
	p->shown = true;
}

void progress_erase(struct progress *p)
{
	if (p->shown)
		tell("\r\033[K", 4);
	p->shown = false;
}

static bool wants_color(enum color color)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	if (color != COLOR_AUTO)
		return color == COLOR_ALWAYS;
	return isatty(STDERR_FILENO) && !(no && no[0]) && term && strcmp(term, "dumb") != 0;
}

void complain(const char *program, enum color color, const char *sentence, size_t n)
{
	const bool red = wants_color(color);
	char line[2048];
	size_t at, i = 0;

	at = (size_t)snprintf(line, sizeof(line), "%s%s:%s ", red ? "\033[1;31m" : "", program,
		red ? "\033[0m" : "");
	while (i < n && at + 8 < sizeof(line)) {
		char shown[4];
		uint32_t code;
		const size_t used = text_decode(sentence + i, n - i, &code);
		const size_t len = harmless(sentence + i, used, code, true, shown);

		memcpy(line + at, shown, len);
		at += len;
		i += used;
	}
	line[at++] = '\n';
	tell(line, at);
}
