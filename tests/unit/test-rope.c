/* engine/rope: the table against numpy's f32 arithmetic (tests/golden/make_rope.py).
 *
 * The angle must be the same f32, bit for bit: at position 32767 one unit in its last place moves
 * the cosine by 2e-3. cos and sin of it are computed in double by both sides and rounded once, so
 * they may differ by one unit in the last place at most: 2^-24, as both are below 1. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/model.h"

static const struct {
	uint32_t dim;
	float theta;
	uint32_t position, pair;
	float cosine, sine;
} golden[] = {
#include "tests/golden/rope.inc"
};
#define N_GOLDEN (sizeof(golden) / sizeof(*golden))

static const struct rope unscaled = {.theta = 10000};

static void the_table_is_numpys(void **state)
{
	const uint32_t positions = 32768;
	float *table = NULL;
	size_t i;

	for (i = 0; i < N_GOLDEN; i++) {
		const uint32_t dim = golden[i].dim;
		const float *row;

		if (i == 0 || dim != golden[i - 1].dim || golden[i].theta != golden[i - 1].theta) {
			free(table);
			table = malloc((size_t)positions * dim * sizeof(*table));
			assert_non_null(table);
			rope_table(table, positions, dim, &(struct rope){.theta = golden[i].theta},
				NULL);
		}
		row = table + (size_t)golden[i].position * dim;
		assert_float_equal(row[golden[i].pair], golden[i].cosine, 0x1p-24);
		assert_float_equal(row[dim / 2 + golden[i].pair], golden[i].sine, 0x1p-24);
	}
	free(table);
}

static void position_0_turns_nothing(void **state)
{
	float row[128];
	uint32_t i;

	rope_table(row, 1, 128, &unscaled, NULL);
	for (i = 0; i < 64; i++)
		assert_true(row[i] == 1 && row[64 + i] == 0);
}

static void a_table_is_a_prefix_of_a_longer_one(void **state)
{
	static float shorter[17 * 64], longer[33 * 64];

	rope_table(shorter, 17, 64, &unscaled, NULL);
	rope_table(longer, 33, 64, &unscaled, NULL);
	assert_memory_equal(shorter, longer, sizeof(shorter));
}

static void no_position_is_no_write(void **state)
{
	float guard = 7;

	rope_table(&guard, 0, 64, &unscaled, NULL);
	assert_true(guard == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_is_numpys),
		cmocka_unit_test(position_0_turns_nothing),
		cmocka_unit_test(a_table_is_a_prefix_of_a_longer_one),
		cmocka_unit_test(no_position_is_no_write),
	};

	return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
