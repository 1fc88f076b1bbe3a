/* What one instruction set implements: the inner loops. Everything around them (threads, memory,
 * pages, which kernel when) is plain C in the other files of this folder.
 *
 * kernel_*.h hold the loops, written once over the sixteen lanes of lanes_*.h; isa_*.c compile
 * them, each with its own flags. All of one table's functions keep the promise of backend.h: a
 * column's bits do not depend on the other columns of the call. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu/layout.h"

#define ACTS_BLOCK  16  /* activations with one int8 scale */
#define ACTS_ZEROS  4   /* different weight zeros in one operation */
#define EXACT_CHUNK 512 /* columns dequantised at a time in exact mode */

/* A group's weights as bytes, scales and minima as f32. */
#define PANEL_BYTES(cols) ((size_t)(cols)*24)
#define PANELS            2 /* of as many groups at once, at most */

/* Bytes behind a tile of bf16 activations that may be read, too. */
#define BF16_MORE 1024

/* Activations of one operation, columns of a matmul, in tiles of `tile` columns (the last may have
 * fewer): everything is [k][columns of the tile], the tiles one after another. */
struct cpu_acts {
	uint32_t n, cols, tile;
	uint32_t ahead; /* quantised weights, and bf16 ones by AMX, are asked for so many bytes
			   early; 0, at one column: not */
	uint32_t n_zeros;
	uint32_t zeros[ACTS_ZEROS];
	int8_t *q;                 /* [cols / 4][w][4] */
	float *scale;              /* [cols / 16][w] x = scale q */
	float *sum16;              /* [cols / 16][w] sums of x */
	float *sum32;              /* [cols / 32][w] */
	int32_t *init[ACTS_ZEROS]; /* [cols / 16][w] -zero x sum of q */
	uint16_t *bf16;            /* [cols / 2 rounded up][w][2]; AMX: isa_amx.c */
	float *f32;                /* [cols][w] */
};

/* One KV head's queries against one block of 128 positions. */
struct cpu_attend {
	enum dtype dtype; /* of keys and values */
	uint32_t head_dim, padded_dim;
	const uint8_t *k[8]; /* pages, keys [head_dim][16]; NULL where no query sees them */
	const uint8_t *v[8]; /* values [16][padded_dim] */
	const uint8_t
		*next[8]; /* keys that are wanted next: fetched with k's values, set everywhere */
	uint32_t n;       /* queries */
	const float *q;   /* tiles of `tile` queries, [head_dim][w] each */
	float scale;
	const uint32_t *lo, *hi; /* [n] query i sees positions lo[i] … hi[i] - 1 of the block */
	float *p;                /* [n][128] scratch */
	float *max, *sum, *out;  /* [n], [n], [n][padded_dim] results; sum 0: saw nothing */
};

struct cpu_isa {
	const char *name;
	uint32_t tile;      /* columns of a tile */
	uint32_t run;       /* groups that matmul_float takes at once */
	uint32_t byte_zero; /* of 8-bit weights */

	/* Column c of the activations from x [cols]. */
	void (*acts_int8)(const float *x, struct cpu_acts *a, uint32_t c);
	void (*acts_bf16)(const float *x, struct cpu_acts *a, uint32_t c);
	void (*acts_f32)(const float *x, struct cpu_acts *a, uint32_t c);

	/* out [n_groups][n][16] = activations x groups g …. scratch:
	 * PANELS x PANEL_BYTES(cols), 64-byte aligned */
	void (*matmul_quants)(const struct weight *w, uint32_t g, uint32_t n_groups,
		const struct cpu_acts *a, float *out, void *scratch);
	/* the same for one group; scratch: EXACT_CHUNK x 64 bytes */
	void (*matmul_exact)(const struct weight *w, uint32_t g, const struct cpu_acts *a,
		float *out, void *scratch);
	/* out [n_groups][n][16], n_groups at most `run`; f32 activations */
	void (*matmul_float)(const struct weight *w, uint32_t g, uint32_t n_groups,
		const struct cpu_acts *a, float *out);
	/* the same with bf16 activations against bf16 weights; NULL: none */
	void (*matmul_bf16)(const struct weight *w, uint32_t g, uint32_t n_groups,
		const struct cpu_acts *a, float *out);
	uint32_t bf16_multiple; /* that cols of bf16 activations are filled up to */

	float (*dot)(const float *x, const float *y, uint32_t n);
	void (*rmsnorm)(const float *x, const float *w, float eps, uint32_t n, float *y);
	void (*swiglu)(const float *gate, const float *up, uint32_t n, float *y);
	void (*add)(const float *x, uint32_t n, float *y);
	void (*to_f16)(const float *x, uint32_t n, uint16_t *y);

	void (*attend)(const struct cpu_attend *a);
	/* (max, sum, out) <- the block after it merged in; sum 0 is the neutral element */
	void (*merge)(float *max, float *sum, float *out, float block_max, float block_sum,
		const float *block_out, uint32_t padded_dim);
};

extern const struct cpu_isa cpu_isa_generic;
#ifdef ZEPH_X86
extern const struct cpu_isa cpu_isa_avx2;
extern const struct cpu_isa cpu_isa_avxvnni;
extern const struct cpu_isa cpu_isa_avx512;
void matmul_bf16_avx512(const struct weight *w, uint32_t g, uint32_t n_groups,
	const struct cpu_acts *a, float *out);
void with_amx(struct cpu_isa *isa); /* its kernels in place of AVX-512's */
#endif
#ifdef ZEPH_ARM
extern const struct cpu_isa cpu_isa_neon;
#endif
