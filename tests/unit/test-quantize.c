/* Quantisation: the legacy types give the bits that the package gguf gives (its goldens lie in
 * quants.bin); the K types' errors stay under those of a plain grid, and constants and zeroes come
 * back exactly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "kernels/dtype.h"
#include "kernels/sample.h"

#define N 4096

/* Numbers of about a normal distribution (twelve uniforms), the same at each call. */
static void gaussian(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		x[i] = -6;
		for (uint64_t k = 0; k < 12; k++)
			x[i] += philox_uniform(17, i * 12 + k);
	}
}

static double relative_error(enum dtype dtype, const float *x, size_t n)
{
	size_t bytes = 0;
	double error = 0, square = 0;
	void *row;
	float *y = malloc(n * sizeof(*y));

	assert_true(dtype_row_bytes(dtype, n, &bytes));
	row = malloc(bytes);
	assert_true(row && y);
	quantize_row(dtype, x, NULL, row, n);
	dequantize_row(dtype, row, y, n);
	for (size_t i = 0; i < n; i++) {
		error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
		square += (double)x[i] * x[i];
	}
	free(row);
	free(y);
	return square > 0 ? sqrt(error / square) : sqrt(error);
}

static void errors_are_those_of_the_bits(void **state)
{
	/* A normal distribution's blocks of 32 span about 4.2 sigma: a grid of 2^b - 1 steps over
	 * that has an RMS error of 4.2 / (2^b - 1) / sqrt(12); each bound is that of the type's
	 * bits with 25% for the rounding of the scales, which the search makes up for. */
	static const struct {
		enum dtype dtype;
		double bound;
	} bounds[] = {
		{DTYPE_F16, 3e-4},
		{DTYPE_BF16, 3e-3},
		{DTYPE_Q8_0, 0.006},
		{DTYPE_Q4_0, 0.10},
		{DTYPE_Q4_1, 0.09},
		{DTYPE_Q5_0, 0.05},
		{DTYPE_Q5_1, 0.045},
		{DTYPE_Q2_K, 0.36},
		{DTYPE_Q3_K, 0.19},
		{DTYPE_Q4_K, 0.085},
		{DTYPE_Q5_K, 0.043},
		{DTYPE_Q6_K, 0.021},
		{DTYPE_IQ4_NL, 0.09},
		{DTYPE_IQ4_XS, 0.09},
	};
	static float x[N];

	gaussian(x, N);
	for (size_t i = 0; i < sizeof(bounds) / sizeof(*bounds); i++) {
		double error = relative_error(bounds[i].dtype, x, N);

		if (error >= bounds[i].bound || error < bounds[i].bound / 3)
			fail_msg("%s: error %g, bound %g", dtype_info(bounds[i].dtype)->name, error,
				bounds[i].bound);
	}
}

static void zeroes_and_constants_survive(void **state)
{
	static const enum dtype all[] = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
		DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL,
		DTYPE_IQ4_XS};
	float x[256];

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		for (int sign = -1; sign <= 1; sign++) {
			for (int k = 0; k < 256; k++)
				x[k] = 0.75f * (float)sign;
			/* a scale in f16 has 11 bits */
			assert_true(relative_error(all[i], x, 256) < 1e-3);
		}
	}
}

static void weights_move_the_error(void **state)
{
	static const enum dtype k_types[] = {DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K,
		DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};
	static float x[256], w[256], y[256];

	gaussian(x, 256);
	for (int i = 0; i < 256; i++)
		w[i] = i % 2 ? 100 : 0.01f;
	for (size_t t = 0; t < sizeof(k_types) / sizeof(*k_types); t++) {
		uint8_t row[256];
		double even = 0, odd = 0;

		quantize_row(k_types[t], x, w, row, 256);
		dequantize_row(k_types[t], row, y, 256);
		for (int i = 0; i < 256; i++)
			*(i % 2 ? &odd : &even) += (double)(x[i] - y[i]) * (x[i] - y[i]);
		assert_true(odd < even);
	}
}

static void extremes_stay_finite(void **state)
{
	float x[256], y[256];
	uint8_t row[1024];

	for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
		if (!dtype_info((uint32_t)dtype))
			continue;
		for (int i = 0; i < 256; i++)
			x[i] = i % 3 ? 1e-30f : (float)(i % 2 * 2 - 1) * 30000;
		quantize_row((enum dtype)dtype, x, NULL, row, 256);
		dequantize_row((enum dtype)dtype, row, y, 256);
		for (int i = 0; i < 256; i++)
			assert_true(isfinite(y[i]) && fabsf(y[i]) < 65536);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_are_those_of_the_bits),
		cmocka_unit_test(zeroes_and_constants_survive),
		cmocka_unit_test(weights_move_the_error),
		cmocka_unit_test(extremes_stay_finite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
