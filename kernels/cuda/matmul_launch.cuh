/* Launches that matmul.cu puts together. */
#pragma once

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/product.cuh"

/* y = x W^T with F32 weights; one part, no norm, no SwiGLU. */
int matmul_f32_launch(struct cuda *c, const struct product &p);

/* x, normalised where p->norm says so, made ready for the tensor cores; fills p->acts. */
int activations_launch(struct cuda *c, struct product *p);

/* x as int8 for dp4a; fills p->acts. */
int int8_launch(struct cuda *c, struct product *p);
