/* JSON text (RFC 8259) as MessagePack objects. */
#pragma once

#include <stddef.h>

#include <msgpack.h>

/* Reads one value from *at, which moves behind it; blanks before it are skipped. Integers that fit
 * 64 bits stay integers; what the object points to lies in the zone. 1; 0: nothing but blanks is
 * left; -EINVAL with a sentence; -ENOMEM. */
int json_read(const char **at, const char *end, msgpack_zone *zone, msgpack_object *ret,
	char *error, size_t error_size);
