/* Matrix products in f32: unquantised weights, and in exact mode quantised ones that are turned
 * into f32 a few hundred columns at a time. A sum is one chain of multiply-adds over ascending k;
 * several groups side by side hide its latency. */

enum float_kind { KIND_F32, KIND_F16, KIND_BF16, KIND_Q8 /* of keys and values alone */ };

/* out [ng][w][16] += panels x activations [k][nc], k0 … k0 + k - 1. groups: bytes between panels;
 * next: floats between the results of two groups. */
LANE void float_tile(const int kind, const int ng, const int nc, const uint8_t *panel,
	size_t group_bytes, uint32_t k, const float *x, float *out, size_t next)
{
	struct vf acc[TILE_RUN][TILE_COLS];

	for (int g = 0; g < ng; g++)
		for (int c = 0; c < nc; c++)
			acc[g][c] = vf_load(out + (size_t)g * next + 16 * c);
	for (uint32_t i = 0; i < k; i++, x += nc) {
#pragma GCC unroll 4
		for (int g = 0; g < ng; g++) {
			const uint8_t *p = panel + (size_t)g * group_bytes;
			struct vf w;

			if (kind == KIND_F32) {
				w = vf_load((const float *)(const void *)p + (size_t)i * 16);
			} else if (kind == KIND_F16) {
				w = lanes_f16(p + (size_t)i * 32);
			} else {
				const struct vi pair = vi_load(p + (size_t)(i / 2) * 64);

				w = vf_from_bits(vi_shl(i % 2 ? vi_shr(pair, 16) : pair, 16));
			}
#pragma GCC unroll 8
			for (int c = 0; c < nc; c++)
				acc[g][c] = vf_fma(w, vf_set1(x[c]), acc[g][c]);
		}
	}
	for (int g = 0; g < ng; g++)
		for (int c = 0; c < nc; c++)
			vf_store(out + (size_t)g * next + 16 * c, acc[g][c]);
}

#define FLOAT_CASE(nc)                                                                             \
	case nc:                                                                                   \
		float_tile(kind, ng, nc, panel, group_bytes, k, x, out + 16 * (size_t)c0, next);   \
		break;

/* All columns of the activations, from column k0 of the weights on. */
LANE void float_tiles(const int kind, const int ng, const uint8_t *panel, size_t group_bytes,
	uint32_t k0, uint32_t k, const struct cpu_acts *a, float *out)
{
	const size_t next = (size_t)a->n * 16;

	for (uint32_t c0 = 0; c0 < a->n; c0 += TILE_COLS) {
		const uint32_t width = a->n - c0 < TILE_COLS ? a->n - c0 : TILE_COLS;
		const float *x = a->f32 + (size_t)c0 * a->cols + (size_t)k0 * width;

		switch (width) {
			EACH_TILE(FLOAT_CASE)
		}
	}
}

#define FLOAT_GROUPS(name, kind)                                                                   \
	static void name(const struct weight *w, uint32_t g, uint32_t n_groups,                    \
		const struct cpu_acts *a, float *out)                                              \
	{                                                                                          \
		const uint32_t wide = a->n == 1 ? TILE_RUN : TILE_WIDE;                            \
                                                                                                   \
		memset(out, 0, (size_t)n_groups * a->n * 16 * sizeof(float));                      \
		for (uint32_t i = 0; i < n_groups;) {                                              \
			const uint8_t *p = layout_group(w, g + i);                                 \
			float *to = out + (size_t)i * a->n * 16;                                   \
                                                                                                   \
			if (a->n == 1 && n_groups - i >= wide) {                                   \
				float_tile(kind, TILE_RUN, 1, p, w->group_bytes, w->cols, a->f32,  \
					to, 16);                                                   \
				i += TILE_RUN;                                                     \
			} else if (n_groups - i >= TILE_WIDE) {                                    \
				float_tiles(                                                       \
					kind, TILE_WIDE, p, w->group_bytes, 0, w->cols, a, to);    \
				i += TILE_WIDE;                                                    \
			} else {                                                                   \
				float_tiles(kind, 1, p, w->group_bytes, 0, w->cols, a, to);        \
				i++;                                                               \
			}                                                                          \
		}                                                                                  \
	}

FLOAT_GROUPS(groups_f32, KIND_F32)
FLOAT_GROUPS(groups_f16, KIND_F16)
FLOAT_GROUPS(groups_bf16, KIND_BF16)

static void matmul_float(
	const struct weight *w, uint32_t g, uint32_t n_groups, const struct cpu_acts *a, float *out)
{
	if (w->layout.family == FAMILY_F32)
		groups_f32(w, g, n_groups, a, out);
	else if (w->layout.family == FAMILY_F16)
		groups_f16(w, g, n_groups, a, out);
	else
		groups_bf16(w, g, n_groups, a, out);
}

/* f32 [blocks x 32][16] = blocks b0 … of a group */
LANE void exact_fill(const int values, const int scales, const struct weight *w, const uint8_t *p,
	uint32_t b0, uint32_t blocks, float *to)
{
	const bool is_signed = values_byte(values) && BYTE_ZERO == 0;
	const struct vf zero = vf_set1(is_signed ? 128.0f : (float)w->layout.zero);

	for (uint32_t b = b0; b < b0 + blocks; b++) {
		const struct block_scales s = scales_of(values, scales, p, b);
		const struct lines lines = {.p = layout_block(values, scales, p, b)};

		for (int j = 0; j < 8; j++) {
			const int h = scales_per16(scales) ? j / 4 : 0;
			struct vi v = values_unpack(values, &lines, j);

			if (is_signed)
				v = vi_flip_sign(v);
			for (int i = 0; i < 4; i++, to += 16) {
				const struct vf q = vf_from_byte(v, i);

				vf_store(to, scales_min(scales) ? vf_add(vf_mul(s.d[h], q), s.m[h])
								: vf_mul(s.d[h], vf_sub(q, zero)));
			}
		}
	}
}

static void exact_dispatch(
	const struct weight *w, const uint8_t *p, uint32_t b0, uint32_t blocks, float *to)
{
	switch (w->layout.values) {
	case VALUES_Q2: exact_fill(VALUES_Q2, SCALES_K16M, w, p, b0, blocks, to); return;
	case VALUES_Q3: exact_fill(VALUES_Q3, SCALES_K16, w, p, b0, blocks, to); return;
	case VALUES_Q6: exact_fill(VALUES_Q6, SCALES_K16, w, p, b0, blocks, to); return;
	case VALUES_Q8: exact_fill(VALUES_Q8, SCALES_D, w, p, b0, blocks, to); return;
	case VALUES_IQ4:
		if (w->layout.scales == SCALES_D)
			exact_fill(VALUES_IQ4, SCALES_D, w, p, b0, blocks, to);
		else
			exact_fill(VALUES_IQ4, SCALES_K32, w, p, b0, blocks, to);
		return;
	case VALUES_Q4:
		if (w->layout.scales == SCALES_D)
			exact_fill(VALUES_Q4, SCALES_D, w, p, b0, blocks, to);
		else if (w->layout.scales == SCALES_DM)
			exact_fill(VALUES_Q4, SCALES_DM, w, p, b0, blocks, to);
		else
			exact_fill(VALUES_Q4, SCALES_K32M, w, p, b0, blocks, to);
		return;
	case VALUES_Q5:
		if (w->layout.scales == SCALES_D)
			exact_fill(VALUES_Q5, SCALES_D, w, p, b0, blocks, to);
		else if (w->layout.scales == SCALES_DM)
			exact_fill(VALUES_Q5, SCALES_DM, w, p, b0, blocks, to);
		else
			exact_fill(VALUES_Q5, SCALES_K32M, w, p, b0, blocks, to);
		return;
	}
}

static void matmul_exact(
	const struct weight *w, uint32_t g, const struct cpu_acts *a, float *out, void *scratch)
{
	const uint8_t *p = layout_group(w, g);
	float *panel = scratch;

	memset(out, 0, (size_t)a->n * 16 * sizeof(float));
	for (uint32_t k0 = 0; k0 < w->cols; k0 += EXACT_CHUNK) {
		const uint32_t k = w->cols - k0 < EXACT_CHUNK ? w->cols - k0 : EXACT_CHUNK;

		exact_dispatch(w, p, k0 / 32, k / 32, panel);
		float_tiles(KIND_F32, 1, (const uint8_t *)panel, 0, k0, k, a, out);
	}
}
