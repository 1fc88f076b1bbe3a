/* kernels/cpu/weight: how tensors become weights, and that kept ones are the same. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ROWS     37
#define COLS     512

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0,
	DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K,
	DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};

/* ROWS x COLS of that type, of any bytes at all; the caller frees them. */
static struct tensor tensor_make(enum dtype dtype)
{
	struct tensor t = {.name = "t", .dtype = dtype, .rows = ROWS, .cols = COLS};
	uint32_t state = 1;
	uint8_t *data;
	size_t row;

	assert_true(dtype_row_bytes(dtype, COLS, &row));
	t.bytes = row * ROWS;
	data = malloc(t.bytes);
	assert_non_null(data);
	for (size_t i = 0; i < t.bytes; i++) {
		state = state * 1664525 + 1013904223;
		data[i] = (uint8_t)(state >> 24);
	}
	t.data = data;
	return t;
}

static struct weight *put(struct backend *b, const struct tensor *t)
{
	struct weight *w;

	assert_int_equal(b->ops->weight_put(b, t, &w), 0);
	return w;
}

/* FNV-1a over the packed bytes of a matrix of every type. */
static uint64_t layout_sum(struct backend *b)
{
	uint64_t sum = 0xcbf29ce484222325;

	for (size_t d = 0; d < COUNT(dtypes); d++) {
		const struct tensor t = tensor_make(dtypes[d]);
		struct weight *w = put(b, &t);
		const uint8_t *data = b->ops->weight_data(w);

		for (size_t i = 0; i < b->ops->weight_bytes(w); i++)
			sum = (sum ^ data[i]) * 0x100000001b3;
		b->ops->weight_free(b, w);
		free((void *)t.data);
	}
	return sum;
}

/* Packed weights are kept in files under the layout's name. If this fails, those that were kept are
 * wrong now: give weight_layout() the next number, and the sums here. */
static void a_layout_has_a_name_of_its_own(void **state)
{
	static const char *const isas[] = {
		"generic", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx", "neon"};

	(void)state;
	for (size_t i = 0; i < COUNT(isas); i++) {
		uint64_t want = 0;
		struct backend *b;

		assert_int_equal(setenv("ZEPH_ISA", isas[i], 1), 0);
		assert_int_equal(backend_new_cpu(2, ACTIVATIONS_FAST, &b), 0);
		if (strcmp(b->ops->weight_layout(b), "cpu 1") == 0)
			want = 0x273dfe319570d536;
		else if (strcmp(b->ops->weight_layout(b), "cpu 1, bytes from 128") == 0)
			want = 0xc1e70d4150b05436;
		assert_int_equal(layout_sum(b), want);
		backend_free(b);
	}
	assert_int_equal(unsetenv("ZEPH_ISA"), 0);
}

static void adopted_weights_are_the_packed_ones(void **state)
{
	float x[3 * COLS], y[3 * ROWS], want[3 * ROWS];
	struct backend *b;

	(void)state;
	for (size_t i = 0; i < COUNT(x); i++)
		x[i] = (float)(int)(i * 7919 % 201 - 100) / 64;
	assert_int_equal(backend_new_cpu(2, ACTIVATIONS_FAST, &b), 0);
	for (size_t d = 0; d < COUNT(dtypes); d++) {
		struct tensor t = tensor_make(dtypes[d]);
		const void *data = t.data;
		struct weight *w = put(b, &t), *adopted = NULL;

		t.data = b->ops->weight_data(w);
		t.bytes = b->ops->weight_bytes(w) - 64;
		assert_int_equal(b->ops->weight_adopt(b, &t, &adopted), -EINVAL);
		assert_null(adopted);
		t.bytes += 64;
		assert_int_equal(b->ops->weight_adopt(b, &t, &adopted), 0);
		assert_ptr_equal(b->ops->weight_data(adopted), t.data);
		assert_int_equal(b->ops->weight_bytes(adopted), t.bytes);
		assert_int_equal(b->ops->weight_rows(adopted), ROWS);
		assert_int_equal(b->ops->matmul(b, 3, x, w, NULL, want), 0);
		assert_int_equal(b->ops->matmul(b, 3, x, adopted, NULL, y), 0);
		assert_memory_equal(y, want, sizeof(want));
		b->ops->weight_free(b, adopted);
		b->ops->weight_free(b, w); /* its bytes were still its own */
		free((void *)data);
	}
	backend_free(b);
}

static void a_tensor_that_does_not_fit_is_refused(void **state)
{
	struct backend *b;
	uint8_t data[64] = {0};
	struct tensor t = {
		.name = "blk.0.x", .dtype = DTYPE_Q8_0, .rows = 2, .cols = 32, .data = data};
	struct weight *w = NULL;

	(void)state;
	assert_int_equal(backend_new_cpu(1, ACTIVATIONS_FAST, &b), 0);
	t.bytes = 64;
	assert_int_equal(b->ops->weight_put(b, &t, &w), -EINVAL);
	assert_non_null(strstr(b->error, "blk.0.x"));
	t.bytes = 68;
	t.cols = 33;
	assert_int_equal(b->ops->weight_put(b, &t, &w), -EINVAL);
	t.dtype = (enum dtype)4;
	assert_int_equal(b->ops->weight_put(b, &t, &w), -ENOTSUP);
	assert_null(w);
	backend_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_layout_has_a_name_of_its_own),
		cmocka_unit_test(adopted_weights_are_the_packed_ones),
		cmocka_unit_test(a_tensor_that_does_not_fit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
