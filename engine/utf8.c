/* UTF-8 as Unicode defines it (version 15, section 3.9, table 3-7), without state and without
 * allocation: the caller owns every buffer. What is invalid is cut into maximal prefixes of valid
 * sequences, so that repairing here and in Python gives the same bytes. */
#include "engine/utf8.h"

#include <string.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* The bytes of a character that starts with `lead` (0: none does) and the bounds of its second
 * byte: that one alone tells overlong forms, surrogates and what lies above U+10FFFF. */
static size_t utf8_lead(unsigned char lead, unsigned char *ret_low, unsigned char *ret_high)
{
	*ret_low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
	*ret_high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
	if (lead < 0x80)
		return 1;
	if (lead < 0xc2 || lead > 0xf4)
		return 0;
	return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *ret_code)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char low, high;
	size_t length = utf8_lead(u[0], &low, &high), i;
	uint32_t code;

	if (length == 1) {
		*ret_code = u[0];
		return 1;
	}
	*ret_code = UINT32_MAX;
	if (length == 0)
		return 1;
	code = u[0] & (0xffu >> (length + 1));
	for (i = 1; i < length; i++) {
		if (i == n || u[i] < low || u[i] > high)
			return i;
		code = code << 6 | (u[i] & 0x3f);
		low = 0x80;
		high = 0xbf;
	}
	*ret_code = code;
	return length;
}

size_t utf8_encode(uint32_t code, char out[4])
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* Bytes of ASCII that the text begins with, eight at a time: never more than there are. */
static size_t utf8_ascii(const char *s, size_t n)
{
	size_t i = 0;
	uint64_t word;

	for (; n - i >= sizeof(word); i += sizeof(word)) {
		memcpy(&word, s + i, sizeof(word));
		if (word & UINT64_C(0x8080808080808080))
			break;
	}
	while (i < n && !(s[i] & 0x80))
		i++;
	return i;
}

bool utf8_valid(const char *s, size_t n)
{
	uint32_t code;
	size_t i;

	for (i = utf8_ascii(s, n); i < n; i += utf8_ascii(s + i, n - i)) {
		i += utf8_decode(s + i, n - i, &code);
		if (code == UINT32_MAX)
			return false;
	}
	return true;
}

size_t utf8_repair(const char *s, size_t n, char *out)
{
	size_t i = 0, written = 0, length;
	uint32_t code;
	bool bad;

	while (i < n) {
		length = utf8_decode(s + i, n - i, &code);
		bad = code == UINT32_MAX;
		if (out && bad)
			memcpy(out + written, UTF8_REPLACEMENT, 3);
		else if (out)
			memcpy(out + written, s + i, length);
		written += bad ? 3 : length;
		i += length;
	}
	return written;
}

size_t utf8_incomplete_tail(const char *s, size_t n)
{
	unsigned char low, high;
	uint32_t code;
	size_t k;

	for (k = 1; k <= 3 && k <= n; k++) {
		unsigned char byte = (unsigned char)s[n - k];

		if ((byte & 0xc0) == 0x80)
			continue; /* inside a character */
		if (utf8_lead(byte, &low, &high) <= k)
			return 0; /* whole, or begins nothing */
		return utf8_decode(s + n - k, k, &code) == k ? k : 0;
	}
	return 0;
}
