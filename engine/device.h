/* From a device's name to a backend. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cuda/module.h"

struct device_options {
	const char *device; /* "auto", "cpu", "reference", "cuda", "cuda:N" */
	uint32_t threads;   /* 0: all processors */
	enum activations activations;
	bool inexact; /* engine.exact = false: cuBLASLt may serve large prompts */
};

/* What opening the device has found out beside the backend. */
struct device_found {
	bool card; /* a CUDA card, with memory of its own: of this module, by this index */
	const struct cuda_module *module;
	uint32_t card_index;
	bool automatic;      /* "auto" chose */
	uint64_t free_bytes; /* card: before anything of ours was there */
	char note[512];      /* why "auto" did not take a card; "" where nothing is to be told */
};

/* "auto" takes the CUDA card with the most free memory, and the processor where there is none. 0
 * with *ret and *ret_found; -EINVAL: no such name; -ENODEV: this machine has no such device; both
 * with a sentence. */
int device_open(const struct device_options *o, struct backend **ret,
	struct device_found *ret_found, char *error, size_t error_size);

/* The type that keys and values have unless the configuration says otherwise: f32 where exactness
 * is asked for on the host (the oracle, exact activations), else f16. */
enum dtype device_kv_dtype(const struct backend *b, enum activations activations);

/* Prompt rows of one step unless the configuration says otherwise: enough to keep the device busy,
 * few enough that whoever generates meanwhile does not wait long. */
uint32_t device_prefill_tokens(const struct backend *b);
