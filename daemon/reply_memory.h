/* What the daemon remembers of replies outside sessions: a client that sends its conversation again
 * gets, for each reply in it, the ids that the model wrote. By uid, bounded, the oldest goes first;
 * the text worker asks, the I/O thread tells. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/reply_ids.h"

struct reply_memory;
struct reply_memory *reply_memory_new(void); /* NULL: no memory */
struct reply_memory *reply_memory_free(struct reply_memory *m);

/* Remembers the reply for this uid, in place of one with the same key. Takes a reference of its
 * own. Without memory it does nothing. */
void reply_memory_add(struct reply_memory *m, uint32_t uid, struct reply_ids *ids);
/* Forgets what is remembered for one uid, or (`all`) for everybody. Returns replies. */
uint32_t reply_memory_drop(struct reply_memory *m, uint32_t uid, bool all);
/* Bytes held for one uid, or (`all`) for everybody. */
uint64_t reply_memory_bytes(struct reply_memory *m, uint32_t uid, bool all);
/* The uid's reply with this key, a reference for the caller, or NULL. */
struct reply_ids *reply_memory_find(
	struct reply_memory *m, uint32_t uid, const uint8_t key[DIGEST_BYTES]);
