/* From a device's name to a backend. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

struct device_options {
	const char *device; /* "auto", "cpu", "reference", "cuda", "cuda:N" */
	uint32_t threads;   /* 0: all processors */
	enum activations activations;
};

/* -EINVAL: no such name; -ENODEV: this machine or build has no such device; both with a sentence.
 */
int device_open(
	const struct device_options *o, struct backend **ret, char *error, size_t error_size);

/* The type that keys and values have unless the configuration says otherwise: f32 where exactness
 * is asked for (the oracle, exact activations), else f16. */
enum dtype device_kv_dtype(const struct backend *b, enum activations activations);
