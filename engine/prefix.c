/* Prefix reuse: owns the nodes, the roots, the tenants, and what is remembered of each page.
 *
 * A node lives while it has a page, children or a holder. Where an older page was evicted and a
 * younger one was not, the node between stays without its page, so that a chain of tokens is never
 * guessed from a hash. */
#include "engine/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define SHARED_UID UINT32_MAX /* no user's: (uid_t)-1 */

/* Nodes that the cache may have for each page of the pool, those without a page included. */
#define NODES_PER_PAGE 8

static struct prefix_root *root_new(struct prefix_cache *c, uint32_t uid, uint64_t key)
{
	struct prefix_root *root = calloc(1, sizeof(*root));
	struct tenant *t = c->tenants;

	while (t && t->uid != uid)
		t = t->next;
	if (!t && root) {
		t = calloc(1, sizeof(*t));
		if (t) {
			t->uid = uid;
			t->flows[0].weight = t->flows[1].weight = 1;
			TAILQ_INIT(&t->idle);
			t->next = c->tenants;
			c->tenants = t;
		}
	}
	if (!root || !t) {
		free(root);
		return NULL;
	}
	root->id = ++c->last_root;
	root->key = key;
	root->tenant = t;
	t->n_roots++;
	root->next = c->roots;
	c->roots = root;
	return root;
}

/* Frees a root that nothing hangs on, and its tenant after its last root. */
static void root_prune(struct prefix_cache *c, struct prefix_root *root)
{
	struct prefix_root **at = &c->roots;
	struct tenant **t = &c->tenants;

	if (root->n_nodes > 0 || root->n_holds > 0)
		return;
	while (*at != root)
		at = &(*at)->next;
	*at = root->next;
	while (*t != root->tenant)
		t = &(*t)->next;
	if (--(*t)->n_roots == 0) {
		struct tenant *gone = *t;

		assert(gone->pages == 0 && gone->n_idle == 0);
		*t = gone->next;
		free(gone);
	}
	free(root);
}

struct prefix_root *prefix_root_get(struct prefix_cache *c, uint32_t uid, uint64_t key)
{
	struct prefix_root *root = c->roots;

	while (root && (root->tenant->uid != uid || root->key != key))
		root = root->next;
	if (!root)
		root = root_new(c, uid, key);
	if (root)
		root->n_holds++;
	return root;
}

void prefix_root_put(struct prefix_cache *c, struct prefix_root *root)
{
	if (!root)
		return;
	assert(root->n_holds > 0);
	root->n_holds--;
	root_prune(c, root);
}

static uint64_t mix(uint64_t h, uint64_t x)
{
	h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

static uint64_t hash_of(const struct prefix_cache *c, const struct prefix_root *root,
	const struct prefix_node *parent, const int32_t *tokens)
{
	uint64_t h = mix(parent ? parent->hash : c->seed, root->id);

	for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++)
		h = mix(h, (uint32_t)tokens[i]);
	return h;
}

static struct prefix_node **bucket_of(const struct prefix_cache *c, uint64_t hash)
{
	return &c->buckets[(hash >> 20) & (c->n_buckets - 1)];
}

static struct prefix_node *find(const struct prefix_cache *c, const struct prefix_root *root,
	const struct prefix_node *parent, const int32_t *tokens)
{
	uint64_t hash = hash_of(c, root, parent, tokens);
	struct prefix_node *n = *bucket_of(c, hash);

	while (n && (n->hash != hash || n->parent != parent || n->root != root ||
			    memcmp(n->tokens, tokens, sizeof(n->tokens)) != 0))
		n = n->bucket;
	return n;
}

/* The node of these 16 tokens after `parent`: the shared prompt's as long as it goes. */
static struct prefix_node *child(const struct prefix_cache *c, const struct prefix_root *root,
	const struct prefix_node *parent, const int32_t *tokens)
{
	struct prefix_node *n = NULL;

	if (!parent || parent->root == c->shared)
		n = find(c, c->shared, parent, tokens);
	return n || root == c->shared ? n : find(c, root, parent, tokens);
}

static void node_hold(struct prefix_node *n)
{
	if (n)
		n->n_holds++;
}

/* Frees the node and those above it that nothing needs any more. */
static void node_prune(struct prefix_cache *c, struct prefix_node *n)
{
	while (n && n->page == KV_PAGE_NONE && n->n_children == 0 && n->n_holds == 0) {
		assert(!n->saved);
		struct prefix_node *parent = n->parent, **at = bucket_of(c, n->hash);
		struct prefix_root *root = n->root;

		while (*at != n)
			at = &(*at)->bucket;
		*at = n->bucket;
		free(n);
		c->n_nodes--;
		root->n_nodes--;
		if (parent)
			parent->n_children--;
		root_prune(c, root);
		n = parent;
	}
}

static void node_unhold(struct prefix_cache *c, struct prefix_node *n)
{
	if (!n)
		return;
	assert(n->n_holds > 0);
	n->n_holds--;
	node_prune(c, n);
}

static struct prefix_node *node_new(struct prefix_cache *c, struct prefix_root *root,
	struct prefix_node *parent, const int32_t *tokens)
{
	struct prefix_node *n, **at;

	if (c->n_nodes >= (uint64_t)NODES_PER_PAGE * c->kv->n_pages)
		return NULL;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->parent = parent;
	n->root = root;
	n->depth = parent ? parent->depth + 1 : 1;
	n->page = KV_PAGE_NONE;
	memcpy(n->tokens, tokens, sizeof(n->tokens));
	n->hash = hash_of(c, root, parent, tokens);
	at = bucket_of(c, n->hash);
	n->bucket = *at;
	*at = n;
	if (parent)
		parent->n_children++;
	root->n_nodes++;
	c->n_nodes++;
	return n;
}

/* The pool's question: what becomes of a page that nobody shows any more. */
static bool keep(void *userdata, uint32_t page)
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
static uint32_t page_ref(struct prefix_cache *c, struct prefix_node *n)
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

static void forget_saved(struct prefix_cache *c, struct prefix_node *n)
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
	node_prune(c, n); /* may free t */
}

uint32_t prefix_share(const struct prefix_cache *c)
{
	uint32_t n = 0;

	for (const struct tenant *t = c->tenants; t; t = t->next)
		n += !t->shared;
	return (c->kv->n_pages - c->shared->tenant->pages) / (n ? n : 1);
}

/* Frees one page for the tenant: of whoever is furthest over the share, else its own; with `any`
 * else of whoever has most. False: nothing may be taken. */
static bool evict(struct prefix_cache *c, struct tenant *wants, bool any)
{
	uint32_t share = prefix_share(c);
	struct tenant *most = NULL, *victim = NULL;

	for (struct tenant *t = c->tenants; t; t = t->next) {
		if (t->n_idle == 0)
			continue;
		if (!most || t->pages > most->pages)
			most = t;
	}
	if (most && most->pages > share)
		victim = most;
	else if (wants->n_idle > 0)
		victim = wants;
	else if (any)
		victim = most;
	if (victim)
		evict_from(c, victim);
	return victim != NULL;
}

uint32_t prefix_room(const struct prefix_cache *c, const struct prefix_root *root, bool any)
{
	uint32_t room = c->kv->n_free, share = prefix_share(c);

	for (const struct tenant *t = c->tenants; t; t = t->next) {
		uint32_t over = t->pages > share ? t->pages - share : 0;

		if (any || t == root->tenant)
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
static bool restore_page(struct prefix_cache *c, struct prefix_node *n)
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
	forget_saved(c, n);
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
	node_hold(to);
	node_unhold(c, at->tip);
	at->tip = to;
}

/* Shows path [first, to), as far as there is room for what has to come back. Returns the end. */
static uint32_t show(struct prefix_cache *c, uint32_t slot, uint32_t first, uint32_t to)
{
	uint32_t end = first;

	/* first those that are there are held, so that room for the others is not made of them */
	for (uint32_t k = first; k < to; k++)
		if (c->path[k]->page != KV_PAGE_NONE)
			page_ref(c, c->path[k]);
	while (end < to && (c->path[end]->page != KV_PAGE_NONE || restore_page(c, c->path[end])))
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
		n = child(c, at->root, n, tokens + (size_t)depth * KV_PAGE_TOKENS);
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
		kv_pool_replace(c->kv, slot, entry, page_ref(c, n));
		return;
	}
	forget_saved(c, n);
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
		struct prefix_node *n = child(c, at->root, at->tip, here);

		if (!n)
			n = node_new(c, at->root, at->tip, here);
		if (!n)
			return; /* the pages serve this sequence alone */
		settle(c, n, slot, d);
		move_tip(c, at, n);
	}
}

void prefix_release(struct prefix_cache *c, struct prefix_place *at, uint32_t slot)
{
	kv_pool_clear(c->kv, slot);
	node_unhold(c, at->tip);
	at->tip = NULL;
}

void prefix_want(struct prefix_cache *c, struct prefix_place *at)
{
	uint32_t first;

	if (!at->tip || at->wanted)
		return;
	node_hold(at->tip);
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
			forget_saved(c, n);
	node_unhold(c, tip);
}

bool prefix_same_way(const struct prefix_cache *c, const struct prefix_place *at,
	const int32_t *tokens, const struct prefix_place *other, const int32_t *other_tokens)
{
	return at->tip == other->tip && (at->root == other->root || other->root == c->shared) &&
	       memcmp(tokens, other_tokens, KV_PAGE_TOKENS * sizeof(*tokens)) == 0;
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
	c->shared = root_new(c, SHARED_UID, 0);
	if (!c->buckets || !c->of_page || !c->root_of || !c->path || !c->shared)
		return prefix_cache_free(c);
	c->shared->n_holds = 1;
	c->shared->tenant->shared = true;
	kv->keep = keep;
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
