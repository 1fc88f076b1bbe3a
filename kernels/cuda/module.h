/* What a CUDA module (zeph-cuda12.so, zeph-cuda13.so) exports: one table, found by name with dlsym.
 *
 * zephd links no CUDA library. load.c asks the driver for its version, opens the module that fits
 * and takes this table from it; the module links the CUDA runtime statically and is built from the
 * .cu files of this folder. Host memory that crosses is the caller's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

#define CUDA_MODULE_ABI    7 /* changes with struct cuda_module and with struct backend_ops */
#define CUDA_MODULE_SYMBOL "zeph_cuda_module"

struct cuda_card {
	char name[96];
	uint32_t major, minor; /* compute capability */
	uint64_t memory_bytes;
	uint64_t free_bytes; /* now */
};

struct cuda_options {
	uint32_t card; /* index among cards() */
	enum activations activations;
	bool exact; /* false: cuBLASLt may serve large prompts, in its own order of sums */
	uint32_t inexact_rows; /* from so many on; 0: the module's choice */
};

struct cuda_module {
	uint32_t abi;           /* CUDA_MODULE_ABI */
	uint32_t toolkit;       /* CUDART_VERSION that it was built with, 13000 for 13.0 */
	const char *arch_names; /* "sm_75 sm_80 …", for status */

	/* Fills at most max cards and tells how many there are. 0, or a negative errno and a
	 * sentence. */
	int (*cards)(struct cuda_card *ret, uint32_t max, uint32_t *ret_n, char *error,
		size_t error_size);

	/* A backend on one card; freed through its own table, which destroys the context. 0, or a
	 * negative errno and a sentence. */
	int (*backend_new)(const struct cuda_options *options, struct backend **ret, char *error,
		size_t error_size);

	/* Yardsticks for zeph-bench, measured on the card now; a backend may live there. 0, or a
	 * negative errno and a sentence; -ENOTSUP: cuBLASLt was not found. */

	/* 10^9 bytes/s that a kernel which does nothing else reads from the card's memory. */
	int (*probe_read)(uint32_t card, double *ret_gbps, char *error, size_t error_size);
	/* Seconds of one product y [n, rows] = x [n, cols] @ W [rows, cols]^T by cuBLASLt: bf16
	 * with sums in f32. */
	int (*probe_matmul)(uint32_t card, uint32_t n, uint32_t rows, uint32_t cols,
		double *ret_seconds, char *error, size_t error_size);
};

#ifdef __cplusplus
extern "C" {
#endif
extern __attribute__((visibility("default"))) const struct cuda_module zeph_cuda_module;
#ifdef __cplusplus
}
#endif
