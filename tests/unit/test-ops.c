/* The operations that need no KV, on every backend, against f64. */
#include "ops-fixture.h"

#define UNIT 0x1p-24 /* half a step of f32, relative */

static void buffers_are_zeroed_and_aligned(void **state)
{
	const struct candidate *c = *state;
	struct backend *b = make_backend(c, 2);
	float *buffer = put(b, NULL, 100), *back = get(b, buffer, 100);

	assert_int_equal((uintptr_t)buffer % 64, 0);
	for (size_t i = 0; i < 100; i++)
		assert_true(back[i] == 0);
	free(back);
	b->ops->buffer_free(b, buffer);
	b->ops->buffer_free(b, NULL);
	b->ops->weight_free(b, NULL);
	b->ops->kv_free(b, NULL);
	assert_true(strlen(b->device.kind) > 0 && strlen(b->device.name) > 0);
	assert_true(!c->on_host || b->device.threads == 2);
	assert_null(backend_free(b));
	assert_null(backend_free(NULL));
}

static void absurd_sizes_are_refused_in_words(void **state)
{
	struct backend *b = make_backend(*state, 1);
	float *buffer = NULL;

	assert_int_equal(b->ops->buffer_new(b, SIZE_MAX / 2, &buffer), -12 /* -ENOMEM */);
	assert_null(buffer);
	assert_true(strlen(b->error) > 0);
	backend_free(b);
}

static void a_tensor_of_wrong_size_is_refused_by_name(void **state)
{
	struct backend *b = make_backend(*state, 1);
	const uint8_t data[68] = {0};
	const struct tensor wrong[] = {
		{"blk.0.wrong", DTYPE_Q8_0, 2, 32, data, 67},
		{"blk.0.wrong", DTYPE_Q8_0, 2, 33, data, 68},
		{"blk.0.wrong", DTYPE_F32, UINT32_MAX, UINT32_MAX, data, 4},
		{"blk.0.wrong", (enum dtype)4, 2, 32, data, 68},
	};

	for (size_t i = 0; i < 4; i++) {
		struct weight *w = NULL;

		assert_true(b->ops->weight_put(b, &wrong[i], &w) < 0);
		assert_null(w);
		assert_non_null(strstr(b->error, "blk.0.wrong"));
	}
	backend_free(b);
}

static void embed_takes_the_token_s_row(void **state)
{
	struct backend *b = make_backend(*state, 2);
	const int32_t tokens[] = {0, 18, 7, 7};
	const uint32_t zeros[4] = {0}, positions[] = {0, 1, 2, 3}, table[] = {0};
	const struct batch batch = {4, tokens, zeros, positions, table, 1, 1};

	for (size_t t = 0; t < N_DTYPES; t++) {
		struct stored w = store_random(b, all_dtypes[t], 19, 256, 100 + t);
		float *y = put(b, NULL, 4 * 256);

		assert_int_equal(b->ops->batch_begin(b, &batch), 0);
		assert_int_equal(b->ops->embed(b, &batch, w.weight, y), 0);
		float *got = get(b, y, 4 * 256);
		for (size_t i = 0; i < 4; i++)
			assert_same_bits(got + i * 256, w.values + (size_t)tokens[i] * 256, 256,
				dtype_info(all_dtypes[t])->name);
		free(got);
		b->ops->buffer_free(b, y);
		stored_free(b, &w);
	}
	backend_free(b);
}

/* Tolerance: the f32 sum of squares, halved by the root, and four roundings. */
static void rmsnorm_divides_by_the_root_mean_square(void **state)
{
	struct backend *b = make_backend(*state, 2);
	const uint32_t dims[] = {1, 16, 100, 576}, rows[] = {1, 2, 5};

	for (size_t k = 0; k < 12; k++) {
		uint32_t dim = dims[k / 3], n = rows[k % 3];
		float *x = random_floats(k, (size_t)n * dim), eps = k % 2 ? 1e-5f : 1e-1f;
		struct stored w = store_random(b, DTYPE_F32, 1, dim, 50 + k);
		float *in = put(b, x, (size_t)n * dim), *out = put(b, NULL, (size_t)n * dim);

		assert_int_equal(b->ops->rmsnorm(b, n, in, w.weight, eps, out), 0);
		assert_int_equal(b->ops->rmsnorm(b, n, in, w.weight, eps, in), 0);
		float *got = get(b, out, (size_t)n * dim), *same = get(b, in, (size_t)n * dim);
		assert_same_bits(got, same, (size_t)n * dim, "in place");
		for (size_t r = 0; r < n; r++) {
			double sum = 0;

			for (size_t i = 0; i < dim; i++)
				sum += (double)x[r * dim + i] * (double)x[r * dim + i];
			for (size_t i = 0; i < dim; i++) {
				double want = (double)x[r * dim + i] /
					      sqrt(sum / dim + (double)eps) * (double)w.values[i];

				assert_near((double)got[r * dim + i], want,
					fabs(want) * UNIT * (dim / 32.0 + 12), "rmsnorm", i);
			}
		}
		free(got);
		free(same);
		free(x);
		b->ops->buffer_free(b, in);
		b->ops->buffer_free(b, out);
		stored_free(b, &w);
	}
	backend_free(b);
}

/* Tolerance: an f32 sum of `cols` products in at least 16 partial sums is off by at most
 * (cols / 16 + 6) half steps of the sum of their absolutes; the activations' rounding on top. */
static void check_matmul(struct backend *b, const struct candidate *c, enum dtype dtype, uint32_t n,
	uint32_t rows, uint32_t cols, bool with_bias)
{
	struct stored w = store_random(b, dtype, rows, cols, 7);
	struct stored bias = store_random(b, DTYPE_F32, 1, rows, 8);
	float *x = random_floats(9, (size_t)n * cols);
	float *in = put(b, x, (size_t)n * cols), *out = put(b, NULL, (size_t)n * rows);
	double share = matmul_share(c, dtype) + UNIT * (cols / 16.0 + 6);

	assert_int_equal(
		b->ops->matmul(b, n, in, w.weight, with_bias ? bias.weight : NULL, out), 0);
	float *got = get(b, out, (size_t)n * rows);
	for (size_t i = 0; i < n; i++)
		for (size_t r = 0; r < rows; r++) {
			double want = with_bias ? (double)bias.values[r] : 0, sum = fabs(want);

			for (size_t k = 0; k < cols; k++) {
				double p = (double)x[i * cols + k] * (double)w.values[r * cols + k];

				want += p;
				sum += fabs(p);
			}
			assert_near((double)got[i * rows + r], want, share * sum,
				dtype_info(dtype)->name, i * rows + r);
		}
	free(got);
	free(x);
	b->ops->buffer_free(b, in);
	b->ops->buffer_free(b, out);
	stored_free(b, &w);
	stored_free(b, &bias);
}

static void matmul_multiplies_by_every_type(void **state)
{
	struct backend *b = make_backend(*state, 2);
	const uint32_t ns[] = {1, 2, 3, 15, 16, 17, 33}, rows[] = {1, 15, 16, 17, 100};

	for (size_t t = 0; t < N_DTYPES; t++) {
		uint32_t block = dtype_info(all_dtypes[t])->block_elements;

		for (size_t k = 0; k < 7; k++)
			check_matmul(b, *state, all_dtypes[t], ns[k], rows[k % 5],
				block == 256 ? 512 : 96, k % 2);
		for (size_t k = 0; k < 5; k++)
			check_matmul(b, *state, all_dtypes[t], ns[6 - k], rows[k],
				block == 1 ? 71 : block, k % 2);
	}
	backend_free(b);
}

/* Each row of a product has the same bits alone and with others, on one thread and on three. */
static void matmul_bits_depend_on_the_row_alone(void **state)
{
	enum { N = 37, ROWS = 70, COLS = 512 };
	struct backend *one = make_backend(*state, 1), *three = make_backend(*state, 3);
	float *x = random_floats(3, N * COLS);

	for (size_t t = 0; t < N_DTYPES; t++) {
		struct stored w1 = store_random(one, all_dtypes[t], ROWS, COLS, 4);
		struct stored w3 = store_random(three, all_dtypes[t], ROWS, COLS, 4);
		float *x1 = put(one, x, N * COLS), *x3 = put(three, x, N * COLS);
		float *y1 = put(one, NULL, N * ROWS), *y3 = put(three, NULL, N * ROWS);

		for (size_t i = 0; i < N; i++)
			assert_int_equal(one->ops->matmul(one, 1, x1 + i * COLS, w1.weight, NULL,
						 y1 + i * ROWS),
				0);
		assert_int_equal(three->ops->matmul(three, N, x3, w3.weight, NULL, y3), 0);
		float *alone = get(one, y1, N * ROWS), *together = get(three, y3, N * ROWS);
		assert_same_bits(alone, together, N * ROWS, dtype_info(all_dtypes[t])->name);
		free(alone);
		free(together);
		one->ops->buffer_free(one, x1);
		one->ops->buffer_free(one, y1);
		three->ops->buffer_free(three, x3);
		three->ops->buffer_free(three, y3);
		stored_free(one, &w1);
		stored_free(three, &w3);
	}
	free(x);
	backend_free(one);
	backend_free(three);
}

/* Tolerance: exp, a sum, a division and a product, each within a few half steps; a result that
 * underflows may be off by a subnormal. */
static void swiglu_is_gate_times_sigmoid_times_up(void **state)
{
	enum { N = 3, DIM = 37 };
	struct backend *b = make_backend(*state, 2);
	float *g = random_floats(11, N * DIM), *u = random_floats(12, N * DIM);
	const float extreme[] = {0, -0.0f, 20, -20, 88, -88, 100, -100, 1e4f, -1e4f};

	memcpy(g, extreme, sizeof(extreme));
	for (int alias = 0; alias < 3; alias++) {
		float *gate = put(b, g, N * DIM), *up = put(b, u, N * DIM);
		float *other = put(b, NULL, N * DIM);
		float *y = alias == 0 ? other : alias == 1 ? gate : up;

		assert_int_equal(b->ops->swiglu(b, N, DIM, gate, up, y), 0);
		float *got = get(b, y, N * DIM);
		for (size_t i = 0; i < N * DIM; i++) {
			double want = (double)g[i] / (1 + exp(-(double)g[i])) * (double)u[i];

			assert_near((double)got[i], want, fabs(want) * UNIT * 16 + 0x1p-120,
				"swiglu", i);
		}
		free(got);
		b->ops->buffer_free(b, gate);
		b->ops->buffer_free(b, up);
		b->ops->buffer_free(b, other);
	}
	free(g);
	free(u);
	backend_free(b);
}

static void add_adds_and_gather_takes_rows(void **state)
{
	enum { N = 3, DIM = 21 };
	const uint32_t index[] = {2, 0, 2, 1};
	struct backend *b = make_backend(*state, 2);
	float *x = random_floats(13, N * DIM), *y = random_floats(14, N * DIM);
	float *in = put(b, x, N * DIM), *sum = put(b, y, N * DIM), *rows = put(b, NULL, 4 * DIM);

	assert_int_equal(b->ops->add(b, N, DIM, in, sum), 0);
	assert_int_equal(b->ops->gather(b, 4, DIM, index, in, rows), 0);
	float *got_sum = get(b, sum, N * DIM), *got_rows = get(b, rows, 4 * DIM);
	for (size_t i = 0; i < N * DIM; i++)
		assert_true(got_sum[i] == x[i] + y[i]);
	for (size_t i = 0; i < 4; i++)
		assert_same_bits(got_rows + i * DIM, x + index[i] * DIM, DIM, "gather");
	free(got_sum);
	free(got_rows);
	free(x);
	free(y);
	b->ops->buffer_free(b, in);
	b->ops->buffer_free(b, sum);
	b->ops->buffer_free(b, rows);
	backend_free(b);
}

/* Fused or composed, the bits are those of the single operations. */
static void fused_feed_forward_equals_its_parts(void **state)
{
	enum { N = 5, DIM = 256, FFN = 512 };
	struct backend *b = make_backend(*state, 2);
	struct stored norm = store_random(b, DTYPE_F32, 1, DIM, 20);
	struct stored gate = store_random(b, DTYPE_Q4_K, FFN, DIM, 21);
	struct stored up = store_random(b, DTYPE_Q6_K, FFN, DIM, 22);
	struct stored down = store_random(b, DTYPE_Q8_0, DIM, FFN, 23);
	struct stored bias = store_random(b, DTYPE_F32, 1, DIM, 24);
	float *host = random_floats(25, N * DIM);
	float *x = put(b, host, N * DIM), *x2 = put(b, host, N * DIM), *h = put(b, NULL, N * DIM);
	float *u = put(b, NULL, N * FFN), *y = put(b, NULL, N * FFN), *y2 = put(b, NULL, N * FFN);

	assert_int_equal(backend_gate_up(b, N,
				 &(struct gate_up_args){
					 .x = x,
					 .norm = norm.weight,
					 .eps = 1e-5f,
					 .gate = gate.weight,
					 .up = up.weight,
					 .h = h,
					 .u = u,
					 .y = y,
				 }),
		0);
	assert_int_equal(b->ops->rmsnorm(b, N, x2, norm.weight, 1e-5f, h), 0);
	assert_int_equal(b->ops->matmul(b, N, h, gate.weight, NULL, y2), 0);
	assert_int_equal(b->ops->matmul(b, N, h, up.weight, NULL, u), 0);
	assert_int_equal(b->ops->swiglu(b, N, FFN, y2, u, y2), 0);
	float *fused = get(b, y, N * FFN), *parts = get(b, y2, N * FFN);
	assert_same_bits(fused, parts, N * FFN, "gate_up");
	free(fused);
	free(parts);

	assert_int_equal(backend_matmul_add(b, N, y, down.weight, bias.weight, h, x), 0);
	assert_int_equal(b->ops->matmul(b, N, y2, down.weight, bias.weight, h), 0);
	assert_int_equal(b->ops->add(b, N, DIM, h, x2), 0);
	fused = get(b, x, N * DIM);
	parts = get(b, x2, N * DIM);
	assert_same_bits(fused, parts, N * DIM, "matmul_add");
	free(fused);
	free(parts);
	free(host);

	struct stored *all[] = {&norm, &gate, &up, &down, &bias};
	float *buffers[] = {x, x2, h, u, y, y2};
	for (size_t i = 0; i < 5; i++)
		stored_free(b, all[i]);
	for (size_t i = 0; i < 6; i++)
		b->ops->buffer_free(b, buffers[i]);
	backend_free(b);
}

/* Each processor and each cut alone and together, over coarse logits, so that many are equal. */
static void sample_draws_what_the_sampler_draws(void **state)
{
	enum { N = 96, VOCAB = 300 };
	static const struct sample_bias biases[] = {{3, -2.5f}, {299, 4}};
	static const struct sample_count counts[] = {{3, 2, 1}, {17, 1, 0}, {298, 5, 5}};
	struct backend *b = make_backend(*state, 2);
	struct sampler *sampler = sampler_new();
	float *host = random_floats(30, N * VOCAB), *logits;
	uint32_t mask[(VOCAB + 31) / 32];
	struct sample_row rows[N];
	struct sample_result got[N], want;
	struct sample_top got_top[N][3], want_top[3];

	assert_non_null(sampler);
	for (size_t i = 0; i < sizeof(mask) / sizeof(*mask); i++)
		mask[i] = 0xa5a5a5a5u;
	for (size_t i = 0; i < N * VOCAB / 2; i++)
		host[i] = roundf(host[i] * 8) / 8;
	logits = put(b, host, N * VOCAB);
	for (size_t i = 0; i < N; i++) {
		const bool all = i % 8 == 7;

		rows[i] = (struct sample_row){
			.repetition_penalty = all ? 1.3f : 1,
			.presence_penalty = all ? 0.5f : 0,
			.frequency_penalty = all ? 0.25f : 0,
			.temperature = (float)(i % 5) * 0.5f, /* the first of five is greedy */
			.top_k = i % 8 == 1 || all ? 7
				 : i % 8 == 2      ? VOCAB
						   : 0,
			.top_p = i % 8 == 3 || all ? 0.9f : 1,
			.min_p = i % 8 == 4 || all ? 0.3f : 0,
			.typical_p = i % 8 == 5 || all ? 0.4f : 1,
			.seed = 5,
			.step = i,
			.forced = i == 2 ? 9 : -1,
			.want_logprob = i % 3 != 0,
			.n_top = i % 3 != 0 ? 3 : 0,
		};
		if (i % 8 == 6 || all) {
			rows[i].bias = biases;
			rows[i].n_bias = 2;
			rows[i].counts = counts;
			rows[i].n_counts = 3;
			rows[i].mask = mask;
		}
		got[i].top = got_top[i];
	}
	assert_int_equal(b->ops->sample(b, N, VOCAB, logits, rows, got), 0);
	for (size_t i = 0; i < N; i++) {
		want.top = want_top;
		assert_int_equal(
			sampler_draw(sampler, VOCAB, host + i * VOCAB, &rows[i], &want), 0);
		assert_int_equal(got[i].token, want.token);
		assert_int_equal(got[i].n_top, want.n_top);
		if (rows[i].want_logprob)
			assert_near(
				(double)got[i].logprob, (double)want.logprob, 1e-5, "logprob", i);
		for (size_t k = 0; k < want.n_top; k++)
			assert_int_equal(got_top[i][k].token, want_top[k].token);
	}
	sampler_free(sampler);
	free(host);
	b->ops->buffer_free(b, logits);
	backend_free(b);
}

int main(void)
{
	const struct operation_test tests[] = {
		{"buffers are zeroed and aligned", buffers_are_zeroed_and_aligned},
		{"absurd sizes are refused in words", absurd_sizes_are_refused_in_words},
		{"a tensor of wrong size is refused by name",
			a_tensor_of_wrong_size_is_refused_by_name},
		{"embed takes the token's row", embed_takes_the_token_s_row},
		{"rmsnorm divides by the root mean square",
			rmsnorm_divides_by_the_root_mean_square},
		{"matmul multiplies by every type", matmul_multiplies_by_every_type},
		{"matmul bits depend on the row alone", matmul_bits_depend_on_the_row_alone},
		{"swiglu is gate times sigmoid times up", swiglu_is_gate_times_sigmoid_times_up},
		{"add adds and gather takes rows", add_adds_and_gather_takes_rows},
		{"fused feed-forward equals its parts", fused_feed_forward_equals_its_parts},
		{"sample draws what the sampler draws", sample_draws_what_the_sampler_draws},
	};

	return run_operation_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
