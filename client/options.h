/* The command line of zeph. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/terminal.h"
#include "proto/limits.h"
#include "proto/params.h"

/* A word of the prompt, in the order given. */
struct word {
	const char *text;
	bool is_stdin; /* a bare "-" before any "--" */
};

struct options {
	const char *system, *role, *map, *socket;
	struct word *words; /* [n_words], owned */
	size_t n_words;
	const char **files; /* [n_files], owned */
	size_t n_files;
	struct rpc_text stop[STOPS_MAX];
	struct rpc_text *choices; /* [n_choices] of --choose or --is; owned, the texts are not */
	uint32_t n_choices, n_choose; /* n_choose: times that --choose was given */
	struct params params;         /* what -m, -t … set; stop points into this struct */
	uint64_t timeout_usec;        /* to connect */
	bool has_timeout;             /* --timeout was given: it bounds the whole answer too */
	enum color color;
	bool continues; /* -c: the session is the terminal's own */
	bool raw, json, no_stream, stats, quiet, no_stdin, extract;
	bool is; /* --is: the choices are ways to say yes and no */
	bool dial_stdio, version, help;
	bool empty_allowed; /* zephctl tokenize: no text has no tokens */
};

/* Reads the command line; the texts stay where they are. 0, or -EINVAL with a sentence, or -ENOMEM.
 * options_done() after either. The options must not move in memory. */
int options_parse(struct options *o, int argc, char **argv, char *error, size_t size);
void options_done(struct options *o);

/* What --is weighs: so many ways to say yes, then as many to say no. */
#define YES_WAYS 3

/* What --help prints. */
extern const char options_help[];
