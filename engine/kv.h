/* The KV pool: which page belongs to which sequence.
 *
 * A page holds 16 consecutive positions of one sequence in all layers; the bytes lie in the
 * backends. A sequence sits in a slot and reaches its pages only through the slot's row of the page
 * table. Pages are refcounted, so that sequences can share a prefix; what a page is worth after its
 * last reference is prefix.c's to know. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/model.h"

struct kv_pool {
	const struct weights *weights;
	struct kv **kvs; /* [weights->n_backends] */
	enum dtype dtype;
	uint32_t n_pages;
	uint32_t *refs;       /* [n_pages] rows of the table that show it, and pins */
	uint64_t *owners;     /* [n_pages] whose bytes are in it; 0: zeros */
	uint32_t *free_pages; /* stack */
	uint32_t n_free;
	uint32_t n_used_max; /* pages 0 … n_used_max - 1 were in use, at one time or another */
	uint32_t n_slots;
	uint32_t table_stride; /* entries of a slot's row */
	uint32_t *page_table;  /* [n_slots, table_stride] */
	uint32_t *slot_pages;  /* [n_slots] entries in use */
	uint32_t *slot_first;  /* [n_slots] entries before it were given back (behind the window) */

	/* Asked when a page's last reference goes: true keeps it from being free. NULL: none is. */
	bool (*keep)(void *userdata, uint32_t page);
	void *keep_userdata;
};

/* -ENOMEM with the backend's sentence in error. */
int kv_pool_new(const struct weights *w, enum dtype dtype, uint32_t n_pages, uint32_t n_slots,
	uint32_t context, struct kv_pool **ret, char *error, size_t error_size);
struct kv_pool *kv_pool_free(struct kv_pool *p); /* accepts NULL, returns NULL */

/* Keys and values may have that type with this model; otherwise a sentence. */
bool kv_type_check(const struct model_config *c, enum dtype dtype, char *error, size_t error_size);

/* Bytes of one page in all layers; the type is one that kv_type_check() accepts. */
uint64_t kv_page_bytes(const struct model_config *c, enum dtype dtype);

/* Entries of a row that n_positions take. */
static inline uint32_t kv_pages_of(uint64_t n_positions)
{
	return (uint32_t)((n_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
}

/* A free page with one reference, for bytes of `owner` (not 0). What another owner left in it is
 * zeroed first. -ENOSPC: none is free; another errno: the device failed. */
int kv_pool_take(struct kv_pool *p, uint64_t owner, uint32_t *ret_page);
void kv_pool_ref(struct kv_pool *p, uint32_t page);
/* Drops one reference; the last one asks `keep`, and frees the page otherwise. */
void kv_pool_unref(struct kv_pool *p, uint32_t page);
/* Puts a kept page back among the free ones. Its bytes stay until another owner takes it. */
void kv_pool_give(struct kv_pool *p, uint32_t page);
/* Zeroes what free pages still hold. */
int kv_pool_wipe(struct kv_pool *p);
/* Has the system find some of the memory of the next `ahead` pages that never were in use. False:
 * it is all there. */
bool kv_pool_touch(struct kv_pool *p, uint32_t ahead);

/* The page's bytes in all layers of all backends, in their own layouts: to `host` [this many bytes]
 * and back. A negative errno: the device failed. */
size_t kv_pool_saved_bytes(const struct kv_pool *p);
int kv_pool_save(struct kv_pool *p, uint32_t page, uint8_t *host);
int kv_pool_restore(struct kv_pool *p, uint32_t page, const uint8_t *host);

/* Appends the page to the slot's row, which takes the reference over. */
void kv_pool_show(struct kv_pool *p, uint32_t slot, uint32_t page);
/* Begins an empty row behind n entries that no row of the batch will need. */
void kv_pool_skip(struct kv_pool *p, uint32_t slot, uint32_t n);
static inline uint32_t kv_pool_at(const struct kv_pool *p, uint32_t slot, uint32_t entry)
{
	return p->page_table[(size_t)slot * p->table_stride + entry];
}
/* Shows `page` at an entry in place of what is there; the row takes the reference over. */
void kv_pool_replace(struct kv_pool *p, uint32_t slot, uint32_t entry, uint32_t page);

/* Makes sure that positions 0 … n_positions - 1 of the slot have pages, with free ones. -ENOSPC:
 * what the slot had it keeps. */
int kv_pool_extend(struct kv_pool *p, uint32_t slot, uint64_t owner, uint32_t n_positions);

/* Gives back the pages that no position from `position` on can see through the window (0: none). */
void kv_pool_slide(struct kv_pool *p, uint32_t slot, uint32_t position, uint32_t window);

/* Gives back everything of the slot, the last pages first. */
void kv_pool_clear(struct kv_pool *p, uint32_t slot);
