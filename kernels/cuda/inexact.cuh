/* Products by cuBLASLt for large prompts; inexact.cu. */
#pragma once

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/packed.cuh"

#define INEXACT_ROWS 512 /* rows of x from which on it is used, unless told otherwise */

/* Opens cuBLASLt and says so in the device; otherwise why not, and products stay exact. */
void inexact_open(struct cuda *c);
void inexact_close(struct cuda *c); /* the arenas are the backend's to free */

/* This product is cuBLASLt's. Where it has none for the shape, all products are exact from then on.
 */
bool inexact_serves(struct cuda *c, uint32_t n, const struct weight *w, const float *y);

/* x [n, cols], perhaps normalised, becomes the operand of the products until the next call. */
int inexact_begin(struct cuda *c, uint32_t n, uint32_t cols, const float *x,
	const struct weight *norm, float eps);
/* y [n, rows] = (add: y +) x @ W^T + bias (or NULL) */
int inexact_product(struct cuda *c, uint32_t n, const struct weight *w, const struct weight *bias,
	bool add, float *y);
