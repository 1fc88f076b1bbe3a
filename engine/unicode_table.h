/* The tables of unicode_table.c, written by tests/golden/make_unicode.py. */
#pragma once

#include <stdint.h>

#define UNICODE_CLASSES       3401
#define UNICODE_UPPER         194
#define UNICODE_UPPER_SEVERAL 102
#define UNICODE_LOWER         181
#define UNICODE_LOWER_SEVERAL 1
#define UNICODE_TITLE         85
#define UNICODE_TITLE_SEVERAL 48

/* first, first + step … last map to themselves + delta. */
struct unicode_run {
	uint32_t first, last, step;
	int32_t delta;
};

/* One character that maps to several; 0 ends them. */
struct unicode_several {
	uint32_t code, to[3];
};

extern const uint32_t unicode_classes[UNICODE_CLASSES];
extern const struct unicode_run unicode_upper[UNICODE_UPPER];
extern const struct unicode_several unicode_upper_several[UNICODE_UPPER_SEVERAL];
extern const struct unicode_run unicode_lower[UNICODE_LOWER];
extern const struct unicode_several unicode_lower_several[UNICODE_LOWER_SEVERAL];
extern const struct unicode_run unicode_title[UNICODE_TITLE];
extern const struct unicode_several unicode_title_several[UNICODE_TITLE_SEVERAL];
