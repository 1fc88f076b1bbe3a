/* Prefix reuse as a sequence sees it: attach what is there, remember what was computed, give it
 * back. */
#include "engine/prefix_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Entries of a row that the position does not see. */
static uint32_t hidden(const struct prefix_cache *c, uint32_t position)
{
	if (c->window == 0 || position + 1 <= c->window)
		return 0;
	return (position + 1 - c->window) / KV_PAGE_TOKENS;
}

/* How many pages of path [depth] the slot can go on behind, having `have` of them. */
static uint32_t usable(const struct prefix_cache *c, uint32_t have, uint32_t depth, bool restore)
{
	uint32_t best = have, run = 0;

	for (uint32_t k = have + 1; k <= depth; k++) {
		uint32_t first = have ? have : hidden(c, k * KV_PAGE_TOKENS);

		const struct prefix_node *n = c->path[k - 1];

		run = n->page != KV_PAGE_NONE || (restore && n->saved) ? run + 1 : 0;
		if (run + first >= k)
			best = k;
	}
	return best;
}

static void move_tip(struct prefix_cache *c, struct prefix_place *at, struct prefix_node *to)
{
	prefix_node_hold(to);
	prefix_node_unhold(c, at->tip);
	at->tip = to;
}

/* Shows path [first, to), as far as there is room for what has to come back. Returns the end. */
static uint32_t show(struct prefix_cache *c, uint32_t slot, uint32_t first, uint32_t to)
{
	uint32_t end = first;

	/* first those that are there are held, so that room for the others is not made of them */
	for (uint32_t k = first; k < to; k++)
		if (c->path[k]->page != KV_PAGE_NONE)
			prefix_page_ref(c, c->path[k]);
	while (end < to && (c->path[end]->page != KV_PAGE_NONE || prefix_restore(c, c->path[end])))
		kv_pool_show(c->kv, slot, c->path[end++]->page);
	for (uint32_t k = to; k-- > end;)
		if (c->path[k]->page != KV_PAGE_NONE)
			kv_pool_unref(c->kv, c->path[k]->page);
	return end;
}

uint32_t prefix_attach(struct prefix_cache *c, struct prefix_place *at, uint32_t slot,
	const int32_t *tokens, uint32_t n_tokens, uint32_t n_cached, bool restore)
{
	uint32_t have = at->tip ? at->tip->depth : 0, depth = have, first, end, to;
	uint32_t limit = (n_tokens - 1) / KV_PAGE_TOKENS;
	struct prefix_node *n = at->tip;

	if (n_cached != have * KV_PAGE_TOKENS || c->kv->slot_pages[slot] != have)
		return n_cached;
	while (depth < limit) {
		n = prefix_child(c, at->root, n, tokens + (size_t)depth * KV_PAGE_TOKENS);
		if (!n)
			break;
		c->path[depth++] = n;
	}
	to = usable(c, have, depth, restore);
	if (to == have)
		return n_cached;
	first = have;
	if (have == 0) {
		first = hidden(c, to * KV_PAGE_TOKENS);
		kv_pool_skip(c->kv, slot, first);
	}
	end = show(c, slot, first, to);
	/* behind a window nothing less than all is of use */
	if (end == first ? first < to : (end < to && first > have)) {
		if (have == 0)
			kv_pool_clear(c->kv, slot);
		return n_cached;
	}
	move_tip(c, at, c->path[end - 1]);
	return end * KV_PAGE_TOKENS;
}

/* The node gets the page that its tokens' rows are in, unless it has one: then the slot gets that.
 */
static void settle(struct prefix_cache *c, struct prefix_node *n, uint32_t slot, uint32_t entry)
{
	uint32_t page = kv_pool_at(c->kv, slot, entry);

	if (page == KV_PAGE_NONE || page == n->page)
		return;
	if (n->page != KV_PAGE_NONE) {
		kv_pool_replace(c->kv, slot, entry, prefix_page_ref(c, n));
		return;
	}
	prefix_forget_saved(c, n);
	n->page = page;
	c->of_page[page] = n;
	if (n->root == c->shared) {
		n->pinned = true;
		kv_pool_ref(c->kv, page);
	}
}

void prefix_advance(struct prefix_cache *c, struct prefix_place *at, uint32_t slot,
	const int32_t *tokens, uint32_t n_cached)
{
	uint32_t end = n_cached / KV_PAGE_TOKENS;

	for (uint32_t d = at->tip ? at->tip->depth : 0; d < end; d++) {
		const int32_t *here = tokens + (size_t)d * KV_PAGE_TOKENS;
		struct prefix_node *n = prefix_child(c, at->root, at->tip, here);

		if (!n)
			n = prefix_node_new(c, at->root, at->tip, here);
		if (!n)
			return; /* the pages serve this sequence alone */
		settle(c, n, slot, d);
		move_tip(c, at, n);
	}
}

void prefix_release(struct prefix_cache *c, struct prefix_place *at, uint32_t slot)
{
	kv_pool_clear(c->kv, slot);
	prefix_node_unhold(c, at->tip);
	at->tip = NULL;
}

void prefix_want(struct prefix_cache *c, struct prefix_place *at)
{
	uint32_t first;

	if (!at->tip || at->wanted)
		return;
	prefix_node_hold(at->tip);
	at->wanted = at->tip;
	first = hidden(c, at->tip->depth * KV_PAGE_TOKENS);
	for (struct prefix_node *n = at->tip; n && n->depth > first; n = n->parent)
		n->n_wanted++;
}

void prefix_unwant(struct prefix_cache *c, struct prefix_place *at)
{
	struct prefix_node *tip = at->wanted;
	uint32_t first;

	if (!tip)
		return;
	at->wanted = NULL;
	first = hidden(c, tip->depth * KV_PAGE_TOKENS);
	for (struct prefix_node *n = tip; n && n->depth > first; n = n->parent)
		if (--n->n_wanted == 0)
			prefix_forget_saved(c, n);
	prefix_node_unhold(c, tip);
}

bool prefix_same_way(const struct prefix_cache *c, const struct prefix_place *at,
	const int32_t *tokens, const struct prefix_place *other, const int32_t *other_tokens)
{
	return at->tip == other->tip && (at->root == other->root || other->root == c->shared) &&
	       memcmp(tokens, other_tokens, KV_PAGE_TOKENS * sizeof(*tokens)) == 0;
}

struct prefix_cache *prefix_cache_new(struct kv_pool *kv, uint32_t window)
{
	struct prefix_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->kv = kv;
	c->window = window;
	if (getrandom(&c->seed, sizeof(c->seed), GRND_NONBLOCK) != sizeof(c->seed))
		c->seed = (uintptr_t)c; /* only where nodes lie depends on it */
	c->n_buckets = 64;
	while (c->n_buckets < kv->n_pages)
		c->n_buckets *= 2;
	c->buckets = calloc(c->n_buckets, sizeof(struct prefix_node *));
	c->of_page = calloc(kv->n_pages, sizeof(struct prefix_node *));
	c->root_of = calloc(kv->n_pages, sizeof(struct prefix_root *));
	c->path = calloc(kv->table_stride, sizeof(struct prefix_node *));
	c->shared = prefix_root_new(c, PREFIX_SHARED_UID, 0);
	if (!c->buckets || !c->of_page || !c->root_of || !c->path || !c->shared)
		return prefix_cache_free(c);
	c->shared->n_holds = 1;
	c->shared->tenant->shared = true;
	kv->keep = prefix_keep;
	kv->keep_userdata = c;
	return c;
}

struct prefix_cache *prefix_cache_free(struct prefix_cache *c)
{
	if (!c)
		return NULL;
	if (c->kv->keep_userdata == c)
		c->kv->keep = NULL;
	for (uint32_t i = 0; c->buckets && i < c->n_buckets; i++)
		while (c->buckets[i]) {
			struct prefix_node *next = c->buckets[i]->bucket;

			free(c->buckets[i]->saved);
			free(c->buckets[i]);
			c->buckets[i] = next;
		}
	while (c->roots) {
		struct prefix_root *next = c->roots->next;

		free(c->roots);
		c->roots = next;
	}
	while (c->tenants) {
		struct tenant *next = c->tenants->next;

		free(c->tenants);
		c->tenants = next;
	}
	free(c->buckets);
	free(c->of_page);
	free(c->root_of);
	free(c->path);
	free(c);
	return NULL;
}
