/* The configuration's text with its @include lines expanded, and where each line came from. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CONFIG_FILES_MAX 16         /* the file and all that it includes */
#define CONFIG_BYTES_MAX (1u << 20) /* all of them together */

struct config_line {
	uint32_t file; /* index in files */
	uint32_t line; /* from 1 */
};

struct config_text {
	char *text; /* terminated */
	size_t len, size;
	struct config_line *lines; /* [n_lines] */
	size_t n_lines, lines_size;
	char *files[CONFIG_FILES_MAX]; /* paths */
	uint32_t n_files;
	size_t n_read; /* bytes of all files */
};

/* Reads the file and what it includes. Each must be a regular file that belongs to root or to the
 * daemon's user and that nobody else can write; an integer beyond 32 bits must have the suffix L,
 * because libconfig cuts it without a word. 0, -ENOENT where the first file does not exist, or
 * another negative errno, with "FILE:LINE: sentence" in error. */
int config_text_read(const char *path, struct config_text *ret, char *error, size_t error_size);
void config_text_done(struct config_text *t); /* frees and empties */

/* The whole of such a file of at most `most` bytes, terminated, malloc'ed. 0, or a negative errno
 * with "PATH: sentence" in error. */
int config_file_read(const char *path, size_t most, char **ret_text, size_t *ret_len, char *error,
	size_t error_size);
/* The path [len] that a file names: relative to that file. malloc'ed; NULL: no memory. */
char *config_path(const char *file, const char *path, size_t len);

/* Where a line of the expanded text (from 1) was written. */
const char *config_text_file(const struct config_text *t, unsigned line, unsigned *ret_line);
