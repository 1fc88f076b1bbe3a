/* Why: one table of options, so that --help, the parser and the request agree. Owns the lists of
 * words and files; the texts are argv's. */
#include "client/options.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/numbers.h"

#define CONNECT_USEC (5 * UINT64_C(1000000))
#define TIMEOUT_MAX  1e9 /* seconds */

const char options_help[] =
	"usage: zeph [options] [--] [prompt words...]\n"
	"\n"
	"Asks the zeph daemon and prints the answer as it comes. When stdin is not a terminal, its\n"
	"text follows the prompt after a blank line; a word \"-\" says where else it goes.\n"
	"\n"
	"prompt\n"
	"  -s, --system TEXT        the system prompt\n"
	"      --role NAME          the system prompt from ~/.config/zeph/roles/NAME\n"
	"  -c, --continue           go on with this terminal's conversation\n"
	"  -n, --session NAME       go on with the conversation of that name, or begin it\n"
	"  -f, --file PATH          add a file's text after the prompt (repeatable)\n"
	"      --raw                complete the text as it is, without the chat template\n"
	"      --map 'TEXT {}'      ask once for each line of stdin, put in place of {}\n"
	"      --no-stdin           leave stdin alone\n"
	"answers that scripts branch on\n"
	"      --choose A,B,C       print the likeliest of these answers (repeatable: then no\n"
	"                           comma splits)\n"
	"      --is                 is the answer yes? exits 0 for yes, 1 for no\n"
	"sampling\n"
	"  -m, --max-new-tokens N   at most so many tokens\n"
	"  -t, --temperature X      0 is greedy\n"
	"      --greedy             always the likeliest token\n"
	"      --top-k N  --top-p X  --min-p X  --repeat-penalty X  --seed N\n"
	"      --stop TEXT          end before this text (repeatable)\n"
	"output\n"
	"      --no-stream          print the answer when it is complete\n"
	"  -x, --extract            only the first code block of the answer\n"
	"      --json               one JSON object with answer, usage, timing and receipt\n"
	"      --stats              counts and times, to stderr\n"
	"  -q, --quiet              no progress on the terminal\n"
	"      --color WHEN         auto, always or never\n"
	"daemon\n"
	"  -S, --socket PATH        where it listens (also $ZEPH_SOCKET)\n"
	"      --timeout SECONDS    give up connecting after this (5 where it is not given), and\n"
	"                           the whole answer too\n"
	"      --dial-stdio         connect stdin and stdout to the daemon (for ssh)\n"
	"      --version  --help\n"
	"\n"
	"exit: 0 done, 1 no (--is), 2 usage, 3 no daemon or connection lost, 4 refused, 5 model,\n"
	"device or protocol, 6 try again, 7 no code block for -x. More in zeph(1).\n";

enum {
	WORD = 1, /* what getopt calls an argument that is no option, with "-" as the first flag */
	ROLE = 256,
	RAW,
	MAP,
	NO_STDIN,
	GREEDY,
	TOP_K,
	TOP_P,
	MIN_P,
	REPEAT_PENALTY,
	SEED,
	STOP,
	CHOOSE,
	IS,
	NO_STREAM,
	JSON,
	STATS,
	COLOR,
	TIMEOUT,
	DIAL_STDIO,
	VERSION,
};

static const char short_options[] = "-:s:cn:f:m:t:xqS:h";
static const struct option long_options[] = {
	{"system", required_argument, NULL, 's'},
	{"role", required_argument, NULL, ROLE},
	{"continue", no_argument, NULL, 'c'},
	{"session", required_argument, NULL, 'n'},
	{"file", required_argument, NULL, 'f'},
	{"raw", no_argument, NULL, RAW},
	{"map", required_argument, NULL, MAP},
	{"no-stdin", no_argument, NULL, NO_STDIN},
	{"max-new-tokens", required_argument, NULL, 'm'},
	{"temperature", required_argument, NULL, 't'},
	{"greedy", no_argument, NULL, GREEDY},
	{"top-k", required_argument, NULL, TOP_K},
	{"top-p", required_argument, NULL, TOP_P},
	{"min-p", required_argument, NULL, MIN_P},
	{"repeat-penalty", required_argument, NULL, REPEAT_PENALTY},
	{"seed", required_argument, NULL, SEED},
	{"stop", required_argument, NULL, STOP},
	{"choose", required_argument, NULL, CHOOSE},
	{"is", no_argument, NULL, IS},
	{"no-stream", no_argument, NULL, NO_STREAM},
	{"extract", no_argument, NULL, 'x'},
	{"json", no_argument, NULL, JSON},
	{"stats", no_argument, NULL, STATS},
	{"quiet", no_argument, NULL, 'q'},
	{"color", required_argument, NULL, COLOR},
	{"socket", required_argument, NULL, 'S'},
	{"timeout", required_argument, NULL, TIMEOUT},
	{"dial-stdio", no_argument, NULL, DIAL_STDIO},
	{"version", no_argument, NULL, VERSION},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

/* The options that only set a parameter. */
static const struct {
	int option;
	const char *name;
	enum param param;
	size_t offset; /* of an int64_t or a double in struct params */
	bool integer;
} numbers[] = {
	{'m', "--max-new-tokens", PARAM_MAX_NEW_TOKENS, offsetof(struct params, max_new_tokens),
		true},
	{'t', "--temperature", PARAM_TEMPERATURE, offsetof(struct params, temperature), false},
	{TOP_K, "--top-k", PARAM_TOP_K, offsetof(struct params, top_k), true},
	{TOP_P, "--top-p", PARAM_TOP_P, offsetof(struct params, top_p), false},
	{MIN_P, "--min-p", PARAM_MIN_P, offsetof(struct params, min_p), false},
	{REPEAT_PENALTY, "--repeat-penalty", PARAM_REPETITION_PENALTY,
		offsetof(struct params, repetition_penalty), false},
	{SEED, "--seed", PARAM_SEED, offsetof(struct params, seed), true},
};

/* 1: it was such an option, 0: it was not, -EINVAL. */
static int take_number(struct options *o, int option, const char *value, char *error, size_t size)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		char *field = (char *)&o->params + numbers[i].offset;

		if (numbers[i].option != option)
			continue;
		if (numbers[i].integer ? number_int(value, (int64_t *)field)
				       : number_float(value, (double *)field)) {
			o->params.set |= UINT64_C(1) << numbers[i].param;
			return 1;
		}
		snprintf(error, size, "%s: found \"%s\", wanted %s", numbers[i].name, value,
			numbers[i].integer ? "an integer" : "a number");
		return -EINVAL;
	}
	return 0;
}

static int take_color(struct options *o, const char *value, char *error, size_t size)
{
	static const char *const names[] = {"auto", "always", "never"};

	for (int i = 0; i < 3; i++)
		if (strcmp(value, names[i]) == 0) {
			o->color = (enum color)i;
			return 0;
		}
	snprintf(error, size, "--color: found \"%s\", wanted auto, always or never", value);
	return -EINVAL;
}

static int take_stop(struct options *o, const char *value, char *error, size_t size)
{
	if (o->params.n_stop == STOPS_MAX) {
		snprintf(error, size, "--stop: given more than %u times", STOPS_MAX);
		return -EINVAL;
	}
	o->stop[o->params.n_stop++] = (struct rpc_text){value, strlen(value)};
	o->params.stop = o->stop;
	o->params.set |= UINT64_C(1) << PARAM_STOP;
	return 0;
}

static void add_choice(struct options *o, const char *text, size_t len)
{
	o->choices[o->n_choices++] = (struct rpc_text){text, len};
}

/* Once given, commas split and the blanks around them are left out; given more often, each is one
 * choice as it stands. `choices` has room for each comma and each argument. */
static int split_choices(struct options *o, char *error, size_t size)
{
	const char *at = o->choices[0].text;

	if (o->n_choose == 1) {
		o->n_choices = 0;
		for (;;) {
			const size_t n = strcspn(at, ",");
			size_t from = strspn(at, " \t"), to = n;

			while (to > from && (at[to - 1] == ' ' || at[to - 1] == '\t'))
				to--;
			from = from < to ? from : to;
			add_choice(o, at + from, to - from);
			if (!at[n])
				break;
			at += n + 1;
		}
	}
	for (uint32_t i = 0; i < o->n_choices; i++)
		if (o->choices[i].len == 0 || o->choices[i].len > CHOICE_BYTES_MAX) {
			snprintf(error, size,
				"--choose: found a choice of %zu bytes, wanted 1 to %u",
				o->choices[i].len, CHOICE_BYTES_MAX);
			return -EINVAL;
		}
	if (o->n_choices < 2 || o->n_choices > CHOICES_MAX) {
		snprintf(error, size, "--choose: found %u choices, wanted 2 to %u", o->n_choices,
			CHOICES_MAX);
		return -EINVAL;
	}
	return 0;
}

/* What --choose and --is do not go with: whatever is about how a text is drawn or printed. */
static int check_choices(const struct options *o, char *error, size_t size)
{
	const char *what = o->is ? "--is" : "--choose";

	if (o->is && o->n_choose > 0)
		snprintf(error, size, "--is: found beside --choose");
	else if (o->is && o->map)
		snprintf(error, size, "--is: found beside --map, whose answers are many");
	else if (o->extract)
		snprintf(error, size, "%s: found beside --extract", what);
	else if (o->continues || params_has(&o->params, PARAM_SESSION))
		snprintf(error, size, "%s: found beside a session, and nothing is said", what);
	else
		for (int i = 0; i < PARAM_COUNT; i++)
			if (params_has(&o->params, i)) {
				snprintf(error, size,
					"%s: found beside what sets %s, and nothing is drawn", what,
					param_name(i));
				return -EINVAL;
			}
	return error[0] ? -EINVAL : 0;
}

static int finish_choices(struct options *o, char *error, size_t size)
{
	static const char *const words[] = {"Yes", "yes", "YES", "No", "no", "NO"};
	int r;

	error[0] = 0;
	r = check_choices(o, error, size);
	if (r < 0)
		return r;
	if (!o->is)
		return split_choices(o, error, size);
	for (size_t i = 0; i < 2 * YES_WAYS; i++)
		add_choice(o, words[i], strlen(words[i]));
	return 0;
}

static int take_timeout(struct options *o, const char *value, char *error, size_t size)
{
	double seconds;

	if (!number_float(value, &seconds) || seconds < 0.001 || seconds > TIMEOUT_MAX) {
		snprintf(error, size,
			"--timeout: found \"%s\", wanted a number of seconds from 0.001 to 1e9",
			value);
		return -EINVAL;
	}
	o->timeout_usec = (uint64_t)(seconds * 1e6);
	o->has_timeout = true;
	return 0;
}

static int take_session(struct options *o, const char *value, char *error, size_t size)
{
	if (!session_name_valid(value, strlen(value))) {
		snprintf(error, size,
			"--session: found \"%s\", wanted 1 to 64 of A-Z a-z 0-9 . _ : -", value);
		return -EINVAL;
	}
	o->params.session = (struct rpc_text){value, strlen(value)};
	o->params.set |= UINT64_C(1) << PARAM_SESSION;
	return 0;
}

static int take(struct options *o, int option, const char *value, char *error, size_t size)
{
	const int r = take_number(o, option, value, error, size);

	if (r != 0)
		return r < 0 ? r : 0;
	switch (option) {
	case WORD: o->words[o->n_words++] = (struct word){value, strcmp(value, "-") == 0}; return 0;
	case 's': o->system = value; return 0;
	case ROLE: o->role = value; return 0;
	case 'c': o->continues = true; return 0;
	case 'n': return take_session(o, value, error, size);
	case 'f': o->files[o->n_files++] = value; return 0;
	case RAW: o->raw = true; return 0;
	case MAP: o->map = value; return 0;
	case NO_STDIN: o->no_stdin = true; return 0;
	case GREEDY:
		o->params.do_sample = false;
		o->params.set |= UINT64_C(1) << PARAM_DO_SAMPLE;
		return 0;
	case STOP: return take_stop(o, value, error, size);
	case CHOOSE:
		o->n_choose++;
		add_choice(o, value, strlen(value));
		return 0;
	case IS: o->is = true; return 0;
	case NO_STREAM: o->no_stream = true; return 0;
	case 'x': o->extract = true; return 0;
	case JSON: o->json = true; return 0;
	case STATS: o->stats = true; return 0;
	case 'q': o->quiet = true; return 0;
	case COLOR: return take_color(o, value, error, size);
	case 'S': o->socket = value; return 0;
	case TIMEOUT: return take_timeout(o, value, error, size);
	case DIAL_STDIO: o->dial_stdio = true; return 0;
	case VERSION: o->version = true; return 0;
	case 'h': o->help = true; return 0;
	default: assert(!"an option without a case"); return -EINVAL;
	}
}

static int check(const struct options *o, char *error, size_t size)
{
	const bool named = params_has(&o->params, PARAM_SESSION), session = o->continues || named;
	size_t places = 0;

	for (size_t i = 0; i < o->n_words; i++)
		places += o->words[i].is_stdin;
	if (places > 1)
		snprintf(error, size, "\"-\": found %zu times, wanted once (after -- it is text)",
			places);
	else if (places > 0 && o->no_stdin)
		snprintf(error, size, "\"-\": found beside --no-stdin (after -- it is text)");
	else if (o->map && (o->no_stdin || o->n_words > 0 || o->n_files > 0))
		snprintf(error, size,
			"--map: found beside %s; its template and stdin's lines are "
			"all of the prompt",
			o->no_stdin      ? "--no-stdin"
			: o->n_words > 0 ? "prompt words"
					 : "--file");
	else if (o->map && !strstr(o->map, "{}"))
		snprintf(error, size, "--map: found no {} in the template");
	else if (o->raw && (o->system || o->role))
		snprintf(error, size, "--raw: found beside a system prompt, which only a chat has");
	else if (o->continues && named)
		snprintf(error, size, "--continue: found beside --session, which names another");
	else if (session && (o->raw || o->map))
		snprintf(error, size, "--%s: found beside %s, which has no conversation",
			named ? "session" : "continue", o->raw ? "--raw" : "--map");
	else if (o->json && o->extract)
		snprintf(error, size, "--extract: found beside --json");
	else
		return 0;
	return -EINVAL;
}

int options_parse(struct options *o, int argc, char **argv, char *error, size_t size)
{
	size_t most = 2 * YES_WAYS + (size_t)argc; /* choices */
	int option, r = 0;

	*o = (struct options){.timeout_usec = CONNECT_USEC};
	o->words = calloc((size_t)argc + 1, sizeof(*o->words));
	o->files = calloc((size_t)argc + 1, sizeof(*o->files));
	for (int i = 1; i < argc; i++)
		for (const char *comma = argv[i]; (comma = strchr(comma, ',')); comma++)
			most++;
	o->choices = calloc(most, sizeof(*o->choices));
	if (!o->words || !o->files || !o->choices)
		return -ENOMEM;
	while (r == 0) {
		const int at = optind;

		option = getopt_long(argc, argv, short_options, long_options, NULL);
		if (option == -1)
			break;
		if (option == ':') {
			snprintf(error, size, "%s: found no value after it", argv[optind - 1]);
			return -EINVAL;
		}
		if (option == '?') {
			if (optopt > 0 && optopt < 256)
				snprintf(error, size, "-%c: unknown option (zeph --help)", optopt);
			else
				snprintf(error, size, "%s: unknown option (zeph --help)",
					argv[at < argc ? at : argc - 1]);
			return -EINVAL;
		}
		r = take(o, option, optarg, error, size);
	}
	for (; r == 0 && optind < argc; optind++) /* after "--" all is text */
		o->words[o->n_words++] = (struct word){argv[optind], false};
	if (r < 0 || o->version || o->help)
		return r;
	if (o->n_choose > 0 || o->is)
		r = finish_choices(o, error, size);
	return r < 0 ? r : check(o, error, size);
}

void options_done(struct options *o)
{
	if (!o)
		return;
	free(o->words);
	free(o->files);
	free(o->choices);
	*o = (struct options){0};
}
