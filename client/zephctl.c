/* Why: `zephctl` looks at the daemon and steers it: status, cancel, load, unload, tokenize, and
 * sessions in control_sessions.c.
 * `quantize` is a program of its own that it becomes. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/beside.h"
#include "client/control.h"
#include "client/control_sessions.h"
#include "client/json.h"
#include "client/numbers.h"
#include "client/replay.h"
#include "client/status.h"
#include "client/top.h"

static const char help[] =
	"usage: zephctl [options] COMMAND\n"
	"\n"
	"  status                   what the daemon is and does\n"
	"  cancel TAG               stop your requests that carry the tag (zephctl status shows it)\n"
	"  cancel --id N            stop the request with the id on this connection\n"
	"  load                     bring the model to the device, if it is not there\n"
	"  unload                   give the device's memory back; the next request loads again\n"
	"  top                      the same, live on the terminal; q ends it\n"
	"  metrics                  counters and times as OpenMetrics text\n"
	"  replay FILE              ask again what zeph --json printed: the same bytes?\n"
	"  cache drop [--uid N]     forget what is kept of prompts and replies, of one user or all\n"
	"  sessions                 your conversations\n"
	"  sessions show NAME       what was said in one\n"
	"  sessions fork NAME NEW   a second one that begins alike\n"
	"  sessions rewind NAME [N] take the last N turns back (1)\n"
	"  sessions drop NAME...    forget them\n"
	"  tokenize [TEXT...]       the token ids of the text, or of stdin\n"
	"      --bos                with the beginning token that the model has\n"
	"      --special            read <|names|> of control tokens as these tokens\n"
	"  quantize IN OUT.gguf --type TYPE   a model in another type (quantize --help)\n"
	"\n"
	"  -S, --socket PATH        where the daemon listens (also $ZEPH_SOCKET)\n"
	"      --json               what the daemon answered, as one JSON object\n"
	"      --timeout SECONDS    give up after this\n"
	"      --color WHEN         auto, always or never\n"
	"      --version  --help\n"
	"\n"
	"exit: 0 done, 1 not the same (replay), 2 usage, 3 no daemon or connection lost, 4 refused,\n"
	"5 model, device or protocol, 6 try again. More in zephctl(1).\n";

enum { WORD = 1, ID = 256, USER, BOS, SPECIAL, JSON, TIMEOUT, COLOR, VERSION };

static const struct option long_options[] = {
	{"socket", required_argument, NULL, 'S'},
	{"id", required_argument, NULL, ID},
	{"uid", required_argument, NULL, USER},
	{"bos", no_argument, NULL, BOS},
	{"special", no_argument, NULL, SPECIAL},
	{"json", no_argument, NULL, JSON},
	{"timeout", required_argument, NULL, TIMEOUT},
	{"color", required_argument, NULL, COLOR},
	{"version", no_argument, NULL, VERSION},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

int control_usage(struct control *c, const char *what, const char *found)
{
	session_complain(&c->session, "%s: %s (zephctl --help)", found, what);
	return -EINVAL;
}

static int take_color(struct control *c, const char *value)
{
	static const char *const names[] = {"auto", "always", "never"};

	for (int i = 0; i < 3; i++)
		if (strcmp(value, names[i]) == 0) {
			c->session.color = (enum color)i;
			return 0;
		}
	return control_usage(c, "wanted auto, always or never", "--color");
}

static int take(struct control *c, int option, const char *value)
{
	double seconds;

	switch (option) {
	case WORD:
		if (!c->command)
			c->command = value;
		else
			c->words.words[c->words.n_words++] = (struct word){
				value, strcmp(value, "-") == 0};
		return 0;
	case 'S': c->session.socket = value; return 0;
	case ID:
		if (!number_int(value, &c->id) || c->id < 0 || c->id > UINT32_MAX)
			return control_usage(c, "wanted an integer from 0 to 4294967295", "--id");
		c->has_id = true;
		return 0;
	case USER:
		if (!number_int(value, &c->uid) || c->uid < 0 || c->uid >= UINT32_MAX)
			return control_usage(c, "wanted a uid from 0 to 4294967294", "--uid");
		c->has_uid = true;
		return 0;
	case BOS: c->bos = true; return 0;
	case SPECIAL: c->special = true; return 0;
	case JSON: c->json = true; return 0;
	case TIMEOUT:
		if (!number_float(value, &seconds) || seconds < 0.001 || seconds > 1e9)
			return control_usage(
				c, "wanted a number of seconds from 0.001 to 1e9", "--timeout");
		c->session.timeout_usec = (uint64_t)(seconds * 1e6);
		c->session.bounded = true;
		return 0;
	case COLOR: return take_color(c, value);
	case VERSION: c->version = true; return 0;
	default: c->help = true; return 0;
	}
}

static int parse(struct control *c, int argc, char **argv)
{
	int r = 0;

	c->session.timeout_usec = 5000000;
	c->words.words = calloc((size_t)argc + 1, sizeof(*c->words.words));
	if (!c->words.words)
		return -ENOMEM;
	while (r == 0) {
		const int at = optind;
		const int option = getopt_long(argc, argv, "-:S:h", long_options, NULL);

		if (option == -1)
			break;
		if (option == ':')
			return control_usage(c, "found no value after it", argv[optind - 1]);
		if (option == '?')
			return control_usage(c, "unknown option", argv[at < argc ? at : argc - 1]);
		r = take(c, option, optarg);
	}
	for (; r == 0 && optind < argc; optind++) {
		if (!c->command)
			c->command = argv[optind];
		else
			c->words.words[c->words.n_words++] = (struct word){argv[optind], false};
	}
	if (r == 0 && !c->command && !c->help && !c->version)
		return control_usage(c,
			"wanted status, top, metrics, replay, cancel, sessions, tokenize or quantize",
			"no command");
	return r;
}

int control_call(struct control *c, enum method m, const struct params *params, struct message *ret,
	enum exit_code *ret_code)
{
	struct session *s = &c->session;

	for (int again = 0;; again++) {
		enum exit_code code = s->link.conn.fd >= 0 ? EXIT_DONE : session_open(s);
		int r;

		*ret_code = code;
		if (code != EXIT_DONE)
			return 0;
		r = link_call(&s->link, &s->watch, m, params, ret);
		if (r == 1 && ret->error.type == MSGPACK_OBJECT_NIL)
			return 1;
		if (r == 1) {
			*ret_code = session_refused(s, &ret->error);
			message_done(ret);
			return 0;
		}
		/* what changes a session may have been done */
		if (r != -EPIPE || again > 0 || m == METHOD_SESSION_FORK ||
			m == METHOD_SESSION_REWIND || m == METHOD_SESSION_DROP) {
			*ret_code = session_fail(s, r);
			return 0;
		}
		link_close(&s->link);
	}
}

enum exit_code control_print(struct control *c, const msgpack_sbuffer *text, int r)
{
	if (r == 0)
		r = output_text(&c->session.out, text->data, text->size);
	if (r == 0)
		r = output_end(&c->session.out);
	if (r == 0)
		return EXIT_DONE;
	session_complain(&c->session, "out of memory");
	return EXIT_LOST;
}

static enum exit_code run_status(struct control *c)
{
	struct message m;
	enum exit_code code;
	msgpack_sbuffer out;

	if (!control_call(c, METHOD_STATUS, NULL, &m, &code))
		return code;
	msgpack_sbuffer_init(&out);
	code = control_print(
		c, &out, c->json ? json_write(&out, &m.result) : status_write(&out, &m.result));
	msgpack_sbuffer_destroy(&out);
	message_done(&m);
	return code;
}

static enum exit_code run_metrics(struct control *c)
{
	struct rpc_text text = {"", 0};
	enum exit_code code;
	msgpack_sbuffer out;
	struct message m;
	int r;

	if (!control_call(c, METHOD_METRICS, NULL, &m, &code))
		return code;
	object_text(map_get(&m.result, "text"), &text);
	msgpack_sbuffer_init(&out);
	r = c->json ? json_write(&out, &m.result)
		    : msgpack_sbuffer_write(&out, text.text, text.len);
	code = control_print(c, &out, r);
	msgpack_sbuffer_destroy(&out);
	message_done(&m);
	return code;
}

/* One cancel; *count grows by what the daemon says. */
static enum exit_code cancel_one(struct control *c, const struct params *params, int64_t *count)
{
	enum exit_code code;
	struct message m;
	int64_t n = 0;

	if (!control_call(c, METHOD_CANCEL, params, &m, &code))
		return code;
	object_int(map_get(&m.result, "cancelled"), &n);
	*count += n;
	message_done(&m);
	return EXIT_DONE;
}

static enum exit_code run_cancel(struct control *c)
{
	const char *tag = c->words.n_words > 0 ? c->words.words[0].text : NULL;
	struct params params = {0};
	enum exit_code code;
	msgpack_sbuffer out;
	int64_t count = 0;
	char line[64];
	int n;

	if (c->words.n_words != (c->has_id ? 0 : 1) || (tag && strlen(tag) > TAG_BYTES_MAX)) {
		control_usage(c, "wanted one tag of at most 64 bytes, or --id N", "cancel");
		return EXIT_USAGE;
	}
	if (c->has_id) {
		params.set = UINT64_C(1) << PARAM_ID;
		params.id = c->id;
	} else {
		params.set = UINT64_C(1) << PARAM_TAG;
		params.tag.kind = TAG_TEXT;
		params.tag.len = (uint32_t)strlen(tag);
		memcpy(params.tag.text, tag, params.tag.len);
	}
	code = cancel_one(c, &params, &count);
	/* the command line has no types: "17" may be the number, too */
	if (code == EXIT_DONE && count == 0 && tag && number_int(tag, &params.tag.number)) {
		params.tag.kind = TAG_INT;
		code = cancel_one(c, &params, &count);
	}
	if (code != EXIT_DONE)
		return code;
	if (count == 0) {
		session_complain(&c->session,
			"E_NOT_FOUND: no request of yours is known by that %s", tag ? "tag" : "id");
		return EXIT_REFUSED;
	}
	n = snprintf(line, sizeof(line),
		c->json ? "{\"cancelled\":%" PRId64 "}" : "cancelled %" PRId64, count);
	msgpack_sbuffer_init(&out);
	code = control_print(c, &out, msgpack_sbuffer_write(&out, line, (size_t)n));
	msgpack_sbuffer_destroy(&out);
	return code;
}

/* Waits until the daemon is in the state that was asked for, and prints its name. */
static enum exit_code run_model(struct control *c, enum method m)
{
	const msgpack_object *state;
	struct message answer;
	enum exit_code code;
	msgpack_sbuffer out;
	int r;

	if (!control_call(c, m, NULL, &answer, &code))
		return code;
	state = map_get(&answer.result, "state");
	msgpack_sbuffer_init(&out);
	if (c->json)
		r = json_write(&out, &answer.result);
	else if (state && state->type == MSGPACK_OBJECT_STR)
		r = msgpack_sbuffer_write(&out, state->via.str.ptr, state->via.str.size);
	else
		r = 0;
	code = control_print(c, &out, r);
	msgpack_sbuffer_destroy(&out);
	message_done(&answer);
	return code;
}

static enum exit_code run_cache(struct control *c)
{
	const struct params params = {
		.set = c->has_uid ? UINT64_C(1) << PARAM_UID : 0,
		.uid = c->uid,
	};
	struct message answer;
	enum exit_code code;
	msgpack_sbuffer out;
	char line[96];
	int64_t pages = 0, replies = 0;
	int n;

	if (!c->words.words[0].text || strcmp(c->words.words[0].text, "drop") != 0) {
		control_usage(c, "wanted drop", "cache");
		return EXIT_USAGE;
	}
	if (!control_call(c, METHOD_CACHE_DROP, &params, &answer, &code))
		return code;
	object_int(map_get(&answer.result, "pages"), &pages);
	object_int(map_get(&answer.result, "replies"), &replies);
	message_done(&answer);
	n = snprintf(line, sizeof(line),
		c->json ? "{\"pages\":%" PRId64 ",\"replies\":%" PRId64 "}"
			: "dropped %" PRId64 " pages and the ids of %" PRId64 " replies",
		pages, replies);
	msgpack_sbuffer_init(&out);
	code = control_print(c, &out, msgpack_sbuffer_write(&out, line, (size_t)n));
	msgpack_sbuffer_destroy(&out);
	return code;
}

static int write_ids(msgpack_sbuffer *out, const msgpack_object *tokens)
{
	int r = 0;

	if (!tokens || tokens->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	for (uint32_t i = 0; i < tokens->via.array.size && r == 0; i++) {
		int64_t id = -1;
		char text[24];
		int n;

		object_int(&tokens->via.array.ptr[i], &id);
		n = snprintf(text, sizeof(text), "%s%" PRId64, i > 0 ? " " : "", id);
		r = msgpack_sbuffer_write(out, text, (size_t)n);
	}
	return r;
}

static enum exit_code run_tokenize(struct control *c)
{
	struct session *s = &c->session;
	struct prompt prompt;
	struct message m;
	enum exit_code code;
	msgpack_sbuffer out;
	char error[512];
	int r;

	c->words.no_stdin = c->words.n_words > 0; /* the words, or stdin */
	for (size_t i = 0; i < c->words.n_words; i++)
		if (c->words.words[i].is_stdin)
			c->words.no_stdin = false;
	c->words.empty_allowed = true;
	r = prompt_read(
		&prompt, &c->words, s->watch.signal_fd, &s->watch.signal, error, sizeof(error));
	if (r < 0) {
		if (r != -EINTR)
			session_complain(s, "%s", error);
		prompt_done(&prompt);
		return EXIT_USAGE;
	}
	{
		const struct params params = {
			.set = UINT64_C(1) << PARAM_TEXT | UINT64_C(1) << PARAM_BOS |
			       UINT64_C(1) << PARAM_SPECIAL,
			.text = {prompt.text, prompt.len},
			.bos = c->bos,
			.special = c->special,
		};

		r = control_call(c, METHOD_TOKENIZE, &params, &m, &code);
	}
	prompt_done(&prompt);
	if (!r)
		return code;
	msgpack_sbuffer_init(&out);
	code = control_print(c, &out,
		c->json ? json_write(&out, &m.result)
			: write_ids(&out, map_get(&m.result, "tokens")));
	msgpack_sbuffer_destroy(&out);
	message_done(&m);
	return code;
}

static enum exit_code run(struct control *c)
{
	struct session *s = &c->session;

	if (c->help)
		return output_text(&s->out, help, strlen(help)) < 0 ? EXIT_LOST : EXIT_DONE;
	if (c->version) {
		const char line[] = "zephctl " ZEPH_VERSION "\n";

		return output_text(&s->out, line, strlen(line)) < 0 ? EXIT_LOST : EXIT_DONE;
	}
	session_start_clock(s);
	if (strcmp(c->command, "status") == 0 && c->words.n_words == 0)
		return run_status(c);
	if (strcmp(c->command, "top") == 0 && c->words.n_words == 0)
		return top(c);
	if (strcmp(c->command, "metrics") == 0 && c->words.n_words == 0)
		return run_metrics(c);
	if (strcmp(c->command, "replay") == 0 && c->words.n_words == 1)
		return replay(c);
	if (strcmp(c->command, "cancel") == 0)
		return run_cancel(c);
	if (strcmp(c->command, "tokenize") == 0)
		return run_tokenize(c);
	if (strcmp(c->command, "sessions") == 0)
		return run_sessions(c);
	if (strcmp(c->command, "load") == 0 && c->words.n_words == 0)
		return run_model(c, METHOD_MODEL_LOAD);
	if (strcmp(c->command, "unload") == 0 && c->words.n_words == 0)
		return run_model(c, METHOD_MODEL_UNLOAD);
	if (strcmp(c->command, "cache") == 0 && c->words.n_words == 1)
		return run_cache(c);
	control_usage(c,
		"unknown command, wanted status, cancel, load, unload, cache, sessions, tokenize or quantize",
		c->command);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct control c = {0};
	enum exit_code code;
	int r;

	if (argc > 1 && strcmp(argv[1], "quantize") == 0) {
		r = beside_exec("zeph-quantize", "engine", argv + 1);
		fprintf(stderr, "zephctl: zeph-quantize: %s\n", strerror(-r));
		return EXIT_BROKEN;
	}
	r = session_begin(&c.session, "zephctl");

	if (r < 0) {
		session_complain(&c.session, "%s", strerror(-r));
		return EXIT_LOST;
	}
	r = parse(&c, argc, argv);
	code = r < 0 ? EXIT_USAGE : run(&c);
	options_done(&c.words);
	return session_end(&c.session, code);
}
