/* UTF-8: checking, repairing, and the length of what is still incomplete. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one character of [s, s + n), n > 0. Returns its bytes (1 … 4) and the code point. For an
 * invalid sequence it returns the length of its maximal valid prefix (at least 1) and *ret_code =
 * UINT32_MAX, so that one U+FFFD stands for it, as in Python's errors="replace" (Unicode 15,
 * section 3.9, table 3-8). */
size_t utf8_decode(const char *s, size_t n, uint32_t *ret_code);

/* Writes the character's 1 … 4 bytes; the code point is a scalar value. */
size_t utf8_encode(uint32_t code, char out[4]);

/* True if the whole text is valid. */
bool utf8_valid(const char *s, size_t n);

/* Bytes of the text with every invalid sequence as U+FFFD; out may be NULL to learn the size, which
 * is at most 3 n. Returns the bytes. */
size_t utf8_repair(const char *s, size_t n, char *out);

/* How many bytes at the end of the text begin a character that later bytes could complete (0 … 3).
 */
size_t utf8_incomplete_tail(const char *s, size_t n);
