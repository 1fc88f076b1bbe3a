/* Keeps the weights of a loaded model for the next load, on a thread of low priority (packed.h). */
#pragma once

#include "engine/packed.h"

/* Told once, on the packer's thread: the bytes that were kept, or 0 and why they were not. Nothing
 * is told where there was nothing to keep. */
struct packer_told {
	void (*fn)(void *userdata, uint64_t bytes, const char *why);
	void *userdata;
};

/* Tidies the folder up, then keeps the weights where that is worth it. They stay until
 * packer_free(). 0 or a negative errno. */
struct packer;
int packer_new(const struct packed_place *place, const struct weights *w,
	const struct packer_told *told, struct packer **ret);
struct packer *packer_free(struct packer *p); /* stops it early; accepts NULL, returns NULL */
