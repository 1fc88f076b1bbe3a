/* Attention over one block of 128 positions, and the merge of two blocks.
 *
 * Keys stand [head_dim][16 positions], so the lanes of a score vector are positions and a sum runs
 * over ascending elements; values stand [position][padded_dim], lanes are elements and a sum runs
 * over ascending positions. A query's sums take in exactly the positions that it sees: what else
 * the tile's queries see, or what stale memory holds, leaves no trace.
 *
 * Q8_0: int8 in the same order, f16 scales [head_dim / 32][16 positions] behind them. A product of
 * the two is exact in f32, and what follows is the arithmetic of the other types. */

LANE struct vf kv_load(const int kind, const uint8_t *p, size_t element)
{
	if (kind == KIND_F32)
		return vf_load((const float *)(const void *)p + element);
	if (kind == KIND_F16)
		return vf_load_f16((const uint16_t *)(const void *)p + element);
	if (kind == KIND_Q8)
		return vf_load_s8(p + element);
	return vf_load_bf16((const uint16_t *)(const void *)p + element);
}

/* Fetches what kv_load() will be asked for soon, into the second-level cache: the first one does
 * not hold it beside what is in use. Pages are too short and lie too far apart for the processor to
 * guess what comes next. */
LANE void kv_ahead(const int kind, const uint8_t *p, size_t element)
{
	const size_t bytes = kind == KIND_F32 ? 4 : kind == KIND_Q8 ? 1 : 2;

	__builtin_prefetch(p + element * bytes, 0, 2);
}

/* Vectors of a line. */
LANE uint32_t kv_line(const int kind)
{
	return kind == KIND_F32 ? 1 : kind == KIND_Q8 ? 4 : 2;
}

/* The scales of block `block` of a page's keys or values, one for each position. */
LANE struct vf kv_scales(const uint8_t *p, uint32_t head_dim, uint32_t block)
{
	const uint16_t *scales = (const uint16_t *)(const void *)(p + (size_t)head_dim * 16);

	return vf_load_f16(scales + (size_t)block * 16);
}

/* p [nc][128] at np pages = scale x queries [head_dim][nc] x keys [head_dim][16] of each; `ahead`
 * is as large as `keys` and wanted soon */
LANE void score_tile(const int kind, const int np, const int nc, const uint8_t *const *keys,
	const uint8_t *const *ahead, const float *q, uint32_t head_dim, float scale, float *p)
{
	struct vf acc[SCORE_PAGES][TILE_COLS], scales[SCORE_PAGES];

	for (int i = 0; i < np; i++) {
		scales[i] = vf_set1(1);
		for (int c = 0; c < nc; c++)
			acc[i][c] = vf_set1(0);
	}
#pragma GCC unroll 2
	for (uint32_t d = 0; d < head_dim; d++, q += nc) {
#pragma GCC unroll 4
		for (int i = 0; i < np; i++) {
			struct vf k = kv_load(kind, keys[i], (size_t)d * 16);

			if (d % kv_line(kind) == 0)
				kv_ahead(kind, ahead[i], (size_t)d * 16);
			if (kind == KIND_Q8) {
				if (d % 32 == 0)
					scales[i] = kv_scales(keys[i], head_dim, d / 32);
				k = vf_mul(k, scales[i]);
			}
#pragma GCC unroll 8
			for (int c = 0; c < nc; c++)
				acc[i][c] = vf_fma(k, vf_set1(q[c]), acc[i][c]);
		}
	}
	for (int i = 0; i < np; i++)
		for (int c = 0; c < nc; c++)
			vf_store(p + 128 * c + 16 * i, vf_mul(acc[i][c], vf_set1(scale)));
}

/* Pages side by side for so many queries: they hide the latency of a sum and share what is loaded
 * of a query. */
LANE int score_pages(const int nc)
{
	if (nc * SCORE_PAGES <= SCORE_SUMS)
		return SCORE_PAGES;
	return SCORE_PAGES > 2 && nc * 2 <= SCORE_SUMS ? 2 : 1;
}

#define SCORE_CASE(nc)                                                                             \
	case nc:                                                                                   \
		if (score_pages(nc) > 1 && pages_there(a, page, score_pages(nc))) {                \
			score_tile(kind, score_pages(nc), nc, a->k + page, ahead + page, q,        \
				a->head_dim, a->scale, p);                                         \
			page += score_pages(nc);                                                   \
		} else {                                                                           \
			if (a->k[page])                                                            \
				score_tile(kind, 1, nc, a->k + page, ahead + page, q, a->head_dim, \
					a->scale, p);                                              \
			page++;                                                                    \
		}                                                                                  \
		break;

LANE bool pages_there(const struct cpu_attend *a, uint32_t page, uint32_t n)
{
	if (page + n > 8)
		return false;
	for (uint32_t i = page; i < page + n; i++)
		if (!a->k[i])
			return false;
	return true;
}

LANE void scores(const int kind, const struct cpu_attend *a)
{
	for (uint32_t c0 = 0; c0 < a->n; c0 += TILE_COLS) {
		const float *q = a->q + (size_t)c0 * a->head_dim;
		const uint8_t *const *ahead = c0 == 0 ? a->v : a->k;

		for (uint32_t page = 0; page < 8;) {
			float *p = a->p + (size_t)c0 * 128 + 16 * page;

			switch (a->n - c0 < TILE_COLS ? a->n - c0 : TILE_COLS) {
				EACH_TILE(SCORE_CASE)
			}
		}
	}
}

/* Scores to exponentials, their maximum and their sum; `all`: of a query that sees the whole block.
 */
LANE void soften_range(const bool all, const struct cpu_attend *a, uint32_t c)
{
	const uint32_t lo = all ? 0 : a->lo[c], hi = all ? 128 : a->hi[c];
	float *p = a->p + (size_t)c * 128;
	struct vf top = vf_set1(-INFINITY), sum = vf_set1(0);

#pragma GCC unroll 8
	for (uint32_t at = lo / 16 * 16; at < hi; at += 16) {
		const struct vf x = vf_load(p + at);

		top = vf_max(all ? x : vf_window(x, at, lo, hi, -INFINITY), top);
	}
	a->max[c] = vf_top(top);
	top = vf_set1(a->max[c]);
#pragma GCC unroll 2
	for (uint32_t at = lo / 16 * 16; at < hi; at += 16) {
		struct vf e = vf_exp(vf_sub(vf_load(p + at), top));

		if (!all)
			e = vf_window(e, at, lo, hi, 0);
		vf_store(p + at, e);
		sum = vf_add(sum, e);
	}
	a->sum[c] = vf_sum(sum);
}

LANE void soften(const struct cpu_attend *a, uint32_t c)
{
	if (a->lo[c] == 0 && a->hi[c] == 128)
		soften_range(true, a, c);
	else
		soften_range(false, a, c);
}

/* out [nq][16 nd] at element d += p [nq][begin … end) x values */
LANE void value_tile(const int kind, const int nd, const int nq, const struct cpu_attend *a,
	uint32_t c0, uint32_t begin, uint32_t end, uint32_t d)
{
	const float *p = a->p + (size_t)c0 * 128;
	float *out = a->out + (size_t)c0 * a->padded_dim + d;
	struct vf acc[TILE_HEADS][TILE_DIMS];
	float scales[TILE_DIMS][16]; /* Q8_0: of each vector, at the page's positions */

	for (int c = 0; c < nq; c++)
		for (int i = 0; i < nd; i++)
			acc[c][i] = vf_load(out + (size_t)c * a->padded_dim + 16 * i);
	for (uint32_t at = begin; at < end; at++) {
		const uint8_t *v = a->v[at / 16], *ahead = c0 == 0 ? a->next[at / 16] : v;
		const size_t element = (size_t)(at % 16) * a->padded_dim + d;

		if (kind == KIND_Q8 && (at == begin || at % 16 == 0))
			for (int i = 0; i < nd; i++)
				vf_store(scales[i],
					kv_scales(v, a->head_dim, (d + 16 * (uint32_t)i) / 32));
#pragma GCC unroll 4
		for (int i = 0; i < nd; i++) {
			struct vf x = kv_load(kind, v, element + 16 * (size_t)i);

			if (i % (int)kv_line(kind) == 0)
				kv_ahead(kind, ahead, element + 16 * (size_t)i);
			if (kind == KIND_Q8)
				x = vf_mul(x, vf_set1(scales[i][at % 16]));
#pragma GCC unroll 4
			for (int c = 0; c < nq; c++)
				acc[c][i] = vf_fma(vf_set1(p[128 * c + at]), x, acc[c][i]);
		}
	}
	for (int c = 0; c < nq; c++)
		for (int i = 0; i < nd; i++)
			vf_store(out + (size_t)c * a->padded_dim + 16 * i, acc[c][i]);
}

LANE void values(const int kind, const int nq, const struct cpu_attend *a, uint32_t c0,
	uint32_t begin, uint32_t end)
{
	uint32_t d = 0;

	if (begin >= end)
		return;
	for (; a->padded_dim - d >= 16 * TILE_DIMS; d += 16 * TILE_DIMS)
		value_tile(kind, TILE_DIMS, nq, a, c0, begin, end, d);
	for (; d < a->padded_dim; d += 16)
		value_tile(kind, 1, nq, a, c0, begin, end, d);
}

/* Together over the positions that all see, each alone before and after them. */
LANE void values_shared(const int kind, const int nq, const struct cpu_attend *a, uint32_t c0)
{
	uint32_t lo = 0, hi = 128;

	for (uint32_t c = c0; c < c0 + nq; c++) {
		lo = a->lo[c] > lo ? a->lo[c] : lo;
		hi = a->hi[c] < hi ? a->hi[c] : hi;
	}
	if (lo >= hi)
		lo = hi = 128;
	for (uint32_t c = c0; c < c0 + nq; c++)
		values(kind, 1, a, c, a->lo[c], a->hi[c] < lo ? a->hi[c] : lo);
	values(kind, nq, a, c0, lo, hi);
	if (hi < 128)
		for (uint32_t c = c0; c < c0 + nq; c++)
			values(kind, 1, a, c, hi, a->hi[c]);
}

LANE void attend_kind(const int kind, const struct cpu_attend *a)
{
	uint32_t c = 0;

	scores(kind, a);
	for (uint32_t i = 0; i < a->n; i++)
		soften(a, i);
	memset(a->out, 0, (size_t)a->n * a->padded_dim * sizeof(float));
	for (; a->n - c >= TILE_HEADS; c += TILE_HEADS)
		values_shared(kind, TILE_HEADS, a, c);
	switch (a->n - c) {
#if TILE_HEADS == 4
	case 3: values_shared(kind, 3, a, c); break;
	case 2: values_shared(kind, 2, a, c); break;
#endif
	case 1: values(kind, 1, a, c, a->lo[c], a->hi[c]); break;
	}
}

static void attend(const struct cpu_attend *a)
{
	if (a->dtype == DTYPE_F32)
		attend_kind(KIND_F32, a);
	else if (a->dtype == DTYPE_F16)
		attend_kind(KIND_F16, a);
	else if (a->dtype == DTYPE_BF16)
		attend_kind(KIND_BF16, a);
	else
		attend_kind(KIND_Q8, a);
}

static void merge(float *max, float *sum, float *out, float block_max, float block_sum,
	const float *block_out, uint32_t padded_dim)
{
	const bool higher = block_max > *max;
	float lower[16], old, new;

	if (block_sum == 0.0f)
		return;
	if (*sum == 0.0f) {
		*max = block_max;
		*sum = block_sum;
		memcpy(out, block_out, padded_dim * sizeof(float));
		return;
	}
	vf_store(lower, vf_exp(vf_set1(higher ? *max - block_max : block_max - *max)));
	old = higher ? lower[0] : 1.0f;
	new = higher ? 1.0f : lower[0];
	*max = higher ? block_max : *max;
	*sum = *sum * old + block_sum * new;
	for (uint32_t d = 0; d < padded_dim; d += 16)
		vf_store(out + d, vf_fma(vf_load(block_out + d), vf_set1(new),
					  vf_mul(vf_load(out + d), vf_set1(old))));
}
