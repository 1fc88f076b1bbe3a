/* A tensor's numbers in another type, by all threads of a pool. */
#pragma once

#include "kernels/backend.h"
#include "kernels/pool.h"

/* Fills out, rows x the row bytes of `to`, which the columns must allow. -EINVAL with a sentence
 * where a number is not finite or `to` cannot hold it; -ENOMEM. */
int convert_tensor(struct pool *pool, const struct tensor *from, enum dtype to, void *out,
	char *error, size_t error_size);
