/* Finds the CUDA module that fits this machine's driver, and the card to run on.
 *
 * zephd links nothing of CUDA: libcuda.so.1, the driver's own library, is asked for its version at
 * run time, and zeph-cuda13.so (driver 580 or newer) or zeph-cuda12.so (525 or newer) is loaded
 * from the program's folder or the library folder. $ZEPH_CUDA_MODULE names a module's path instead;
 * no driver is asked then, the module finds out itself. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/module.h"

#define CUDA_CARDS_MAX 64
#define CUDA_CARD_ANY  UINT32_MAX /* the one with the most free memory */

struct cuda_choice {
	const struct cuda_module *module; /* stays loaded until the process ends */
	uint32_t card;                    /* its index among the module's cards() */
	struct cuda_card info;            /* as it was then */
};

/* wanted: a card's index, or CUDA_CARD_ANY. 0, or -ENODEV with one sentence that says what is
 * missing: the driver, a newer driver, the module, the card, or a module for so old a card. */
int cuda_choose(uint32_t wanted, struct cuda_choice *ret, char *error, size_t error_size);

/* The choice among the cards of one module, built for arch_names ("sm_75 sm_80"). 0, or -ENODEV
 * with the sentence. */
int cuda_choose_card(const struct cuda_card *cards, uint32_t n, const char *arch_names,
	uint32_t wanted, uint32_t *ret, char *error, size_t error_size);
