/* Chooses the backend by name: the one place that knows which exist. */
#include "engine/device.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* "cuda" or "cuda:" and digits */
static bool names_cuda(const char *device)
{
	size_t n;

	if (strncmp(device, "cuda", 4) != 0)
		return false;
	if (device[4] == '\0')
		return true;
	n = strspn(device + 5, "0123456789");
	return device[4] == ':' && n > 0 && n <= 3 && device[5 + n] == '\0';
}

int device_open(
	const struct device_options *o, struct backend **ret, char *error, size_t error_size)
{
	int r;

	if (names_cuda(o->device)) {
		snprintf(error, error_size,
			"device %s: this build of zeph has no CUDA backend; wanted auto, cpu or "
			"reference",
			o->device);
		return -ENODEV;
	}
	if (strcmp(o->device, "auto") == 0 || strcmp(o->device, "cpu") == 0) {
		r = backend_new_cpu(o->threads, o->activations, ret);
	} else if (strcmp(o->device, "reference") == 0) {
		r = backend_new_reference(o->threads, ret);
	} else {
		snprintf(error, error_size,
			"device: found \"%s\", wanted auto, cpu, reference, cuda or cuda:N",
			o->device);
		return -EINVAL;
	}
	if (r < 0)
		snprintf(error, error_size, "device %s: %s", o->device, strerror(-r));
	return r;
}

enum dtype device_kv_dtype(const struct backend *b, enum activations activations)
{
	bool exact = activations == ACTIVATIONS_EXACT || strcmp(b->ops->name, "reference") == 0;

	return exact ? DTYPE_F32 : DTYPE_F16;
}
