/* The K types' blocks of 256 elements, inside quantize_row(). x and weights [256]; weights may be
 * NULL; p takes the type's block bytes. */
#pragma once

#include "kernels/dtype.h"

void quantize_block_q2_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q3_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q4_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q5_k(const float *x, const float *weights, uint8_t *p);
void quantize_block_q6_k(const float *x, const float *weights, uint8_t *p);
