/* Byte-pair merging in O(n log n): the symbols are a doubly linked list in an array, the pairs that
 * could merge a binary heap. A candidate is not removed when one of its symbols changes; it is
 * recognised as stale when it comes up. The caller owns the merger and uses it from one thread. */
#include "engine/merge.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int merger_reset(struct merger *m, size_t n)
{
	struct merge_symbol *symbols;
	struct merge_candidate *heap;
	size_t capacity = m->capacity ? m->capacity : 64;

	assert(n < MERGE_NONE / 2);
	m->n = m->heap_n = 0;
	if (n <= m->capacity)
		return 0;
	while (capacity < n)
		capacity *= 2;
	symbols = reallocarray(m->symbols, capacity, sizeof(*symbols));
	if (!symbols)
		return -ENOMEM;
	m->symbols = symbols;
	/* A merge takes one candidate out and puts at most two in, and there are fewer merges than
	 * symbols: the heap never holds more than two for each symbol. */
	heap = reallocarray(m->heap, capacity, 2 * sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	m->heap = heap;
	m->capacity = capacity;
	return 0;
}

void merger_done(struct merger *m)
{
	free(m->symbols);
	free(m->heap);
	*m = (struct merger){0};
}

static void merger_sift_down(struct merger *m, uint32_t i)
{
	struct merge_candidate moved = m->heap[i];
	uint32_t child;

	while ((child = 2 * i + 1) < m->heap_n) {
		if (child + 1 < m->heap_n && m->heap[child + 1].order < m->heap[child].order)
			child++;
		if (moved.order <= m->heap[child].order)
			break;
		m->heap[i] = m->heap[child];
		i = child;
	}
	m->heap[i] = moved;
}

static void merger_sift_up(struct merger *m, uint32_t i)
{
	struct merge_candidate moved = m->heap[i];

	while (i > 0 && moved.order < m->heap[(i - 1) / 2].order) {
		m->heap[i] = m->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	m->heap[i] = moved;
}

/* Appends the candidate of a symbol and its successor, if they merge. */
static bool merger_consider(struct merger *m, uint32_t left, merge_pair_fn *pair, void *userdata)
{
	const struct merge_symbol *l = &m->symbols[left], *r = &m->symbols[l->next];
	uint32_t priority;
	int32_t id;

	if (!pair(userdata, l, r, &priority, &id))
		return false;
	m->heap[m->heap_n++] = (struct merge_candidate){
		.order = (uint64_t)priority << 32 | left,
		.len = l->len + r->len,
		.id = id,
	};
	return true;
}

void merger_run(struct merger *m, merge_pair_fn *pair, void *userdata)
{
	struct merge_symbol *symbols = m->symbols;
	uint32_t i;

	assert(m->n > 0);
	symbols[m->n - 1].next = MERGE_NONE;
	for (i = 0; i + 1 < m->n; i++)
		merger_consider(m, i, pair, userdata);
	for (i = m->heap_n / 2; i-- > 0;)
		merger_sift_down(m, i);

	while (m->heap_n > 0) {
		struct merge_candidate top = m->heap[0];
		uint32_t left = (uint32_t)top.order, right;
		struct merge_symbol *l = &symbols[left];

		m->heap[0] = m->heap[--m->heap_n];
		if (m->heap_n > 1)
			merger_sift_down(m, 0);
		/* Symbols only grow, and a symbol's successor changes only when it grows itself:
		 * the same number of bytes means the same pair. */
		if (l->len == 0 || l->next == MERGE_NONE ||
			l->len + symbols[l->next].len != top.len)
			continue;
		right = l->next;
		l->len = top.len;
		l->id = top.id;
		l->next = symbols[right].next;
		symbols[right].len = 0;
		if (l->next != MERGE_NONE) {
			symbols[l->next].prev = left;
			if (merger_consider(m, left, pair, userdata))
				merger_sift_up(m, m->heap_n - 1);
		}
		if (l->prev != MERGE_NONE && merger_consider(m, l->prev, pair, userdata))
			merger_sift_up(m, m->heap_n - 1);
	}
}
