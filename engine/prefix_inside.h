/* What the files of the prefix cache share. */
#pragma once

#include "engine/prefix.h"

#define PREFIX_SHARED_UID UINT32_MAX /* no user's: (uid_t)-1 */

/* prefix_tree.c */

struct prefix_root *prefix_root_new(struct prefix_cache *c, uint32_t uid, uint64_t key);

/* The node of these 16 tokens after `parent` (NULL: at the beginning): the shared prompt's as long
 * as it goes, else the root's, or NULL. */
struct prefix_node *prefix_child(const struct prefix_cache *c, const struct prefix_root *root,
	const struct prefix_node *parent, const int32_t *tokens);
/* Makes it, without a page. NULL: no memory, or too many. */
struct prefix_node *prefix_node_new(struct prefix_cache *c, struct prefix_root *root,
	struct prefix_node *parent, const int32_t *tokens);
/* Frees the node and those above it that nothing needs any more. */
void prefix_node_prune(struct prefix_cache *c, struct prefix_node *n);
void prefix_node_hold(struct prefix_node *n); /* both accept NULL */
void prefix_node_unhold(struct prefix_cache *c, struct prefix_node *n);

/* prefix_page.c */

/* The pool's question: what becomes of a page that nobody shows any more. */
bool prefix_keep(void *userdata, uint32_t page);
/* One more reference to the node's page, which it has. */
uint32_t prefix_page_ref(struct prefix_cache *c, struct prefix_node *n);
/* Brings a page back from the host's memory, with one reference. False: there is no room. */
bool prefix_restore(struct prefix_cache *c, struct prefix_node *n);
void prefix_forget_saved(struct prefix_cache *c, struct prefix_node *n);
