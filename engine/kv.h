/* The KV pool: which page belongs to which sequence.
 *
 * A page holds 16 consecutive positions of one sequence in all layers; the bytes lie in the
 * backends. A sequence sits in a slot and reaches its pages only through the slot's row of the page
 * table. Pages are refcounted, so that sequences can share a prefix. */
#pragma once

#include <stdint.h>

#include "engine/model.h"

struct kv_pool {
	const struct weights *weights;
	struct kv **kvs; /* [weights->n_backends] */
	uint32_t n_pages;
	uint32_t *refs;       /* [n_pages] */
	uint32_t *free_pages; /* stack */
	uint32_t n_free;
	uint32_t n_slots;
	uint32_t table_stride; /* entries of a slot's row */
	uint32_t *page_table;  /* [n_slots, table_stride] */
	uint32_t *slot_pages;  /* [n_slots] entries in use */
	uint32_t *slot_first;  /* [n_slots] entries before it were given back (behind the window) */
};

/* -ENOMEM with the backend's sentence in error. */
int kv_pool_new(const struct weights *w, enum dtype dtype, uint32_t n_pages, uint32_t n_slots,
	uint32_t context, struct kv_pool **ret, char *error, size_t error_size);
struct kv_pool *kv_pool_free(struct kv_pool *p); /* accepts NULL, returns NULL */

/* Keys and values may have that type with this model; otherwise a sentence. */
bool kv_type_check(const struct model_config *c, enum dtype dtype, char *error, size_t error_size);

/* Bytes of one page in all layers; the type is one that kv_type_check() accepts. */
uint64_t kv_page_bytes(const struct model_config *c, enum dtype dtype);

/* Makes sure that positions 0 … n_positions - 1 of the slot have pages. -ENOSPC where the pool is
 * empty: what the slot had it keeps. */
int kv_pool_extend(struct kv_pool *p, uint32_t slot, uint32_t n_positions);

/* Gives back the pages that no position from `position` on can see through the window (0: none). */
int kv_pool_slide(struct kv_pool *p, uint32_t slot, uint32_t position, uint32_t window);

/* Gives back everything of the slot; freed pages are zeroed before another sequence sees them. */
int kv_pool_clear(struct kv_pool *p, uint32_t slot);
