/* Byte-pair merging in O(n log n): the symbols are a doubly linked list in an array, the pairs that
 * could merge a binary heap. A candidate is not removed when one of its symbols changes; it is
 * recognised as stale when it comes up. A long word's first pairs, the most by far, are sorted once
 * instead: a heap of them is larger than the caches and each step down it a miss. The caller owns
 * the merger and uses it from one thread. */
#include "engine/merge.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define LONG_WORD   4096 /* symbols */
#define DIGIT_BITS  11
#define DIGITS      3 /* of a priority's 32 bits */
#define DIGIT(c, d) ((c)->order >> 32 >> (d)*DIGIT_BITS & ((1u << DIGIT_BITS) - 1))

int merger_reset(struct merger *m, size_t n)
{
	struct merge_symbol *symbols;
	struct merge_candidate *heap;
	size_t capacity = m->capacity ? m->capacity : 64;

	assert(n < MERGE_NONE / 2);
	m->n = m->heap_n = m->sorted_n = m->sorted_at = 0;
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
	if (capacity >= LONG_WORD) {
		heap = reallocarray(m->sorted, capacity, sizeof(*heap));
		if (!heap)
			return -ENOMEM;
		m->sorted = heap;
	}
	m->capacity = capacity;
	return 0;
}

void merger_done(struct merger *m)
{
	free(m->symbols);
	free(m->heap);
	free(m->sorted);
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

/* The heap's candidates, which stand by position, go to `sorted` by priority: digit by digit, the
 * least first, each pass keeping the order of equals. */
static void merger_sort(struct merger *m)
{
	struct merge_candidate *from = m->heap, *to = m->sorted;
	const uint32_t n = m->heap_n;
	uint32_t starts[DIGITS][1 << DIGIT_BITS] = {0}, i, d, at, count;

	for (i = 0; i < n; i++)
		for (d = 0; d < DIGITS; d++)
			starts[d][DIGIT(&from[i], d)]++;
	for (d = 0; d < DIGITS; d++) {
		for (at = 0, i = 0; i < 1u << DIGIT_BITS; i++) {
			count = starts[d][i];
			starts[d][i] = at;
			at += count;
		}
		for (i = 0; i < n; i++)
			to[starts[d][DIGIT(&from[i], d)]++] = from[i];
		from = to;
		to = to == m->heap ? m->sorted : m->heap;
	}
	assert(from == m->sorted); /* DIGITS is odd */
	m->sorted_n = n;
	m->heap_n = 0;
}

/* Takes the first of all; false: there is none. */
static bool merger_take(struct merger *m, struct merge_candidate *ret)
{
	if (m->sorted_at < m->sorted_n &&
		(m->heap_n == 0 || m->sorted[m->sorted_at].order < m->heap[0].order)) {
		*ret = m->sorted[m->sorted_at++];
		return true;
	}
	if (m->heap_n == 0)
		return false;
	*ret = m->heap[0];
	m->heap[0] = m->heap[--m->heap_n];
	if (m->heap_n > 1)
		merger_sift_down(m, 0);
	return true;
}

void merger_run(struct merger *m, merge_pair_fn *pair, void *userdata)
{
	struct merge_symbol *symbols = m->symbols;
	struct merge_candidate top;
	uint32_t i;

	assert(m->n > 0);
	symbols[m->n - 1].next = MERGE_NONE;
	for (i = 0; i + 1 < m->n; i++)
		merger_consider(m, i, pair, userdata);
	if (m->n >= LONG_WORD)
		merger_sort(m);
	for (i = m->heap_n / 2; i-- > 0;)
		merger_sift_down(m, i);

	while (merger_take(m, &top)) {
		uint32_t left = (uint32_t)top.order, right;
		struct merge_symbol *l = &symbols[left];

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
