/* What the daemon remembers of replies outside sessions: a client that sends its conversation again
 * gets, for each reply in it, the ids that the model wrote. By uid, bounded, the oldest goes first;
 * the text worker asks, the I/O thread tells. */
#pragma once

#include <stdint.h>

#include "daemon/reply_ids.h"

struct reply_memory;
struct reply_memory *reply_memory_new(void); /* NULL: no memory */
struct reply_memory *reply_memory_free(struct reply_memory *m);

/* Remembers the reply for this uid, in place of one with the same key. Takes a reference of its
 * own. Without memory it does nothing. */
void reply_memory_add(struct reply_memory *m, uint32_t uid, struct reply_ids *ids);
/* The uid's reply with this key, a reference for the caller, or NULL. */
struct reply_ids *reply_memory_find(
	struct reply_memory *m, uint32_t uid, const uint8_t key[DIGEST_BYTES]);
