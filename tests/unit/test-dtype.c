/* Tensor types: sizes, names, the 16-bit floats, and the meaning of every block. */
#include "kernels/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t to_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static void names_and_numbers_agree(void **state)
{
	int known = 0;

	for (uint32_t i = 0; i < DTYPE_COUNT; i++) {
		const struct dtype_info *info = dtype_info(i);

		if (info == NULL)
			continue;
		known++;
		assert_int_equal(dtype_from_name(info->name), (int)i);
	}
	assert_int_equal(known, 15);
	assert_int_equal(dtype_from_name("Q4_K"), DTYPE_Q4_K);
	assert_int_equal(dtype_from_name("q4_k_m"), -1);
	assert_int_equal(dtype_from_name(""), -1);
	assert_null(dtype_info(4));
	assert_null(dtype_info(DTYPE_COUNT));
	assert_null(dtype_info(UINT32_MAX));
}

static void row_bytes_are_checked(void **state)
{
	size_t bytes = 7;

	assert_true(dtype_row_bytes(DTYPE_Q4_K, 512, &bytes));
	assert_int_equal(bytes, 288);
	assert_true(dtype_row_bytes(DTYPE_Q8_0, 0, &bytes));
	assert_int_equal(bytes, 0);
	bytes = 7;
	assert_false(dtype_row_bytes(DTYPE_Q4_K, 255, &bytes));
	assert_false(dtype_row_bytes(DTYPE_Q8_0, 33, &bytes));
	assert_false(dtype_row_bytes(DTYPE_F32, UINT64_MAX / 2, &bytes));
	assert_false(dtype_row_bytes((enum dtype)4, 32, &bytes));
	assert_int_equal(bytes, 7);
}

/* The value of a binary16 pattern, from its definition. */
static double f16_value(uint16_t h)
{
	int exponent = h >> 10 & 31, fraction = h & 1023;
	double v = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

	return h & 0x8000 ? -v : v;
}

static void every_f16_pattern_reads_exactly(void **state)
{
	for (uint32_t h = 0; h < 65536; h++) {
		float f = f16_to_f32((uint16_t)h);

		if ((h & 0x7fff) > 0x7c00) {
			assert_true(isnan(f));
			assert_true((f32_to_f16(f) & 0x7fff) > 0x7c00);
			continue;
		}
		if ((h & 0x7fff) == 0x7c00)
			assert_true(isinf(f) && (f < 0) == (h >> 15 == 1));
		else
			assert_int_equal(to_bits(f), to_bits((float)f16_value((uint16_t)h)));
		assert_int_equal(f32_to_f16(f), h);
	}
}

/* Between two neighbouring patterns: below the middle, the middle itself (to even), above it. */
static void f16_rounds_to_nearest_even(void **state)
{
	for (uint32_t h = 0; h < 0x7c00; h++) {
		double low = f16_value((uint16_t)h);
		double high = h == 0x7bff ? 65536.0 : f16_value((uint16_t)(h + 1));
		float middle = (float)((low + high) / 2);
		uint32_t even = h & 1 ? h + 1 : h;

		assert_int_equal(f32_to_f16(middle), even);
		assert_int_equal(f32_to_f16(-middle), even | 0x8000);
		assert_int_equal(f32_to_f16(nextafterf(middle, 0)), h);
		assert_int_equal(f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
	}
	assert_int_equal(f32_to_f16(0x1p-149f), 0);
	assert_int_equal(f32_to_f16(1e30f), 0x7c00);
}

static void bf16_rounds_to_nearest_even(void **state)
{
	for (uint32_t h = 0; h < 0x7f80; h++) {
		uint32_t even = h & 1 ? h + 1 : h;
		float middle;

		memcpy(&middle, &(uint32_t){h << 16 | 0x8000}, sizeof(middle));
		assert_int_equal(to_bits(bf16_to_f32((uint16_t)h)), h << 16);
		assert_int_equal(f32_to_bf16(bf16_to_f32((uint16_t)h)), h);
		assert_int_equal(f32_to_bf16(middle), even);
		assert_int_equal(f32_to_bf16(-middle), even | 0x8000);
		assert_int_equal(f32_to_bf16(nextafterf(middle, 0)), h);
		assert_int_equal(f32_to_bf16(nextafterf(middle, INFINITY)), h + 1);
	}
	assert_true((f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
	assert_int_equal(f32_to_bf16(INFINITY), 0x7f80);
}

static uint8_t *read_golden(size_t *ret_size)
{
	FILE *f = fopen(GOLDEN_DIR "/quants.bin", "rbe");
	uint8_t *data;
	long size;

	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	size = ftell(f);
	assert_true(size > 4);
	rewind(f);
	data = malloc((size_t)size);
	assert_non_null(data);
	assert_int_equal(fread(data, 1, (size_t)size, f), size);
	fclose(f);
	*ret_size = (size_t)size;
	return data;
}

/* Made by the package gguf; a NaN (infinity times nothing) may have any sign and payload. */
static void blocks_mean_what_gguf_says(void **state)
{
	size_t size, at = 4;
	uint8_t *data = read_golden(&size);
	uint32_t n_types;

	memcpy(&n_types, data, 4);
	assert_int_equal(n_types, 14); /* all but F32 */
	for (uint32_t k = 0; k < n_types; k++) {
		uint32_t head[3];
		size_t bytes;

		memcpy(head, data + at, sizeof(head));
		at += sizeof(head);
		assert_true(dtype_row_bytes(head[0], head[1], &bytes));
		assert_int_equal(bytes, head[2]);

		float *got = calloc(head[1], sizeof(float)), *want = calloc(head[1], sizeof(float));
		assert_non_null(got);
		assert_non_null(want);
		memcpy(want, data + at + bytes, head[1] * sizeof(float));
		dequantize_row(head[0], data + at, got, head[1]);
		for (uint32_t i = 0; i < head[1]; i++) {
			if (isnan(want[i]) && isnan(got[i]))
				continue;
			if (to_bits(want[i]) != to_bits(got[i]))
				fail_msg("%s element %u: %a, gguf says %a",
					dtype_info(head[0])->name, i, (double)got[i],
					(double)want[i]);
		}
		free(got);
		free(want);
		at += bytes + head[1] * sizeof(float);
	}
	assert_int_equal(at, size);
	free(data);
}

static void f32_rows_are_copied(void **state)
{
	const float x[3] = {1, -0.0f, INFINITY};
	float y[3];

	dequantize_row(DTYPE_F32, x, y, 3);
	assert_memory_equal(x, y, sizeof(x));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_numbers_agree),
		cmocka_unit_test(row_bytes_are_checked),
		cmocka_unit_test(every_f16_pattern_reads_exactly),
		cmocka_unit_test(f16_rounds_to_nearest_even),
		cmocka_unit_test(bf16_rounds_to_nearest_even),
		cmocka_unit_test(blocks_mean_what_gguf_says),
		cmocka_unit_test(f32_rows_are_copied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
