/* The table of sessions: owners and sums. A session owns its history; requests hold it by pointer
 * and let go before they end. */
#include "daemon/session.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct session_owner *session_owner_get(struct session_table *t, uint32_t uid)
{
	struct session_owner *o;

	LIST_FOREACH(o, &t->owners, link)
	if (o->uid == uid)
		return o;
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->uid = uid;
	TAILQ_INIT(&o->list);
	LIST_INSERT_HEAD(&t->owners, o, link);
	return o;
}

struct session *session_find(const struct session_owner *o, const char *name)
{
	struct session *s;

	TAILQ_FOREACH(s, &o->list, link)
	if (strcmp(s->row.name, name) == 0)
		return s;
	return NULL;
}

struct session *session_add(
	struct session_table *t, struct session_owner *o, const struct session_row *row)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->owner = o;
	s->row = *row;
	s->version = ++t->clock;
	TAILQ_INSERT_TAIL(&o->list, s, link);
	o->n++;
	o->bytes += row->bytes;
	return s;
}

static void empty(struct session_table *t, struct session *s)
{
	if (s->resident)
		t->resident_bytes -= s->row.bytes;
	history_done(&s->history);
	s->resident = false;
}

void session_remove(struct session_table *t, struct session *s)
{
	empty(t, s);
	s->owner->bytes -= s->row.bytes;
	s->owner->n--;
	TAILQ_REMOVE(&s->owner->list, s, link);
	free(s);
}

void session_table_done(struct session_table *t)
{
	struct session_owner *o;
	struct session *s;

	while ((o = LIST_FIRST(&t->owners))) {
		while ((s = TAILQ_FIRST(&o->list)))
			session_remove(t, s);
		LIST_REMOVE(o, link);
		free(o);
	}
	assert(t->resident_bytes == 0);
}

/* The row says of the history what is so. */
static void recount(struct session_table *t, struct session *s)
{
	const struct history *h = &s->history;

	assert(s->resident);
	t->resident_bytes += h->bytes - s->row.bytes;
	s->owner->bytes += h->bytes - s->row.bytes;
	s->row.bytes = h->bytes;
	s->row.messages = h->n;
	s->row.tokens = history_tokens(h);
}

void session_fill(struct session_table *t, struct session *s, struct history *h)
{
	assert(!s->resident);
	s->resident = true;
	s->loading = false;
	t->resident_bytes += s->row.bytes;
	s->history = *h;
	*h = (struct history){};
	recount(t, s);
	session_touch(t, s);
}

void session_changed(struct session_table *t, struct session *s, int64_t now)
{
	recount(t, s);
	s->row.used_at = now;
	s->version = ++t->clock;
	s->dirty = true;
	session_touch(t, s);
	TAILQ_REMOVE(&s->owner->list, s, link);
	TAILQ_INSERT_HEAD(&s->owner->list, s, link);
}

void session_touch(struct session_table *t, struct session *s)
{
	s->touched = ++t->clock;
}

static bool may_leave(const struct session *s, const struct session *keep)
{
	return s->resident && !s->dirty && !s->holder && s != keep;
}

void session_table_shrink(struct session_table *t, uint64_t most, const struct session *keep)
{
	while (t->resident_bytes > most) {
		struct session *oldest = NULL, *s;
		struct session_owner *o;

		LIST_FOREACH(o, &t->owners, link)
		TAILQ_FOREACH(s, &o->list, link)
		if (may_leave(s, keep) && (!oldest || s->touched < oldest->touched))
			oldest = s;
		if (!oldest)
			return;
		empty(t, oldest);
	}
}
