/* Why: see reply_ids.h. A record owns nothing beyond itself and goes with its last reference. */
#include "daemon/reply_ids.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/utf8.h"

struct reply_ids *reply_ids_new(const uint8_t key[DIGEST_BYTES], const uint8_t prompt[DIGEST_BYTES],
	const int32_t *ids, uint32_t n)
{
	struct reply_ids *r = malloc(sizeof(*r) + (size_t)n * sizeof(*ids));

	if (!r)
		return NULL;
	atomic_init(&r->refs, 1);
	memcpy(r->key, key, DIGEST_BYTES);
	memcpy(r->prompt, prompt, DIGEST_BYTES);
	r->n = n;
	if (ids)
		memcpy(r->ids, ids, (size_t)n * sizeof(*ids));
	return r;
}

struct reply_ids *reply_ids_ref(struct reply_ids *r)
{
	atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	return r;
}

struct reply_ids *reply_ids_unref(struct reply_ids *r)
{
	if (r && atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
		free(r);
	return NULL;
}

int reply_ids_key(
	const uint8_t place[DIGEST_BYTES], const char *text, size_t len, uint8_t ret[DIGEST_BYTES])
{
	struct digest *d = digest_new();
	int r;

	if (!d)
		return -ENOMEM;
	r = digest_add(d, place, DIGEST_BYTES);
	if (r == 0)
		r = digest_add(d, text, len);
	if (r == 0)
		r = digest_now(d, ret);
	digest_free(d);
	return r;
}

/* The bytes of n ids; NULL: no memory. */
static char *spell(const struct tokenizer *t, const int32_t *ids, uint32_t n, size_t *ret_len)
{
	size_t len = 0;
	char *bytes;

	for (uint32_t i = 0; i < n; i++)
		len += tokenizer_piece(t, ids[i]).len;
	bytes = malloc(len + 1);
	if (!bytes)
		return NULL;
	len = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct slice piece = tokenizer_piece(t, ids[i]);

		if (piece.len)
			memcpy(bytes + len, piece.text, piece.len);
		len += piece.len;
	}
	*ret_len = len;
	return bytes;
}

/* Of valid text and bytes: how long they are the same, a bad byte standing for its U+FFFD. True
 * where that is all of the text; *ret_bytes is then how many bytes say it. */
static bool says(const char *bytes, size_t n, const char *text, size_t len, size_t *ret_bytes)
{
	size_t at = 0, to = 0;
	uint32_t code;
	char out[4];

	while (to < len && at < n) {
		size_t used = utf8_decode(bytes + at, n - at, &code);
		size_t wrote = utf8_encode(code == UINT32_MAX ? 0xfffd : code, out);

		if (wrote > len - to || memcmp(text + to, out, wrote) != 0)
			return false;
		at += used;
		to += wrote;
	}
	*ret_bytes = at;
	return to == len;
}

uint32_t reply_ids_cover(
	const struct tokenizer *t, const int32_t *ids, uint32_t n, const char *text, size_t len)
{
	size_t n_bytes, said, at = 0;
	uint32_t covered = 0;
	char *bytes;

	if (len == 0)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		if (ids[i] < 0 || (uint32_t)ids[i] >= tokenizer_vocab(t))
			return 0;
	bytes = spell(t, ids, n, &n_bytes);
	if (!bytes)
		return 0;
	if (says(bytes, n_bytes, text, len, &said))
		for (uint32_t i = 0; i < n && at <= said; i++) {
			at += tokenizer_piece(t, ids[i]).len;
			if (at == said)
				covered = i + 1;
		}
	free(bytes);
	return covered;
}
