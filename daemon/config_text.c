/* Reads configuration files before libconfig sees them, for three things it cannot be asked: who
 * could have written a file, which files were included (a file without a setting leaves no trace),
 * and how an integer was spelled. The text is read through the very descriptor that was checked. */
#include "daemon/config_text.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One file being read. */
struct source {
	const char *text;
	size_t len, at;
	uint32_t file, line;
	const struct source *parent; /* what includes it */
};

static int append(struct config_text *t, const char *s, size_t n)
{
	if (t->len + n + 1 > t->size) {
		size_t size = (t->len + n + 1) * 2;
		char *text = realloc(t->text, size);
		if (!text)
			return -ENOMEM;
		t->text = text;
		t->size = size;
	}
	memcpy(t->text + t->len, s, n);
	t->len += n;
	t->text[t->len] = 0;
	return 0;
}

static int append_line(struct config_text *t, uint32_t file, uint32_t line)
{
	if (t->n_lines == t->lines_size) {
		size_t size = t->lines_size ? t->lines_size * 2 : 64;
		struct config_line *lines = reallocarray(t->lines, size, sizeof(*lines));
		if (!lines)
			return -ENOMEM;
		t->lines = lines;
		t->lines_size = size;
	}
	t->lines[t->n_lines++] = (struct config_line){.file = file, .line = line};
	return 0;
}

/* Takes the rest of the source over up to its position, with the newlines on the way. */
static int copy(struct config_text *t, struct source *s, size_t end)
{
	while (s->at < end) {
		const char *newline = memchr(s->text + s->at, '\n', end - s->at);
		size_t stop = newline ? (size_t)(newline - s->text) + 1 : end;
		int r = append(t, s->text + s->at, stop - s->at);
		if (r < 0)
			return r;
		s->at = stop;
		if (newline) {
			r = append_line(t, s->file, s->line++);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* The line that position `at` stands on; s->line is that of s->at. */
static unsigned line_of(const struct source *s, size_t at)
{
	unsigned line = s->line;

	for (size_t i = s->at; i < at && i < s->len; i++)
		line += s->text[i] == '\n';
	return line;
}

/* The end of the comment or string that begins at i, or 0 where none begins; -EINVAL where it does
 * not end. */
static int skip_quoted(const struct source *s, size_t i, size_t *ret_end)
{
	const char *t = s->text;
	size_t n = s->len;

	*ret_end = 0;
	if (t[i] == '#' || (t[i] == '/' && i + 1 < n && t[i + 1] == '/')) {
		while (i < n && t[i] != '\n')
			i++;
		*ret_end = i;
	} else if (t[i] == '/' && i + 1 < n && t[i + 1] == '*') {
		const char *end = memmem(t + i + 2, n - i - 2, "*/", 2);
		if (!end)
			return -EINVAL;
		*ret_end = (size_t)(end - t) + 2;
	} else if (t[i] == '"') {
		for (i++; i < n && t[i] != '"'; i++)
			if (t[i] == '\\')
				i++;
		if (i >= n)
			return -EINVAL;
		*ret_end = i + 1;
	}
	return 0;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
	       c == '*' || c == '-';
}

/* The end of the number that begins at i, or i. *ret_cut: it is an integer that libconfig would cut
 * to 32 bits. */
static size_t skip_number(const struct source *s, size_t i, bool *ret_cut)
{
	const char *t = s->text;
	size_t start = i, n = s->len;
	char digits[32];

	*ret_cut = false;
	if (i < n && (t[i] == '+' || t[i] == '-'))
		i++;
	if (i >= n || !is_digit(t[i]))
		return start;
	bool hex = t[i] == '0' && i + 1 < n && (t[i + 1] == 'x' || t[i + 1] == 'X');
	i += hex ? 2 : 0;
	size_t first = i;
	while (i < n && (is_digit(t[i]) || (hex && strchr("abcdefABCDEF", t[i]) && t[i])))
		i++;
	size_t length = i - first;
	if (!hex && i < n && (t[i] == '.' || t[i] == 'e' || t[i] == 'E')) {
		while (i < n && (is_digit(t[i]) || strchr(".eE+-", t[i])) && t[i])
			i++;
		return i;
	}
	if (i < n && t[i] == 'L') {
		while (i < n && t[i] == 'L')
			i++;
		return i;
	}
	while (length > 1 && t[first] == '0') {
		first++;
		length--;
	}
	*ret_cut = length >= sizeof(digits);
	if (!*ret_cut) {
		memcpy(digits, t + first, length);
		digits[length] = 0;
		unsigned long long value = strtoull(digits, NULL, hex ? 16 : 10);
		*ret_cut = value > (unsigned long long)INT32_MAX + (t[start] == '-');
	}
	return i;
}

static int read_file(struct config_text *t, const char *path, const struct source *parent,
	char *error, size_t error_size);

/* An @include line at i: expands it and moves the source behind it. */
static int include(struct config_text *t, struct source *s, size_t i, char *error, size_t size)
{
	const char *file = t->files[s->file];
	const char *open, *close, *end;
	unsigned line = line_of(s, i);
	int r;

	end = memchr(s->text + i, '\n', s->len - i);
	if (!end)
		end = s->text + s->len;
	open = memchr(s->text + i, '"', end - s->text - i);
	close = open ? memchr(open + 1, '"', end - open - 1) : NULL;
	if (!close || close == open + 1 || memchr(open + 1, 0, close - open - 1)) {
		snprintf(error, size, "%s:%u: @include wants a file name in quotes", file, line);
		return -EINVAL;
	}
	for (const char *p = close + 1; p < end; p++) {
		if (*p == '#' || (*p == '/' && p + 1 < end && p[1] == '/'))
			break;
		if (*p != ' ' && *p != '\t' && *p != '\r' && *p != ';') {
			snprintf(error, size, "%s:%u: nothing may follow the file name of @include",
				file, line);
			return -EINVAL;
		}
	}
	r = copy(t, s, i);
	if (r < 0)
		return r;

	char *path = config_path(file, open + 1, (size_t)(close - open - 1));
	if (!path)
		return -ENOMEM;
	r = read_file(t, path, s, error, size);
	free(path);
	s->at = end - s->text;
	return r;
}

/* Reads one source to its end. */
static int expand(struct config_text *t, struct source *s, char *error, size_t error_size)
{
	const char *file = t->files[s->file];
	bool line_start = true;
	size_t i = 0;
	int r;

	while (i < s->len) {
		char c = s->text[i];
		size_t end;
		bool cut;

		if (!c) {
			snprintf(error, error_size, "%s:%u: a zero byte", file, line_of(s, i));
			return -EINVAL;
		}
		if (c == '\n' || c == ' ' || c == '\t' || c == '\r') {
			line_start |= c == '\n';
			i++;
			continue;
		}
		if (line_start && s->len - i > 8 && !memcmp(s->text + i, "@include", 8) &&
			(s->text[i + 8] == ' ' || s->text[i + 8] == '\t')) {
			r = include(t, s, i, error, error_size);
			if (r < 0)
				return r;
			i = s->at;
			continue;
		}
		line_start = false;
		if (skip_quoted(s, i, &end) < 0) {
			snprintf(error, error_size, "%s:%u: a %s that does not end", file,
				line_of(s, i), c == '"' ? "string" : "comment");
			return -EINVAL;
		}
		if (end) {
			i = end;
			continue;
		}
		end = skip_number(s, i, &cut);
		if (cut) {
			snprintf(error, error_size,
				"%s:%u: %.*s is beyond 32 bits and needs the suffix L: %.*sL", file,
				line_of(s, i), (int)(end - i), s->text + i, (int)(end - i),
				s->text + i);
			return -ERANGE;
		}
		if (end > i) {
			i = end;
			continue;
		}
		for (i++; is_name(c) && i < s->len && is_name(s->text[i]); i++)
			;
	}
	r = copy(t, s, s->len);
	return r < 0 ? r : append(t, "\n", 1) < 0 ? -ENOMEM : append_line(t, s->file, s->line);
}

static int read_all(int fd, size_t size, char **ret_text, size_t *ret_len)
{
	char *text = malloc(size + 1);
	size_t len = 0;

	if (!text)
		return -ENOMEM;
	while (len < size) {
		ssize_t n = read(fd, text + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			n = -errno;
			free(text);
			return n;
		}
		if (n == 0)
			break;
		len += n;
	}
	text[len] = 0;
	*ret_text = text;
	*ret_len = len;
	return 0;
}

int config_file_read(const char *path, size_t most, char **ret_text, size_t *ret_len, char *error,
	size_t error_size)
{
	struct stat st;
	int fd, r;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0) {
		r = -errno;
		snprintf(error, error_size, "%s: cannot be read: %s", path, strerror(-r));
		goto out;
	}
	r = -EINVAL;
	if (!S_ISREG(st.st_mode)) {
		snprintf(error, error_size, "%s:1: not a regular file", path);
		goto out;
	}
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		r = -EPERM;
		snprintf(error, error_size,
			"%s:1: the file belongs to uid %u, who is neither root nor the daemon's "
			"user",
			path, (unsigned)st.st_uid);
		goto out;
	}
	if (st.st_mode & 022) {
		r = -EPERM;
		snprintf(error, error_size,
			"%s:1: others can write the file (mode %04o): chmod go-w %s", path,
			(unsigned)st.st_mode & 07777, path);
		goto out;
	}
	if ((uint64_t)st.st_size > most) {
		r = -EFBIG;
		snprintf(error, error_size, "%s:1: over %zu bytes, which is the limit", path, most);
		goto out;
	}
	r = read_all(fd, (size_t)st.st_size, ret_text, ret_len);
	if (r < 0)
		snprintf(error, error_size, "%s: cannot be read: %s", path, strerror(-r));
out:
	if (fd >= 0)
		close(fd);
	return r;
}

char *config_path(const char *file, const char *path, size_t len)
{
	const char *slash = path[0] == '/' ? NULL : strrchr(file, '/');
	char *whole = NULL;

	if (asprintf(&whole, "%.*s%.*s", slash ? (int)(slash - file) + 1 : 0, file, (int)len,
		    path) < 0)
		return NULL;
	return whole;
}

static int read_file(struct config_text *t, const char *path, const struct source *parent,
	char *error, size_t error_size)
{
	struct source s = {.line = 1, .parent = parent};
	char *text = NULL;
	char where[512] = "", why[512];
	int r;

	if (parent)
		snprintf(where, sizeof(where), "%s:%u: @include: ", t->files[parent->file],
			parent->line);
	if (t->n_files == CONFIG_FILES_MAX) {
		snprintf(error, error_size, "%smore than %d files, or a file includes itself",
			where, CONFIG_FILES_MAX);
		return -ELOOP;
	}
	r = config_file_read(path, CONFIG_BYTES_MAX - t->n_read, &text, &s.len, why, sizeof(why));
	if (r < 0) {
		snprintf(error, error_size, "%s%s", where, why);
		return r;
	}
	t->n_read += s.len;
	t->files[t->n_files] = strdup(path);
	if (t->files[t->n_files]) {
		s.file = t->n_files++;
		s.text = text;
		r = expand(t, &s, error, error_size);
	} else {
		r = -ENOMEM;
	}
	if (r == -ENOMEM)
		snprintf(error, error_size, "%sout of memory", where);
	free(text);
	return r;
}

int config_text_read(const char *path, struct config_text *ret, char *error, size_t error_size)
{
	struct config_text t = {};

	int r = read_file(&t, path, NULL, error, error_size);
	if (r < 0) {
		config_text_done(&t);
		return r;
	}
	*ret = t;
	return 0;
}

void config_text_done(struct config_text *t)
{
	for (uint32_t i = 0; i < t->n_files; i++)
		free(t->files[i]);
	free(t->lines);
	free(t->text);
	*t = (struct config_text){};
}

const char *config_text_file(const struct config_text *t, unsigned line, unsigned *ret_line)
{
	assert(t->n_lines);
	size_t i = line ? line - 1 : 0;
	if (i >= t->n_lines)
		i = t->n_lines - 1;
	*ret_line = t->lines[i].line;
	return t->files[t->lines[i].file];
}
