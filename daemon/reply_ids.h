/* The token ids of a reply, kept so that the next prompt of its conversation starts with the ids
 * that the model has seen and written, not with those that its text would be cut into: what is
 * cached of them is then used again.
 *
 * A record says where it holds: behind exactly this rendered text, which had exactly these ids, of
 * this model. Records are immutable and shared between threads. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/digest.h"
#include "engine/tokenizer.h"

struct reply_ids {
	atomic_uint refs;
	uint8_t key[DIGEST_BYTES];    /* of the place and the reply's text: reply_ids_key() */
	uint8_t prompt[DIGEST_BYTES]; /* SHA-256 of the ids before it, as little-endian 32 bits */
	uint32_t n;
	int32_t ids[]; /* [n, at least 1] */
};

struct reply_ids *reply_ids_new(const uint8_t key[DIGEST_BYTES], const uint8_t prompt[DIGEST_BYTES],
	const int32_t *ids, uint32_t n); /* ids NULL: to be filled; returns NULL: no memory */
struct reply_ids *reply_ids_ref(struct reply_ids *r);
struct reply_ids *reply_ids_unref(struct reply_ids *r); /* accepts NULL, returns NULL */

/* The key of a reply with this text behind what `place` is the digest of (the model's identity,
 * then the rendered text). 0 or a negative errno. */
int reply_ids_key(
	const uint8_t place[DIGEST_BYTES], const char *text, size_t len, uint8_t ret[DIGEST_BYTES]);

/* How many of the ids, from the first, say exactly the text (a bad byte of theirs is U+FFFD in it):
 * a stop text is in the ids of a reply and not in its text. The most where several do; 0: none. */
uint32_t reply_ids_cover(
	const struct tokenizer *t, const int32_t *ids, uint32_t n, const char *text, size_t len);
