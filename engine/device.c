/* Chooses the backend by name: the one place that knows which exist. */
#include "engine/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/load.h"

/* "cuda" or "cuda:" and digits */
static bool names_cuda(const char *device, uint32_t *ret_card)
{
	size_t n;

	if (strncmp(device, "cuda", 4) != 0)
		return false;
	*ret_card = CUDA_CARD_ANY;
	if (device[4] == '\0')
		return true;
	n = strspn(device + 5, "0123456789");
	if (device[4] != ':' || n == 0 || n > 3 || device[5 + n] != '\0')
		return false;
	*ret_card = (uint32_t)strtoul(device + 5, NULL, 10);
	return true;
}

static int open_card(const struct device_options *o, uint32_t card, struct backend **ret,
	struct device_found *found, char *error, size_t error_size)
{
	struct cuda_choice choice;
	struct cuda_options options = {.activations = o->activations, .exact = !o->inexact};
	int r;

	r = cuda_choose(card, &choice, error, error_size);
	if (r < 0)
		return r;
	options.card = choice.card;
	r = choice.module->backend_new(&options, ret, error, error_size);
	if (r < 0)
		return r;
	found->card = true;
	found->module = choice.module;
	found->card_index = choice.card;
	found->free_bytes = choice.info.free_bytes;
	return 0;
}

static int open_host(
	const struct device_options *o, struct backend **ret, char *error, size_t error_size)
{
	int r;

	if (strcmp(o->device, "reference") == 0)
		r = backend_new_reference(o->threads, ret);
	else
		r = backend_new_cpu(o->threads, o->activations, ret);
	if (r < 0)
		snprintf(error, error_size, "device %s: %s", o->device, strerror(-r));
	return r;
}

int device_open(const struct device_options *o, struct backend **ret,
	struct device_found *ret_found, char *error, size_t error_size)
{
	struct device_found found = {.automatic = strcmp(o->device, "auto") == 0};
	char why[384] = "";
	uint32_t card;
	int r;

	if (names_cuda(o->device, &card)) {
		r = open_card(o, card, ret, &found, why, sizeof(why));
		if (r < 0)
			snprintf(error, error_size, "device %s: %s", o->device, why);
	} else if (found.automatic) {
		r = open_card(o, CUDA_CARD_ANY, ret, &found, why, sizeof(why));
		if (r < 0) {
			snprintf(found.note, sizeof(found.note), "on the processor: %s", why);
			r = open_host(o, ret, error, error_size);
		}
	} else if (strcmp(o->device, "cpu") == 0 || strcmp(o->device, "reference") == 0) {
		r = open_host(o, ret, error, error_size);
	} else {
		snprintf(error, error_size,
			"device: found \"%s\", wanted auto, cpu, reference, cuda or cuda:N",
			o->device);
		return -EINVAL;
	}
	if (r < 0)
		return r;
	*ret_found = found;
	return 0;
}

enum dtype device_kv_dtype(const struct backend *b, enum activations activations)
{
	bool host = strcmp(b->device.kind, "cuda") != 0;
	bool exact = activations == ACTIVATIONS_EXACT || strcmp(b->ops->name, "reference") == 0;

	return host && exact ? DTYPE_F32 : DTYPE_F16;
}

uint32_t device_prefill_tokens(const struct backend *b)
{
	return strcmp(b->device.kind, "cuda") == 0 ? 1024 : 256;
}
