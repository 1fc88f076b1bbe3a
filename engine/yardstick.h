/* What a device could do at best, measured beside every speed that zeph-bench tells. */
#pragma once

#include <stddef.h>

#include "engine/device.h"
#include "engine/model.h"
#include "kernels/probe.h"

struct yardstick;

/* -ENOMEM. found: of the device_open() of the backend that has the weights. On the processor the
 * bandwidth is measured over what a token's step reads of the weights, which must outlive it. */
int yardstick_new(
	const struct weights *w, const struct device_found *found, struct yardstick **ret);
struct yardstick *yardstick_free(struct yardstick *y); /* accepts NULL, returns NULL */

/* One round: memory bandwidth and, on the processor, the peaks of its dot products. 0, or a
 * negative errno and a sentence. */
int yardstick_run(struct yardstick *y, struct probe *ret, char *error, size_t error_size);

/* Tokens per second that cuBLASLt's matrix products alone would allow a prompt of n tokens of this
 * model, in bf16; 0 on the processor and where it was not found, which error then says. */
double yardstick_prompt(struct yardstick *y, const struct model_config *c, uint32_t n, char *error,
	size_t error_size);
