/* SentencePiece's BPE, as sentencepiece runs it: spaces become U+2581, one goes in front, the
 * characters of the text are the first symbols, and the pair whose piece has the highest score
 * merges first; what is no piece in the end is spelled in byte tokens. Where the files give pairs
 * ranks instead (tokenizer.json), the pair of the lowest rank merges first, as in `tokenizers`.
 * The spm borrows the vocabulary; it is immutable. */
#include "engine/spm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rules.h"
#include "engine/utf8.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

struct spm {
	const struct vocabulary *v;
	uint32_t *priorities;     /* [v->n], 0 for the highest score; NULL where pairs have ranks */
	struct merge_rules rules; /* where they have */
	enum space_prefix space;
	bool space_once;   /* no second one before a space */
	bool cuts_defined; /* what follows a user-defined token may get a space in front */
	bool has_bytes;    /* each of the 256 byte tokens exists */
	bool splits_words; /* no piece has a space behind something else: words merge alone */
};

/* The order of floats as the order of unsigned integers, the highest score first. */
static uint32_t spm_priority(float score)
{
	uint32_t bits;

	score += 0.0f; /* -0 is 0 */
	memcpy(&bits, &score, sizeof(bits));
	return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static bool spm_is_space(const char *s, size_t n)
{
	return n >= ESCAPED_SPACE_BYTES && memcmp(s, ESCAPED_SPACE, ESCAPED_SPACE_BYTES) == 0;
}

/* Whether a space follows something else inside the piece. */
static bool spm_crosses_words(const struct slice *key)
{
	size_t i;

	for (i = 0; spm_is_space(key->text + i, key->len - i);)
		i += ESCAPED_SPACE_BYTES;
	for (; i < key->len; i++)
		if (spm_is_space(key->text + i, key->len - i))
			return true;
	return false;
}

/* The scores as priorities. */
static int spm_rank_scores(struct spm *s, const struct vocabulary *v)
{
	uint32_t i;

	s->priorities = calloc(v->n, sizeof(*s->priorities));
	for (i = 0; s->priorities && i < v->n; i++)
		s->priorities[i] = spm_priority(v->tokens[i].score);
	return s->priorities ? 0 : -ENOMEM;
}

int spm_new(const struct tokenizer_source *from, const struct vocabulary *v, struct spm **ret,
	char *error, size_t error_size)
{
	struct spm *s = calloc(1, sizeof(*s));
	uint32_t i;
	int r;

	if (!s)
		return fail(-ENOMEM, "%s: out of memory", from->tokens_name);
	s->v = v;
	s->space = from->space_prefix;
	s->space_once = from->space_once;
	s->cuts_defined = from->cuts_defined;
	s->has_bytes = true;
	s->splits_words = !v->has_unused;
	for (i = 0; i < 256; i++)
		s->has_bytes = s->has_bytes && v->byte_ids[i] >= 0;
	for (i = 0; i < v->n; i++) {
		const struct token *t = &v->tokens[i];

		if (t->kind != TOKEN_CONTROL && t->kind != TOKEN_UNKNOWN && t->kind != TOKEN_BYTE &&
			spm_crosses_words(&t->key))
			s->splits_words = false;
	}
	if (from->ranked) {
		r = merge_rules_new(from, v, &s->rules, error, error_size);
	} else {
		r = spm_rank_scores(s, v);
		if (r < 0)
			r = fail(r, "%s: out of memory", from->tokens_name);
	}
	if (r == 0 && !s->has_bytes && v->unknown < 0)
		r = fail(-EINVAL, "%s has not all of <0x00> to <0xFF>, and no unknown token",
			from->tokens_name);
	if (r < 0) {
		spm_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct spm *spm_free(struct spm *s)
{
	if (s) {
		merge_rules_done(&s->rules);
		free(s->priorities);
		free(s);
	}
	return NULL;
}

enum space_prefix spm_space(const struct spm *s)
{
	return s->space;
}

/* One call's state. */
struct spm_run {
	const struct spm *spm;
	struct merger *m;
	struct token_sink *sink;
	const char *text;   /* escaped */
	uint32_t *cuts;     /* [v->n] of an unused piece: the bytes of its left part; or NULL */
	bool after_unknown; /* neighbouring unknown characters are one token */
};

static bool spm_pair(void *userdata, const struct merge_symbol *left,
	const struct merge_symbol *right, uint32_t *ret_priority, int32_t *ret_id)
{
	struct spm_run *run = userdata;
	const struct vocabulary *v = run->spm->v;
	const struct merge_rule *rule;
	int32_t id;

	if (!run->spm->priorities) {
		if (left->id < 0 || right->id < 0)
			return false;
		rule = merge_rules_find(&run->spm->rules, left->id, right->id);
		if (!rule)
			return false;
		*ret_priority = rule->rank;
		*ret_id = rule->id;
		return true;
	}
	id = vocabulary_find(v, run->text + left->at, (size_t)left->len + right->len);
	if (id < 0)
		return false;
	if (run->cuts && v->tokens[id].kind == TOKEN_UNUSED)
		run->cuts[id] = left->len;
	*ret_priority = run->spm->priorities[id];
	*ret_id = id;
	return true;
}

static int spm_push(struct spm_run *run, size_t at, size_t len, int32_t id)
{
	size_t i;
	int r = 0;

	if (id >= 0) {
		run->after_unknown = false;
		return token_sink_push(run->sink, id);
	}
	if (!run->spm->has_bytes) {
		if (!run->after_unknown)
			r = token_sink_push(run->sink, run->spm->v->unknown);
		run->after_unknown = true;
		return r;
	}
	for (i = 0; i < len && r == 0; i++)
		r = token_sink_push(
			run->sink, run->spm->v->byte_ids[(unsigned char)run->text[at + i]]);
	return r;
}

/* A piece that may merge but not stand is taken apart as it was put together: for each place in it
 * the part that starts there is looked for from the whole piece down. */
static int spm_push_symbol(struct spm_run *run, const struct merge_symbol *symbol)
{
	const struct vocabulary *v = run->spm->v;
	size_t at = symbol->at, end = at + symbol->len;
	int r = 0;

	while (r == 0 && at < end) {
		size_t start = symbol->at, len = symbol->len;
		int32_t id = symbol->id;

		while (run->cuts && id >= 0 && v->tokens[id].kind == TOKEN_UNUSED &&
			run->cuts[id] > 0) {
			size_t cut = run->cuts[id];

			if (at < start + cut) {
				len = cut;
			} else {
				start += cut;
				len -= cut;
			}
			id = vocabulary_find(v, run->text + start, len);
		}
		r = spm_push(run, start, len, id);
		at = start + len;
	}
	return r;
}

/* Merges text[at … end) and appends its tokens. */
static int spm_word(struct spm_run *run, size_t at, size_t end)
{
	const struct vocabulary *v = run->spm->v;
	struct merger *m = run->m;
	uint32_t code, i;
	int r = merger_reset(m, end - at);

	while (r == 0 && at < end) {
		size_t len = utf8_decode(run->text + at, end - at, &code);

		merger_add(m, (uint32_t)at, (uint32_t)len, vocabulary_find(v, run->text + at, len));
		at += len;
	}
	if (r < 0 || m->n == 0)
		return r;
	merger_run(m, spm_pair, run);
	for (i = 0; i != MERGE_NONE && r == 0; i = m->symbols[i].next)
		r = spm_push_symbol(run, &m->symbols[i]);
	return r;
}

/* A word is a run of spaces and what follows up to the next. */
static int spm_words(struct spm_run *run, size_t at, size_t end)
{
	const char *text = run->text;
	size_t i = at;
	int r = 0;

	while (r == 0 && at < end) {
		if (run->spm->splits_words) {
			while (spm_is_space(text + i, end - i))
				i += ESCAPED_SPACE_BYTES;
			while (i < end && !spm_is_space(text + i, end - i))
				i++;
		} else {
			i = end;
		}
		r = spm_word(run, at, i);
		at = i;
	}
	return r;
}

/* The text with its spaces escaped, with one in front where `prefix`; malloc'ed. */
static char *spm_escape(const char *s, size_t n, bool prefix, size_t *ret_len)
{
	size_t spaces = prefix, i, len = 0;
	char *text;

	for (i = 0; i < n; i++)
		spaces += s[i] == ' ';
	text = malloc(n + (ESCAPED_SPACE_BYTES - 1) * spaces + 1 + ESCAPED_SPACE_BYTES);
	if (!text)
		return NULL;
	if (prefix) {
		memcpy(text, ESCAPED_SPACE, ESCAPED_SPACE_BYTES);
		len = ESCAPED_SPACE_BYTES;
	}
	for (i = 0; i < n; i++) {
		if (s[i] == ' ') {
			memcpy(text + len, ESCAPED_SPACE, ESCAPED_SPACE_BYTES);
			len += ESCAPED_SPACE_BYTES;
		} else {
			text[len++] = s[i];
		}
	}
	*ret_len = len;
	return text;
}

/* A stretch without control tokens, nor user-defined ones where those cut. */
static int spm_stretch(struct spm_run *run, const char *s, size_t n, enum text_place place)
{
	const struct spm *spm = run->spm;
	bool prefix = (spm->space == SPACE_ALWAYS && place != TEXT_CONTINUES) ||
		      (spm->space == SPACE_FIRST && place == TEXT_BEGINS);
	size_t len, at = 0, i = 0;
	char *text;
	int r = 0;

	if (n == 0)
		return 0;
	if (spm->space_once && (s[0] == ' ' || spm_is_space(s, n)))
		prefix = false;
	text = spm_escape(s, n, prefix, &len);
	if (!text)
		return -ENOMEM;
	run->text = text;
	run->after_unknown = false;
	/* User-defined tokens are taken as they stand and merge with nothing. */
	while (r == 0 && !spm->cuts_defined && spm->v->defined.n > 0 && i < len) {
		int32_t id = lexicon_match(&spm->v->defined, spm->v, text + i, len - i);

		if (id < 0) {
			i++;
			continue;
		}
		r = spm_words(run, at, i);
		i += spm->v->tokens[id].key.len;
		if (r == 0)
			r = spm_push(run, i, 0, id);
		at = i;
	}
	if (r == 0)
		r = spm_words(run, at, len);
	run->text = NULL;
	free(text);
	return r;
}

enum text_place spm_behind(const struct spm *spm, int32_t id)
{
	enum token_kind kind = spm->v->tokens[id].kind;

	return kind == TOKEN_CONTROL || (kind == TOKEN_USER_DEFINED && spm->cuts_defined)
		       ? TEXT_AFTER_CONTROL
		       : TEXT_CONTINUES;
}

int spm_encode(const struct spm *spm, const char *s, size_t n, enum text_place place,
	struct merger *m, struct token_sink *sink)
{
	struct spm_run run = {.spm = spm, .m = m, .sink = sink};
	const struct vocabulary *v = spm->v;
	size_t at = 0, i = 0;
	int r = 0;

	if (v->has_unused) {
		run.cuts = calloc(v->n, sizeof(*run.cuts));
		if (!run.cuts)
			return -ENOMEM;
	}
	while (r == 0 && spm->cuts_defined && v->defined.n > 0 && i < n) {
		int32_t id = lexicon_match(&v->defined, v, s + i, n - i);

		if (id < 0) {
			i++;
			continue;
		}
		r = spm_stretch(&run, s + at, i - at, at == 0 ? place : TEXT_AFTER_CONTROL);
		if (r == 0)
			r = token_sink_push(sink, id);
		at = i += v->tokens[id].key.len;
	}
	if (r == 0)
		r = spm_stretch(&run, s + at, n - at, at == 0 ? place : TEXT_AFTER_CONTROL);
	free(run.cuts);
	return r;
}
