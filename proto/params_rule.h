/* The table of parameters, for params.c, params_decode.c and tests. */
#pragma once

#include "proto/params.h"

enum kind {
	KIND_BOOL,
	KIND_INT,   /* min … max */
	KIND_FLOAT, /* min … max, the minimum itself excluded where `above` is set */
	KIND_TEXT,  /* at most max bytes, where max is not 0 */
	KIND_TAG,
	KIND_MESSAGES,
	KIND_PROMPT,
	KIND_IDS,
	KIND_STOP,
	KIND_CHOICES,
	KIND_BIAS,
	KIND_PRIORITY,
	KIND_NAME, /* a session's */
};

/* One parameter. `required` is the set of methods that do not work without it. */
struct rule {
	const char *name;
	size_t offset; /* of the field in struct params */
	enum kind kind;
	uint32_t methods, required;
	double min, max;
	bool above;
};

extern const struct rule param_rules[PARAM_COUNT];
