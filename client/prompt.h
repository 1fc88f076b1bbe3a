/* What is asked: words, files and stdin put together. */
#pragma once

#include <stddef.h>

#include "client/options.h"

struct prompt {
	char *text; /* [len], owned */
	size_t len;
	char *system; /* [system_len], owned; NULL: none */
	size_t system_len;
};

/* Reads stdin as the options say, files and the role. 0, or a negative errno with a sentence:
 * -EINVAL is the user's mistake, -EINTR a signal while stdin was read. With --map the prompt's text
 * is stdin. prompt_done() after either. */
int prompt_read(struct prompt *p, const struct options *o, int signal_fd, int *ret_signal,
	char *error, size_t size);
void prompt_done(struct prompt *p);
