/* Text from a peer: bytes that may hold NUL and invalid UTF-8, shown safely. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* One character of [s, s + n), n > 0: returns its bytes (1 … 4) and the code point, or, where the
 * bytes are no character, the length of their longest valid beginning (at least 1) and UINT32_MAX.
 * Source: Unicode 15, section 3.9, table 3-7. */
size_t text_decode(const char *s, size_t n, uint32_t *ret_code);

/* How many bytes at the end of the text begin a character that further bytes could complete
 * (0 … 3). */
size_t text_incomplete(const char *s, size_t n);

/* Writes "the text" in quotes: controls, quotes and bad bytes as \xNN, at most about 48 bytes of it
 * and then "…", always terminated and always whole UTF-8. Returns buffer. */
const char *text_quote(const char *s, size_t n, char *buffer, size_t size);
