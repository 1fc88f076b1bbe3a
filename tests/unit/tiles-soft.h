/* The tile registers of AMX in C, for machines that have none: what kernels/cpu/tiles_amx.h says of
 * them, in the order of the manual (Intel SDM, volume 2, TDPBF16PS), but that denormals stay what
 * they are. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/tile_config.h"

static _Thread_local struct tile_config tile_config;
static _Thread_local uint8_t tile_data[8][16][64];

struct cpu_isa;
void with_amx_soft(struct cpu_isa *isa);

#define TILE_NAME      "amx_soft"
#define TILE_WITH      with_amx_soft
#define TILE_CONFIG(c) (tile_config = *(c))
#define TILE_RELEASE() (void)0
#define TILE_ZERO(t)   memset(tile_data[t], 0, sizeof(tile_data[t]))
#define TILE_LOAD(t, p, stride)                                                                    \
	for (size_t row_ = 0; row_ < tile_config.rows[t]; row_++)                                  \
	memcpy(tile_data[t][row_], (const char *)(p) + row_ * (stride), tile_config.row_bytes[t])
#define TILE_STORE(t, p, stride)                                                                   \
	for (size_t row_ = 0; row_ < tile_config.rows[t]; row_++)                                  \
	memcpy((char *)(p) + row_ * (stride), tile_data[t][row_], tile_config.row_bytes[t])
#define TILE_DOT(sum, a, b) tile_dot(sum, a, b)

static inline float tile_bf16(int t, int row, int i)
{
	uint16_t half;
	uint32_t bits;
	float x;

	memcpy(&half, &tile_data[t][row][2 * i], sizeof(half));
	bits = (uint32_t)half << 16;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

static void tile_dot(int sum, int a, int b)
{
	for (int m = 0; m < tile_config.rows[sum]; m++)
		for (int n = 0; n < tile_config.row_bytes[sum] / 4; n++) {
			float own[2] = {0, 0}, x;

			for (int k = 0; k < tile_config.row_bytes[a] / 4; k++)
				for (int i = 0; i < 2; i++)
					own[i] = fmaf(tile_bf16(a, m, 2 * k + i),
						tile_bf16(b, k, 2 * n + i), own[i]);
			memcpy(&x, &tile_data[sum][m][4 * n], sizeof(x));
			x += own[0] + own[1];
			memcpy(&tile_data[sum][m][4 * n], &x, sizeof(x));
		}
}
