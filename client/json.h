/* MessagePack objects as JSON text (RFC 8259). */
#pragma once

#include <msgpack.h>

/* Appends the object as JSON on one line. Text is valid UTF-8 whatever came: bad bytes become
 * U+FFFD, and controls (C1 and DEL too) are escaped, so that it is safe on a terminal. What JSON
 * has no word for (NaN, infinity, ext) becomes null. 0 or -ENOMEM. */
int json_write(msgpack_sbuffer *out, const msgpack_object *o);

/* Appends a quoted JSON text. */
int json_write_text(msgpack_sbuffer *out, const char *text, size_t n);
