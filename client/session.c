/* Why: zeph and zephctl begin, fail and end alike: exit codes, complaints, death by signal. A
 * session owns its link, its output's buffer and the signalfd. */
#include "client/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* How long after its deadline a daemon may still say itself that it came too late. */
#define GRACE_USEC 1000000

/* A closed standard descriptor would be the socket's number next. */
static int standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
			open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return -errno;
	return 0;
}

static void watched_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

/* Unlike any other running program's on this machine: the process and when it asked. */
static void tag_make(struct session *s)
{
	s->tag.kind = TAG_TEXT;
	s->tag.len = (uint32_t)snprintf(s->tag.text, sizeof(s->tag.text), "%s-%ld-%llx", s->program,
		(long)getpid(), (unsigned long long)now_usec());
}

int session_begin(struct session *s, const char *program)
{
	sigset_t set;
	int r = standard_fds();

	*s = (struct session){
		.program = program, .link.conn.fd = -1, .watch.deadline_usec = UINT64_MAX};
	if (r < 0)
		return r;
	signal(SIGPIPE, SIG_IGN);
	watched_signals(&set);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	s->watch.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->watch.signal_fd < 0)
		return -errno;
	output_init(&s->out, STDOUT_FILENO);
	s->watch.out = &s->out;
	tag_make(s);
	return 0;
}

void session_start_clock(struct session *s)
{
	if (s->bounded)
		s->watch.deadline_usec = now_usec() + s->timeout_usec + GRACE_USEC;
}

enum exit_code session_open(struct session *s)
{
	const int r = link_open(&s->link, s->socket, s->timeout_usec);

	if (r == 0)
		return EXIT_DONE;
	session_complain(s, "%s", s->link.error);
	return r == -EACCES ? EXIT_REFUSED : EXIT_LOST;
}

void session_cancel(struct session *s)
{
	const struct params p = {.set = UINT64_C(1) << PARAM_TAG, .tag = s->tag};

	if (s->link.conn.fd < 0)
		return;
	link_send(&s->link, METHOD_CANCEL, &p);
	link_flush(&s->link);
}

enum exit_code session_fail(struct session *s, int error)
{
	progress_erase(&s->progress);
	switch (error) {
	case -EPIPE: session_complain(s, "%s", s->link.error); return EXIT_LOST;
	case -EPROTO:
		session_complain(s, "%s", s->link.error);
		return exit_code_of(rpc_error_parse(s->link.error, strlen(s->link.error)));
	case -ETIMEDOUT:
		session_cancel(s);
		session_complain(
			s, "E_TIMEOUT: no answer within %.6g s", (double)s->timeout_usec / 1e6);
		return EXIT_AGAIN;
	case -EINTR: session_cancel(s); return EXIT_AGAIN; /* session_end() dies of the signal */
	case -ENOSTR:
		session_cancel(s);
		s->reader_gone = true;
		return EXIT_AGAIN;
	default:
		session_cancel(s);
		session_complain(s, "stdout: %s", strerror(-error));
		return EXIT_LOST;
	}
}

void session_complain(const struct session *s, const char *format, ...)
{
	char sentence[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	complain(s->program, s->color, sentence, strlen(sentence));
}

enum exit_code session_refused(const struct session *s, const msgpack_object *error)
{
	struct rpc_text text = {"E_PROTOCOL: an error that is no text", 36};

	object_text(error, &text);
	complain(s->program, s->color, text.text, text.len);
	return exit_code_of(rpc_error_parse(text.text, text.len));
}

static void die_of(int signo)
{
	sigset_t set;

	signal(signo, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, signo);
	raise(signo);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int session_end(struct session *s, enum exit_code code)
{
	int r = 0;

	progress_erase(&s->progress);
	if (s->watch.signal == 0 && !s->reader_gone) {
		r = link_drain(&s->watch);
		if (r < 0)
			code = session_fail(s, r);
	}
	link_close(&s->link);
	output_done(&s->out);
	close(s->watch.signal_fd);
	if (s->watch.signal != 0)
		die_of(s->watch.signal);
	if (s->reader_gone)
		die_of(SIGPIPE);
	return code;
}
