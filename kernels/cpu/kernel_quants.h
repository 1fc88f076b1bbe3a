/* Matrix products on quantised weights: int8 activations, and f32 ones in exact mode.
 *
 * Per block of 32 columns and per activation column: eight dot products of four bytes, in two
 * halves of 16 that have an activation scale each; then acc += d (s0 dot0 + s1 dot1) + m sum,
 * in this order whatever the number of columns. A weight's zero is taken off by starting the dot
 * products at -zero x (sum of the activations). */

#define VALUES_PANEL 100 /* bytes that were unpacked before */

/* At one column activations are asked for so many bytes early: the weights stream through the
 * first-level cache and push long rows of them out. */
#define ACTS_AHEAD 256

LANE int32_t four_bytes(const int8_t *p)
{
	int32_t x;

	memcpy(&x, p, sizeof(x));
	return x;
}

/* Bits `from` … of every byte moved to bit `to`; what stood around them comes along. */
LANE struct vi bits_shift(struct vi v, int from, int to)
{
	return from >= to ? vi_shr(v, from - to) : vi_shl(v, to - from);
}

/* The 64-byte lines of a packed block: held in registers, or read where they are wanted. */
struct lines {
	const uint8_t *p;
	bool held;
	struct vi v[8];
};

LANE struct vi line_at(const struct lines *l, int i)
{
	return l->held ? l->v[i] : vi_load(l->p + 64 * i);
}

/* The lines are asked for in ascending order, which is how memory streams at its full speed and not
 * what the compiler would do. */
LANE struct lines lines_hold(const int values, const uint8_t *p)
{
	struct lines l = {.p = p, .held = true};

	for (uint32_t i = 0; i < VALUES_BYTES(values) / 64; i++)
		l.v[i] = vi_load_in_order(p + 64 * i);
	return l;
}

/* Vector j (0 … 7) of a block as bytes: 16 rows x 4 columns. */
LANE struct vi values_unpack(const int values, const struct lines *l, int j)
{
	struct vi v;

	switch (values) {
	case VALUES_Q4:
	case VALUES_Q5:
	case VALUES_Q6:
		v = vi_and_byte(bits_shift(line_at(l, j / 2), j % 2 * 4, 0), 0x0f);
		if (values == VALUES_Q5)
			v = vi_merge(v, bits_shift(line_at(l, 4), j, 4), 0x10);
		if (values == VALUES_Q6)
			v = vi_merge(v, bits_shift(line_at(l, 4 + j / 4), j % 4 * 2, 4), 0x30);
		return v;
	case VALUES_Q2:
	case VALUES_Q3:
		v = vi_and_byte(bits_shift(line_at(l, j / 4), j % 4 * 2, 0), 0x03);
		if (values == VALUES_Q3)
			v = vi_merge(v, bits_shift(line_at(l, 2), j, 2), 0x04);
		return v;
	case VALUES_IQ4:
		v = vi_level(
			vi_and_byte(bits_shift(line_at(l, j / 2), j % 2 * 4, 0), 0x0f), iq4_levels);
		return BYTE_ZERO ? vi_flip_sign(v) : v;
	default: return line_at(l, j);
	}
}

/* Values that unpack to full bytes, BYTE_ZERO too high. */
LANE bool values_byte(const int values)
{
	return values == VALUES_Q8 || values == VALUES_IQ4;
}

struct block_scales {
	struct vf d[2], m[2]; /* per half; the second only where scales are per 16 */
};

LANE bool scales_per16(const int scales)
{
	return scales == SCALES_K16 || scales == SCALES_K16M;
}

LANE bool scales_min(const int scales)
{
	return scales == SCALES_DM || scales == SCALES_K32M || scales == SCALES_K16M;
}

LANE struct vf lanes_f16(const uint8_t *p)
{
	return vf_load_f16((const uint16_t *)(const void *)p);
}

/* What the blocks of a record have in common: d and -dmin of 256 columns. */
struct record_scales {
	struct vf d, min;
};

LANE struct record_scales record_load(const int scales, const uint8_t *s)
{
	struct record_scales r = {vf_set1(0), vf_set1(0)};

	if (SCALES_BLOCKS(scales) == 8)
		r.d = lanes_f16(s);
	if (scales == SCALES_K32M || scales == SCALES_K16M)
		r.min = vf_sub(vf_set1(0), lanes_f16(s + 32));
	return r;
}

/* The scales of block i of a record. Products of an f16 and an 8-bit integer are exact. */
LANE struct block_scales scales_load(
	const int scales, const uint8_t *s, const struct record_scales *record, uint32_t i)
{
	struct block_scales r;

	r.m[0] = r.m[1] = vf_set1(0);
	switch (scales) {
	case SCALES_D: r.d[0] = r.d[1] = lanes_f16(s + 32 * (size_t)i); return r;
	case SCALES_DM:
		r.d[0] = r.d[1] = lanes_f16(s);
		r.m[0] = r.m[1] = lanes_f16(s + 32);
		return r;
	case SCALES_K32M:
		r.d[0] = r.d[1] = vf_mul(record->d, vf_load_u8(s + 64 + 32 * i));
		r.m[0] = r.m[1] = vf_mul(record->min, vf_load_u8(s + 64 + 32 * i + 16));
		return r;
	case SCALES_K16:
		r.d[0] = vf_mul(record->d, vf_load_s8(s + 32 + 32 * i));
		r.d[1] = vf_mul(record->d, vf_load_s8(s + 32 + 32 * i + 16));
		return r;
	case SCALES_K32: r.d[0] = r.d[1] = vf_mul(record->d, vf_load_s8(s + 32 + 16 * i)); return r;
	default:
		for (int h = 0; h < 2; h++) {
			const uint8_t *at = s + 64 + 64 * i + 32 * h;

			r.d[h] = vf_mul(record->d, vf_load_u8(at));
			r.m[h] = vf_mul(record->min, vf_load_u8(at + 16));
		}
		return r;
	}
}

LANE struct block_scales scales_of(
	const int values, const int scales, const uint8_t *group, uint32_t b)
{
	const uint8_t *record = layout_record(values, scales, group, b);
	const struct record_scales rs = record_load(scales, record);

	return scales_load(scales, record, &rs, b % SCALES_BLOCKS(scales));
}

/* Where the tile's activations of one block stand. */
struct block_acts {
	const int8_t *q;
	const float *scale, *sum16, *sum32;
	const int32_t *init;
};

/* acc [ng][nc] += one block of 32 columns of ng groups, whose packed lines stand at p [ng]; the
 * activations are nc of a tile of `width` columns; ng x nc is at most TILE_COLS. With `keep` the
 * first group's unpacked values go to kept [8][64], too. */
LANE void block_add(const int values, const bool is_byte, const int scales, const int ng,
	const int nc, const int width, const bool keep, const uint8_t *const *p,
	const struct block_scales *s, const struct block_acts *x, struct vf *acc, uint8_t *kept)
{
	struct vf part[TILE_COLS];
	struct lines lines[TILE_GROUPS];

#pragma GCC unroll 2
	for (int g = 0; g < ng; g++)
		lines[g] = LINES_HELD && ng * nc == 1 && SCALES_BLOCKS(scales) == 8 &&
					   values != VALUES_PANEL
				   ? lines_hold(values, p[g])
				   : (struct lines){.p = p[g]};

#pragma GCC unroll 2
	for (int h = 0; h < 2; h++) {
		struct vi dot[TILE_COLS];

#pragma GCC unroll 8
		for (int c = 0; c < nc; c++) {
			const struct vi init = scales_min(scales) ? vi_zero()
								  : vi_set1(x->init[h * width + c]);

#pragma GCC unroll 2
			for (int g = 0; g < ng; g++)
				dot[g * nc + c] = init;
		}
#pragma GCC unroll 4
		for (int j = 4 * h; j < 4 * h + 4; j++) {
			struct vi w[TILE_GROUPS];

#pragma GCC unroll 2
			for (int g = 0; g < ng; g++)
				w[g] = values_unpack(values, &lines[g], j);
			if (keep)
				vi_store(kept + 64 * j, w[0]);
#pragma GCC unroll 8
			for (int c = 0; c < nc; c++) {
				const int32_t v = four_bytes(x->q + 4 * (j * width + c));

#pragma GCC unroll 2
				for (int g = 0; g < ng; g++) {
					struct vi *d = &dot[g * nc + c];

					*d = is_byte ? vi_dot_byte(*d, w[g], v)
						     : vi_dot(*d, w[g], v);
				}
			}
		}
#pragma GCC unroll 8
		for (int c = 0; c < nc; c++) {
			const struct vf sx = vf_set1(x->scale[h * width + c]);

#pragma GCC unroll 2
			for (int g = 0; g < ng; g++) {
				const int i = g * nc + c;
				const struct vf f = vf_from_vi(dot[i]);

				if (scales_per16(scales)) {
					acc[i] = vf_fma(vf_mul(f, sx), s[g].d[h], acc[i]);
					if (scales_min(scales))
						acc[i] = vf_fma(s[g].m[h],
							vf_set1(x->sum16[h * width + c]), acc[i]);
				} else if (h == 0) {
					part[i] = vf_mul(f, sx);
				} else {
					acc[i] = vf_fma(vf_fma(f, sx, part[i]), s[g].d[0], acc[i]);
					if (scales_min(scales))
						acc[i] = vf_fma(
							s[g].m[0], vf_set1(x->sum32[c]), acc[i]);
				}
			}
		}
	}
}

/* Of the tile at column c0, its first block; then one block after the other. */
LANE struct block_acts acts_at(const struct cpu_acts *a, const int32_t *init, uint32_t c0)
{
	const size_t c = c0;

	return (struct block_acts){
		.q = a->q + c * a->cols,
		.scale = a->scale + c * (a->cols / 16),
		.sum16 = a->sum16 + c * (a->cols / 16),
		.sum32 = a->sum32 + c * (a->cols / 32),
		.init = init + c * (a->cols / 16),
	};
}

LANE void acts_next(struct block_acts *x, const int nc)
{
	x->q += 32 * nc;
	x->scale += 2 * nc;
	x->sum16 += 2 * nc;
	x->sum32 += nc;
	x->init += 2 * nc;
}

/* To a later block of a tile of `width` columns, and to a later one of these. */
LANE void acts_skip(struct block_acts *x, const int width, uint32_t blocks, uint32_t columns)
{
	const size_t n = (size_t)width * blocks, c = columns;

	x->q += 32 * n + 4 * c;
	x->scale += 2 * n + c;
	x->sum16 += 2 * n + c;
	x->sum32 += n + c;
	x->init += 2 * n + c;
}

LANE const int32_t *acts_init(const struct cpu_acts *a, uint32_t zero)
{
	for (uint32_t i = 0; i < a->n_zeros; i++)
		if (a->zeros[i] == zero)
			return a->init[i];
	return a->init[0]; /* types with a minimum read none */
}

/* A group unpacked to bytes and f32 scales, to be read once per tile of columns. */
struct panel {
	uint8_t *values; /* [cols / 4][64] */
	float *d, *m;    /* [cols / 32][1 or 2][16] */
};

LANE struct panel panel_at(void *scratch, uint32_t cols)
{
	uint8_t *values = scratch;
	float *d = (float *)(void *)(values + (size_t)cols * 16);

	return (struct panel){values, d, d + cols};
}

/* At more columns the weights are asked for early: what is computed with a block then hides its way
 * from memory, which the processor's own prefetch does by half. At one column memory itself is the
 * limit, and that prefetch suffices on some processors and not on others (cpu.c). */
LANE void weights_ahead(const uint8_t *p, const uint32_t bytes, uint32_t ahead)
{
#pragma GCC unroll 9
	for (uint32_t at = 0; at < bytes; at += 64)
		__builtin_prefetch(p + ahead + at);
}

/* A whole group straight from the packed planes: each weight is read once for nc columns. Where
 * more columns follow, the unpacked group is left in a panel for them: to unpack apart from the
 * products costs as much as six columns, for the memory and the stores then wait for each other. */
LANE void fused(const int values, const int scales, const int nc, const bool early, const bool keep,
	const struct weight *w, uint32_t g, const struct cpu_acts *a, struct panel to, float *out)
{
	const uint8_t *record = layout_group(w, g);
	const uint32_t blocks = w->cols / 32;
	struct block_acts x = acts_at(a, acts_init(a, w->layout.zero), 0);
	struct vf acc[TILE_COLS];

#pragma GCC unroll 8
	for (int c = 0; c < nc; c++)
		acc[c] = vf_set1(0);
	for (uint32_t b = 0; b < blocks; record += RECORD_BYTES(values, scales)) {
		const struct record_scales rs = record_load(scales, record);
		const uint8_t *block = record + SCALES_BYTES(scales);
		struct block_scales all[8], bs;

		if (early)
			weights_ahead(record, SCALES_BYTES(scales), a->ahead);
		/* A record's first, then its blocks: in turns they cost a third of the speed. */
		for (uint32_t i = 0; SCALES_BLOCKS(scales) == 8 && i < 8; i++)
			all[i] = scales_load(scales, record, &rs, i);
		for (uint32_t i = 0; i < SCALES_BLOCKS(scales) && b < blocks; i++, b++) {
			if (SCALES_BLOCKS(scales) == 8)
				bs = all[i];
			else
				bs = scales_load(scales, record, &rs, i);
			for (int h = 0; keep && h < (scales_per16(scales) ? 2 : 1); h++) {
				vf_store(to.d, bs.d[h]);
				if (scales_min(scales))
					vf_store(to.m, bs.m[h]);
				to.d += 16;
				to.m += 16;
			}
			if (nc == 1)
				__builtin_prefetch(x.q + ACTS_AHEAD);
			if (early)
				weights_ahead(block, VALUES_BYTES(values), a->ahead);
			block_add(values, values_byte(values), scales, 1, nc, nc, keep, &block, &bs,
				&x, acc, to.values);
			acts_next(&x, nc);
			to.values += keep ? 512 : 0;
			block += VALUES_BYTES(values);
		}
	}
#pragma GCC unroll 8
	for (int c = 0; c < nc; c++)
		vf_store(out + 16 * c, acc[c]);
}

LANE struct block_scales panel_scales(const int scales, const struct panel *from, uint32_t b)
{
	const size_t halves = scales_per16(scales) ? 2 : 1;
	struct block_scales s;

	for (size_t h = 0; h < halves; h++) {
		s.d[h] = vf_load(from->d + (b * halves + h) * 16);
		if (scales_min(scales))
			s.m[h] = vf_load(from->m + (b * halves + h) * 16);
	}
	return s;
}

LANE void panel_tile(const bool is_byte, const int scales, const int nc, struct panel from,
	uint32_t zero, const struct cpu_acts *a, uint32_t c0, float *out)
{
	struct block_acts x = acts_at(a, acts_init(a, zero), c0);
	struct vf acc[TILE_COLS];

#pragma GCC unroll 8
	for (int c = 0; c < nc; c++)
		acc[c] = vf_set1(0);
	for (uint32_t b = 0; b < a->cols / 32; b++) {
		const struct block_scales s = panel_scales(scales, &from, b);
		const uint8_t *block = from.values + (size_t)b * 512;

		block_add(
			VALUES_PANEL, is_byte, scales, 1, nc, nc, false, &block, &s, &x, acc, NULL);
		acts_next(&x, nc);
	}
#pragma GCC unroll 8
	for (int c = 0; c < nc; c++)
		vf_store(out + 16 * c, acc[c]);
}

#if TILE_GROUPS == 2
#define PAIR_COLS   (TILE_COLS / 2)
#define PAIR_BLOCKS 16

/* Two groups at half a tile's columns: an activation is spread over the lanes once for both, for
 * loads and not products limit a tile where the processor makes two products a cycle. (With minima
 * it is the arithmetic on floats, and nothing is gained.) Whole tiles from the second one on; sums
 * wait in `out` from one run of PAIR_BLOCKS to the next, 16 KiB of two panels, which stay in the
 * first-level cache for all columns. */
LANE void panel_pair(const bool is_byte, const int scales, const struct panel from[2],
	uint32_t zero, const struct cpu_acts *a, float *const out[2])
{
	const int32_t *init = acts_init(a, zero);
	const uint32_t blocks = a->cols / 32;

	for (uint32_t b0 = 0; b0 < blocks; b0 += PAIR_BLOCKS)
		for (uint32_t c0 = TILE_COLS; c0 + PAIR_COLS <= a->n; c0 += PAIR_COLS) {
			const uint32_t in = c0 % TILE_COLS;
			const uint32_t end = b0 + PAIR_BLOCKS < blocks ? b0 + PAIR_BLOCKS : blocks;
			struct block_acts x = acts_at(a, init, c0 - in);
			struct vf acc[2 * PAIR_COLS];

			if (a->n - (c0 - in) < TILE_COLS)
				break;
			acts_skip(&x, TILE_COLS, b0, in);
#pragma GCC unroll 8
			for (int i = 0; i < 2 * PAIR_COLS; i++)
				acc[i] = b0 == 0 ? vf_set1(0)
						 : vf_load(out[i / PAIR_COLS] +
							   16 * (c0 + (uint32_t)i % PAIR_COLS));
			for (uint32_t b = b0; b < end; b++) {
				const struct block_scales s[2] = {panel_scales(scales, &from[0], b),
					panel_scales(scales, &from[1], b)};
				const uint8_t *p[2] = {from[0].values + (size_t)b * 512,
					from[1].values + (size_t)b * 512};

				block_add(VALUES_PANEL, is_byte, scales, 2, PAIR_COLS, TILE_COLS,
					false, p, s, &x, acc, NULL);
				acts_next(&x, TILE_COLS);
			}
#pragma GCC unroll 8
			for (int i = 0; i < 2 * PAIR_COLS; i++)
				vf_store(out[i / PAIR_COLS] + 16 * (c0 + (uint32_t)i % PAIR_COLS),
					acc[i]);
		}
}
#endif

/* f(nc, …) for each number of columns of a tile, as a constant. */
#if TILE_COLS == 8
#define EACH_TILE(f, ...)                                                                          \
	f(1, ##__VA_ARGS__) f(2, ##__VA_ARGS__) f(3, ##__VA_ARGS__) f(4, ##__VA_ARGS__)            \
		f(5, ##__VA_ARGS__) f(6, ##__VA_ARGS__) f(7, ##__VA_ARGS__) f(8, ##__VA_ARGS__)
#elif TILE_COLS == 4
#define EACH_TILE(f, ...)                                                                          \
	f(1, ##__VA_ARGS__) f(2, ##__VA_ARGS__) f(3, ##__VA_ARGS__) f(4, ##__VA_ARGS__)
#else
#define EACH_TILE(f, ...) f(1, ##__VA_ARGS__) f(2, ##__VA_ARGS__)
#endif

/* Each loop nest is a function of its own, NAME_COLUMNS, that the profiler and the test of
 * instruction counts find by its name. */
#define LOOP static __attribute__((noinline)) void

#define TILE_LOOP(nc, name, is_byte, scales)                                                       \
	LOOP name##_##nc(struct panel from, uint32_t zero, const struct cpu_acts *a, uint32_t c0,  \
		float *out)                                                                        \
	{                                                                                          \
		panel_tile(is_byte, scales, nc, from, zero, a, c0, out);                           \
	}
#define TILE_CASE(nc, name)                                                                        \
	case nc:                                                                                   \
		name##_##nc(from, zero, a, c0, out + 16 * (size_t)c0);                             \
		break;

#define PANEL_TILES(name, is_byte, scales)                                                         \
	EACH_TILE(TILE_LOOP, name, is_byte, scales)                                                \
	static void name(struct panel from, uint32_t zero, const struct cpu_acts *a, uint32_t c0,  \
		float *out)                                                                        \
	{                                                                                          \
		for (; c0 < a->n; c0 += TILE_COLS) {                                               \
			switch (a->n - c0 < TILE_COLS ? a->n - c0 : TILE_COLS) {                   \
				EACH_TILE(TILE_CASE, name)                                         \
			}                                                                          \
		}                                                                                  \
	}

#if TILE_GROUPS == 2
#define PAIR_LOOP(name, is_byte, scales)                                                           \
	LOOP name(const struct panel from[2], uint32_t zero, const struct cpu_acts *a,             \
		float *const out[2])                                                               \
	{                                                                                          \
		panel_pair(is_byte, scales, from, zero, a, out);                                   \
	}
PAIR_LOOP(tiles_32_pair_4, false, SCALES_D)
PAIR_LOOP(tiles_byte_32_pair_4, true, SCALES_D)
PAIR_LOOP(tiles_16_pair_4, false, SCALES_K16)
#else
#define tiles_32_pair_4      no_pair
#define tiles_byte_32_pair_4 no_pair
#define tiles_16_pair_4      no_pair
#endif

/* Never called: matmul_quants() gives such types one group. */
LANE void no_pair(
	const struct panel *from, uint32_t zero, const struct cpu_acts *a, float *const *out)
{
	(void)from;
	(void)zero;
	(void)a;
	(void)out;
}

PANEL_TILES(tiles_32, false, SCALES_D)
PANEL_TILES(tiles_byte_32, true, SCALES_D)
PANEL_TILES(tiles_32_min, false, SCALES_DM)
PANEL_TILES(tiles_16, false, SCALES_K16)
PANEL_TILES(tiles_16_min, false, SCALES_K16M)

#define FUSED_LOOP(nc, name, values, scales)                                                       \
	LOOP name##_##nc(const struct weight *w, uint32_t g, const struct cpu_acts *a, float *out) \
	{                                                                                          \
		fused(values, scales, nc, nc > 1, false, w, g, a, (struct panel){0}, out);         \
	}
#define FUSED_CASE(nc, name)                                                                       \
	case nc:                                                                                   \
		name##_##nc(w, g + i, a, at[i]);                                                   \
		break;

#define KEEP_NAME(name, nc) name##_keep_##nc
#define KEEP(name, nc)      KEEP_NAME(name, nc)

/* One function for each pair of values and scales that a file type has. */
#define QUANTS_GROUP(name, values, scales, tiles, pair)                                            \
	EACH_TILE(FUSED_LOOP, name, values, scales)                                                \
	LOOP name##_early_1(                                                                       \
		const struct weight *w, uint32_t g, const struct cpu_acts *a, float *out)          \
	{                                                                                          \
		fused(values, scales, 1, true, false, w, g, a, (struct panel){0}, out);            \
	}                                                                                          \
	LOOP KEEP(name, TILE_COLS)(const struct weight *w, uint32_t g, const struct cpu_acts *a,   \
		struct panel to, float *out)                                                       \
	{                                                                                          \
		fused(values, scales, TILE_COLS, true, true, w, g, a, to, out);                    \
	}                                                                                          \
	static void name(const struct weight *w, uint32_t g, uint32_t n_groups,                    \
		const struct cpu_acts *a, float *out, void *scratch)                               \
	{                                                                                          \
		struct panel to[TILE_GROUPS];                                                      \
		float *at[TILE_GROUPS];                                                            \
                                                                                                   \
		for (uint32_t i = 0; i < n_groups; i++) {                                          \
			to[i] = panel_at((uint8_t *)scratch + i * PANEL_BYTES(w->cols), w->cols);  \
			at[i] = out + (size_t)i * a->n * GROUP_ROWS;                               \
			if (a->n == 1 && a->ahead > 0) {                                           \
				name##_early_1(w, g + i, a, at[i]);                                \
				continue;                                                          \
			}                                                                          \
			switch (a->n) {                                                            \
				EACH_TILE(FUSED_CASE, name)                                        \
			default: KEEP(name, TILE_COLS)(w, g + i, a, to[i], at[i]);                 \
			}                                                                          \
		}                                                                                  \
		if (a->n <= TILE_COLS)                                                             \
			return;                                                                    \
		if (n_groups == 2)                                                                 \
			pair(to, w->layout.zero, a, at);                                           \
		for (uint32_t i = 0; i < n_groups; i++)                                            \
			tiles(to[i], w->layout.zero, a,                                            \
				n_groups == 2 ? a->n - a->n % TILE_COLS : TILE_COLS, at[i]);       \
	}

QUANTS_GROUP(q4_d, VALUES_Q4, SCALES_D, tiles_32, tiles_32_pair_4)
QUANTS_GROUP(q4_dm, VALUES_Q4, SCALES_DM, tiles_32_min, no_pair)
QUANTS_GROUP(q4_k, VALUES_Q4, SCALES_K32M, tiles_32_min, no_pair)
QUANTS_GROUP(q5_d, VALUES_Q5, SCALES_D, tiles_32, tiles_32_pair_4)
QUANTS_GROUP(q5_dm, VALUES_Q5, SCALES_DM, tiles_32_min, no_pair)
QUANTS_GROUP(q5_k, VALUES_Q5, SCALES_K32M, tiles_32_min, no_pair)
QUANTS_GROUP(q8_d, VALUES_Q8, SCALES_D, tiles_byte_32, tiles_byte_32_pair_4)
QUANTS_GROUP(q2_k, VALUES_Q2, SCALES_K16M, tiles_16_min, no_pair)
QUANTS_GROUP(q3_k, VALUES_Q3, SCALES_K16, tiles_16, tiles_16_pair_4)
QUANTS_GROUP(q6_k, VALUES_Q6, SCALES_K16, tiles_16, tiles_16_pair_4)
QUANTS_GROUP(iq4_nl, VALUES_IQ4, SCALES_D, tiles_byte_32, tiles_byte_32_pair_4)
QUANTS_GROUP(iq4_xs, VALUES_IQ4, SCALES_K32, tiles_byte_32, tiles_byte_32_pair_4)

static void matmul_quants(const struct weight *w, uint32_t g, uint32_t n_groups,
	const struct cpu_acts *a, float *out, void *scratch)
{
	static void (*const some[][6])(const struct weight *, uint32_t, uint32_t,
		const struct cpu_acts *, float *, void *) = {
		[VALUES_Q2] = {[SCALES_K16M] = q2_k},
		[VALUES_Q3] = {[SCALES_K16] = q3_k},
		[VALUES_Q4] = {[SCALES_D] = q4_d, [SCALES_DM] = q4_dm, [SCALES_K32M] = q4_k},
		[VALUES_Q5] = {[SCALES_D] = q5_d, [SCALES_DM] = q5_dm, [SCALES_K32M] = q5_k},
		[VALUES_Q6] = {[SCALES_K16] = q6_k},
		[VALUES_Q8] = {[SCALES_D] = q8_d},
		[VALUES_IQ4] = {[SCALES_D] = iq4_nl, [SCALES_K32] = iq4_xs},
	};

	const uint32_t most = scales_min(w->layout.scales) ? 1 : TILE_GROUPS;

	for (uint32_t i = 0; i < n_groups; i += most) {
		const uint32_t n = n_groups - i < most ? n_groups - i : most;

		some[w->layout.values][w->layout.scales](
			w, g + i, n, a, out + (size_t)i * a->n * GROUP_ROWS, scratch);
	}
}
