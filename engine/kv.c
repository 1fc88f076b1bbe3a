/* The KV pool: owns the page table, the refcounts, and each backend's KV memory.
 *
 * A free page keeps the bytes of its last owner until another takes it: whoever uses the machine
 * alone never waits for a page to be zeroed, and nobody's bytes ever lie in another's page. */
#include "engine/kv.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

bool kv_type_check(const struct model_config *c, enum dtype dtype, char *error, size_t error_size)
{
	const uint32_t block = dtype_info(dtype)->block_elements;

	if (c->attention.head_dim % block == 0)
		return true;
	snprintf(error, error_size,
		"keys and values of type %s: this model's heads have %u elements, wanted a "
		"multiple of %u",
		dtype_info(dtype)->name, c->attention.head_dim, block);
	return false;
}

uint64_t kv_page_bytes(const struct model_config *c, enum dtype dtype)
{
	size_t row_bytes = 0;
	bool ok;

	ok = dtype_row_bytes(
		dtype, (uint64_t)c->attention.n_kv_heads * c->attention.head_dim, &row_bytes);
	assert(ok);
	return (uint64_t)row_bytes * 2 * KV_PAGE_TOKENS * c->n_layers;
}

int kv_pool_new(const struct weights *w, enum dtype dtype, uint32_t n_pages, uint32_t n_slots,
	uint32_t context, struct kv_pool **ret, char *error, size_t error_size)
{
	const struct model_config *c = &w->model->config;
	struct kv_pool *p;

	p = calloc(1, sizeof(*p));
	if (!p)
		goto no_memory;
	p->weights = w;
	p->dtype = dtype;
	p->n_pages = n_pages;
	p->n_slots = n_slots;
	p->table_stride = kv_pages_of(context);
	p->kvs = calloc(w->n_backends, sizeof(*p->kvs));
	p->refs = calloc(n_pages, sizeof(*p->refs));
	p->owners = calloc(n_pages, sizeof(*p->owners));
	p->free_pages = malloc((size_t)n_pages * sizeof(*p->free_pages));
	p->page_table = malloc((size_t)n_slots * p->table_stride * sizeof(*p->page_table));
	p->slot_pages = calloc(n_slots, sizeof(*p->slot_pages));
	p->slot_first = calloc(n_slots, sizeof(*p->slot_first));
	if (!p->kvs || !p->refs || !p->owners || !p->free_pages || !p->page_table ||
		!p->slot_pages || !p->slot_first)
		goto no_memory;
	for (size_t i = 0; i < (size_t)n_slots * p->table_stride; i++)
		p->page_table[i] = KV_PAGE_NONE;
	/* The lowest page is handed out first. */
	for (uint32_t i = 0; i < n_pages; i++)
		p->free_pages[i] = n_pages - 1 - i;
	p->n_free = n_pages;

	for (uint32_t i = 0; i < w->n_backends; i++) {
		struct kv_shape shape = {
			.n_pages = n_pages,
			.n_kv_heads = c->attention.n_kv_heads,
			.head_dim = c->attention.head_dim,
			.dtype = dtype,
		};
		int r;

		for (uint32_t l = 0; l < c->n_layers; l++)
			shape.n_layers += w->layers[l].backend == w->backends[i];
		if (shape.n_layers == 0)
			continue;
		r = w->backends[i]->ops->kv_new(w->backends[i], &shape, &p->kvs[i]);
		if (r < 0) {
			snprintf(error, error_size, "no KV cache of %u pages: %s", n_pages,
				w->backends[i]->error);
			kv_pool_free(p);
			return r;
		}
	}
	*ret = p;
	return 0;

no_memory:
	kv_pool_free(p);
	snprintf(error, error_size, "no memory for the tables of %u KV pages", n_pages);
	return -ENOMEM;
}

struct kv_pool *kv_pool_free(struct kv_pool *p)
{
	if (!p)
		return NULL;
	for (uint32_t i = 0; p->kvs && i < p->weights->n_backends; i++)
		p->weights->backends[i]->ops->kv_free(p->weights->backends[i], p->kvs[i]);
	free(p->kvs);
	free(p->refs);
	free(p->owners);
	free(p->free_pages);
	free(p->page_table);
	free(p->slot_pages);
	free(p->slot_first);
	free(p);
	return NULL;
}

static int zero(struct kv_pool *p, uint32_t page)
{
	int r = 0;

	for (uint32_t i = 0; i < p->weights->n_backends && r == 0; i++) {
		struct backend *b = p->weights->backends[i];

		if (p->kvs[i])
			r = b->ops->kv_zero(b, p->kvs[i], page);
	}
	if (r == 0)
		p->owners[page] = 0;
	return r;
}

int kv_pool_take(struct kv_pool *p, uint64_t owner, uint32_t *ret_page)
{
	uint32_t page;
	int r = 0;

	assert(owner != 0);
	if (p->n_free == 0)
		return -ENOSPC;
	page = p->free_pages[p->n_free - 1];
	assert(p->refs[page] == 0);
	if (p->owners[page] != 0 && p->owners[page] != owner)
		r = zero(p, page);
	if (r < 0)
		return r;
	p->n_free--;
	if (p->n_used_max < p->n_pages - p->n_free) /* the lowest first: it is `page` + 1 */
		p->n_used_max = p->n_pages - p->n_free;
	p->refs[page] = 1;
	p->owners[page] = owner;
	*ret_page = page;
	return 0;
}

void kv_pool_ref(struct kv_pool *p, uint32_t page)
{
	assert(page < p->n_pages);
	p->refs[page]++;
}

void kv_pool_unref(struct kv_pool *p, uint32_t page)
{
	assert(page < p->n_pages && p->refs[page] > 0);
	if (--p->refs[page] == 0 && !(p->keep && p->keep(p->keep_userdata, page)))
		kv_pool_give(p, page);
}

void kv_pool_give(struct kv_pool *p, uint32_t page)
{
	assert(p->refs[page] == 0 && p->n_free < p->n_pages);
	p->free_pages[p->n_free++] = page;
}

int kv_pool_wipe(struct kv_pool *p)
{
	int r = 0;

	for (uint32_t i = 0; i < p->n_free && r == 0; i++)
		if (p->owners[p->free_pages[i]] != 0)
			r = zero(p, p->free_pages[i]);
	return r;
}

bool kv_pool_touch(struct kv_pool *p, uint32_t ahead)
{
	uint32_t left = p->n_pages - p->n_used_max;
	uint32_t n_pages = p->n_used_max + (ahead < left ? ahead : left);

	for (uint32_t i = 0; i < p->weights->n_backends; i++) {
		struct backend *b = p->weights->backends[i];

		if (p->kvs[i] && b->ops->kv_touch && b->ops->kv_touch(b, p->kvs[i], n_pages))
			return true;
	}
	return false;
}

size_t kv_pool_saved_bytes(const struct kv_pool *p)
{
	size_t bytes = 0;

	for (uint32_t i = 0; i < p->weights->n_backends; i++)
		if (p->kvs[i])
			bytes += p->weights->backends[i]->ops->kv_page_bytes(p->kvs[i]);
	return bytes;
}

int kv_pool_save(struct kv_pool *p, uint32_t page, uint8_t *host)
{
	int r = 0;

	for (uint32_t i = 0; i < p->weights->n_backends && r == 0; i++) {
		struct backend *b = p->weights->backends[i];

		if (!p->kvs[i])
			continue;
		r = b->ops->kv_save(b, p->kvs[i], page, host);
		host += b->ops->kv_page_bytes(p->kvs[i]);
	}
	return r;
}

int kv_pool_restore(struct kv_pool *p, uint32_t page, const uint8_t *host)
{
	int r = 0;

	for (uint32_t i = 0; i < p->weights->n_backends && r == 0; i++) {
		struct backend *b = p->weights->backends[i];

		if (!p->kvs[i])
			continue;
		r = b->ops->kv_restore(b, p->kvs[i], page, host);
		host += b->ops->kv_page_bytes(p->kvs[i]);
	}
	return r;
}

static uint32_t *row(struct kv_pool *p, uint32_t slot)
{
	assert(slot < p->n_slots);
	return p->page_table + (size_t)slot * p->table_stride;
}

void kv_pool_show(struct kv_pool *p, uint32_t slot, uint32_t page)
{
	assert(p->slot_pages[slot] < p->table_stride);
	row(p, slot)[p->slot_pages[slot]++] = page;
}

void kv_pool_skip(struct kv_pool *p, uint32_t slot, uint32_t n)
{
	assert(p->slot_pages[slot] == 0 && n <= p->table_stride);
	p->slot_pages[slot] = p->slot_first[slot] = n;
}

void kv_pool_replace(struct kv_pool *p, uint32_t slot, uint32_t entry, uint32_t page)
{
	uint32_t *at = row(p, slot) + entry, old = *at;

	assert(entry >= p->slot_first[slot] && entry < p->slot_pages[slot]);
	*at = page;
	kv_pool_unref(p, old);
}

int kv_pool_extend(struct kv_pool *p, uint32_t slot, uint64_t owner, uint32_t n_positions)
{
	uint32_t wanted = kv_pages_of(n_positions), page = 0;

	assert(slot < p->n_slots && wanted <= p->table_stride);
	if (wanted > p->slot_pages[slot] && wanted - p->slot_pages[slot] > p->n_free)
		return -ENOSPC;
	while (p->slot_pages[slot] < wanted) {
		int r = kv_pool_take(p, owner, &page);

		if (r < 0)
			return r;
		kv_pool_show(p, slot, page);
	}
	return 0;
}

void kv_pool_slide(struct kv_pool *p, uint32_t slot, uint32_t position, uint32_t window)
{
	uint32_t *table = row(p, slot), end;

	/* The row at `position` sees position - window + 1 and later. */
	if (window == 0 || position + 1 <= window)
		return;
	end = (position + 1 - window) / KV_PAGE_TOKENS;
	while (p->slot_first[slot] < end && p->slot_first[slot] < p->slot_pages[slot]) {
		uint32_t i = p->slot_first[slot]++, page = table[i];

		table[i] = KV_PAGE_NONE;
		kv_pool_unref(p, page);
	}
}

void kv_pool_clear(struct kv_pool *p, uint32_t slot)
{
	uint32_t *table = row(p, slot);

	while (p->slot_pages[slot] > p->slot_first[slot]) {
		uint32_t i = --p->slot_pages[slot], page = table[i];

		table[i] = KV_PAGE_NONE;
		kv_pool_unref(p, page);
	}
	p->slot_pages[slot] = 0;
	p->slot_first[slot] = 0;
}
