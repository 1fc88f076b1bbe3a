/* What a receipt holds beside the request's own numbers: the build, and the model's content hash,
 * which takes a while to compute. */
#pragma once

#include <stdint.h>

#include "daemon/engine_thread.h"
#include "engine/model.h"

/* What was built: "zephd 0.1.0, gcc 12.2.0". */
const char *receipt_build(void);

/* Computes the model's content hash on a thread of its own and at the lowest priority, or takes it
 * from the cache, where it stands under the file's key. */
struct model_hasher;
int model_hasher_new(const struct model *m, const struct file_key *key, uint32_t threads,
	struct model_hasher **ret); /* 0 or a negative errno */
/* Stops it early; accepts NULL, returns NULL. */
struct model_hasher *model_hasher_free(struct model_hasher *h);
int model_hasher_fd(const struct model_hasher *h);           /* readable: it is done */
const char *model_hasher_hash(const struct model_hasher *h); /* once done, once; "": it failed */
