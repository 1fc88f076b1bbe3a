/* safetensors, read by mmap.
 *
 * Source: the format's own description (huggingface/safetensors, README): 8 bytes of header length,
 * a JSON header, data. All its rules are checked: the header is at most 100,000,000 bytes and
 * begins with '{', no key stands twice, data_offsets lie end to end from 0 to the end of the file,
 * and each holds shape x type bytes. */
#pragma once

#include "engine/source.h"

struct safetensors {
	const char *map;
	size_t map_bytes;
	struct json_t *header;         /* owns the names */
	struct source_tensor *tensors; /* [n], by offset; names are terminated */
	size_t n;
};

/* name is for messages. -ENOTSUP for a type that is none of F32, F16 and BF16. A file that shrinks
 * while it is mapped is fatal, not undefined. fd is not kept. */
int safetensors_open_fd(
	int fd, const char *name, struct safetensors **ret, const struct model_refusal *why);
struct safetensors *safetensors_close(struct safetensors *s); /* accepts NULL, returns NULL */
