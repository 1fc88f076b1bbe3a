/* Byte-level BPE: text is cut into words (pretokenize.h), a word's bytes are its first symbols, and
 * the pair of the lowest rank merges first. A byte for which the vocabulary has no token is left
 * out, as `tokenizers` does without an unknown token. The bpe owns its rules and pattern and
 * borrows the vocabulary; it is immutable. */
#include "engine/bpe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/pretokenize.h"
#include "engine/rules.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

struct bpe {
	const struct vocabulary *v;
	struct merge_rules rules;
	struct pretokenizer *split;
	bool whole_words;
};

int token_sink_push(struct token_sink *s, int32_t id)
{
	if (s->n == s->capacity) {
		size_t capacity = s->capacity ? 2 * s->capacity : 64;
		int32_t *ids = reallocarray(s->ids, capacity, sizeof(*ids));

		if (!ids)
			return -ENOMEM;
		s->ids = ids;
		s->capacity = capacity;
	}
	s->ids[s->n++] = id;
	return 0;
}

int bpe_new(const struct tokenizer_source *from, const struct vocabulary *v, struct bpe **ret,
	char *error, size_t error_size)
{
	struct bpe *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return fail(-ENOMEM, "%s: out of memory", from->merges_name);
	b->v = v;
	b->whole_words = from->whole_words;
	r = merge_rules_new(from, v, &b->rules, error, error_size);
	if (r == 0)
		r = pretokenizer_new(from->split, &b->split, error, error_size);
	if (r < 0) {
		bpe_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

struct bpe *bpe_free(struct bpe *b)
{
	if (b) {
		pretokenizer_free(b->split);
		merge_rules_done(&b->rules);
		free(b);
	}
	return NULL;
}

/* One call's state. */
struct bpe_run {
	const struct bpe *b;
	struct merger *m;
	struct token_sink *sink;
	bool interpret;
};

static bool bpe_pair(void *userdata, const struct merge_symbol *left,
	const struct merge_symbol *right, uint32_t *ret_priority, int32_t *ret_id)
{
	const struct bpe_run *run = userdata;
	const struct merge_rule *rule = merge_rules_find(&run->b->rules, left->id, right->id);

	if (!rule)
		return false;
	*ret_priority = rule->rank;
	*ret_id = rule->id;
	return true;
}

static int bpe_word(void *userdata, const char *s, size_t n)
{
	struct bpe_run *run = userdata;
	const struct vocabulary *v = run->b->v;
	struct merger *m = run->m;
	int32_t id;
	uint32_t i;
	int r;

	if (run->b->whole_words) {
		id = vocabulary_find(v, s, n);
		if (id >= 0)
			return token_sink_push(run->sink, id);
	}
	r = merger_reset(m, n);
	if (r < 0)
		return r;
	for (i = 0; i < n; i++) {
		id = v->byte_ids[(unsigned char)s[i]];
		if (id >= 0)
			merger_add(m, i, 1, id);
	}
	if (m->n == 0)
		return 0;
	merger_run(m, bpe_pair, run);
	for (i = 0; i != MERGE_NONE && r == 0; i = m->symbols[i].next)
		r = token_sink_push(run->sink, m->symbols[i].id);
	return r;
}

static int bpe_fragment(struct bpe_run *run, const char *s, size_t n)
{
	return n == 0 ? 0 : pretokenizer_split(run->b->split, s, n, run->interpret, bpe_word, run);
}

int bpe_encode(const struct bpe *b, const char *s, size_t n, bool interpret, struct merger *m,
	struct token_sink *sink)
{
	struct bpe_run run = {.b = b, .m = m, .sink = sink, .interpret = interpret};
	size_t start = 0, i = 0;
	int r;

	/* User-defined tokens cut the text before its words are looked for. */
	while (b->v->defined.n > 0 && i < n) {
		int32_t id = lexicon_match(&b->v->defined, b->v, s + i, n - i);

		if (id < 0) {
			i++;
			continue;
		}
		r = bpe_fragment(&run, s + start, i - start);
		if (r == 0)
			r = token_sink_push(sink, id);
		if (r < 0)
			return r;
		start = i += b->v->tokens[id].key.len;
	}
	return bpe_fragment(&run, s + start, n - start);
}
