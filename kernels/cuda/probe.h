/* The yardsticks of struct cuda_module. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int cuda_probe_read(uint32_t card, double *ret_gbps, char *error, size_t error_size);
int cuda_probe_matmul(uint32_t card, uint32_t n, uint32_t rows, uint32_t cols, double *ret_seconds,
	char *error, size_t error_size);
