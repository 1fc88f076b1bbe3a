/* The pages of the prefix cache: whose they are, who loses one where none is free, and what of them
 * lies in the host's memory. */
#include "engine/prefix_inside.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* The pool's question: what becomes of a page that nobody shows any more. */
bool prefix_keep(void *userdata, uint32_t page)
{
	struct prefix_cache *c = userdata;
	struct prefix_node *n = c->of_page[page];

	if (n) {
		struct tenant *t = n->root->tenant;

		TAILQ_INSERT_TAIL(&t->idle, n, link);
		t->n_idle++;
		c->n_idle++;
		return true;
	}
	c->root_of[page]->tenant->pages--;
	c->root_of[page] = NULL;
	return false;
}

/* One more reference to the node's page. */
uint32_t prefix_page_ref(struct prefix_cache *c, struct prefix_node *n)
{
	struct tenant *t = n->root->tenant;

	if (c->kv->refs[n->page] == 0) {
		TAILQ_REMOVE(&t->idle, n, link);
		t->n_idle--;
		c->n_idle--;
	}
	kv_pool_ref(c->kv, n->page);
	return n->page;
}

static double now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void note_copy(struct prefix_cache *c, double began_usec)
{
	double usec = 2 * (now_usec() - began_usec); /* there and back */

	c->save_usec += (usec - c->save_usec) / (c->save_usec > 0 ? 8 : 1);
}

/* The bytes of a page that somebody waits for, about to be evicted, to the host's memory. */
static void save(struct prefix_cache *c, struct prefix_node *n)
{
	size_t bytes = kv_pool_saved_bytes(c->kv);
	struct tenant *t = n->root->tenant;
	double began = now_usec();
	uint32_t uids = 0;

	for (const struct tenant *o = c->tenants; o; o = o->next)
		uids += !o->shared;
	if (n->n_wanted == 0 || bytes > c->saved_max_bytes - c->saved_bytes ||
		t->saved_bytes + bytes > c->saved_max_bytes / uids)
		return;
	if (c->save_usec > 0 && c->compute_usec > 0 && c->save_usec > c->compute_usec)
		return;
	n->saved = malloc(bytes);
	if (!n->saved)
		return;
	if (kv_pool_save(c->kv, n->page, n->saved) < 0) { /* the next step will fail, too */
		free(n->saved);
		n->saved = NULL;
		return;
	}
	note_copy(c, began);
	c->saved_bytes += bytes;
	t->saved_bytes += bytes;
	c->n_saved++;
}

void prefix_forget_saved(struct prefix_cache *c, struct prefix_node *n)
{
	size_t bytes = kv_pool_saved_bytes(c->kv);

	if (!n->saved)
		return;
	free(n->saved);
	n->saved = NULL;
	c->saved_bytes -= bytes;
	n->root->tenant->saved_bytes -= bytes;
}

/* Frees the tenant's oldest idle page. */
static void evict_from(struct prefix_cache *c, struct tenant *t)
{
	struct prefix_node *n = TAILQ_FIRST(&t->idle);
	uint32_t page = n->page;

	save(c, n);
	TAILQ_REMOVE(&t->idle, n, link);
	t->n_idle--;
	c->n_idle--;
	t->pages--;
	n->page = KV_PAGE_NONE;
	c->of_page[page] = NULL;
	c->root_of[page] = NULL;
	kv_pool_give(c->kv, page);
	prefix_node_prune(c, n); /* may free t */
}

uint32_t prefix_share(const struct prefix_cache *c)
{
	uint32_t n = 0;

	for (const struct tenant *t = c->tenants; t; t = t->next)
		n += !t->shared;
	return (c->kv->n_pages - c->shared->tenant->pages) / (n ? n : 1);
}

/* Frees one page for the tenant: of whoever is furthest over the share, else its own, else of one
 * who gave way just now; with `any` else of whoever has most. False: nothing may be taken. */
static bool evict(struct prefix_cache *c, struct tenant *wants, bool any)
{
	uint32_t share = prefix_share(c);
	struct tenant *most = NULL, *gave_way = NULL, *victim = NULL;

	for (struct tenant *t = c->tenants; t; t = t->next) {
		if (t->n_idle == 0)
			continue;
		if (!most || t->pages > most->pages)
			most = t;
		if (t->gave_way)
			gave_way = t;
	}
	if (most && most->pages > share)
		victim = most;
	else if (wants->n_idle > 0)
		victim = wants;
	else if (gave_way)
		victim = gave_way;
	else if (any)
		victim = most;
	if (victim) {
		evict_from(c, victim);
		c->n_evicted++;
	}
	return victim != NULL;
}

uint32_t prefix_room(const struct prefix_cache *c, const struct prefix_root *root, bool any)
{
	uint32_t room = c->kv->n_free, share = prefix_share(c);

	for (const struct tenant *t = c->tenants; t; t = t->next) {
		uint32_t over = t->pages > share ? t->pages - share : 0;

		if (any || t->gave_way || t == root->tenant)
			over = t->n_idle;
		room += over < t->n_idle ? over : t->n_idle;
	}
	return room;
}

/* A page with one reference for rows of the root's. */
static int page_new(struct prefix_cache *c, struct prefix_root *root, bool any, uint32_t *ret)
{
	int r;

	if (c->kv->n_free == 0 && !evict(c, root->tenant, any))
		return -ENOSPC;
	r = kv_pool_take(c->kv, root->id, ret);
	if (r < 0)
		return r;
	c->root_of[*ret] = root;
	root->tenant->pages++;
	return 0;
}

/* Brings a page back from the host's memory, with one reference. False: there is no room. */
bool prefix_restore(struct prefix_cache *c, struct prefix_node *n)
{
	double began = now_usec();
	uint32_t page = 0;

	if (page_new(c, n->root, false, &page) < 0)
		return false;
	if (kv_pool_restore(c->kv, page, n->saved) < 0) { /* the next step will fail, too */
		kv_pool_unref(c->kv, page);
		return false;
	}
	note_copy(c, began);
	c->n_restored++;
	prefix_forget_saved(c, n);
	n->page = page;
	c->of_page[page] = n;
	return true;
}

int prefix_extend(struct prefix_cache *c, const struct prefix_place *at, uint32_t slot,
	uint32_t n_positions, bool any)
{
	uint32_t wanted = kv_pages_of(n_positions), have = c->kv->slot_pages[slot], page = 0;

	if (wanted <= have)
		return 0;
	if (wanted - have > prefix_room(c, at->root, any))
		return -ENOSPC;
	for (; have < wanted; have++) {
		int r = page_new(c, at->root, any, &page);

		if (r < 0)
			return r;
		kv_pool_show(c->kv, slot, page);
	}
	return 0;
}

int64_t prefix_drop(struct prefix_cache *c, uint32_t uid, bool all)
{
	struct tenant *t, *next;
	int64_t n = 0;
	int r;

	for (t = c->tenants; t; t = next) {
		next = t->next;
		if (!all && t->uid != uid)
			continue;
		for (uint32_t left = t->n_idle; left > 0; left--, n++)
			evict_from(c, t);
	}
	r = kv_pool_wipe(c->kv);
	return r < 0 ? r : n;
}
