/* The arithmetic of what a card holds, at its borders; and the choice among cards. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/fit.h"
#include "kernels/cuda/load.h"

#define MIB 1048576ull

/* Four layers of 100, 101, 102 and 103 MiB; a page of one layer is 1 MiB, a context 8 pages. */
static const uint64_t layer_bytes[] = {100 * MIB, 101 * MIB, 102 * MIB, 103 * MIB};
static const struct fit_ask plain = {
	.n_layers = 4,
	.layer_bytes = layer_bytes,
	.embed_bytes = 50 * MIB,
	.output_bytes = 60 * MIB,
	.shared_bytes = 7 * MIB,
	.kv_bytes = MIB,
	.context_pages = 8,
};

/* What k layers need, said in numbers rather than by the formula under test. */
static const uint64_t needs[] = {0, (512 + 7 + 60 + 103 + 8) * MIB, (512 + 7 + 60 + 205 + 16) * MIB,
	(512 + 7 + 60 + 306 + 24) * MIB, (512 + 7 + 60 + 406 + 50 + 32) * MIB};

static struct fit fit_with(struct fit_ask a, uint64_t free_bytes)
{
	a.free_bytes = free_bytes;
	return fit_card(&a);
}

static void layers_fit_from_the_very_byte(void **state)
{
	(void)state;
	for (uint32_t k = 1; k <= 4; k++) {
		assert_int_equal(fit_with(plain, needs[k] - 1).layers, k - 1);
		assert_int_equal(fit_with(plain, needs[k]).layers, k);
		assert_int_equal(fit_with(plain, needs[k]).needed_bytes, needs[4]);
	}
	assert_int_equal(fit_with(plain, 0).layers, 0);
	assert_int_equal(fit_with(plain, UINT64_MAX).layers, 4);
}

static void a_tied_table_counts_once_where_all_is_on_the_card(void **state)
{
	struct fit_ask a = plain;

	(void)state;
	a.tied = true;
	a.output_bytes = 50 * MIB;
	assert_int_equal(fit_with(a, needs[4] - 60 * MIB - 1).layers, 3);
	assert_int_equal(fit_with(a, needs[4] - 60 * MIB).layers, 4);
	assert_int_equal(fit_with(a, needs[3] - 10 * MIB).layers, 3);
}

static void kv_takes_what_remains_and_at_most_sixteen_contexts(void **state)
{
	(void)state;
	/* 4 layers of 1 MiB: a page is 4 MiB in all */
	assert_int_equal(fit_with(plain, needs[4]).kv_bytes, 8 * 4 * MIB);
	assert_int_equal(fit_with(plain, needs[4] + 4 * MIB - 1).kv_bytes, 8 * 4 * MIB);
	assert_int_equal(fit_with(plain, needs[4] + 4 * MIB).kv_bytes, 9 * 4 * MIB);
	assert_int_equal(fit_with(plain, needs[4] + 120 * 4 * MIB).kv_bytes, 128 * 4 * MIB);
	assert_int_equal(fit_with(plain, UINT64_MAX).kv_bytes, 128 * 4 * MIB);
	/* split: the card holds 3 MiB of each page */
	assert_int_equal(fit_with(plain, needs[3] + 3 * MIB).kv_bytes, 9 * 4 * MIB);
}

static void kv_of_the_host_s_layers_keeps_to_its_bound(void **state)
{
	struct fit_ask a = plain;

	(void)state;
	a.context_pages = 1024;           /* one context: 1 GiB a layer */
	a.embed_bytes = UINT32_MAX * MIB; /* never all */
	a.free_bytes = 512 * MIB + 67 * MIB + 306 * MIB + 3 * 2048 * MIB;
	assert_int_equal(fit_card(&a).layers, 3);
	assert_int_equal(fit_card(&a).kv_bytes, 2048 * 4 * MIB);
	a.free_bytes = 512 * MIB + 67 * MIB + 205 * MIB + 2 * 1200 * MIB;
	assert_int_equal(fit_card(&a).layers, 2);
	assert_int_equal(fit_card(&a).kv_bytes, 1024 * 4 * MIB); /* 2 GiB of two layers */
	a.free_bytes = 0;
	assert_int_equal(fit_card(&a).kv_bytes, 512 * 4 * MIB); /* the host alone */
}

static void kv_bytes_asked_for_are_kept(void **state)
{
	struct fit_ask a = plain;

	(void)state;
	a.kv_wanted_bytes = 20 * 4 * MIB;
	assert_int_equal(fit_with(a, needs[4] + 48 * MIB - 1).layers, 3);
	assert_int_equal(fit_with(a, needs[4] + 48 * MIB).layers, 4);
	assert_int_equal(fit_with(a, needs[4] + 480 * MIB).kv_bytes, 20 * 4 * MIB);
	/* more than 16 contexts are not made */
	a.kv_wanted_bytes = 4000 * MIB;
	assert_int_equal(fit_with(a, needs[4] + 480 * MIB).layers, 4);
}

static void layers_by_hand_get_one_context_at_least(void **state)
{
	struct fit_ask a = plain;

	(void)state;
	a.free_bytes = 100 * MIB;
	assert_int_equal(fit_kv_bytes(&a, 4), 8 * 4 * MIB);
	assert_int_equal(fit_kv_bytes(&a, 1), 8 * 4 * MIB);
}

static const struct cuda_card cards[] = {
	{"GTX 1080", 6, 1, 8ull << 30, 7ull << 30},
	{"RTX 3090", 8, 6, 24ull << 30, 5ull << 30},
	{"H200", 9, 0, 141ull << 30, 6ull << 30},
	{"B200", 10, 0, 180ull << 30, 6ull << 30},
};

static void the_card_with_most_free_memory_is_taken(void **state)
{
	char error[256] = "";
	uint32_t card = 9;

	(void)state;
	assert_int_equal(cuda_choose_card(cards, 4, "sm_75 sm_80 sm_90", CUDA_CARD_ANY, &card,
				 error, sizeof(error)),
		0);
	assert_int_equal(card, 2); /* the first of equals; the older has more and does not count */
	assert_int_equal(cuda_choose_card(cards, 4, "sm_61 sm_70", CUDA_CARD_ANY, &card, error,
				 sizeof(error)),
		0);
	assert_int_equal(card, 0);
	assert_int_equal(cuda_choose_card(cards, 4, "sm_75", 1, &card, error, sizeof(error)), 0);
	assert_int_equal(card, 1);
	assert_string_equal(error, "");
}

static void what_hinders_is_said(void **state)
{
	char error[256] = "";
	uint32_t card = 9;

	(void)state;
	assert_int_equal(
		cuda_choose_card(cards, 0, "sm_75", 0, &card, error, sizeof(error)), -ENODEV);
	assert_string_equal(error, "there is no NVIDIA card in this machine");
	assert_int_equal(
		cuda_choose_card(cards, 4, "sm_75", 4, &card, error, sizeof(error)), -ENODEV);
	assert_string_equal(error, "there is no card 4: this machine has 4, from 0");
	assert_int_equal(
		cuda_choose_card(cards, 4, "sm_80 sm_75", 0, &card, error, sizeof(error)), -ENODEV);
	assert_string_equal(error, "card 0 (GTX 1080, sm_61) is too old for this module, which "
				   "needs sm_75 or newer");
	assert_int_equal(
		cuda_choose_card(cards, 3, "sm_100", CUDA_CARD_ANY, &card, error, sizeof(error)),
		-ENODEV);
	assert_int_equal(card, 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layers_fit_from_the_very_byte),
		cmocka_unit_test(a_tied_table_counts_once_where_all_is_on_the_card),
		cmocka_unit_test(kv_takes_what_remains_and_at_most_sixteen_contexts),
		cmocka_unit_test(kv_of_the_host_s_layers_keeps_to_its_bound),
		cmocka_unit_test(kv_bytes_asked_for_are_kept),
		cmocka_unit_test(layers_by_hand_get_one_context_at_least),
		cmocka_unit_test(the_card_with_most_free_memory_is_taken),
		cmocka_unit_test(what_hinders_is_said),
	};

	return cmocka_run_group_tests_name("fit", tests, NULL, NULL);
}
