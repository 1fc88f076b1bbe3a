/* Text on its way to a person or a program: what a model wrote never commands a terminal. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum color { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };

/* The answer's way to stdout. Nothing here blocks as long as poll() is asked first. */
struct output {
	int fd;
	bool terminal;  /* controls are shown as ^X; elsewhere bytes pass unchanged */
	bool line_open; /* the last byte was no newline, or there was none yet */
	char held[4];   /* terminal: the beginning of a character */
	size_t n_held;
	char *buffer; /* [size] with start … end still to be written */
	size_t size, start, end;
};

void output_init(struct output *o, int fd);
void output_done(struct output *o);

/* Queues text. 0 or -ENOMEM. */
int output_text(struct output *o, const char *text, size_t n);

/* Queues the answer's last newline unless it has one. 0 or -ENOMEM. */
int output_end(struct output *o);

/* Writes a piece that a descriptor which poll() calls writable takes without blocking. 0; -ENOSTR:
 * nobody reads any more; another negative errno. */
int output_write(struct output *o);

size_t output_pending(const struct output *o);

/* One line of text as a terminal may see it, at most `columns` characters of it; every control
 * character becomes ^X. out: [4 * len]. Returns the bytes written. */
size_t terminal_line(const char *text, size_t len, size_t columns, char *out);

/* One line on a terminal's stderr that comes and goes. */
struct progress {
	bool enabled, shown;
};

/* Enabled where stderr is a terminal that can erase a line, and not quiet. */
void progress_init(struct progress *p, bool quiet);
void progress_show(struct progress *p, const char *line);
void progress_erase(struct progress *p);

/* "program: sentence" on stderr in one write, on one line, with controls shown as ^X. */
void complain(const char *program, enum color color, const char *sentence, size_t n);
