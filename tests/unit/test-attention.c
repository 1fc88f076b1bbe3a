/* The operations on KV pages (RoPE, the write, attention), on every backend, against f64. */
#define TEST_ATTENTION
#include "ops-fixture.h"

enum {
	SLOTS = 2,
	STRIDE = 20, /* page table entries of a slot: 320 positions */
	PAGES = SLOTS * STRIDE,
	LAYERS = 2,
	LAYER = 1, /* the one that the tests use */
	POSITIONS = 301,
};

/* Two sequences whose pages lie shuffled among each other. */
struct sequences {
	struct backend *b;
	struct kv *kv;
	struct kv_shape kv_shape;
	struct attention_shape shape;
	uint32_t table[SLOTS * STRIDE];
	float *k, *v;           /* [SLOTS, POSITIONS, n_kv_heads, head_dim], as given to rope_kv */
	float *kept_k, *kept_v; /* what the KV's type keeps of them unrotated */
};

/* x [rows, dim] as that type keeps it. */
static float *kept(enum dtype dtype, const float *x, size_t rows, size_t dim)
{
	float *y = malloc(rows * dim * sizeof(float));
	size_t bytes;

	assert_true(dtype_row_bytes(dtype, dim, &bytes));
	uint8_t *row = malloc(bytes);
	assert_non_null(row);
	assert_non_null(y);
	for (size_t i = 0; i < rows; i++) {
		quantize_row(dtype, x + i * dim, NULL, row, dim);
		dequantize_row(dtype, row, y + i * dim, dim);
	}
	free(row);
	return y;
}

static float *rope_values(uint32_t positions, uint32_t rope_dim, bool identity)
{
	float *table = malloc((size_t)positions * rope_dim * sizeof(float));

	assert_non_null(table);
	for (uint32_t p = 0; p < positions; p++)
		for (uint32_t i = 0; i < rope_dim / 2; i++) {
			double angle = identity ? 0 : p * pow(10000, -2.0 * i / rope_dim);

			table[p * rope_dim + i] = (float)cos(angle);
			table[p * rope_dim + rope_dim / 2 + i] = (float)sin(angle);
		}
	return table;
}

static void sequences_new(struct sequences *s, struct backend *b, uint32_t n_heads,
	uint32_t n_kv_heads, uint32_t head_dim, enum dtype dtype)
{
	*s = (struct sequences){
		.b = b,
		.kv_shape = {LAYERS, PAGES, n_kv_heads, head_dim, dtype},
		.shape =
			{
				.n_heads = n_heads,
				.n_kv_heads = n_kv_heads,
				.head_dim = head_dim,
				.rope_dim = head_dim,
				.rope_layout = ROPE_HALVES,
				.scale = 1 / sqrtf((float)head_dim),
			},
	};
	assert_int_equal(b->ops->kv_new(b, &s->kv_shape, &s->kv), 0);
	/* 7 and 40 have no common divisor: each page stands once. */
	for (uint32_t i = 0; i < PAGES; i++)
		s->table[i] = (i * 7 + 3) % PAGES;
	s->k = random_floats(1, (size_t)SLOTS * POSITIONS * n_kv_heads * head_dim);
	s->v = random_floats(2, (size_t)SLOTS * POSITIONS * n_kv_heads * head_dim);
	s->kept_k = kept(dtype, s->k, (size_t)SLOTS * POSITIONS * n_kv_heads, head_dim);
	s->kept_v = kept(dtype, s->v, (size_t)SLOTS * POSITIONS * n_kv_heads, head_dim);
}

static void sequences_free(struct sequences *s)
{
	s->b->ops->kv_free(s->b, s->kv);
	free(s->k);
	free(s->v);
	free(s->kept_k);
	free(s->kept_v);
}

static size_t kv_width(const struct sequences *s)
{
	return (size_t)s->shape.n_kv_heads * s->shape.head_dim;
}

/* Writes all positions of both sequences, unrotated, in one batch. */
static void write_all(struct sequences *s)
{
	enum { N = SLOTS * POSITIONS };
	struct backend *b = s->b;
	float *values = rope_values(POSITIONS, s->shape.rope_dim, true);
	struct stored rope = store_values(b, DTYPE_F32, POSITIONS, s->shape.rope_dim, values);
	float *q = put(b, NULL, (size_t)N * s->shape.n_heads * s->shape.head_dim);
	float *k = put(b, s->k, N * kv_width(s)), *v = put(b, s->v, N * kv_width(s));
	static int32_t tokens[N];
	static uint32_t slots[N], positions[N];

	for (uint32_t i = 0; i < N; i++) {
		slots[i] = i / POSITIONS;
		positions[i] = i % POSITIONS;
	}
	const struct batch batch = {N, tokens, slots, positions, s->table, SLOTS, STRIDE};
	assert_int_equal(b->ops->batch_begin(b, &batch), 0);
	assert_int_equal(
		b->ops->rope_kv(b, &batch, &s->shape, rope.weight, q, k, v, s->kv, LAYER), 0);
	assert_int_equal(b->ops->sync(b), 0);
	b->ops->buffer_free(b, q);
	b->ops->buffer_free(b, k);
	b->ops->buffer_free(b, v);
	stored_free(b, &rope);
	free(values);
}

/* One row's attention in f64, over what the KV's type kept. y [n_heads, head_dim] */
static void attention_f64(
	const struct sequences *s, uint32_t slot, uint32_t position, const float *q, double *y)
{
	uint32_t dim = s->shape.head_dim, group = s->shape.n_heads / s->shape.n_kv_heads;
	uint32_t window = s->shape.window;
	uint32_t begin = window > 0 && position + 1 > window ? position + 1 - window : 0;

	for (uint32_t h = 0; h < s->shape.n_heads; h++) {
		const float *qh = q + h * dim;
		double *yh = y + h * dim, sum = 0;

		for (uint32_t i = 0; i < dim; i++)
			yh[i] = 0;
		/* Scores stay below 10 here: no maximum is needed. */
		for (uint32_t p = begin; p <= position; p++) {
			size_t at = ((size_t)slot * POSITIONS + p) * kv_width(s) + h / group * dim;
			double score = 0;

			for (uint32_t i = 0; i < dim; i++)
				score += (double)qh[i] * (double)s->kept_k[at + i];
			double e = exp(score * (double)s->shape.scale);
			sum += e;
			for (uint32_t i = 0; i < dim; i++)
				yh[i] += e * (double)s->kept_v[at + i];
		}
		for (uint32_t i = 0; i < dim; i++)
			yh[i] /= sum;
	}
}

/* Tolerance: a score of size 3 in f32 is off by about 1e-6, so is each probability, relative; the
 * values are below 3. */
#define ATTENTION_TOLERANCE 1e-5

/* The rows at the given positions of both sequences, against f64. Entries of the page table that no
 * row may need are none. */
static void check_attention(struct sequences *s, const uint32_t *at, uint32_t n_at)
{
	struct backend *b = s->b;
	uint32_t n = SLOTS * n_at;
	size_t width = (size_t)s->shape.n_heads * s->shape.head_dim;
	float *q = random_floats(5, n * width), *in = put(b, q, n * width);
	float *out = put(b, NULL, n * width);
	uint32_t table[SLOTS * STRIDE], slots[64], positions[64];
	int32_t tokens[64] = {0};
	double *want = malloc(width * sizeof(double));

	assert_non_null(want);
	assert_true(n <= 64);
	for (uint32_t i = 0; i < SLOTS * STRIDE; i++) {
		uint32_t first = i % STRIDE * KV_PAGE_TOKENS;
		bool needed = false;

		for (uint32_t r = 0; r < n_at; r++)
			if (first <= at[r] &&
				(s->shape.window == 0 ||
					first + KV_PAGE_TOKENS + s->shape.window > at[r] + 1))
				needed = true;
		table[i] = needed ? s->table[i] : KV_PAGE_NONE;
	}
	for (uint32_t i = 0; i < n; i++) {
		slots[i] = 1 - i / n_at; /* the second sequence first */
		positions[i] = at[i % n_at];
	}
	const struct batch batch = {n, tokens, slots, positions, table, SLOTS, STRIDE};
	assert_int_equal(b->ops->batch_begin(b, &batch), 0);
	assert_int_equal(b->ops->attention(b, &batch, &s->shape, in, s->kv, LAYER, out), 0);
	float *got = get(b, out, n * width);
	for (uint32_t i = 0; i < n; i++) {
		attention_f64(s, slots[i], positions[i], q + i * width, want);
		for (size_t k = 0; k < width; k++)
			assert_near((double)got[i * width + k], want[k], ATTENTION_TOLERANCE,
				"attention", i * width + k);
	}

	/* Each row alone has the same bits. */
	for (uint32_t i = 0; i < n; i++) {
		const struct batch alone = {
			1, tokens, &slots[i], &positions[i], table, SLOTS, STRIDE};

		assert_int_equal(b->ops->batch_begin(b, &alone), 0);
		assert_int_equal(
			b->ops->attention(b, &alone, &s->shape, in + i * width, s->kv, LAYER, out),
			0);
		float *single = get(b, out, width);
		assert_same_bits(single, got + i * width, width, "a row alone");
		free(single);
	}
	free(got);
	free(want);
	free(q);
	b->ops->buffer_free(b, in);
	b->ops->buffer_free(b, out);
}

static const uint32_t ascending[] = {0, 1, 2, 3};
static const uint32_t around_page[] = {14, 15, 16, 17};
static const uint32_t around_block[] = {126, 127, 128, 129};
static const uint32_t around_second[] = {254, 255, 256, 257, 258};
static const uint32_t last[] = {POSITIONS - 1};

static void check_borders(struct sequences *s)
{
	check_attention(s, ascending, 4);
	check_attention(s, around_page, 4);
	check_attention(s, around_block, 4);
	check_attention(s, around_second, 5);
	check_attention(s, last, 1);
}

static void attention_at_the_borders_of_pages_and_blocks(void **state)
{
	const uint32_t groups[] = {1, 2, 3, 4, 8};
	const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
	struct backend *b = make_backend(*state, 2);

	for (size_t g = 0; g < 5; g++)
		for (size_t t = 0; t < 4; t++) {
			struct sequences s;

			sequences_new(&s, b, 2 * groups[g], 2, g % 2 ? 32 : 64, dtypes[t]);
			write_all(&s);
			check_borders(&s);
			sequences_free(&s);
		}
	backend_free(b);
}

static void attention_sees_exactly_the_window(void **state)
{
	const uint32_t windows[] = {1, 2, 15, 16, 17, 100, 127, 128, 129, 300, 301, 5000};
	struct backend *b = make_backend(*state, 2);
	struct sequences s;

	sequences_new(&s, b, 6, 2, 32, DTYPE_F16);
	write_all(&s);
	for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
		s.shape.window = windows[i];
		check_borders(&s);
	}
	sequences_free(&s);
	backend_free(b);
}

/* Wide heads, and widths that no vector divides. */
static void attention_takes_any_head_width(void **state)
{
	const uint32_t dims[] = {2, 6, 80, 96, 128, 256, 96, 128};
	struct backend *b = make_backend(*state, 3);

	for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
		struct sequences s;

		sequences_new(&s, b, 3, 1, dims[i],
			i >= 6  ? DTYPE_Q8_0
			: i % 2 ? DTYPE_F32
				: DTYPE_BF16);
		write_all(&s);
		check_attention(&s, around_block, 4);
		sequences_free(&s);
	}
	backend_free(b);
}

/* Scores far apart: the maximum of a block is subtracted, and merged blocks are rescaled. */
static void attention_survives_large_scores(void **state)
{
	struct backend *b = make_backend(*state, 2);
	struct sequences s;
	const uint32_t row = POSITIONS - 1, best = 200;

	sequences_new(&s, b, 1, 1, 32, DTYPE_F32);
	for (size_t i = 0; i < POSITIONS * 32; i++)
		s.k[i] = i / 32 == best ? 100 : -100;
	write_all(&s);

	float q[32], *in, *out;
	for (size_t i = 0; i < 32; i++)
		q[i] = 10;
	in = put(b, q, 32);
	out = put(b, NULL, 32);
	const struct batch batch = {
		1, (int32_t[]){0}, (uint32_t[]){0}, &row, s.table, SLOTS, STRIDE};
	assert_int_equal(b->ops->batch_begin(b, &batch), 0);
	assert_int_equal(b->ops->attention(b, &batch, &s.shape, in, s.kv, LAYER, out), 0);
	float *got = get(b, out, 32);
	for (size_t i = 0; i < 32; i++)
		assert_near((double)got[i], (double)s.v[best * 32 + i], 1e-6, "the only key", i);
	free(got);
	b->ops->buffer_free(b, in);
	b->ops->buffer_free(b, out);
	sequences_free(&s);
	backend_free(b);
}

/* What rope_kv leaves in x [heads, head_dim], in f64. */
static double rotated(
	const struct sequences *s, const float *rope, uint32_t position, const float *x, uint32_t i)
{
	uint32_t half = s->shape.rope_dim / 2, pair;
	bool first;

	if (i >= s->shape.rope_dim)
		return (double)x[i];
	if (s->shape.rope_layout == ROPE_HALVES) {
		pair = i % half;
		first = i < half;
	} else {
		pair = i / 2;
		first = i % 2 == 0;
	}
	uint32_t other = s->shape.rope_layout == ROPE_HALVES ? (first ? i + half : i - half)
							     : i ^ 1;
	double c = (double)rope[position * 2 * half + pair];
	double sn = (double)rope[position * 2 * half + half + pair];

	return (double)x[i] * c + (first ? -1 : 1) * (double)x[other] * sn;
}

/* The head as rope_kv() computes it, in f32. */
static void rotate_f32(
	const struct sequences *s, const float *rope, uint32_t position, const float *x, float *y)
{
	const uint32_t half = s->shape.rope_dim / 2, dim = s->shape.head_dim;
	const bool halves = s->shape.rope_layout == ROPE_HALVES;

	memcpy(y, x, dim * sizeof(float));
	for (uint32_t i = 0; i < half; i++) {
		const uint32_t a = halves ? i : 2 * i, b = halves ? i + half : 2 * i + 1;
		const float c = rope[position * 2 * half + i];
		const float sn = rope[position * 2 * half + half + i];

		y[a] = x[a] * c - x[b] * sn;
		y[b] = x[b] * c + x[a] * sn;
	}
}

/* Rows of both sequences across a page's border; tolerance of queries: two products and a sum in
 * f32. What the pages hold is the same to the bit in every backend. */
static void check_rope(struct sequences *s)
{
	enum { N = 6 };
	const uint32_t slots[N] = {1, 1, 1, 0, 0, 0}, positions[N] = {15, 16, 17, 0, 1, 2};
	const int32_t tokens[N] = {0};
	const struct batch batch = {N, tokens, slots, positions, s->table, SLOTS, STRIDE};
	struct backend *b = s->b;
	uint32_t dim = s->shape.head_dim, heads = s->shape.n_heads, kv_heads = s->shape.n_kv_heads;
	float *values = rope_values(POSITIONS, s->shape.rope_dim, false);
	struct stored rope = store_values(b, DTYPE_F32, POSITIONS, s->shape.rope_dim, values);
	float *host = random_floats(40, (size_t)N * heads * dim);
	float *q = put(b, host, (size_t)N * heads * dim);
	float *k = put(b, s->k, N * kv_width(s)), *v = put(b, s->v, N * kv_width(s));
	size_t bytes;
	assert_true(dtype_row_bytes(s->kv_shape.dtype, dim, &bytes));
	uint8_t *page = malloc(2 * (size_t)kv_heads * KV_PAGE_TOKENS * bytes);
	uint8_t *row = malloc(bytes);
	float *head = malloc(dim * sizeof(float));

	assert_non_null(page);
	assert_non_null(row);
	assert_non_null(head);
	assert_int_equal(b->ops->batch_begin(b, &batch), 0);
	assert_int_equal(
		b->ops->rope_kv(b, &batch, &s->shape, rope.weight, q, k, v, s->kv, LAYER), 0);
	float *got = get(b, q, (size_t)N * heads * dim);
	for (uint32_t i = 0; i < N * heads * dim; i++)
		assert_near((double)got[i],
			rotated(s, values, positions[i / (heads * dim)], host + i / dim * dim,
				i % dim),
			1e-6, "q", i);
	for (uint32_t r = 0; r < N; r++) {
		uint32_t p = positions[r];

		assert_int_equal(b->ops->kv_read(b, s->kv, LAYER,
					 s->table[slots[r] * STRIDE + p / KV_PAGE_TOKENS], page),
			0);
		for (uint32_t h = 0; h < kv_heads; h++) {
			const size_t from = r * kv_width(s) + h * dim;
			const uint8_t *at =
				page + ((size_t)h * KV_PAGE_TOKENS + p % KV_PAGE_TOKENS) * bytes;

			rotate_f32(s, values, p, s->k + from, head);
			quantize_row(s->kv_shape.dtype, head, NULL, row, dim);
			assert_memory_equal(at, row, bytes);
			quantize_row(s->kv_shape.dtype, s->v + from, NULL, row, dim);
			assert_memory_equal(
				at + (size_t)kv_heads * KV_PAGE_TOKENS * bytes, row, bytes);
		}
	}
	free(got);
	free(host);
	free(values);
	free(page);
	free(row);
	free(head);
	stored_free(b, &rope);
	b->ops->buffer_free(b, q);
	b->ops->buffer_free(b, k);
	b->ops->buffer_free(b, v);
}

static void rope_rotates_and_writes_to_the_row_s_page(void **state)
{
	const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
	struct backend *b = make_backend(*state, 2);

	for (size_t i = 0; i < 4 * 2 * 3; i++) {
		const uint32_t rope_dims[] = {64, 32, 2};
		struct sequences s;

		sequences_new(&s, b, 6, 2, 64, dtypes[i % 4]);
		s.shape.rope_layout = i / 4 % 2 ? ROPE_HALVES : ROPE_INTERLEAVED;
		s.shape.rope_dim = rope_dims[i / 8];
		check_rope(&s);
		sequences_free(&s);
	}
	backend_free(b);
}

static void kv_zero_clears_one_page_of_all_layers(void **state)
{
	struct backend *b = make_backend(*state, 2);
	uint8_t page[2 * 2 * KV_PAGE_TOKENS * 32 * 2];
	struct sequences s;

	sequences_new(&s, b, 2, 2, 32, DTYPE_F16);
	write_all(&s);
	assert_int_equal(b->ops->kv_zero(b, s.kv, s.table[1]), 0);
	for (uint32_t entry = 0; entry < 3; entry++) {
		size_t set = 0;

		assert_int_equal(b->ops->kv_read(b, s.kv, LAYER, s.table[entry], page), 0);
		for (size_t i = 0; i < sizeof(page); i++)
			set += page[i] != 0;
		if (entry == 1)
			assert_int_equal(set, 0);
		else
			assert_true(set > sizeof(page) / 2);
	}
	/* The other layer was never written. */
	assert_int_equal(b->ops->kv_read(b, s.kv, 1 - LAYER, s.table[0], page), 0);
	for (size_t i = 0; i < sizeof(page); i++)
		assert_int_equal(page[i], 0);
	sequences_free(&s);
	backend_free(b);
}

static void a_page_comes_back_as_it_was_saved(void **state)
{
	const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
	struct backend *b = make_backend(*state, 2);

	for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
		uint8_t wanted[2 * 2 * KV_PAGE_TOKENS * 32 * 4], got[sizeof(wanted)];
		struct sequences s;
		uint8_t *saved;

		memset(wanted, 0, sizeof(wanted));
		memset(got, 0, sizeof(got));
		sequences_new(&s, b, 2, 2, 32, dtypes[i]);
		write_all(&s);
		saved = malloc(b->ops->kv_page_bytes(s.kv));
		assert_non_null(saved);
		assert_int_equal(b->ops->kv_read(b, s.kv, LAYER, s.table[1], wanted), 0);
		assert_int_equal(b->ops->kv_save(b, s.kv, s.table[1], saved), 0);
		assert_int_equal(b->ops->kv_zero(b, s.kv, s.table[1]), 0);
		assert_int_equal(b->ops->kv_restore(b, s.kv, s.table[2], saved), 0);
		assert_int_equal(b->ops->kv_restore(b, s.kv, s.table[1], saved), 0);
		free(saved);
		for (uint32_t entry = 1; entry < 3; entry++) {
			assert_int_equal(b->ops->kv_read(b, s.kv, LAYER, s.table[entry], got), 0);
			assert_memory_equal(got, wanted, sizeof(got));
		}
		assert_int_equal(b->ops->kv_read(b, s.kv, LAYER, s.table[0], got), 0);
		assert_memory_not_equal(got, wanted, sizeof(got));
		sequences_free(&s);
	}
	backend_free(b);
}

struct qkv_case {
	uint32_t n_rows, n_heads, n_kv_heads, head_dim, rope_dim;
	enum rope_layout layout;
	enum dtype qk, v, kv;
};

/* Queries, keys and values of one batch: rows of slot 0 from position 15 on, the last one of slot
 * 1; fused or composed. *ret_pages: of slot 0 up to there, and of slot 1. */
static float *qkv_run(
	const struct candidate *candidate, const struct qkv_case *c, bool fused, uint8_t *pages)
{
	enum { DIM = 256, ROWS_MAX = 160 };
	const uint32_t n = c->n_rows, width = c->n_heads * c->head_dim;
	const uint32_t kv_width = c->n_kv_heads * c->head_dim;
	static const int32_t tokens[ROWS_MAX];
	uint32_t slots[ROWS_MAX] = {0}, positions[ROWS_MAX];
	struct backend *b = make_backend(candidate, 2);
	float *values = rope_values(200, c->rope_dim, false), *host = random_floats(60, n * DIM);
	struct sequences s;
	size_t bytes;

	sequences_new(&s, b, c->n_heads, c->n_kv_heads, c->head_dim, c->kv);
	s.shape.rope_dim = c->rope_dim;
	s.shape.rope_layout = c->layout;
	assert_true(n > 1 && n <= ROWS_MAX);
	for (uint32_t i = 0; i < n; i++)
		positions[i] = 15 + i;
	slots[n - 1] = 1;
	positions[n - 1] = 7;
	const struct batch batch = {n, tokens, slots, positions, s.table, SLOTS, STRIDE};
	struct stored w[] = {
		store_random(b, DTYPE_F32, 1, DIM, 61),
		store_random(b, c->qk, width, DIM, 62),
		store_random(b, c->qk, kv_width, DIM, 63),
		store_random(b, c->v, kv_width, DIM, 64),
		store_random(b, DTYPE_F32, 1, width, 65),
		store_values(b, DTYPE_F32, 200, c->rope_dim, values),
	};
	const struct qkv_args a = {
		.shape = &s.shape,
		.x = put(b, host, n * DIM),
		.norm = w[0].weight,
		.eps = 1e-5f,
		.wq = w[1].weight,
		.wk = w[2].weight,
		.wv = w[3].weight,
		.bq = w[4].weight,
		.rope = w[5].weight,
		.kv = s.kv,
		.layer = LAYER,
		.h = put(b, NULL, n * DIM),
		.k = put(b, NULL, n * kv_width),
		.v = put(b, NULL, n * kv_width),
		.q = put(b, NULL, n * width),
	};

	assert_int_equal(b->ops->batch_begin(b, &batch), 0);
	if (fused) {
		assert_int_equal(backend_qkv(b, &batch, &a), 0);
	} else {
		assert_int_equal(b->ops->rmsnorm(b, n, a.x, a.norm, a.eps, a.h), 0);
		assert_int_equal(b->ops->matmul(b, n, a.h, a.wq, a.bq, a.q), 0);
		assert_int_equal(b->ops->matmul(b, n, a.h, a.wk, NULL, a.k), 0);
		assert_int_equal(b->ops->matmul(b, n, a.h, a.wv, NULL, a.v), 0);
		assert_int_equal(
			b->ops->rope_kv(b, &batch, &s.shape, a.rope, a.q, a.k, a.v, s.kv, LAYER),
			0);
	}
	float *queries = get(b, a.q, n * width);
	assert_true(dtype_row_bytes(c->kv, kv_width, &bytes));
	bytes *= 2 * KV_PAGE_TOKENS;
	for (uint32_t i = 0; i <= (13 + n) / KV_PAGE_TOKENS + 1; i++) {
		const bool second = i > (13 + n) / KV_PAGE_TOKENS;

		assert_int_equal(b->ops->kv_read(b, s.kv, LAYER, s.table[second ? STRIDE : i],
					 pages + i * bytes),
			0);
	}

	float *buffers[] = {(float *)a.x, a.h, a.k, a.v, a.q};
	for (size_t i = 0; i < 5; i++)
		b->ops->buffer_free(b, buffers[i]);
	for (size_t i = 0; i < 6; i++)
		stored_free(b, &w[i]);
	sequences_free(&s);
	free(values);
	free(host);
	backend_free(b);
	return queries;
}

/* Fused or composed: the same queries, keys and values, bit for bit; with few rows, some and many,
 * heads that end within a tile of rows, values of another type. */
static void fused_qkv_equals_its_parts(void **state)
{
	static const struct qkv_case cases[] = {
		{3, 4, 2, 64, 64, ROPE_HALVES, DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_F16},
		{2, 2, 1, 128, 128, ROPE_HALVES, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_Q8_0},
		{8, 3, 1, 40, 8, ROPE_INTERLEAVED, DTYPE_BF16, DTYPE_BF16, DTYPE_F32},
		{20, 2, 2, 96, 64, ROPE_HALVES, DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_Q8_0},
		{130, 3, 1, 40, 40, ROPE_HALVES, DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_BF16},
		{140, 2, 1, 64, 32, ROPE_INTERLEAVED, DTYPE_IQ4_XS, DTYPE_IQ4_XS, DTYPE_Q8_0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct qkv_case *c = &cases[i];
		uint8_t *pages[2];
		float *queries[2];
		size_t bytes;

		assert_true(dtype_row_bytes(c->kv, c->n_kv_heads * c->head_dim, &bytes));
		bytes *= 2 * KV_PAGE_TOKENS * ((13 + c->n_rows) / KV_PAGE_TOKENS + 2);
		for (int fused = 0; fused < 2; fused++) {
			pages[fused] = malloc(bytes);
			assert_non_null(pages[fused]);
			queries[fused] = qkv_run(*state, c, fused == 1, pages[fused]);
		}
		assert_same_bits(queries[0], queries[1], c->n_rows * c->n_heads * c->head_dim, "q");
		assert_memory_equal(pages[0], pages[1], bytes);
		for (int fused = 0; fused < 2; fused++) {
			free(queries[fused]);
			free(pages[fused]);
		}
	}
}

int main(void)
{
	const struct operation_test tests[] = {
		{"attention at the borders of pages and blocks",
			attention_at_the_borders_of_pages_and_blocks},
		{"attention sees exactly the window", attention_sees_exactly_the_window},
		{"attention takes any head width", attention_takes_any_head_width},
		{"attention survives large scores", attention_survives_large_scores},
		{"rope rotates and writes to the row's page",
			rope_rotates_and_writes_to_the_row_s_page},
		{"kv_zero clears one page of all layers", kv_zero_clears_one_page_of_all_layers},
		{"a page comes back as it was saved", a_page_comes_back_as_it_was_saved},
		{"fused qkv equals its parts", fused_qkv_equals_its_parts},
	};

	return run_operation_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
