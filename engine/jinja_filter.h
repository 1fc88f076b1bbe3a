/* What the filters, tests and methods share. */
#pragma once

#include "engine/jinja.h"

#define JINJA_FILTER(name)                                                                         \
	struct jinja_value jinja_filter_##name(                                                    \
		struct jinja *j, struct jinja_value v, const struct jinja_args *args)
JINJA_FILTER(batch);
JINJA_FILTER(dictsort);
JINJA_FILTER(first);
JINJA_FILTER(groupby);
JINJA_FILTER(items);
JINJA_FILTER(join);
JINJA_FILTER(last);
JINJA_FILTER(length);
JINJA_FILTER(list);
JINJA_FILTER(map);
JINJA_FILTER(max);
JINJA_FILTER(min);
JINJA_FILTER(reject);
JINJA_FILTER(rejectattr);
JINJA_FILTER(reverse);
JINJA_FILTER(select);
JINJA_FILTER(selectattr);
JINJA_FILTER(slice);
JINJA_FILTER(sort);
JINJA_FILTER(sum);
JINJA_FILTER(unique);

/* ---- jinja_number.c ---- */
/* As Python's int() and float() read a string; MISSING where they would refuse. */
struct jinja_value jinja_parse_int(struct jinja *j, const struct jinja_string *s, int64_t base);
struct jinja_value jinja_parse_float(struct jinja *j, const struct jinja_string *s);
/* Padded to width characters with fill (NULL: a space); side < 0 puts it right, > 0 left, 0
 * between. */
const struct jinja_string *jinja_justify(struct jinja *j, const struct jinja_string *s,
	int64_t width, const struct jinja_string *fill, int side);
