/* Weights kept as the processor wants them, in a file of a cache folder: the next load maps it and
 * packs, quantises and zeroes nothing.
 *
 * Where the kernel keeps files on huge pages (seen on ext4 of Linux 6.18, when written in pieces of
 * 2 MiB), the mapping is as fast to read as memory of one's own, costs no memory beside
 * the page cache and is there at once when the cache holds the file. Elsewhere the file is read
 * into memory on huge pages.
 *
 * The file, in the machine's own byte order: struct packed_head, its tensors, zeros up to 2 MiB;
 * then their bytes as weight_data() has them, each from a multiple of 64 bytes on. It says which
 * version of which model it was made of; a file that says otherwise is not taken. The folder must
 * be the process's own, as nothing but lengths is checked of the bytes. */
#pragma once

#include "engine/file_key.h"
#include "engine/model.h"

#define PACKED_MIN_BYTES (64ull << 20) /* smaller models load at once anyway */

/* Where a model's packed weights may lie. */
struct packed_place {
	const char *folder; /* exists; NULL: nothing is kept */
	const char *model;  /* its path */
	struct file_key key;
};

struct packed;

/* The weights of the model at that place, resident, if they were kept in that layout. -ENOENT where
 * they were not, -ECANCELED, or another negative errno; none but -ECANCELED is worth a word. */
int packed_open(const struct packed_place *place, const struct model *m, const char *layout,
	const struct weights_progress *progress, struct packed **ret);
struct packed *packed_free(struct packed *p); /* accepts NULL, returns NULL */

/* The packed bytes of a tensor of the loaded model; NULL: it has none of that shape. */
const void *packed_tensor(const struct packed *p, const struct tensor *t, size_t *ret_bytes);

/* Is it worth keeping these weights? They are of some size, all on one backend that knows a layout,
 * were not taken from there, and the folder's files are mapped on huge pages or the weights were
 * quantised. */
bool packed_wanted(const struct packed_place *place, const struct weights *w);

/* Keeps the weights; a file of the same name is replaced when the new one is whole and on the disk.
 * Takes what time there is: for a thread of low priority, while nobody frees the weights. *stop (or
 * NULL) ends it early with -ECANCELED; -EBUSY: another process is at it. Another negative errno
 * with a sentence. */
int packed_write(const struct packed_place *place, const struct weights *w,
	const _Atomic bool *stop, uint64_t *ret_bytes, char *error, size_t error_size);

/* Removes what the folder holds of models that are gone or have changed, and what writers have left
 * behind. */
void packed_sweep(const char *folder);
