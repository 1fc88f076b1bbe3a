/* Where a model's layers run: on the device, or the last ones on a card and the others on the host.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/device.h"
#include "engine/engine.h"
#include "engine/fit.h"

#define PLACEMENT_BACKENDS_MAX 2

struct placement {
	struct backend *backends[PLACEMENT_BACKENDS_MAX]; /* [n_backends] owned; the device first */
	uint32_t n_backends;
	uint32_t layers_on_device; /* of backends[0] */
	char note[512];            /* what differs from the device's plain use, or "" */
};

struct placement_options {
	struct device_options device;
	int64_t gpu_layers; /* so many on the card, if it has the memory; -1: as many as fit */
	const struct packed_place *packed; /* see struct weights_options */
};

/* Opens the device, and where a card does not hold the whole model the processor beside it; loads
 * the weights and makes the engine. Sets o->kv_bytes and o->prefill_tokens where they are 0, and
 * o->kv_dtype where kv_type is -1. A card that has less room than it seemed gets fewer layers: want
 * of its memory is no failure unless the device was asked for by name and holds no layer at all.
 *
 * 0, or a negative errno with a sentence. *ret_weights and *ret_engine are freed before *ret. */
int placement_load(const struct model *m, const struct placement_options *p, int kv_type,
	struct engine_options *o, const struct engine_sink *sink,
	const struct weights_progress *progress, struct placement *ret,
	struct weights **ret_weights, struct engine **ret_engine, char *error, size_t error_size);
void placement_done(struct placement *p); /* frees the backends; safe to call twice */
