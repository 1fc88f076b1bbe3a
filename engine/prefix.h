/* Prefix reuse: which pages hold the keys and values of which tokens, and for whom they are kept.
 *
 * Every page of 16 computed positions becomes a node: its 16 tokens after its parent's. The nodes
 * of one user are a tree under a root of that user's, so a prompt finds what an earlier one has
 * left by walking down from the root; tokens are compared, hashes only find the candidates. Nothing
 * under one root is ever seen from another, but what hangs under the shared root: the prompt that
 * the administrator has named, the same for everybody and known to all.
 *
 * A page that no sequence shows stays with its node until room is needed. Pages are charged to the
 * uid: one that holds more than its share of the pool (the pool by the number of uids that hold
 * pages or have requests) loses its oldest first, whoever needs them; one within its share loses
 * pages to its own requests only.
 *
 * What a sequence that has to wait again will want is marked; where such a page is evicted its
 * bytes go to the host's memory, if there is room and if copying is quicker than computing.
 *
 * That decode steps and prompt chunks write the same bits makes all of this invisible in replies.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "engine/cost.h"
#include "engine/kv.h"

TAILQ_HEAD(prefix_list, prefix_node);

/* A uid's interactive or its batch requests, as the scheduler sees them (schedule.c, share.c). */
struct flow {
	double turn; /* of the last request that came */
	double owed; /* microseconds of the device that it may take */
	uint32_t weight;
	uint32_t n_running;
	uint64_t served;              /* the last step that had rows of it */
	uint32_t n_decode, n_prefill; /* sequences that want rows in this step */
	struct cost_work work;        /* that it gets */
};

/* What is charged to a uid. */
struct tenant {
	struct tenant *next;
	uint32_t uid;
	struct flow flows[2]; /* interactive, batch */
	bool gave_way;        /* in this step, one of its sequences: its idle pages are anybody's */
	bool passed_over;     /* in this round of admission */
	bool shared;          /* the administrator's: outside all shares */
	uint32_t pages;       /* shown, cached or pinned, under all its roots */
	uint32_t n_roots;
	struct prefix_list idle; /* nodes whose page no sequence shows, the oldest first */
	uint32_t n_idle;
	uint64_t saved_bytes; /* in the host's memory */
};

struct prefix_root {
	struct prefix_root *next;
	uint64_t id; /* the owner of its pages' bytes; never used twice */
	uint64_t key;
	struct tenant *tenant;
	uint32_t n_nodes, n_holds; /* sequences hold it */
};

struct prefix_node {
	struct prefix_node *bucket; /* next of the same hash */
	struct prefix_node *parent; /* NULL: the first page */
	struct prefix_root *root;
	TAILQ_ENTRY(prefix_node) link; /* in tenant->idle */
	uint64_t hash;                 /* of all tokens up to here, by root */
	uint32_t depth;                /* pages up to here, this one included */
	uint32_t n_children, n_holds;
	uint32_t page; /* KV_PAGE_NONE: it is gone, but what hangs below is not */
	bool pinned;
	uint32_t n_wanted; /* by waiting sequences */
	uint8_t *saved;    /* the bytes of a page that is gone, or NULL */
	int32_t tokens[KV_PAGE_TOKENS];
};

struct prefix_cache {
	struct kv_pool *kv;
	uint32_t window; /* positions that a row sees; 0: all */
	uint64_t seed;
	uint64_t last_root;
	struct prefix_node **buckets; /* [n_buckets] a power of two */
	uint32_t n_buckets, n_nodes;
	struct prefix_node **of_page; /* [n_pages] */
	struct prefix_root **root_of; /* [n_pages] who has taken the page */
	struct prefix_node **path;    /* [table_stride] scratch */
	struct prefix_root *roots, *shared;
	struct tenant *tenants;
	uint32_t n_idle;

	/* Pages in the host's memory. */
	uint64_t saved_max_bytes, saved_bytes;
	double save_usec;             /* of a page there and back, a running mean; 0: not known */
	double compute_usec;          /* of a page's rows, the engine's estimate; 0: not known */
	uint64_t n_saved, n_restored; /* pages since the start */
	uint64_t n_evicted;           /* for want of room */
};

/* The pool is not owned. NULL for want of memory. */
struct prefix_cache *prefix_cache_new(struct kv_pool *kv, uint32_t window);
struct prefix_cache *prefix_cache_free(struct prefix_cache *c); /* accepts NULL, returns NULL */

/* The root of a uid's prompts under one key, held until it is put. NULL for want of memory. */
struct prefix_root *prefix_root_get(struct prefix_cache *c, uint32_t uid, uint64_t key);
void prefix_root_put(struct prefix_cache *c, struct prefix_root *root); /* accepts NULL */

/* Where one sequence stands in its tree. */
struct prefix_place {
	struct prefix_root *root;
	struct prefix_node *tip;    /* its last whole page, held; NULL: none yet */
	struct prefix_node *wanted; /* what it had before it had to wait again, held; or NULL */
};

/* Shows in the slot's row the pages that are cached for tokens [n_tokens] behind the n_cached
 * positions that the slot has; with `restore`, those in the host's memory too. The last token is
 * left to be run. Returns the positions that the slot has then. */
uint32_t prefix_attach(struct prefix_cache *c, struct prefix_place *at, uint32_t slot,
	const int32_t *tokens, uint32_t n_tokens, uint32_t n_cached, bool restore);

/* Remembers the whole pages of the slot's n_cached computed positions. Where another sequence has
 * computed one meanwhile, the slot shows that one's page and gives its own back. */
void prefix_advance(struct prefix_cache *c, struct prefix_place *at, uint32_t slot,
	const int32_t *tokens, uint32_t n_cached);

/* Gives back all that the slot shows. The place's root stays. */
void prefix_release(struct prefix_cache *c, struct prefix_place *at, uint32_t slot);

/* Marks the pages that the slot, about to be released, will want again; the mark goes when the
 * sequence has got them, or goes itself. */
void prefix_want(struct prefix_cache *c, struct prefix_place *at);
void prefix_unwant(struct prefix_cache *c, struct prefix_place *at); /* safe to call twice */

/* Makes pages for positions 0 … n_positions - 1 of the slot, evicting where none is free; with
 * `any` also what others hold within their share. -ENOSPC: what the slot has it keeps; another
 * errno: the device failed. */
int prefix_extend(struct prefix_cache *c, const struct prefix_place *at, uint32_t slot,
	uint32_t n_positions, bool any);

/* Pages that prefix_extend() could give to a sequence of this root. */
uint32_t prefix_room(const struct prefix_cache *c, const struct prefix_root *root, bool any);

/* True where the sequence at `at`, next tokens [16], would find that page made by the one at
 * `other`, next tokens other_tokens [16], were it to wait. */
bool prefix_same_way(const struct prefix_cache *c, const struct prefix_place *at,
	const int32_t *tokens, const struct prefix_place *other, const int32_t *other_tokens);

/* Drops what is cached for one uid, or (`all`) for everybody; pinned pages stay, freed ones are
 * zeroed. Returns pages, or a negative errno: the device failed. */
int64_t prefix_drop(struct prefix_cache *c, uint32_t uid, bool all);

/* Pages of a uid's share now. */
uint32_t prefix_share(const struct prefix_cache *c);
