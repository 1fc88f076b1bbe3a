/* The file of packed.h, for who reads and who writes it. */
#pragma once

#include <limits.h>

#include "engine/digest.h"
#include "engine/packed.h"

#define PACKED_MAGIC   "zephpack"
#define PACKED_VERSION 1
#define PACKED_ALIGN   ((size_t)2 << 20) /* a huge page */
#define PACKED_SUFFIX  ".packed"
#define PACKED_NEW     ".new"            /* behind the suffix, until it is whole */
#define PACKED_PIECE   ((size_t)8 << 20) /* read and written at a time: whole huge pages */

struct packed_entry {
	char name[128];
	uint32_t dtype; /* as loaded */
	uint32_t rows, cols;
	uint32_t unused;
	uint64_t offset, bytes; /* from the file's begin */
};

struct packed_head {
	char magic[8];
	uint32_t version;
	uint32_t n_tensors;
	uint64_t bytes; /* the whole file's; a multiple of PACKED_ALIGN */
	struct file_key key;
	char layout[64];
	char mix[32];                 /* what the weights were quantised to, or "" */
	char model[PATH_MAX];         /* its path, for packed_sweep() */
	uint8_t digest[DIGEST_BYTES]; /* of the head with zeros here, and the entries */
};

/* "DEV-INO.packed", "DEV-INO-MIX.packed". */
void packed_name(const struct packed_place *place, const struct model *m, char ret[96]);

/* Over the head and its entries. 0 or a negative errno. */
int packed_digest(const struct packed_head *head, const struct packed_entry *entries,
	uint8_t ret[DIGEST_BYTES]);

/* The head of an open file, if it is one of ours: a regular file of this user that nobody else may
 * write, of that very length. entries (or NULL): malloc'ed [n_tensors], checked. 0 or a negative
 * errno. */
int packed_read_head(int fd, struct packed_head *ret, struct packed_entry **ret_entries);

/* The folder, if it is this user's and nobody else may write it. 0 or a negative errno. */
int packed_open_folder(const char *path, int *ret_fd);

/* The file, readable and resident on huge pages, at *ret [bytes] for munmap(). -ENOTSUP: not on
 * this kernel or file system; -ECANCELED, or another negative errno. progress (or NULL) counts up
 * to total_bytes. */
int packed_map_huge(int fd, size_t bytes, const struct weights_progress *progress,
	uint64_t total_bytes, uint8_t **ret);
