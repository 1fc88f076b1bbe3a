/* Why: a prompt comes from words, files, a role and stdin, whose order is promised to scripts. A
 * prompt owns its texts. */
#include "client/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define TEXT_BYTES_MAX (64u << 20) /* far above what any daemon takes: guards the memory alone */

struct piece {
	char *text;
	size_t len, size;
};

static int piece_reserve(struct piece *t, size_t more)
{
	size_t size = t->size > 0 ? t->size : 65536;
	char *p;

	if (t->size - t->len >= more)
		return 0;
	if (more > TEXT_BYTES_MAX || t->len > TEXT_BYTES_MAX)
		return -EFBIG;
	while (size < t->len + more)
		size *= 2;
	p = realloc(t->text, size);
	if (!p)
		return -ENOMEM;
	t->text = p;
	t->size = size;
	return 0;
}

static int piece_add(struct piece *t, const char *text, size_t len)
{
	const int r = piece_reserve(t, len);

	if (r == 0 && len > 0)
		memcpy(t->text + t->len, text, len);
	t->len += r == 0 ? len : 0;
	return r;
}

/* A part after a blank line, unless it is the first. */
static int piece_add_part(struct piece *t, const char *text, size_t len)
{
	int r = 0;

	if (len > 0 && t->len > 0)
		r = piece_add(t, "\n\n", 2);
	return r < 0 ? r : piece_add(t, text, len);
}

/* Reads to the end; drops one final newline, which is the line's and not the text's. signal_fd -1:
 * none is watched. */
static int read_all(int fd, int signal_fd, int *ret_signal, struct piece *t)
{
	for (;;) {
		struct pollfd p[2] = {
			{.fd = fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
		struct signalfd_siginfo info;
		ssize_t n;
		int r;

		if (signal_fd >= 0 && poll(p, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (signal_fd >= 0 && p[1].revents &&
			read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
			*ret_signal = (int)info.ssi_signo;
			return -EINTR;
		}
		if (signal_fd >= 0 && !p[0].revents)
			continue;
		r = piece_reserve(t, 65536);
		if (r < 0)
			return r;
		n = read(fd, t->text + t->len, t->size - t->len);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		t->len += (size_t)n;
	}
	if (t->len > 0 && t->text[t->len - 1] == '\n')
		t->len--;
	return 0;
}

static int read_file(const char *path, struct piece *t, char *error, size_t size)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int r = fd < 0 ? -errno : read_all(fd, -1, NULL, t);

	if (fd >= 0)
		close(fd);
	if (r < 0) {
		snprintf(error, size, "%s: %s", path, strerror(-r));
		return -EINVAL;
	}
	return 0;
}

/* ~/.config/zeph/roles/NAME as the system prompt. */
static int read_role(const char *name, struct piece *t, char *error, size_t size)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	char path[4096];
	int n;

	if (!name[0] || name[0] == '.' || strchr(name, '/')) {
		snprintf(error, size,
			"--role: found \"%s\", wanted the name of a file in "
			"~/.config/zeph/roles",
			name);
		return -EINVAL;
	}
	if (config && config[0] == '/')
		n = snprintf(path, sizeof(path), "%s/zeph/roles/%s", config, name);
	else
		n = snprintf(
			path, sizeof(path), "%s/.config/zeph/roles/%s", home ? home : "", name);
	if (n < 0 || (size_t)n >= sizeof(path)) {
		snprintf(error, size, "--role: the path is too long");
		return -EINVAL;
	}
	return read_file(path, t, error, size);
}

static int system_read(struct prompt *p, const struct options *o, char *error, size_t size)
{
	struct piece t = {0}, role = {0};
	int r = 0;

	if (o->role)
		r = read_role(o->role, &role, error, size);
	if (r == 0)
		r = piece_add_part(&t, role.text, role.len);
	if (r == 0 && o->system)
		r = piece_add_part(&t, o->system, strlen(o->system));
	if (r == 0 && (o->role || o->system))
		r = piece_reserve(&t, 1); /* an empty system prompt is one, too */
	free(role.text);
	p->system = t.text;
	p->system_len = t.len;
	return r;
}

/* Words joined by spaces, stdin between blank lines at "-", files, then stdin. */
static int join(struct piece *t, const struct options *o, const struct piece *input, bool placed,
	char *error, size_t size)
{
	bool open = false; /* the next word continues a line of words */
	int r = 0;

	for (size_t i = 0; i < o->n_words && r == 0; i++) {
		const struct word *w = &o->words[i];

		if (w->is_stdin) {
			r = piece_add_part(t, input->text, input->len);
			open = false;
		} else if (open) {
			r = piece_add(t, " ", 1);
			if (r == 0)
				r = piece_add(t, w->text, strlen(w->text));
		} else {
			r = piece_add_part(t, w->text, strlen(w->text));
			open = true;
		}
	}
	for (size_t i = 0; i < o->n_files && r == 0; i++) {
		struct piece file = {0};

		r = read_file(o->files[i], &file, error, size);
		if (r == 0)
			r = piece_add_part(t, file.text, file.len);
		free(file.text);
	}
	if (r == 0 && !placed)
		r = piece_add_part(t, input->text, input->len);
	return r;
}

int prompt_read(struct prompt *p, const struct options *o, int signal_fd, int *ret_signal,
	char *error, size_t size)
{
	struct piece t = {0}, input = {0};
	bool placed = false;
	int r;

	*p = (struct prompt){0};
	error[0] = 0;
	for (size_t i = 0; i < o->n_words; i++)
		placed |= o->words[i].is_stdin;
	r = system_read(p, o, error, size);
	if (r == 0 && !o->no_stdin && (placed || o->map || !isatty(STDIN_FILENO)))
		r = read_all(STDIN_FILENO, signal_fd, ret_signal, &input);
	if (r == 0 && o->map)
		r = piece_add(&t, input.text, input.len);
	else if (r == 0)
		r = join(&t, o, &input, placed, error, size);
	free(input.text);
	p->text = t.text;
	p->len = t.len;
	if (r == 0 && !o->map && !o->empty_allowed && p->len == 0) {
		snprintf(error, size,
			"the prompt is empty: give words, or text on stdin "
			"(zeph --help)");
		return -EINVAL;
	}
	if (r < 0 && r != -EINTR && !error[0])
		snprintf(error, size, r == -EFBIG ? "the prompt has more than 64 MiB" : "%s",
			strerror(-r));
	return r;
}

void prompt_done(struct prompt *p)
{
	if (!p)
		return;
	free(p->text);
	free(p->system);
	*p = (struct prompt){0};
}
