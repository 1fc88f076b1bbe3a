/* Why: `zeph` sends a prompt and prints the tokens as they come. Starts in a few milliseconds: no
 * locale, no user database, nothing linked but libc and msgpack. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ask.h"
#include "client/conversation.h"
#include "client/dial.h"
#include "client/options.h"
#include "client/prompt.h"
#include "client/session.h"
#include "proto/address.h"

static enum exit_code carry_stdio(struct session *s)
{
	char path[256], sentence[400];
	sigset_t none;
	int fd, r;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	fd = socket_connect(s->socket, s->timeout_usec, path, sizeof(path));
	if (fd < 0) {
		session_complain(
			s, "no daemon: %s", socket_error(fd, path, sentence, sizeof(sentence)));
		return fd == -EACCES ? EXIT_REFUSED : EXIT_LOST;
	}
	r = dial_stdio(fd);
	close(fd);
	return r < 0 ? EXIT_LOST : EXIT_DONE;
}

static enum exit_code run(struct session *s, struct options *o)
{
	char name[SESSION_NAME_BYTES_MAX + 1];
	struct prompt prompt;
	char error[512];
	enum exit_code code;
	int r;

	r = prompt_read(&prompt, o, s->watch.signal_fd, &s->watch.signal, error, sizeof(error));
	if (r == -EINTR) {
		code = EXIT_AGAIN; /* session_end() dies of the signal */
	} else if (r < 0) {
		session_complain(s, "%s", error);
		code = EXIT_USAGE;
	} else {
		if (o->continues) {
			conversation_name(name);
			o->params.session = (struct rpc_text){name, strlen(name)};
			o->params.set |= UINT64_C(1) << PARAM_SESSION;
		}
		code = o->map ? ask_map(s, o, &prompt) : ask(s, o, &prompt);
	}
	prompt_done(&prompt);
	return code;
}

int main(int argc, char **argv)
{
	enum exit_code code;
	struct session s;
	struct options o;
	char error[512];
	int r = session_begin(&s, "zeph");

	if (r < 0) {
		session_complain(&s, "%s", strerror(-r));
		return EXIT_LOST;
	}
	r = options_parse(&o, argc, argv, error, sizeof(error));
	s.socket = o.socket;
	s.timeout_usec = o.timeout_usec;
	s.bounded = o.has_timeout;
	s.color = o.color;
	progress_init(&s.progress, o.quiet);
	if (r < 0) {
		session_complain(&s, "%s", r == -ENOMEM ? "out of memory" : error);
		code = EXIT_USAGE;
	} else if (o.help) {
		code = output_text(&s.out, options_help, strlen(options_help)) < 0 ? EXIT_LOST
										   : EXIT_DONE;
	} else if (o.version) {
		const char line[] = "zeph " ZEPH_VERSION "\n";

		code = output_text(&s.out, line, strlen(line)) < 0 ? EXIT_LOST : EXIT_DONE;
	} else if (o.dial_stdio) {
		code = carry_stdio(&s);
	} else {
		code = run(&s, &o);
	}
	options_done(&o);
	return session_end(&s, code);
}
