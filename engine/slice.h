/* Some bytes that belong to somebody else. */
#pragma once

#include <stddef.h>

struct slice {
	const char *text; /* not terminated */
	size_t len;
};
