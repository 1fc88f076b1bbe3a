/* A libcuda.so.1 that only tells a version, $FAKE_CUDA_VERSION: what load.c asks a driver. */
#include <stdlib.h>

int cuDriverGetVersion(int *version);

__attribute__((visibility("default"))) int cuDriverGetVersion(int *version)
{
	const char *text = getenv("FAKE_CUDA_VERSION");

	*version = text ? atoi(text) : 0;
	return text ? 0 : 999; /* CUDA_ERROR_UNKNOWN */
}
