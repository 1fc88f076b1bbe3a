/* The model's content hash: what a receipt names, so that a reply can be repeated years later.
 *
 * Each tensor's bytes have a SHA-256 of their own, computed by whichever thread is free; one last
 * SHA-256 runs over the sorted list and the metadata. The result depends on contents alone, not on
 * the order of tensors in the file, the threads or their number. */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/source.h"

#define DIGEST_BYTES 32
#define CHUNK_BYTES  (1u << 20) /* between two looks at *stop */
#define THREADS_MAX  256

struct part {
	const struct source_tensor *tensor;
	unsigned char digest[DIGEST_BYTES];
};

struct hashing {
	struct part *parts; /* [n] */
	size_t n;
	atomic_size_t next;
	atomic_int failure; /* 0 or a negative errno */
	const _Atomic bool *stop;
};

static int digest_tensor(const struct hashing *h, EVP_MD_CTX *ctx, struct part *part)
{
	const unsigned char *at = part->tensor->data;
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	size_t left = part->tensor->bytes, n;
	uintptr_t from, to;

	if (EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		return -EIO;
	for (; left > 0; at += n, left -= n) {
		if (h->stop && *h->stop)
			return -ECANCELED;
		n = left < CHUNK_BYTES ? left : CHUNK_BYTES;
		if (EVP_DigestUpdate(ctx, at, n) != 1)
			return -EIO;
		/* The file is larger than the loaded model may be: its pages leave the process, the
		 * page cache keeps them while it has room. */
		from = ((uintptr_t)at + page - 1) & ~(page - 1);
		to = ((uintptr_t)at + n) & ~(page - 1);
		if (from < to)
			(void)madvise((void *)from, to - from, MADV_DONTNEED);
	}
	return EVP_DigestFinal_ex(ctx, part->digest, NULL) == 1 ? 0 : -EIO;
}

static void *work(void *argument)
{
	struct hashing *h = argument;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t i;
	int r = ctx ? 0 : -ENOMEM;

	while (r == 0 && atomic_load(&h->failure) == 0 &&
		(i = atomic_fetch_add(&h->next, 1)) < h->n)
		r = digest_tensor(h, ctx, &h->parts[i]);
	if (r < 0)
		atomic_store(&h->failure, r);
	EVP_MD_CTX_free(ctx);
	return NULL;
}

/* Large tensors first, so that the threads end together. */
static int by_size(const void *a, const void *b)
{
	size_t x = ((const struct part *)a)->tensor->bytes;
	size_t y = ((const struct part *)b)->tensor->bytes;

	return x > y ? -1 : x < y;
}

static int by_name(const void *a, const void *b)
{
	struct slice x = ((const struct part *)a)->tensor->name;
	struct slice y = ((const struct part *)b)->tensor->name;
	int r = memcmp(x.text, y.text, x.len < y.len ? x.len : y.len);

	return r ? r : x.len < y.len ? -1 : x.len > y.len;
}

static bool add_number(EVP_MD_CTX *ctx, uint64_t v)
{
	unsigned char bytes[8];
	unsigned i;

	for (i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(v >> 8 * i);
	return EVP_DigestUpdate(ctx, bytes, sizeof(bytes)) == 1;
}

/* Numbers are 8 bytes, little-endian; names and the metadata follow their length. */
static bool add_part(EVP_MD_CTX *ctx, const struct part *part)
{
	const struct source_tensor *t = part->tensor;
	unsigned d;

	if (!add_number(ctx, t->name.len) || !EVP_DigestUpdate(ctx, t->name.text, t->name.len) ||
		!add_number(ctx, (uint64_t)t->dtype))
		return false;
	for (d = 0; d < 4; d++)
		if (!add_number(ctx, t->dims[d]))
			return false;
	return EVP_DigestUpdate(ctx, part->digest, DIGEST_BYTES) == 1;
}

static int digest_all(const struct model *m, struct hashing *h, char ret_hex[65])
{
	unsigned char digest[DIGEST_BYTES];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t i;
	bool ok;

	if (!ctx)
		return -ENOMEM;
	qsort(h->parts, h->n, sizeof(*h->parts), by_name);
	ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 && add_number(ctx, h->n);
	for (i = 0; i < h->n && ok; i++)
		ok = add_part(ctx, &h->parts[i]);
	for (i = 0; i < m->source->n_metadata && ok; i++) {
		const struct slice *s = &m->source->metadata[i];

		ok = add_number(ctx, s->len) && EVP_DigestUpdate(ctx, s->text, s->len) == 1;
	}
	ok = ok && EVP_DigestFinal_ex(ctx, digest, NULL) == 1;
	EVP_MD_CTX_free(ctx);
	if (!ok)
		return -EIO;
	for (i = 0; i < DIGEST_BYTES; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
	return 0;
}

int model_hash(const struct model *m, uint32_t threads, const _Atomic bool *stop, char ret_hex[65])
{
	struct hashing h = {.n = m->source->n_tensors, .stop = stop};
	pthread_t ids[THREADS_MAX];
	uint32_t started = 0;
	long processors;
	size_t i;
	int r;

	if (threads == 0) {
		processors = sysconf(_SC_NPROCESSORS_ONLN);
		threads = processors > 0 ? (uint32_t)processors : 1;
	}
	if (threads > THREADS_MAX)
		threads = THREADS_MAX;
	h.parts = calloc(h.n ? h.n : 1, sizeof(*h.parts));
	if (!h.parts)
		return -ENOMEM;
	for (i = 0; i < h.n; i++)
		h.parts[i].tensor = &m->source->tensors[i];
	qsort(h.parts, h.n, sizeof(*h.parts), by_size);

	/* This thread works too; threads that cannot start are done without. */
	while (started + 1 < threads && started + 1 < h.n &&
		pthread_create(&ids[started], NULL, work, &h) == 0)
		started++;
	work(&h);
	for (i = 0; i < started; i++)
		pthread_join(ids[i], NULL);
	r = atomic_load(&h.failure);
	if (r == 0)
		r = digest_all(m, &h, ret_hex);
	free(h.parts);
	return r;
}
