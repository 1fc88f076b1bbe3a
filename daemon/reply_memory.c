/* Why: see reply_memory.h. One table under one lock; an entry owns a reference to its record. What
 * is over a uid's bound costs that uid its oldest entry, what is over the whole bound costs the
 * largest uid its own. */
#include "daemon/reply_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "proto/limits.h"

#define BUCKETS 4096

struct entry {
	LIST_ENTRY(entry) bucket;
	TAILQ_ENTRY(entry) link; /* its owner's, the latest first */
	struct owner *owner;
	struct reply_ids *ids;
};

struct owner {
	LIST_ENTRY(owner) link;
	TAILQ_HEAD(entries, entry) entries;
	uint32_t uid;
	size_t bytes;
};

struct reply_memory {
	pthread_mutex_t lock;
	LIST_HEAD(, entry) buckets[BUCKETS];
	LIST_HEAD(, owner) owners;
	size_t bytes;
};

struct reply_memory *reply_memory_new(void)
{
	struct reply_memory *m = calloc(1, sizeof(*m));

	if (m)
		pthread_mutex_init(&m->lock, NULL);
	return m;
}

static size_t entry_bytes(const struct entry *e)
{
	return sizeof(*e) + sizeof(*e->ids) + (size_t)e->ids->n * sizeof(int32_t);
}

/* The key is a digest: any bytes of it are as good as others. */
static size_t bucket_of(const uint8_t key[DIGEST_BYTES])
{
	return (key[0] | (size_t)key[1] << 8) % BUCKETS;
}

static struct owner *owner_of(struct reply_memory *m, uint32_t uid)
{
	struct owner *o;

	LIST_FOREACH(o, &m->owners, link)
	if (o->uid == uid)
		return o;
	return NULL;
}

/* May free the owner, with its last entry. */
static void forget(struct reply_memory *m, struct entry *e)
{
	struct owner *o = e->owner;

	o->bytes -= entry_bytes(e);
	m->bytes -= entry_bytes(e);
	LIST_REMOVE(e, bucket);
	TAILQ_REMOVE(&o->entries, e, link);
	reply_ids_unref(e->ids);
	free(e);
	if (TAILQ_EMPTY(&o->entries)) {
		LIST_REMOVE(o, link);
		free(o);
	}
}

static struct entry *find(struct reply_memory *m, uint32_t uid, const uint8_t key[DIGEST_BYTES])
{
	struct entry *e;

	LIST_FOREACH(e, &m->buckets[bucket_of(key)], bucket)
	if (e->owner->uid == uid && memcmp(e->ids->key, key, DIGEST_BYTES) == 0)
		return e;
	return NULL;
}

static void keep_bounds(struct reply_memory *m, struct owner *o)
{
	while (o->bytes > REPLY_MEMORY_UID_BYTES_MAX)
		forget(m, TAILQ_LAST(&o->entries, entries));
	while (m->bytes > REPLY_MEMORY_BYTES_MAX) {
		struct owner *largest = LIST_FIRST(&m->owners);

		LIST_FOREACH(o, &m->owners, link)
		if (o->bytes > largest->bytes)
			largest = o;
		forget(m, TAILQ_LAST(&largest->entries, entries));
	}
}

void reply_memory_add(struct reply_memory *m, uint32_t uid, struct reply_ids *ids)
{
	struct entry *e, *before;
	struct owner *o;

	if ((size_t)ids->n * sizeof(int32_t) > REPLY_MEMORY_UID_BYTES_MAX / 2)
		return;
	pthread_mutex_lock(&m->lock);
	o = owner_of(m, uid);
	if (!o) {
		o = calloc(1, sizeof(*o));
		if (!o)
			goto out;
		o->uid = uid;
		TAILQ_INIT(&o->entries);
		LIST_INSERT_HEAD(&m->owners, o, link);
	}
	e = calloc(1, sizeof(*e));
	if (!e) {
		if (TAILQ_EMPTY(&o->entries)) {
			LIST_REMOVE(o, link);
			free(o);
		}
		goto out;
	}
	before = find(m, uid, ids->key);
	e->owner = o;
	e->ids = reply_ids_ref(ids);
	o->bytes += entry_bytes(e);
	m->bytes += entry_bytes(e);
	LIST_INSERT_HEAD(&m->buckets[bucket_of(ids->key)], e, bucket);
	TAILQ_INSERT_HEAD(&o->entries, e, link);
	if (before)
		forget(m, before);
	keep_bounds(m, o);
out:
	pthread_mutex_unlock(&m->lock);
}

struct reply_ids *reply_memory_find(
	struct reply_memory *m, uint32_t uid, const uint8_t key[DIGEST_BYTES])
{
	struct reply_ids *ids = NULL;
	struct entry *e;

	pthread_mutex_lock(&m->lock);
	e = find(m, uid, key);
	if (e) {
		TAILQ_REMOVE(&e->owner->entries, e, link);
		TAILQ_INSERT_HEAD(&e->owner->entries, e, link);
		ids = reply_ids_ref(e->ids);
	}
	pthread_mutex_unlock(&m->lock);
	return ids;
}

uint32_t reply_memory_drop(struct reply_memory *m, uint32_t uid, bool all)
{
	struct owner *o, *next;
	uint32_t n = 0;

	pthread_mutex_lock(&m->lock);
	for (o = LIST_FIRST(&m->owners); o; o = next) {
		next = LIST_NEXT(o, link);
		if (!all && o->uid != uid)
			continue;
		for (bool last = false; !last; n++) {
			struct entry *e = TAILQ_FIRST(&o->entries);

			last = !TAILQ_NEXT(e, link); /* the owner goes with it */
			forget(m, e);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return n;
}

uint64_t reply_memory_bytes(struct reply_memory *m, uint32_t uid, bool all)
{
	const struct owner *o;
	uint64_t bytes;

	pthread_mutex_lock(&m->lock);
	o = all ? NULL : owner_of(m, uid);
	bytes = all ? m->bytes : o ? o->bytes : 0;
	pthread_mutex_unlock(&m->lock);
	return bytes;
}

struct reply_memory *reply_memory_free(struct reply_memory *m)
{
	if (!m)
		return NULL;
	reply_memory_drop(m, 0, true);
	pthread_mutex_destroy(&m->lock);
	free(m);
	return NULL;
}
