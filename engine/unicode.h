/* What Python's str knows of a character: classes and case, as chat templates expect them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	UNICODE_PRINTABLE = 1 << 0,
	UNICODE_ALPHA = 1 << 1,
	UNICODE_DECIMAL = 1 << 2,
	UNICODE_DIGIT = 1 << 3,
	UNICODE_NUMERIC = 1 << 4,
	UNICODE_IS_UPPER = 1 << 5,
	UNICODE_IS_LOWER = 1 << 6,
	UNICODE_IS_TITLE = 1 << 7,
};

enum unicode_case { UNICODE_TO_UPPER, UNICODE_TO_LOWER, UNICODE_TO_TITLE };

/* The classes of a code point; 0 for what is none (UINT32_MAX, surrogates). */
unsigned unicode_class(uint32_t code);

/* str.isspace(): what strip() takes away and split() splits at. */
bool unicode_is_space(uint32_t code);

/* str.splitlines() ends a line there. */
bool unicode_is_line_end(uint32_t code);

/* The characters that `code` becomes, at most 3; returns how many. */
size_t unicode_map(uint32_t code, enum unicode_case to, uint32_t out[3]);
