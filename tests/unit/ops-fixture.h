/* What the tests of operations share: the backends under test, random tensors, tolerances.
 *
 * Every test runs on every backend of the list below, and compares with sums in f64 over the values
 * that the stored weights stand for. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"

struct candidate {
	const char *name;
	int (*make)(uint32_t threads, struct backend **ret);
	/* Error of a matrix product beyond f32 rounding, as a share of the sum of |x w|: what
	 * rounding the activations to 8 (quantised weights) or 16 bits costs. */
	double matmul_quantised, matmul_16bit;
	bool on_host; /* threads are the host's, and logprobs the host sampler's to the bit */
};

#ifdef TEST_CUDA
#include "cuda-fixture.h"
#elif defined(TEST_CARD)
#include "card-fixture.h"
#else
static const struct candidate candidates[] = {
	{"reference", backend_new_reference, 0, 0, true},
};
#endif
#define N_CANDIDATES (sizeof(candidates) / sizeof(candidates[0]))

static const enum dtype all_dtypes[] = {
	DTYPE_F32,
	DTYPE_F16,
	DTYPE_BF16,
	DTYPE_Q8_0,
	DTYPE_Q4_0,
	DTYPE_Q4_1,
	DTYPE_Q5_0,
	DTYPE_Q5_1,
	DTYPE_Q2_K,
	DTYPE_Q3_K,
	DTYPE_Q4_K,
	DTYPE_Q5_K,
	DTYPE_Q6_K,
	DTYPE_IQ4_NL,
	DTYPE_IQ4_XS,
};
#define N_DTYPES (sizeof(all_dtypes) / sizeof(all_dtypes[0]))

static inline double matmul_share(const struct candidate *c, enum dtype dtype)
{
	switch (dtype) {
	case DTYPE_F32: return 0;
	case DTYPE_F16:
	case DTYPE_BF16: return c->matmul_16bit;
	default: return c->matmul_quantised;
	}
}

static inline struct backend *make_backend(const struct candidate *c, uint32_t threads)
{
	struct backend *b = NULL;

	assert_int_equal(c->make(threads, &b), 0);
	assert_non_null(b);
	return b;
}

/* Numbers of roughly unit spread, the same for the same seed. */
static inline float random_float(uint64_t seed, uint64_t i)
{
	float sum = 0;

	for (uint64_t k = 0; k < 3; k++)
		sum += philox_uniform(seed, 3 * i + k) - 0.5f;
	return 2 * sum;
}

static inline float *random_floats(uint64_t seed, size_t n)
{
	float *x = malloc((n + 1) * sizeof(float));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = random_float(seed, i);
	return x;
}

/* A weight on the backend, and on the host the values that it stands for. */
struct stored {
	struct weight *weight;
	float *values; /* [rows, cols] */
	uint32_t rows, cols;
};

static inline struct stored store_values(
	struct backend *b, enum dtype dtype, uint32_t rows, uint32_t cols, const float *x)
{
	struct stored s = {.rows = rows, .cols = cols};
	size_t row_bytes;

	assert_true(dtype_row_bytes(dtype, cols, &row_bytes));
	uint8_t *bytes = malloc(rows * row_bytes + 1);
	s.values = malloc((size_t)rows * cols * sizeof(float));
	assert_non_null(bytes);
	assert_non_null(s.values);
	/* From an odd address: files align tensors to 32 bytes, the table promises 1. */
	for (size_t r = 0; r < rows; r++) {
		quantize_row(dtype, x + r * cols, NULL, bytes + 1 + r * row_bytes, cols);
		dequantize_row(dtype, bytes + 1 + r * row_bytes, s.values + r * cols, cols);
	}
	assert_int_equal(b->ops->weight_put(b,
				 &(struct tensor){
					 .name = "test.weight",
					 .dtype = dtype,
					 .rows = rows,
					 .cols = cols,
					 .data = bytes + 1,
					 .bytes = rows * row_bytes,
				 },
				 &s.weight),
		0);
	assert_int_equal(b->ops->weight_rows(s.weight), rows);
	assert_true(b->ops->weight_bytes(s.weight) > 0);
	free(bytes);
	return s;
}

static inline struct stored store_random(
	struct backend *b, enum dtype dtype, uint32_t rows, uint32_t cols, uint64_t seed)
{
	float *x = random_floats(seed, (size_t)rows * cols);
	struct stored s = store_values(b, dtype, rows, cols, x);

	free(x);
	return s;
}

static inline void stored_free(struct backend *b, struct stored *s)
{
	b->ops->weight_free(b, s->weight);
	free(s->values);
}

/* A buffer of the backend with the host's numbers in it (or zeros, for NULL). */
static inline float *put(struct backend *b, const float *x, size_t n)
{
	float *buffer = NULL;

	assert_int_equal(b->ops->buffer_new(b, n, &buffer), 0);
	if (x != NULL)
		assert_int_equal(b->ops->buffer_write(b, buffer, x, n), 0);
	return buffer;
}

static inline float *get(struct backend *b, const float *buffer, size_t n)
{
	float *x = malloc((n + 1) * sizeof(float));

	assert_non_null(x);
	assert_int_equal(b->ops->sync(b), 0);
	assert_int_equal(b->ops->buffer_read(b, buffer, x, n), 0);
	return x;
}

static inline void assert_near(
	double got, double want, double tolerance, const char *what, size_t i)
{
	if (!(fabs(got - want) <= tolerance))
		fail_msg("%s [%zu]: got %.9g, want %.9g, off by %.3g, allowed %.3g", what, i, got,
			want, fabs(got - want), tolerance);
}

static inline void assert_same_bits(const float *a, const float *b, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (memcmp(&a[i], &b[i], sizeof(float)) != 0)
			fail_msg("%s [%zu]: %a and %a", what, i, (double)a[i], (double)b[i]);
}

struct operation_test {
	const char *claim;
	void (*run)(void **state); /* *state is the candidate */
};

/* Every claim on every backend. */
static inline int run_operation_tests(const struct operation_test *claims, size_t n)
{
	struct CMUnitTest *tests = calloc(n * N_CANDIDATES, sizeof(*tests));
	char(*names)[128] = calloc(n * N_CANDIDATES, sizeof(*names));
	int failed = 1;

	if (tests != NULL && names != NULL) {
		for (size_t i = 0; i < n * N_CANDIDATES; i++) {
			const struct candidate *c = &candidates[i / n];

			snprintf(
				names[i], sizeof(names[i]), "%s: %s", c->name, claims[i % n].claim);
			tests[i].name = names[i];
			tests[i].test_func = claims[i % n].run;
			tests[i].initial_state = (void *)c;
		}
		failed = _cmocka_run_group_tests("operations", tests, n * N_CANDIDATES, NULL, NULL);
	}
	free(tests);
	free(names);
	return failed;
}
