/* Why: `zeph -x` gives scripts the code and not the talk around it. Owns nothing. */
#include "client/extract.h"

#include <string.h>

/* How many fence characters begin the line, or 0; *ret_mark is which, *ret_rest where they end. */
static size_t fence_at(const char *line, size_t n, char *ret_mark, size_t *ret_rest)
{
	size_t i = 0, from;

	while (i < n && i < 4 && line[i] == ' ')
		i++;
	if (i == 4 || i == n || (line[i] != '`' && line[i] != '~'))
		return 0;
	from = i;
	while (i < n && line[i] == line[from])
		i++;
	if (i - from < 3)
		return 0;
	*ret_mark = line[from];
	*ret_rest = i;
	return i - from;
}

static bool blank(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r')
			return false;
	return true;
}

bool extract_block(const char *text, size_t n, bool open_too, size_t *ret_at, size_t *ret_len)
{
	size_t at = 0, open = 0, begin = 0;
	char opened = 0;

	while (at < n) {
		const char *newline = memchr(text + at, '\n', n - at);
		const size_t len = newline ? (size_t)(newline - (text + at)) : n - at;
		const size_t next = at + len + (newline ? 1 : 0);
		char mark;
		size_t rest, marks = fence_at(text + at, len, &mark, &rest);

		if (open > 0) {
			if (marks >= open && mark == opened &&
				blank(text + at + rest, len - rest)) {
				*ret_at = begin;
				*ret_len = at - begin;
				return true;
			}
		} else if (marks > 0 &&
			   !(mark == '`' && memchr(text + at + rest, '`', len - rest))) {
			open = marks;
			opened = mark;
			begin = next;
		}
		at = next;
	}
	if (open == 0 || !open_too)
		return false;
	*ret_at = begin;
	*ret_len = n - begin;
	return true;
}
