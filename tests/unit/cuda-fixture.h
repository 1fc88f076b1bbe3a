/* The CUDA backend on the shim's card, as candidates of the operation tests: tensor cores and
 * neither, activations exact and fast. */
#pragma once

#include "kernels/cuda/module.h"
#include "tests/shim/shim.h"

static inline int make_cuda(int arch, enum activations activations, struct backend **ret)
{
	const struct cuda_options o = {.activations = activations, .exact = true};
	char error[256] = "";
	int r;

	shim_arch(arch);
	r = zeph_cuda_module.backend_new(&o, ret, error, sizeof(error));
	if (r < 0)
		print_error("%s\n", error);
	return r;
}

#define MAKE_CUDA(name, arch, activations)                                                         \
	static inline int name(uint32_t threads, struct backend **ret)                             \
	{                                                                                          \
		return make_cuda(arch, activations, ret);                                          \
	}
MAKE_CUDA(make_sm90_exact, 90, ACTIVATIONS_EXACT)
MAKE_CUDA(make_sm90_fast, 90, ACTIVATIONS_FAST)
MAKE_CUDA(make_sm61_exact, 61, ACTIVATIONS_EXACT)
MAKE_CUDA(make_sm61_fast, 61, ACTIVATIONS_FAST)

/* bf16 rounds to 8 bits. int8 per 32: half a step of 1 / 127 of the largest, which is at most six
 * times the mean. */
static const struct candidate candidates[] = {
#ifdef TEST_ATTENTION /* the same kernels whatever the products do; what differs is shared memory  \
		       */
	{"cuda sm_90", make_sm90_fast, 0, 0, false},
	{"cuda sm_61", make_sm61_exact, 0, 0, false},
#else
	{"cuda sm_90 exact", make_sm90_exact, 0, 0, false},
	{"cuda sm_90 fast", make_sm90_fast, 0x1p-8, 0x1p-8, false},
	{"cuda sm_61 exact", make_sm61_exact, 0, 0, false},
	{"cuda sm_61 fast", make_sm61_fast, 6 * 0.5 / 127, 0, false},
#endif
};
