/* SentencePiece's BPE, as sentencepiece runs it: spaces become U+2581, one goes in front, the
 * characters of the text are the first symbols, and the pair whose piece has the highest score
 * merges first; what is no piece in the end is spelled in byte tokens. The spm borrows the
 * vocabulary; it is immutable. */
#include "engine/spm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/utf8.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

struct spm {
	const struct vocabulary *v;
	uint32_t *priorities; /* [v->n], 0 for the highest score */
	bool adds_space;
	bool has_bytes;    /* each of the 256 byte tokens exists */
	bool splits_words; /* no piece has a space behind something else: words merge alone */
};

static int spm_flag(const struct gguf *g, const char *key, bool standard, bool *ret, char *error,
	size_t error_size)
{
	int r = gguf_get_bool(g, key, ret);

	if (r == -ENOENT)
		*ret = standard;
	else if (r < 0)
		return fail(-EINVAL, "%s: not a boolean", key);
	return 0;
}

/* Flags of the normaliser that would change the text: none but the standard is implemented. */
static int spm_check_normalizer(const struct gguf *g, char *error, size_t error_size)
{
	static const struct {
		const char *key;
		bool wanted;
	} flags[] = {
		{"tokenizer.ggml.remove_extra_whitespaces", false},
		{"tokenizer.ggml.escape_whitespaces", true},
		{"tokenizer.ggml.treat_whitespace_as_suffix", false},
	};
	bool value;
	size_t i;
	int r;

	for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		r = spm_flag(g, flags[i].key, flags[i].wanted, &value, error, error_size);
		if (r < 0)
			return r;
		if (value != flags[i].wanted)
			return fail(-ENOTSUP, "%s: %s is not implemented", flags[i].key,
				value ? "true" : "false");
	}
	if (gguf_has(g, "tokenizer.ggml.precompiled_charsmap"))
		return fail(-ENOTSUP, "tokenizer.ggml.precompiled_charsmap: "
				      "text normalisation is not implemented");
	return 0;
}

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
static bool spm_crosses_words(const struct gguf_string *key)
{
	size_t i;

	for (i = 0; spm_is_space(key->text + i, key->len - i);)
		i += ESCAPED_SPACE_BYTES;
	for (; i < key->len; i++)
		if (spm_is_space(key->text + i, key->len - i))
			return true;
	return false;
}

int spm_new(const struct gguf *g, const struct vocabulary *v, struct spm **ret, char *error,
	size_t error_size)
{
	bool adds_space;
	struct spm *s;
	uint32_t i;
	int r;

	r = spm_check_normalizer(g, error, error_size);
	if (r == 0)
		r = spm_flag(
			g, "tokenizer.ggml.add_space_prefix", true, &adds_space, error, error_size);
	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (s)
		s->priorities = calloc(v->n, sizeof(*s->priorities));
	if (!s || !s->priorities) {
		spm_free(s);
		return fail(-ENOMEM, "tokenizer.ggml.scores: out of memory");
	}
	s->v = v;
	s->adds_space = adds_space;
	s->has_bytes = true;
	s->splits_words = !v->has_unused;
	for (i = 0; i < 256; i++)
		s->has_bytes = s->has_bytes && v->byte_ids[i] >= 0;
	for (i = 0; i < v->n; i++) {
		const struct token *t = &v->tokens[i];

		s->priorities[i] = spm_priority(t->score);
		if (t->kind != TOKEN_CONTROL && t->kind != TOKEN_UNKNOWN && t->kind != TOKEN_BYTE &&
			spm_crosses_words(&t->key))
			s->splits_words = false;
	}
	if (!s->has_bytes && v->unknown < 0) {
		spm_free(s);
		return fail(-EINVAL, "tokenizer.ggml.unknown_token_id: missing, and "
				     "tokenizer.ggml.tokens has not all of <0x00> to <0xFF>");
	}
	*ret = s;
	return 0;
}

struct spm *spm_free(struct spm *s)
{
	if (s) {
		free(s->priorities);
		free(s);
	}
	return NULL;
}

bool spm_adds_space(const struct spm *s)
{
	return s->adds_space;
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
	int32_t id;

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

/* The text with its spaces escaped and one in front; malloc'ed. */
static char *spm_escape(const struct spm *spm, const char *s, size_t n, size_t *ret_len)
{
	size_t spaces = spm->adds_space, i, len = 0;
	char *text;

	for (i = 0; i < n; i++)
		spaces += s[i] == ' ';
	text = malloc(n + (ESCAPED_SPACE_BYTES - 1) * spaces + 1 + ESCAPED_SPACE_BYTES);
	if (!text)
		return NULL;
	if (spm->adds_space) {
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

int spm_encode(
	const struct spm *spm, const char *s, size_t n, struct merger *m, struct token_sink *sink)
{
	struct spm_run run = {.spm = spm, .m = m, .sink = sink};
	size_t len, at = 0, i = 0;
	char *text;
	int r = 0;

	if (n == 0)
		return 0;
	text = spm_escape(spm, s, n, &len);
	if (spm->v->has_unused)
		run.cuts = calloc(spm->v->n, sizeof(*run.cuts));
	if (!text || (spm->v->has_unused && !run.cuts))
		r = -ENOMEM;
	run.text = text;
	/* User-defined tokens are taken as they stand and merge with nothing. */
	while (r == 0 && spm->v->defined.n > 0 && i < len) {
		int32_t id = lexicon_match(&spm->v->defined, spm->v, text + i, len - i);

		if (id < 0) {
			i++;
			continue;
		}
		r = spm_words(&run, at, i);
		i += spm->v->tokens[id].key.len;
		if (r == 0)
			r = spm_push(&run, i, 0, id);
		at = i;
	}
	if (r == 0)
		r = spm_words(&run, at, len);
	free(run.cuts);
	free(text);
	return r;
}
