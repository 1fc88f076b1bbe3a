/* Which version of which file: what is remembered of a file is found and doubted by it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct file_key {
	uint64_t dev, ino, size, mtime_nsec, ctime_nsec;
};

/* Of a file, or of a directory with the regular files in it. All zero: it cannot be told, errno
 * says why. */
struct file_key file_key_of(const char *path);

static inline bool file_key_known(const struct file_key *k)
{
	return k->ino != 0;
}
bool file_key_same(const struct file_key *a, const struct file_key *b);
