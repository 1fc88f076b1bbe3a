/* What the backends that live on the host share: its name and its memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

/* The processor's own name and the machine's memory; leaves kind, isa and threads alone. */
void host_describe(struct backend_device *device);

/* The processor has AMX in bf16, and the system, which is asked for it, lets this process use the
 * tile registers. */
bool host_amx(void);

/* `count` x `size` bytes, zeroed and 64-byte aligned, freed with free(). NULL where they are not to
 * be had: `error` then names `what`, the bytes wanted and the bytes free. */
void *host_alloc(size_t count, size_t size, const char *what, char *error, size_t error_size);
