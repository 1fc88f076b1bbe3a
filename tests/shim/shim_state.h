/* Inside the shim: what its two halves, simt.cc and runtime.cc, share. */
#pragma once

#include "include/cuda_runtime.h"

namespace shim
{
/* All blocks of one launch, in an order of chance. `limit`: shared bytes that a block may have. */
void run_grid(const kernel *k, const void *args, dim3 g, dim3 b, size_t shared, size_t limit);

uint64_t random_next(void);
void random_seed(uint64_t seed);
} // namespace shim
