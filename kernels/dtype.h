/* Tensor element types: their on-disk blocks, sizes and conversions.
 *
 * The numbers are GGUF's own (ggml type ids in the GGUF specification), so a value read from a file
 * is checked with dtype_valid() and used as it is. A quantised type stores a row as blocks of
 * `block_elements` consecutive elements; a row's length must be a multiple of that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
	DTYPE_F32 = 0,
	DTYPE_F16 = 1,
	DTYPE_Q4_0 = 2,
	DTYPE_Q4_1 = 3,
	DTYPE_Q5_0 = 6,
	DTYPE_Q5_1 = 7,
	DTYPE_Q8_0 = 8,
	DTYPE_Q2_K = 10,
	DTYPE_Q3_K = 11,
	DTYPE_Q4_K = 12,
	DTYPE_Q5_K = 13,
	DTYPE_Q6_K = 14,
	DTYPE_IQ4_NL = 20,
	DTYPE_IQ4_XS = 23,
	DTYPE_BF16 = 30,
};
#define DTYPE_COUNT 31 /* one above the highest */

struct dtype_info {
	const char *name;        /* "q4_k", lower case */
	uint32_t block_elements; /* 1 for the unquantised types */
	uint32_t block_bytes;
};

/* The description of a type, or NULL where zeph does not read that number. */
const struct dtype_info *dtype_info(uint32_t dtype);

/* The sixteen levels that a number of IQ4_NL and IQ4_XS chooses from, ascending. */
extern const int8_t iq4_levels[16];

/* The type of that name (any case), or -1. */
int dtype_from_name(const char *name);

/* Bytes of one row of `elements`. False where the length is no multiple of the type's block or the
 * size overflows; *ret_bytes is then untouched. */
bool dtype_row_bytes(enum dtype dtype, uint64_t elements, size_t *ret_bytes);

/* Exact conversions between IEEE binary16 / bfloat16 bit patterns and f32. To 16 bits they round to
 * nearest even, as numpy and PyTorch do. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f);

/* y[elements] f32 = the values that the row's blocks stand for. Bit-equal to the Python package
 * `gguf` (gguf.quants.dequantize). `elements` is a multiple of the block. */
void dequantize_row(enum dtype dtype, const void *row, float *y, size_t elements);

/* The row in the given type, by nearest rounding for the legacy types and a weighted search for the
 * K types. `weights` [elements] scales each element's squared error, or NULL for the type's own
 * default. */
void quantize_row(
	enum dtype dtype, const float *x, const float *weights, void *row, size_t elements);
