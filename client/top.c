/* Why: who waits wants to see what for. A view is made of lines of plain text from two answers to
 * status, a second apart; a terminal gets them with every control character made harmless. What is
 * changed of the terminal (its other screen, its modes) is changed back on every way out. */
#include "client/top.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "client/json.h"
#include "client/say.h"

#define PERIOD_MS 1000
#define BAR       24

/* \033[?1049: the other screen; ?25: the cursor; ?7: what is longer than a line goes on in the next
 */
static const char enter_screen[] = "\033[?1049h\033[?25l\033[?7l";
static const char leave_screen[] = "\033[?7h\033[?25h\033[?1049l";

struct top {
	struct control *control;
	int signal_fd; /* SIGWINCH, SIGTSTP */
	bool changed;  /* stdin is a terminal, and its modes were `modes` */
	bool keys;     /* somebody may type there */
	struct termios modes;
	/* of the last answer */
	uint64_t asked_usec;
	int64_t prompt, generated;
	double prompt_rate, generated_rate; /* tokens a second; of the last two answers */
	msgpack_sbuffer view;               /* lines */
};

static void tell(const char *bytes, size_t n)
{
	while (n > 0) {
		const ssize_t wrote = write(STDOUT_FILENO, bytes, n);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return; /* the terminal is gone: SIGHUP ends this */
		bytes += wrote;
		n -= (size_t)wrote;
	}
}

static void screen_begin(struct top *t)
{
	struct termios raw;

	t->changed = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t->modes) == 0;
	t->keys = t->changed;
	if (t->changed) {
		raw = t->modes;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 0;
		raw.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	tell(enter_screen, strlen(enter_screen));
}

static void screen_end(const struct top *t)
{
	tell(leave_screen, strlen(leave_screen));
	if (t->changed)
		tcsetattr(STDIN_FILENO, TCSANOW, &t->modes);
}

/* "#####-----" */
static struct said bar(int64_t part, int64_t all)
{
	struct said s;
	int n = all > 0 && part > 0 ? (int)((double)part / (double)all * BAR + 0.5) : 0;

	n = n > BAR ? BAR : n;
	memset(s.text, '#', (size_t)n);
	memset(s.text + n, '-', (size_t)(BAR - n));
	s.text[BAR] = 0;
	return s;
}

static double seconds(const msgpack_object *row)
{
	double v = 0;

	object_float(map_get(row, "device_s"), &v);
	return v;
}

static int by_device_time(const void *a, const void *b)
{
	const double x = seconds(*(const msgpack_object *const *)a);
	const double y = seconds(*(const msgpack_object *const *)b);

	return x < y ? 1 : x > y ? -1 : 0;
}

static int say_users(msgpack_sbuffer *out, const msgpack_object *users)
{
	const msgpack_object **rows;
	double all = 0;
	uint32_t n;
	int r;

	if (!users || users->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	n = users->via.array.size;
	rows = calloc(n > 0 ? n : 1, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		rows[i] = &users->via.array.ptr[i];
		all += seconds(rows[i]);
	}
	qsort(rows, n, sizeof(*rows), by_device_time);
	r = say(out, "\n%10s %8s %7s %10s %6s %12s %12s %12s\n", "UID", "RUNNING", "QUEUED",
		"DEVICE s", "%", "PROMPT", "CACHED", "NEW");
	for (uint32_t i = 0; i < n && r == 0; i++)
		r = say(out,
			"%10" PRId64 " %8" PRId64 " %7" PRId64 " %10.1f %6.1f %12" PRId64
			" %12" PRId64 " %12" PRId64 "\n",
			say_number(rows[i], "uid"), say_number(rows[i], "running"),
			say_number(rows[i], "queued"), seconds(rows[i]),
			all > 0 ? 100 * seconds(rows[i]) / all : 0,
			say_number(rows[i], "prompt_tokens"), say_number(rows[i], "cached_tokens"),
			say_number(rows[i], "completion_tokens"));
	free(rows);
	return r;
}

static int say_requests(msgpack_sbuffer *out, const msgpack_object *requests)
{
	const msgpack_object *mine = map_get(requests, "mine");
	int r;

	if (!mine || mine->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	r = say(out, "\n%10s %-10s %9s %-10s %s\n", "UID", "PHASE", "AGE s", "METHOD", "TAG");
	for (uint32_t i = 0; i < mine->via.array.size && r == 0; i++) {
		const msgpack_object *row = &mine->via.array.ptr[i];

		r = say(out, "%10" PRId64 " %-10s %9.1f %-10s %s\n", say_number(row, "uid"),
			say_text(row, "phase").text, (double)say_number(row, "age_ms") / 1000,
			say_text(row, "method").text, say_tag(row).text);
	}
	return r;
}

static int say_status(const struct top *t, msgpack_sbuffer *out, const msgpack_object *status)
{
	const msgpack_object *model = map_get(status, "model"), *device = map_get(status, "device");
	const msgpack_object *kv = map_get(status, "kv"), *requests = map_get(status, "requests");
	int64_t used = say_number(device, "used_bytes"),
		memory = say_number(device, "memory_bytes");
	int64_t pages = say_number(kv, "pages"), shown = say_number(kv, "used");
	int r;

	r = say(out, "zephd %s: %s, up %s, pid %" PRId64 ", %" PRId64 " connections\n",
		say_text(status, "version").text, say_text(status, "state").text,
		say_duration(say_number(status, "uptime_s")).text, say_number(status, "pid"),
		say_number(status, "connections"));
	if (r == 0)
		r = say(out, "model    %s, %s, context %" PRId64 "\n", say_text(model, "name").text,
			say_text(model, "type").text, say_number(model, "context"));
	if (r == 0)
		r = say(out, "device   %s: %s\n", say_text(device, "kind").text,
			say_text(device, "name").text);
	if (r == 0)
		r = say(out, "memory   %s %s of %s\n", bar(used, memory).text, say_bytes(used).text,
			say_bytes(memory).text);
	if (r == 0)
		r = say(out, "pages    %s %" PRId64 " used, %" PRId64 " cached of %" PRId64 "\n",
			bar(shown, pages).text, shown, say_number(kv, "cached"), pages);
	if (r == 0)
		r = say(out, "tokens/s %.1f new, %.1f of prompts\n", t->generated_rate,
			t->prompt_rate);
	if (r == 0)
		r = say(out,
			"requests %" PRId64 " running, %" PRId64 " queued, %" PRId64
			" done, %" PRId64 " failed, %" PRId64 " cancelled\n",
			say_number(requests, "running"), say_number(requests, "queued"),
			say_number(requests, "done"), say_number(requests, "failed"),
			say_number(requests, "cancelled"));
	if (r == 0)
		r = say_users(out, map_get(status, "users"));
	return r == 0 ? say_requests(out, requests) : r;
}

/* What came since the last answer, a second. A counter that went back began anew. */
static double rate(int64_t now, int64_t then, uint64_t usec)
{
	return now > then && usec > 0 ? (double)(now - then) * 1e6 / (double)usec : 0;
}

static void measure(struct top *t, const msgpack_object *status)
{
	const msgpack_object *tokens = map_get(status, "tokens");
	const int64_t prompt = say_number(tokens, "prompt");
	const int64_t generated = say_number(tokens, "generated");
	const uint64_t now = now_usec(), usec = now - t->asked_usec;

	if (t->asked_usec > 0) {
		t->prompt_rate = rate(prompt, t->prompt, usec);
		t->generated_rate = rate(generated, t->generated, usec);
	}
	t->asked_usec = now;
	t->prompt = prompt;
	t->generated = generated;
}

static int write_json(const struct top *t, msgpack_sbuffer *out, const msgpack_object *status)
{
	int r = say(out, "{\"tokens_per_s\":{\"generated\":%.17g,\"prompt\":%.17g},\"status\":",
		t->generated_rate, t->prompt_rate);

	if (r == 0)
		r = json_write(out, status);
	return r == 0 ? say(out, "}\n") : r;
}

/* Asks once; the view is new. 1, or a negative errno of link_call(); 0: the daemon refused, and
 * *ret_error holds its message, which message_done() ends. */
static int ask(struct top *t, struct message *ret_error)
{
	struct session *s = &t->control->session;
	struct message m;
	int r = link_call(&s->link, &s->watch, METHOD_STATUS, NULL, &m);

	if (r < 0)
		return r;
	if (m.error.type != MSGPACK_OBJECT_NIL) {
		*ret_error = m;
		return 0;
	}
	measure(t, &m.result);
	msgpack_sbuffer_clear(&t->view);
	r = t->control->json ? write_json(t, &t->view, &m.result)
			     : say_status(t, &t->view, &m.result);
	message_done(&m);
	return r < 0 ? r : 1;
}

/* The view's lines, as many as there are rows, harmless. */
static int draw(const struct top *t)
{
	struct winsize size = {0};
	const char *at = t->view.data, *end = at + t->view.size;
	msgpack_sbuffer out;
	unsigned row = 0;
	int r;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row == 0 || size.ws_col == 0)
		size = (struct winsize){.ws_row = 24, .ws_col = 80};
	msgpack_sbuffer_init(&out);
	r = say(&out, "\033[H");
	for (; r == 0 && at < end && row < size.ws_row; row++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		char line[4 * 512];
		size_t n = newline ? (size_t)(newline - at) : (size_t)(end - at);

		n = terminal_line(at, n < 512 ? n : 512, size.ws_col, line);
		if (n > 0)
			r = msgpack_sbuffer_write(&out, line, n);
		if (r == 0)
			r = say(&out, row + 1 < size.ws_row ? "\033[K\r\n" : "\033[K");
		at = newline ? newline + 1 : end;
	}
	if (r == 0)
		r = say(&out, "\033[J");
	if (r == 0)
		tell(out.data, out.size);
	msgpack_sbuffer_destroy(&out);
	return r;
}

/* Ctrl-Z: the shell gets its terminal as it was, and it is taken again with the next fg. */
static void suspend(struct top *t)
{
	screen_end(t);
	raise(SIGSTOP);
	screen_begin(t);
}

/* Waits for the next second: 1; 0: q; -EINTR: a signal that ends. */
static int pass(struct top *t)
{
	struct session *s = &t->control->session;
	const uint64_t end = now_usec() + PERIOD_MS * UINT64_C(1000);

	for (;;) {
		const uint64_t now = now_usec();
		struct pollfd fds[] = {{.fd = s->watch.signal_fd, .events = POLLIN},
			{.fd = t->signal_fd, .events = POLLIN},
			{.fd = t->keys ? STDIN_FILENO : -1, .events = POLLIN}};
		struct signalfd_siginfo info;
		char keys[64];
		ssize_t n;

		if (now >= end)
			return 1;
		if (poll(fds, 3, (int)((end - now + 999) / 1000)) < 0 && errno != EINTR)
			return -errno;
		if (fds[0].revents && read(s->watch.signal_fd, &info, sizeof(info)) > 0) {
			s->watch.signal = (int)info.ssi_signo;
			return -EINTR;
		}
		if (fds[1].revents && read(t->signal_fd, &info, sizeof(info)) > 0) {
			if (info.ssi_signo == SIGTSTP)
				suspend(t);
			draw(t);
		}
		if (!fds[2].revents)
			continue;
		n = read(STDIN_FILENO, keys, sizeof(keys));
		if (n > 0 && (memchr(keys, 'q', (size_t)n) || memchr(keys, 'Q', (size_t)n)))
			return 0;
		if (n <= 0)
			t->keys = false; /* it has ended: nobody types any more */
	}
}

/* On the terminal until it ends: the exit code once the screen is as it was. */
static enum exit_code live(struct top *t)
{
	struct session *s = &t->control->session;
	struct message error;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGTSTP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	t->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (t->signal_fd < 0)
		return session_fail(s, -errno);
	screen_begin(t);
	do {
		r = ask(t, &error);
		if (r == 1) {
			draw(t);
			r = pass(t);
		} else if (r == 0) {
			r = -EREMOTEIO;
		}
	} while (r == 1);
	screen_end(t);
	close(t->signal_fd);
	if (r == -EREMOTEIO) {
		enum exit_code code = session_refused(s, &error.error);

		message_done(&error);
		return code;
	}
	return r == 0 ? EXIT_DONE : session_fail(s, r);
}

static enum exit_code once(struct top *t)
{
	struct session *s = &t->control->session;
	struct message error;
	int r = ask(t, &error);

	if (r == 1) {
		t->signal_fd = -1;
		r = pass(t);
	}
	if (r == 1)
		r = ask(t, &error);
	if (r == 0) {
		enum exit_code code = session_refused(s, &error.error);

		message_done(&error);
		return code;
	}
	if (r < 0)
		return session_fail(s, r);
	return control_print(t->control, &t->view, 0);
}

enum exit_code top(struct control *c)
{
	struct top t = {.control = c, .signal_fd = -1};
	const char *term = getenv("TERM");
	enum exit_code code = session_open(&c->session);

	if (code != EXIT_DONE)
		return code;
	msgpack_sbuffer_init(&t.view);
	if (c->json || !isatty(STDOUT_FILENO) || !term || strcmp(term, "dumb") == 0)
		code = once(&t);
	else
		code = live(&t);
	msgpack_sbuffer_destroy(&t.view);
	return code;
}
