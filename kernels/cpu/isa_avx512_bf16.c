/* bf16 weights against bf16 activations in vdpbf16ps: two products a lane and instruction. */
#include "kernels/cpu/isa.h"

#include <immintrin.h>
#include <string.h>

#define TILE_COLS 8
#define TILE_RUN  4

static inline __attribute__((always_inline)) void tile(const int ng, const int nc,
	const uint8_t *panel, size_t group_bytes, uint32_t pairs, const uint16_t *x, float *out,
	size_t next)
{
	__m512 acc[TILE_RUN][TILE_COLS];

	for (int g = 0; g < ng; g++)
		for (int c = 0; c < nc; c++)
			acc[g][c] = _mm512_setzero_ps();
	for (uint32_t i = 0; i < pairs; i++, x += 2 * nc) {
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++) {
			const __m512i w = _mm512_loadu_si512(
				panel + (size_t)g * group_bytes + (size_t)i * 64);

#pragma GCC unroll 8
			for (int c = 0; c < nc; c++) {
				int32_t pair;

				memcpy(&pair, x + 2 * c, sizeof(pair));
				acc[g][c] = _mm512_dpbf16_ps(
					acc[g][c], (__m512bh)w, (__m512bh)_mm512_set1_epi32(pair));
			}
		}
	}
	for (int g = 0; g < ng; g++)
		for (int c = 0; c < nc; c++)
			_mm512_storeu_ps(out + (size_t)g * next + 16 * c, acc[g][c]);
}

#define TILE_CASE(nc)                                                                              \
	case nc: tile(ng, nc, panel, group_bytes, pairs, x, out + 16 * (size_t)c0, next); break;

static inline __attribute__((always_inline)) void tiles(const int ng, const uint8_t *panel,
	size_t group_bytes, const struct cpu_acts *a, float *out)
{
	const uint32_t pairs = a->cols / 2 + a->cols % 2;
	const size_t next = (size_t)a->n * 16;

	for (uint32_t c0 = 0; c0 < a->n; c0 += TILE_COLS) {
		const uint16_t *x = a->bf16 + (size_t)c0 * pairs * 2;

		switch (a->n - c0 < TILE_COLS ? a->n - c0 : TILE_COLS) {
			TILE_CASE(1)
			TILE_CASE(2)
			TILE_CASE(3)
			TILE_CASE(4)
			TILE_CASE(5)
			TILE_CASE(6)
			TILE_CASE(7)
			TILE_CASE(8)
		}
	}
}

void matmul_bf16_avx512(
	const struct weight *w, uint32_t g, uint32_t n_groups, const struct cpu_acts *a, float *out)
{
	const uint32_t pairs = a->cols / 2 + a->cols % 2;

	for (uint32_t i = 0; i < n_groups;) {
		const uint8_t *p = layout_group(w, g + i);
		float *to = out + (size_t)i * a->n * 16;

		if (a->n == 1 && n_groups - i >= TILE_RUN) {
			tile(TILE_RUN, 1, p, w->group_bytes, pairs, a->bf16, to, 16);
			i += TILE_RUN;
		} else if (n_groups - i >= 2) {
			tiles(2, p, w->group_bytes, a, to);
			i += 2;
		} else {
			tiles(1, p, w->group_bytes, a, to);
			i++;
		}
	}
}
