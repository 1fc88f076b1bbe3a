/* The card of this machine as candidates of the operation tests, through the module that zephd
 * would load: what tests/gpu/run runs. */
#pragma once

#include "kernels/cuda/load.h"

static inline int make_card(enum activations activations, struct backend **ret)
{
	struct cuda_choice choice;
	struct cuda_options o = {.activations = activations, .exact = true};
	char error[512] = "";
	int r = cuda_choose(CUDA_CARD_ANY, &choice, error, sizeof(error));

	o.card = choice.card;
	if (r == 0)
		r = choice.module->backend_new(&o, ret, error, sizeof(error));
	if (r < 0)
		print_error("%s\n", error);
	return r;
}

static inline int make_card_exact(uint32_t threads, struct backend **ret)
{
	(void)threads;
	return make_card(ACTIVATIONS_EXACT, ret);
}

static inline int make_card_fast(uint32_t threads, struct backend **ret)
{
	(void)threads;
	return make_card(ACTIVATIONS_FAST, ret);
}

/* Tensor cores (sm_80 on) round activations to bf16, older cards to int8 per 32 against quantised
 * weights: half a step of 1 / 127 of the largest, which is at most six times the mean. Which of the
 * two this card does is not asked here: it is held to the wider one where it may be either. */
static const struct candidate candidates[] = {
	{"card exact", make_card_exact, 0, 0, false},
	{"card fast", make_card_fast, 6 * 0.5 / 127, 0x1p-8, false},
};
