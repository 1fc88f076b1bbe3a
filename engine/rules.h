/* The merges of a byte-pair encoding whose pairs have ranks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/vocabulary.h"

struct merge_rule {
	int32_t left, right; /* left -1: an empty slot */
	int32_t id;
	uint32_t rank;
};

struct merge_rules {
	struct merge_rule *slots; /* [n_slots] by hash of the pair */
	size_t n_slots;           /* a power of two */
};

/* Errors as tokenizer_new(). */
int merge_rules_new(const struct tokenizer_source *from, const struct vocabulary *v,
	struct merge_rules *ret, char *error, size_t error_size);
void merge_rules_done(struct merge_rules *r); /* accepts a zeroed one */

/* The rule of a pair, or NULL. */
const struct merge_rule *merge_rules_find(const struct merge_rules *r, int32_t left, int32_t right);
