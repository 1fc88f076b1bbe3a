/* What zephd finds in the module by name: the cards, and a backend on one of them. */
#include "kernels/cuda/cuda.cuh"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/module.h"
#include "kernels/cuda/probe.h"

#ifndef ZEPH_CUDA_ARCHS
#define ZEPH_CUDA_ARCHS ""
#endif

int cuda_backend_new(
	const struct cuda_options *o, struct backend **ret, char *error, size_t error_size);

static int cuda_cards(
	struct cuda_card *ret, uint32_t max, uint32_t *ret_n, char *error, size_t error_size)
{
	cudaError_t e;
	int n = 0;

	e = cudaGetDeviceCount(&n);
	if (e == cudaErrorNoDevice) {
		*ret_n = 0;
		return 0;
	}
	for (int i = 0; e == cudaSuccess && i < n && (uint32_t)i < max; i++) {
		struct cuda_card card = {};
		cudaDeviceProp prop;
		size_t free_bytes = 0, total = 0;

		e = cudaGetDeviceProperties(&prop, i);
		if (e == cudaSuccess)
			e = cudaSetDevice(i);
		if (e == cudaSuccess)
			e = cudaMemGetInfo(&free_bytes, &total);
		if (e != cudaSuccess)
			break;
		snprintf(card.name, sizeof(card.name), "%.95s", prop.name);
		card.major = (uint32_t)prop.major;
		card.minor = (uint32_t)prop.minor;
		card.memory_bytes = total;
		card.free_bytes = free_bytes;
		ret[i] = card;
	}
	if (e != cudaSuccess) {
		snprintf(error, error_size, "CUDA: %s", cudaGetErrorString(e));
		return -EIO;
	}
	*ret_n = (uint32_t)n;
	return 0;
}

/* clang would also make it for the card, where host functions have no address. */
#ifndef __CUDA_ARCH__
const struct cuda_module zeph_cuda_module = {
	.abi = CUDA_MODULE_ABI,
	.toolkit = CUDART_VERSION,
	.arch_names = ZEPH_CUDA_ARCHS,
	.cards = cuda_cards,
	.backend_new = cuda_backend_new,
	.probe_read = cuda_probe_read,
	.probe_matmul = cuda_probe_matmul,
};
#endif
