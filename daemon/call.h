/* A request as it came: its frame and what was decoded from it. One owner at a time; it moves from
 * the I/O thread to the text worker and back. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "proto/message.h"

struct call {
	char *frame; /* [frame_len] the bytes; the message points into them */
	size_t frame_len;
	struct message message;
	enum method method; /* once params are decoded */
	struct params params;
};

/* Takes a frame apart, of which it keeps a copy. 0 with *ret, or -EPROTO with the sentence (*ret
 * then holds what could be read of type and id), or -ENOMEM. */
int call_new(const char *data, size_t len, struct call **ret, char *error, size_t error_size);
struct call *call_free(struct call *c); /* accepts NULL, returns NULL */
