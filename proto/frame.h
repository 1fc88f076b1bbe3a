/* Finds the end of one MessagePack object in a byte stream without decoding or allocating anything.
 *
 * The scanner is resumable: it never looks at a byte twice, so a peer that dribbles single bytes
 * costs nothing. Declared counts and lengths are charged before the bytes arrive: five bytes that
 * promise 512 Mi items fail at the fifth. Source: the MessagePack specification, formats overview.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

struct frame_limits {
	size_t bytes;
	uint32_t items;
	uint32_t depth;
};

struct frame_scanner {
	struct frame_limits limits;
	size_t scanned; /* bytes of this frame already seen */
	size_t skip;    /* bytes of a string's, binary's or number's body still to come */
	uint32_t items; /* objects charged so far */
	uint32_t depth; /* open containers */
	uint32_t open[FRAME_DEPTH_MAX]; /* objects still missing in each */
	uint8_t head[5];                /* a head that is split across reads */
	uint8_t n_head;
};

void frame_scanner_init(struct frame_scanner *s, const struct frame_limits *limits);

/* Looks at `len` further bytes. Returns 1 when the frame is complete (*ret_used: how many of them
 * belong to it; the scanner is ready for the next frame), 0 when all were used and more are needed,
 * or -EMSGSIZE (bytes), -E2BIG (items), -ELOOP (depth), -EPROTO (a byte that MessagePack does not
 * define, or an ext type, which this protocol does not use). After an error nothing more can be
 * scanned. An empty container nests as deep as a full one. */
int frame_scan(struct frame_scanner *s, const void *data, size_t len, size_t *ret_used);

/* The id of a request whose frame is broken or incomplete, from its first bytes: [0, id, … with any
 * count of two or more. False where they do not say it. */
bool frame_request_id(const void *data, size_t len, uint32_t *ret_id);

/* The failure in words: "the frame has more than 65536 items". frame_scan()'s errors, -ETIMEDOUT
 * for a half frame that took longer than FRAME_USEC_MAX, any other errno. Returns buffer. */
const char *frame_error(int error, const struct frame_limits *limits, char *buffer, size_t size);
