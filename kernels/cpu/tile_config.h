/* What AMX's tile registers are set up with. */
#pragma once

#include <stdint.h>

/* Operand of ldtilecfg (Intel SDM, volume 1, 18.2). */
struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

/* All eight: 16 rows of 64 bytes. */
static inline struct tile_config tile_config_whole(void)
{
	struct tile_config c = {.palette = 1};

	for (int t = 0; t < 8; t++) {
		c.row_bytes[t] = 64;
		c.rows[t] = 16;
	}
	return c;
}
