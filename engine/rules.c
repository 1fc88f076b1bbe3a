/* The merges of a byte-pair encoding, in a hash table by the pair of ids. Owns its table and keeps
 * nothing of what it was made from. */
#include "engine/rules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

/* The slot of a pair: its rule, or the empty one where it would stand. */
static struct merge_rule *slot(const struct merge_rules *r, int32_t left, int32_t right)
{
	uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	size_t mask = r->n_slots - 1, i;

	h *= UINT64_C(0x9e3779b97f4a7c15);
	for (i = (h ^ h >> 32) & mask; r->slots[i].left >= 0; i = (i + 1) & mask)
		if (r->slots[i].left == left && r->slots[i].right == right)
			break;
	return &r->slots[i];
}

const struct merge_rule *merge_rules_find(const struct merge_rules *r, int32_t left, int32_t right)
{
	const struct merge_rule *rule = slot(r, left, right);

	return rule->left < 0 ? NULL : rule;
}

/* A part as the vocabulary's keys are: bytes for byte-level models. */
static bool decode(const struct vocabulary *v, struct slice part, char *out, size_t *ret_len)
{
	if (v->byte_level)
		return vocabulary_alphabet_decode(part.text, part.len, out, ret_len);
	memcpy(out, part.text, part.len);
	*ret_len = part.len;
	return true;
}

static bool is_control(const struct vocabulary *v, const char *s, size_t n)
{
	int32_t id = lexicon_match(&v->control, v, s, n);

	return id >= 0 && v->tokens[id].key.len == n;
}

static int shown(struct slice s)
{
	return (int)(s.len < 80 ? s.len : 80);
}

/* Parts that are no ordinary token, but are tokens, make a rule that is never used: it would turn
 * text into a control token. */
static int read_rule(struct merge_rules *r, const struct tokenizer_source *from,
	const struct vocabulary *v, uint32_t rank, char *scratch, char *error, size_t error_size)
{
	const struct merge_source *m = &from->merges[rank];
	size_t left_len, right_len;
	int32_t left, right, id;

	if (!decode(v, m->left, scratch, &left_len) ||
		!decode(v, m->right, scratch + left_len, &right_len))
		return fail(-EINVAL,
			"%s: entry %u, \"%.*s %.*s\", has a character that stands for no byte",
			from->merges_name, rank, shown(m->left), m->left.text, shown(m->right),
			m->right.text);
	left = vocabulary_find(v, scratch, left_len);
	right = vocabulary_find(v, scratch + left_len, right_len);
	id = vocabulary_find(v, scratch, left_len + right_len);
	if (left < 0 || right < 0 || id < 0) {
		if ((left < 0 && !is_control(v, scratch, left_len)) ||
			(right < 0 && !is_control(v, scratch + left_len, right_len)) ||
			(id < 0 && !is_control(v, scratch, left_len + right_len)))
			return fail(-EINVAL,
				"%s: entry %u, \"%.*s %.*s\": a part or the whole is not in %s",
				from->merges_name, rank, shown(m->left), m->left.text,
				shown(m->right), m->right.text, from->tokens_name);
		return 0;
	}
	*slot(r, left, right) = (struct merge_rule){left, right, id, rank};
	return 0;
}

int merge_rules_new(const struct tokenizer_source *from, const struct vocabulary *v,
	struct merge_rules *ret, char *error, size_t error_size)
{
	struct merge_rules rules = {.n_slots = 16};
	size_t n = from->n_merges, longest = 0, i;
	char *scratch;
	int r = 0;

	if (n > UINT32_MAX / 4)
		return fail(-EINVAL, "%s: %zu entries are too many", from->merges_name, n);
	while (rules.n_slots < 2 * n)
		rules.n_slots *= 2;
	for (i = 0; i < n; i++)
		if (from->merges[i].left.len + from->merges[i].right.len > longest)
			longest = from->merges[i].left.len + from->merges[i].right.len;
	rules.slots = calloc(rules.n_slots, sizeof(*rules.slots));
	scratch = malloc(longest + 1);
	if (!rules.slots || !scratch)
		r = fail(-ENOMEM, "%s: out of memory", from->merges_name);
	for (i = 0; i < rules.n_slots && r == 0; i++)
		rules.slots[i].left = -1;
	for (i = 0; i < n && r == 0; i++)
		r = read_rule(&rules, from, v, (uint32_t)i, scratch, error, error_size);
	free(scratch);
	if (r < 0) {
		merge_rules_done(&rules);
		return r;
	}
	*ret = rules;
	return 0;
}

void merge_rules_done(struct merge_rules *r)
{
	free(r->slots);
	*r = (struct merge_rules){0};
}
