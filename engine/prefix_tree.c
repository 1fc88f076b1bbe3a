/* The trees of the prefix cache: owns roots, tenants and nodes.
 *
 * A node lives while it has a page, children or a holder. Where an older page was evicted and a
 * younger one was not, the node between stays without its page, so that a chain of tokens is never
 * guessed from a hash. */
#include "engine/prefix_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Nodes that the cache may have for each page of the pool, those without a page included. */
#define NODES_PER_PAGE 8

struct prefix_root *prefix_root_new(struct prefix_cache *c, uint32_t uid, uint64_t key)
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
		root = prefix_root_new(c, uid, key);
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
struct prefix_node *prefix_child(const struct prefix_cache *c, const struct prefix_root *root,
	const struct prefix_node *parent, const int32_t *tokens)
{
	struct prefix_node *n = NULL;

	if (!parent || parent->root == c->shared)
		n = find(c, c->shared, parent, tokens);
	return n || root == c->shared ? n : find(c, root, parent, tokens);
}

void prefix_node_hold(struct prefix_node *n)
{
	if (n)
		n->n_holds++;
}

/* Frees the node and those above it that nothing needs any more. */
void prefix_node_prune(struct prefix_cache *c, struct prefix_node *n)
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

void prefix_node_unhold(struct prefix_cache *c, struct prefix_node *n)
{
	if (!n)
		return;
	assert(n->n_holds > 0);
	n->n_holds--;
	prefix_node_prune(c, n);
}

struct prefix_node *prefix_node_new(struct prefix_cache *c, struct prefix_root *root,
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
