/* How the CPU backend keeps a weight matrix.
 *
 * Sixteen output rows are a group; they stand interleaved, lane = row, so that one vector holds the
 * same columns of sixteen rows and a sum never crosses lanes. Rows above the matrix are zeros.
 *
 * Quantised types are stored as planes of bits per block of 32 columns (8 vectors of 16 rows x 4
 * columns when unpacked to bytes; vector j holds columns 4j … 4j + 3):
 *
 *   nibbles 256 B  vector p: low half of a byte for vector 2p, high half for 2p + 1
 *   crumbs  128 B  vector p: bits 2i, 2i + 1 of a byte for vector 4p + i
 *   bits     64 B  bit j of a byte for vector j
 *   bytes   512 B
 *
 * q4 nibbles · q5 nibbles, bits · q6 nibbles, crumbs · q2 crumbs · q3 crumbs, bits · q8 bytes · iq4
 * nibbles, which choose from iq4_levels. A group is a row of records, read from its first byte to
 * its last; a record holds the scales of its blocks, as the file has them (no rounding, padded to
 * 64 bytes), then the blocks:
 *
 *   D     2 x d f16 [16]                                     2 blocks   w = d (q - zero)
 *   DM    d f16 [16], m f16 [16]                             1 block    w = d q + m
 *   K32M  d, dmin f16 [16], 8 x (sc u8 [16], mn u8 [16])     8 blocks   w = d sc q - dmin mn
 *   K16   d f16 [16], 16 x sc s8 [16]                        8 blocks   w = d sc (q - zero)
 *   K16M  d, dmin f16 [16], 16 x (sc u8 [16], mn u8 [16])    8 blocks
 *   K32   d f16 [16], 8 x sc s8 [16]                         8 blocks   w = d sc (q - zero)
 *
 * Unquantised: f32 and f16 [cols][16], bf16 [cols / 2 rounded up][16][2]. A vector (one row) is
 * kept as plain f32. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

#define GROUP_ROWS 16

enum cpu_values { VALUES_Q2, VALUES_Q3, VALUES_Q4, VALUES_Q5, VALUES_Q6, VALUES_Q8, VALUES_IQ4 };
enum cpu_scales { SCALES_D, SCALES_DM, SCALES_K32M, SCALES_K16, SCALES_K16M, SCALES_K32 };

/* Which kernel family reads a weight. */
enum cpu_family { FAMILY_VECTOR, FAMILY_QUANTS, FAMILY_F32, FAMILY_F16, FAMILY_BF16 };

struct cpu_layout {
	enum cpu_family family;
	enum cpu_values values;
	enum cpu_scales scales;
	uint32_t zero; /* subtracted from the stored value where the scales have no minimum */
};

struct weight {
	struct cpu_layout layout;
	enum dtype dtype; /* in the file */
	uint32_t rows, cols;
	uint32_t groups;       /* rows / 16 rounded up */
	size_t group_bytes;    /* a multiple of 64 */
	size_t bytes;          /* of data, as allocated */
	uint8_t *data;         /* groups x group_bytes, 64-byte aligned */
	struct cpu_slab *slab; /* that data lies in */
};

/* The layout of a tensor; byte_zero is 128 where bytes are stored unsigned. False where the type is
 * unknown. */
bool layout_of(enum dtype dtype, uint32_t rows, uint32_t byte_zero, struct cpu_layout *ret);

/* Fills groups, group_bytes and bytes from layout, rows and cols. False on overflow.
 */
bool layout_size(struct weight *w);

/* Bytes of one block of 32 columns of a group; of a record's scales, and how many blocks it has. */
#define VALUES_BYTES(values)                                                                       \
	((values) == VALUES_Q8           ? 512u                                                    \
		: (values) == VALUES_IQ4 ? 256u                                                    \
					 : 128u + 64u * (uint32_t)((values)-VALUES_Q2))
#define SCALES_BYTES(scales)                                                                       \
	((scales) <= SCALES_DM            ? 64u                                                    \
		: (scales) == SCALES_K16M ? 576u                                                   \
		: (scales) == SCALES_K32  ? 192u                                                   \
					  : 320u)
#define SCALES_BLOCKS(scales) ((scales) == SCALES_D ? 2u : (scales) == SCALES_DM ? 1u : 8u)
#define RECORD_BYTES(values, scales)                                                               \
	(SCALES_BYTES(scales) + SCALES_BLOCKS(scales) * VALUES_BYTES(values))

/* The record that block b is in, and the block. */
static inline const uint8_t *layout_record(
	enum cpu_values values, enum cpu_scales scales, const uint8_t *group, uint32_t b)
{
	return group + b / SCALES_BLOCKS(scales) * (size_t)RECORD_BYTES(values, scales);
}
static inline const uint8_t *layout_block(
	enum cpu_values values, enum cpu_scales scales, const uint8_t *group, uint32_t b)
{
	return layout_record(values, scales, group, b) + SCALES_BYTES(scales) +
	       b % SCALES_BLOCKS(scales) * (size_t)VALUES_BYTES(values);
}

/* Writes group g of the weight, which holds zeros, from the tensor's file bytes. */
void layout_pack(struct weight *w, const void *data, size_t row_bytes, uint32_t g);

/* y [cols] = row `row` of the matrix, dequantised. */
void layout_row(const struct weight *w, uint32_t row, float *y);

static inline uint8_t *layout_group(const struct weight *w, uint32_t g)
{
	return w->data + (size_t)g * w->group_bytes;
}
