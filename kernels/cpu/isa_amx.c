/* bf16 weights against bf16 activations in the tile registers of AMX: a product of tiles takes 16
 * rows of weights, 16 columns of activations and 32 columns of the matrix, a block.
 *
 * A sum is one chain over ascending blocks, a block's own sum is made from zero on (TILE_DOT), and
 * no row of a tile has anything to do with another: so a column's bits do not depend on its
 * company. The last block is filled up with zeros, on both sides. Registers 0 to 3 hold sums, 4 and
 * 5 activations, 6 and 7 weights. */
#include "kernels/cpu/isa.h"

#include <immintrin.h>
#include <string.h>

#ifndef TILES /* the tests' */
#define TILES "kernels/cpu/tiles_amx.h"
#endif
#include TILES

#define TILE   16                 /* rows, columns of activations */
#define BLOCK  32                 /* columns of the matrix in a tile */
#define BYTES  (TILE * BLOCK * 2) /* of a tile: 16 rows of 64 bytes */
#define CHUNK  8                  /* blocks: those of two groups stay in the first-level cache */
#define GROUPS 4                  /* at once where there is one tile of activations */

/* A group's blocks: whole ones lie in the weight, what there is of a last one in `rest`. */
struct panel {
	uint8_t rest[BYTES];
	const uint8_t *p;
	uint32_t whole;
};

static void panel_of(const struct weight *w, uint32_t g, struct panel *ret)
{
	ret->p = layout_group(w, g);
	ret->whole = (uint32_t)(w->group_bytes / BYTES);
	if (w->group_bytes % BYTES == 0)
		return;
	memset(ret->rest, 0, sizeof(ret->rest));
	memcpy(ret->rest, ret->p + (size_t)ret->whole * BYTES, w->group_bytes % BYTES);
}

static inline const uint8_t *panel_block(const struct panel *p, uint32_t b)
{
	return b < p->whole ? p->p + (size_t)b * BYTES : p->rest;
}

static inline uint32_t blocks_of(const struct cpu_acts *a)
{
	return (a->cols + BLOCK - 1) / BLOCK;
}

/* The tile of activations at column c0, [blocks][width][32]; its last one may be narrower than 16,
 * and what is read as its other rows is whatever lies there. */
static inline uint32_t tile_width(const struct cpu_acts *a, uint32_t c0)
{
	return a->n - c0 < TILE ? a->n - c0 : TILE;
}

static inline uint16_t *acts_tile(const struct cpu_acts *a, uint32_t c0)
{
	return a->bf16 + (size_t)c0 * blocks_of(a) * BLOCK;
}

#define GROUP(g)                                                                                   \
	if ((g) < n_groups) {                                                                      \
		const uint8_t *p = panel_block(&panels[g], b);                                     \
                                                                                                   \
		for (uint32_t at = 0; at < BYTES && early; at += 64)                               \
			__builtin_prefetch(p + a->ahead + at);                                     \
		TILE_LOAD(6, p, 64);                                                               \
		TILE_DOT(g, 4, 6);                                                                 \
	}
#define GROUP_STORE(g)                                                                             \
	if ((g) < n_groups) {                                                                      \
		float *to = out + ((size_t)(g)*a->n + c0) * GROUP_ROWS;                            \
                                                                                                   \
		TILE_STORE(g, width == TILE ? to : sums, 64);                                      \
		if (width < TILE)                                                                  \
			memcpy(to, sums, sizeof(float) * GROUP_ROWS * width);                      \
	}

/* Up to four groups against the columns from c0 on, at most a tile of them. */
static void groups_by_tile(const struct panel *panels, uint32_t n_groups, const struct cpu_acts *a,
	uint32_t c0, float *out)
{
	const uint32_t width = tile_width(a, c0);
	const bool early = c0 == 0 && a->ahead > 0;
	const uint16_t *x = acts_tile(a, c0);
	float sums[TILE * GROUP_ROWS];

	TILE_ZERO(0);
	TILE_ZERO(1);
	TILE_ZERO(2);
	TILE_ZERO(3);
	for (uint32_t b = 0; b < blocks_of(a); b++, x += width * BLOCK) {
		TILE_LOAD(4, x, 64);
		GROUP(0)
		GROUP(1)
		GROUP(2)
		GROUP(3)
	}
	GROUP_STORE(0)
	GROUP_STORE(1)
	GROUP_STORE(2)
	GROUP_STORE(3)
}

/* Two groups against two whole tiles of columns, blocks b to end - 1; out and next: the results of
 * the one and the other group, which hold the sums of the blocks before. */
static void pair_by_pair(const struct panel *panels, const struct cpu_acts *a, uint32_t c0,
	uint32_t b, uint32_t end, float *out, float *next)
{
	const uint16_t *x = acts_tile(a, c0) + (size_t)b * TILE * BLOCK;
	const uint16_t *y = acts_tile(a, c0 + TILE) + (size_t)b * TILE * BLOCK;

	if (b == 0) {
		TILE_ZERO(0);
		TILE_ZERO(1);
		TILE_ZERO(2);
		TILE_ZERO(3);
	} else {
		TILE_LOAD(0, out, 64);
		TILE_LOAD(1, out + TILE * GROUP_ROWS, 64);
		TILE_LOAD(2, next, 64);
		TILE_LOAD(3, next + TILE * GROUP_ROWS, 64);
	}
	for (; b < end; b++, x += TILE * BLOCK, y += TILE * BLOCK) {
		TILE_LOAD(4, x, 64);
		TILE_LOAD(6, panel_block(&panels[0], b), 64);
		TILE_DOT(0, 4, 6);
		TILE_LOAD(5, y, 64);
		TILE_DOT(1, 5, 6);
		TILE_LOAD(7, panel_block(&panels[1], b), 64);
		TILE_DOT(2, 4, 7);
		TILE_DOT(3, 5, 7);
	}
	TILE_STORE(0, out, 64);
	TILE_STORE(1, out + TILE * GROUP_ROWS, 64);
	TILE_STORE(2, next, 64);
	TILE_STORE(3, next + TILE * GROUP_ROWS, 64);
}

static void matmul_bf16(
	const struct weight *w, uint32_t g, uint32_t n_groups, const struct cpu_acts *a, float *out)
{
	const struct tile_config config = tile_config_whole();
	const uint32_t blocks = blocks_of(a);
	struct panel panels[GROUPS];

	TILE_CONFIG(&config);
	while (n_groups > 0) {
		const uint32_t some = n_groups < GROUPS ? n_groups : GROUPS, pairs = some / 2;
		const uint32_t done = pairs > 0 ? a->n / (2 * TILE) * 2 * TILE : 0;

		for (uint32_t i = 0; i < some; i++)
			panel_of(w, g + i, &panels[i]);
		for (uint32_t i = 0; i < 2 * pairs; i += 2)
			for (uint32_t b = 0; b < blocks; b += CHUNK)
				for (uint32_t c = 0; c < done; c += 2 * TILE) {
					const uint32_t end = b + CHUNK < blocks ? b + CHUNK
										: blocks;
					float *to = out + ((size_t)i * a->n + c) * GROUP_ROWS;

					pair_by_pair(&panels[i], a, c, b, end, to,
						to + (size_t)a->n * GROUP_ROWS);
				}
		for (uint32_t c = 0; c < done && some > 2 * pairs; c += TILE)
			groups_by_tile(&panels[2 * pairs], 1, a, c,
				out + (size_t)2 * pairs * a->n * GROUP_ROWS);
		for (uint32_t c = done; c < a->n; c += TILE)
			groups_by_tile(panels, some, a, c, out);
		n_groups -= some;
		g += some;
		out += (size_t)some * a->n * GROUP_ROWS;
	}
	TILE_RELEASE();
}

static void acts_bf16(const float *x, struct cpu_acts *a, uint32_t c)
{
	const uint32_t c0 = c - c % TILE, width = tile_width(a, c0);
	uint16_t *to = acts_tile(a, c0) + (c - c0) * BLOCK;

	for (uint32_t k = 0; k < a->cols; k += BLOCK, to += width * BLOCK) {
		const uint32_t left = a->cols - k;
		const __mmask32 there = left < BLOCK ? (UINT32_C(1) << left) - 1 : ~UINT32_C(0);
		const __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, x + k);
		const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), x + k + 16);

		_mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
	}
}

void TILE_WITH(struct cpu_isa *isa)
{
	isa->name = TILE_NAME;
	isa->acts_bf16 = acts_bf16;
	isa->matmul_bf16 = matmul_bf16;
	isa->bf16_multiple = BLOCK;
}
