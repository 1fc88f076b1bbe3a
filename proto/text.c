/* Why: what a peer sent is named in sentences and shown on terminals, where raw bytes must not go.
 * Owns nothing. */
#include "proto/text.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define QUOTED_BYTES_MAX 48

size_t text_decode(const char *s, size_t n, uint32_t *ret_code)
{
	const uint8_t *p = (const uint8_t *)s;
	uint8_t low = 0x80, high = 0xbf; /* what the second byte may be */
	uint32_t code;
	size_t need;

	assert(n > 0);
	*ret_code = UINT32_MAX;
	if (p[0] < 0x80) {
		*ret_code = p[0];
		return 1;
	} else if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		need = 2;
		code = p[0] & 0x1f;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		need = 3;
		code = p[0] & 0x0f;
		if (p[0] == 0xe0)
			low = 0xa0;
		if (p[0] == 0xed)
			high = 0x9f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		need = 4;
		code = p[0] & 0x07;
		if (p[0] == 0xf0)
			low = 0x90;
		if (p[0] == 0xf4)
			high = 0x8f;
	} else {
		return 1;
	}
	for (size_t i = 1; i < need; i++) {
		if (i >= n || p[i] < low || p[i] > high)
			return i;
		code = code << 6 | (p[i] & 0x3f);
		low = 0x80;
		high = 0xbf;
	}
	*ret_code = code;
	return need;
}

size_t text_incomplete(const char *s, size_t n)
{
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		const uint8_t b = (uint8_t)s[n - back];
		uint32_t code;
		size_t need;

		if ((b & 0xc0) == 0x80)
			continue;
		need = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc2 ? 2 : 1;
		if (need <= back)
			return 0;
		/* only a valid beginning can be completed */
		return text_decode(s + n - back, back, &code) == back && code == UINT32_MAX &&
				       b <= 0xf4
			       ? back
			       : 0;
	}
	return 0;
}

const char *text_quote(const char *s, size_t n, char *buffer, size_t size)
{
	const size_t reserve = sizeof("…\""); /* with the terminating NUL */
	size_t at = 0, i = 0;

	if (size < 16) {
		if (size > 0)
			buffer[0] = 0;
		return buffer;
	}
	buffer[at++] = '"';
	while (i < n) {
		char escaped[16];
		uint32_t code;
		size_t used = text_decode(s + i, n - i, &code), width;
		const bool raw = code != UINT32_MAX && code >= 0x20 && code != '"' &&
				 code != '\\' && !(code >= 0x7f && code <= 0x9f);

		if (raw) {
			width = used;
		} else {
			snprintf(escaped, sizeof(escaped), "\\x%02x", (uint8_t)s[i]);
			width = 4;
			used = 1;
		}
		if (i + used > QUOTED_BYTES_MAX || at + width + reserve > size)
			break;
		memcpy(buffer + at, raw ? s + i : escaped, width);
		at += width;
		i += used;
	}
	if (i < n) {
		memcpy(buffer + at, "…", strlen("…"));
		at += strlen("…");
	}
	buffer[at++] = '"';
	buffer[at] = 0;
	return buffer;
}
