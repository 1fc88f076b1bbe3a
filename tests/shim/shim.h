/* A card made of the processor: what tests may ask of the shim.
 *
 * The .cu files of kernels/cuda are compiled as C++ with tests/shim/include before every other
 * include folder, so that their `cuda_runtime.h` is this one. Each CUDA thread is a fiber; a
 * block's fibers run one at a time in an order drawn from the seed. The shim is hostile where the
 * hardware may be: fresh device and shared memory is NaN, cp.async delivers at the wait and not
 * before, streams run late, and what the CUDA manual forbids (a barrier that some threads miss, a
 * lane that is not where its mask says, a misaligned vector, a launch beyond the card's limits)
 * ends the process with a sentence on stderr that begins with "shim:". */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The order of everything from here on; ZEPH_SHIM_SEED sets the first. */
void shim_seed(uint64_t seed);

/* The card that cudaGetDeviceProperties() describes: 61, 75, 80, 86, 89 or 90 (the default, or
 * ZEPH_SHIM_ARCH). Takes effect for backends made afterwards. */
void shim_arch(int arch);

/* How many cards there are (1), and the bytes that each has (1 TiB). */
void shim_cards(int n);
void shim_memory(size_t bytes);

/* After so many more launches every call answers cudaErrorIllegalAddress, as a card does once a
 * kernel has gone astray; a negative number (and cudaDeviceReset) ends that. */
void shim_lose_card(int after_launches);

/* What a stream of the shim begins with: all that a library beside it (cublaslt.c) knows of it.
 * enqueue(): work(arg) runs when the stream comes to it. */
struct shim_stream_calls {
	void (*enqueue)(void *stream, void (*work)(void *arg), void *arg);
	int (*on_device)(const void *p, size_t bytes);
};

struct shim_statistics {
	size_t device_bytes, pinned_bytes; /* allocated now */
	size_t launches, graph_launches, graphs;
	size_t runs; /* of kernels, those in graphs included */
};
void shim_statistics(struct shim_statistics *ret);

#ifdef __cplusplus
}
#endif
