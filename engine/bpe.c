/* Byte-level BPE: text is cut into words (pretokenize.h), a word's bytes are its first symbols, and
 * the pair of the lowest rank merges first. A byte for which the vocabulary has no token is left
 * out, as `tokenizers` does without an unknown token. The bpe owns its rules and pattern and
 * borrows the vocabulary; it is immutable. */
#include "engine/bpe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenize.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

struct bpe_rule {
	int32_t left, right; /* left -1: an empty slot */
	int32_t id;
	uint32_t rank;
};

struct bpe {
	const struct vocabulary *v;
	struct bpe_rule *rules; /* [n_rules] by hash of the pair */
	size_t n_rules;         /* a power of two */
	struct pretokenizer *split;
	bool whole_words, adds_bos;
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

/* The slot of a pair: its rule, or the empty one where it would stand. */
static struct bpe_rule *bpe_rule(const struct bpe *b, int32_t left, int32_t right)
{
	uint64_t h = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	size_t mask = b->n_rules - 1, i;

	h *= UINT64_C(0x9e3779b97f4a7c15);
	for (i = (h ^ h >> 32) & mask; b->rules[i].left >= 0; i = (i + 1) & mask)
		if (b->rules[i].left == left && b->rules[i].right == right)
			break;
	return &b->rules[i];
}

static bool bpe_is_control(const struct bpe *b, const char *s, size_t n)
{
	int32_t id = lexicon_match(&b->v->control, b->v, s, n);

	return id >= 0 && b->v->tokens[id].key.len == n;
}

/* "left right" in GPT-2's alphabet. Parts that are no ordinary token, but are tokens, make a rule
 * that is never used: it would turn text into a control token. */
static int bpe_read_rule(struct bpe *b, struct gguf_string line, uint32_t rank, char *scratch,
	char *error, size_t error_size)
{
	const char *space = line.len > 1 ? memchr(line.text + 1, ' ', line.len - 1) : NULL;
	size_t left_len, right_len, n_left, shown = line.len < 80 ? line.len : 80;
	struct bpe_rule *rule;
	int32_t left, right, id;

	if (!space || space + 1 == line.text + line.len)
		return fail(-EINVAL, "tokenizer.ggml.merges: entry %u, \"%.*s\", is no pair", rank,
			(int)shown, line.text);
	n_left = (size_t)(space - line.text);
	if (!vocabulary_alphabet_decode(line.text, n_left, scratch, &left_len) ||
		!vocabulary_alphabet_decode(
			space + 1, line.len - n_left - 1, scratch + left_len, &right_len))
		return fail(-EINVAL,
			"tokenizer.ggml.merges: entry %u, \"%.*s\", has a character "
			"that stands for no byte",
			rank, (int)shown, line.text);
	left = vocabulary_find(b->v, scratch, left_len);
	right = vocabulary_find(b->v, scratch + left_len, right_len);
	id = vocabulary_find(b->v, scratch, left_len + right_len);
	if (left < 0 || right < 0 || id < 0) {
		if ((left < 0 && !bpe_is_control(b, scratch, left_len)) ||
			(right < 0 && !bpe_is_control(b, scratch + left_len, right_len)) ||
			(id < 0 && !bpe_is_control(b, scratch, left_len + right_len)))
			return fail(-EINVAL,
				"tokenizer.ggml.merges: entry %u, \"%.*s\": a part or "
				"the whole is not in tokenizer.ggml.tokens",
				rank, (int)shown, line.text);
		return 0;
	}
	rule = bpe_rule(b, left, right);
	*rule = (struct bpe_rule){.left = left, .right = right, .id = id, .rank = rank};
	return 0;
}

static int bpe_read_rules(
	struct bpe *b, const struct gguf_strings *lines, char *error, size_t error_size)
{
	size_t n = gguf_strings_count(lines), longest = 0, i;
	char *scratch;
	int r = 0;

	if (n > UINT32_MAX / 4)
		return fail(-EINVAL, "tokenizer.ggml.merges: %zu entries are too many", n);
	for (b->n_rules = 16; b->n_rules < 2 * n;)
		b->n_rules *= 2;
	b->rules = calloc(b->n_rules, sizeof(*b->rules));
	for (i = 0; i < n; i++)
		if (gguf_strings_at(lines, i).len > longest)
			longest = gguf_strings_at(lines, i).len;
	scratch = malloc(longest + 1);
	if (!b->rules || !scratch) {
		free(scratch);
		return fail(-ENOMEM, "tokenizer.ggml.merges: out of memory");
	}
	for (i = 0; i < b->n_rules; i++)
		b->rules[i].left = -1;
	for (i = 0; i < n && r == 0; i++)
		r = bpe_read_rule(
			b, gguf_strings_at(lines, i), (uint32_t)i, scratch, error, error_size);
	free(scratch);
	return r;
}

int bpe_new(const struct gguf *g, const struct vocabulary *v, struct bpe **ret, char *error,
	size_t error_size)
{
	struct gguf_string name = {.text = "default", .len = 7};
	const struct pretokenizer_kind *kind;
	struct gguf_strings *lines = NULL;
	bool adds_space = false;
	struct bpe *b;
	int r;

	r = gguf_get_string(g, "tokenizer.ggml.pre", &name);
	if (r < 0 && r != -ENOENT)
		return fail(-EINVAL, "tokenizer.ggml.pre: not a string");
	kind = pretokenizer_kind(name);
	if (!kind)
		return fail(-ENOTSUP, "tokenizer.ggml.pre: \"%.*s\" is not implemented",
			(int)(name.len < 80 ? name.len : 80), name.text);
	r = gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &adds_space);
	if (r < 0 && r != -ENOENT)
		return fail(-EINVAL, "tokenizer.ggml.add_space_prefix: not a boolean");
	if (adds_space)
		return fail(-ENOTSUP,
			"tokenizer.ggml.add_space_prefix: true is not implemented for byte-level BPE");
	r = gguf_get_strings(g, "tokenizer.ggml.merges", &lines);
	if (r < 0)
		return fail(r == -ENOMEM ? r : -EINVAL, "tokenizer.ggml.merges: %s",
			r == -ENOENT   ? "missing"
			: r == -ENOMEM ? "out of memory"
				       : "not an array of strings");
	b = calloc(1, sizeof(*b));
	if (!b) {
		r = fail(-ENOMEM, "tokenizer.ggml.merges: out of memory");
	} else {
		b->v = v;
		b->whole_words = kind->whole_words;
		b->adds_bos = kind->adds_bos;
		r = bpe_read_rules(b, lines, error, error_size);
	}
	gguf_strings_free(lines);
	if (r == 0)
		r = pretokenizer_new(kind, &b->split, error, error_size);
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
		free(b->rules);
		free(b);
	}
	return NULL;
}

bool bpe_adds_bos(const struct bpe *b)
{
	return b->adds_bos;
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
	const struct bpe_rule *rule = bpe_rule(run->b, left->id, right->id);

	if (rule->left < 0)
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
