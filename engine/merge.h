/* The merging of adjacent symbols that both kinds of byte-pair encoding share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MERGE_NONE UINT32_MAX

struct merge_symbol {
	uint32_t prev, next; /* indices, or MERGE_NONE; the first symbol is always index 0 */
	uint32_t at, len;    /* its bytes in the text; len 0: merged into its predecessor */
	int32_t id;          /* of its token, or -1 */
};

struct merge_candidate {
	uint64_t order; /* priority, then position: the smallest goes first */
	uint32_t len;   /* bytes of both symbols when it was found: tells if it still holds */
	int32_t id;
};

/* Working memory, used again from word to word. Zeroed is empty. */
struct merger {
	struct merge_symbol *symbols;
	struct merge_candidate *heap;
	struct merge_candidate *sorted; /* [capacity] of a long word, what it began with; or NULL */
	uint32_t n, heap_n, sorted_n;
	uint32_t sorted_at; /* the next of those */
	size_t capacity;    /* symbols; the heap holds twice as many */
};

/* Makes room for n symbols and drops those there were: 0 or -ENOMEM. */
int merger_reset(struct merger *m, size_t n);
void merger_done(struct merger *m);

/* Appends one; there is room. */
static inline void merger_add(struct merger *m, uint32_t at, uint32_t len, int32_t id)
{
	struct merge_symbol *s = &m->symbols[m->n];

	s->prev = m->n - 1; /* MERGE_NONE for the first */
	s->next = m->n + 1; /* merger_run() ends the list */
	s->at = at;
	s->len = len;
	s->id = id;
	m->n++;
}

/* Whether two neighbours merge: if so, into which token, and how early (0 is first). */
typedef bool merge_pair_fn(void *userdata, const struct merge_symbol *left,
	const struct merge_symbol *right, uint32_t *ret_priority, int32_t *ret_id);

/* Merges until no pair is left: always the pair of the smallest priority, the leftmost of equals.
 * What remains is the list that starts at symbol 0. O(n log n), n at least 1. */
void merger_run(struct merger *m, merge_pair_fn *pair, void *userdata);
