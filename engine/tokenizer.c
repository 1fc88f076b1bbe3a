/* Text to token ids and back: what both kinds of tokenizer share. Spans become one repaired text
 * that remembers which bytes are trusted, control tokens are cut out of those, and what lies
 * between goes to the model's own kind of byte-pair encoding (bpe.h, spm.h). The tokenizer owns its
 * vocabulary and rules and is immutable; a call owns its working memory. */
#include "engine/tokenizer.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bpe.h"
#include "engine/limits.h"
#include "engine/spm.h"
#include "engine/utf8.h"
#include "engine/vocabulary.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

struct tokenizer {
	struct vocabulary *v;
	struct bpe *bpe; /* one of the two */
	struct spm *spm;
	bool adds_bos, adds_eos;
};

void token_list_done(struct token_list *l)
{
	free(l->ids);
	*l = (struct token_list){0};
}

void tokenizer_source_done(struct tokenizer_source *s)
{
	free(s->tokens);
	free(s->merges);
	free(s->specials);
	if (s->owner)
		s->release(s->owner);
	*s = (struct tokenizer_source){0};
}

int tokenizer_source_name(struct tokenizer_source *s, struct slice name, struct slice text)
{
	struct special_token *more;

	if (text.len == 0)
		return 0;
	more = reallocarray(s->specials, s->n_specials + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	more[s->n_specials++] = (struct special_token){name, text};
	s->specials = more;
	return 0;
}

int tokenizer_new(
	const struct tokenizer_source *from, struct tokenizer **ret, char *error, size_t error_size)
{
	struct tokenizer *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return fail(-ENOMEM, "%s: out of memory", from->tokens_name);
	t->adds_bos = from->adds_bos;
	t->adds_eos = from->adds_eos;
	r = vocabulary_new(from, &t->v, error, error_size);
	if (r == 0 && from->byte_level)
		r = bpe_new(from, t->v, &t->bpe, error, error_size);
	else if (r == 0)
		r = spm_new(from, t->v, &t->spm, error, error_size);
	if (r < 0) {
		tokenizer_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

struct tokenizer *tokenizer_free(struct tokenizer *t)
{
	if (t) {
		bpe_free(t->bpe);
		spm_free(t->spm);
		vocabulary_free(t->v);
		free(t);
	}
	return NULL;
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
	return t->v->n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->v->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->v->eos;
}

int32_t tokenizer_unknown(const struct tokenizer *t)
{
	return t->v->unknown;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
	return t->adds_bos;
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->v->n && t->v->tokens[id].kind == TOKEN_CONTROL;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t len)
{
	char escaped[ESCAPED_SPACE_BYTES * 256];
	size_t i, n = 0;
	int32_t id = lexicon_match(&t->v->control, t->v, text, len);

	if (id >= 0 && t->v->tokens[id].key.len == len)
		return id;
	id = vocabulary_find(t->v, text, len);
	if (id >= 0 || !t->spm || len > sizeof(escaped) / ESCAPED_SPACE_BYTES)
		return id;
	for (i = 0; i < len; i++) {
		if (text[i] == ' ') {
			memcpy(escaped + n, ESCAPED_SPACE, ESCAPED_SPACE_BYTES);
			n += ESCAPED_SPACE_BYTES;
		} else {
			escaped[n++] = text[i];
		}
	}
	return vocabulary_find(t->v, escaped, n);
}

/* The end of a run of bytes of one provenance. */
struct text_run {
	size_t end;
	bool trusted;
};

/* The spans as one valid text. */
struct joined_text {
	char *text;
	size_t len;
	struct text_run *runs; /* [n_runs], ends ascending, the last one is len */
	size_t n_runs;
};

static void joined_text_done(struct joined_text *j)
{
	free(j->text);
	free(j->runs);
}

static void joined_text_extend(struct joined_text *j, size_t end, bool trusted)
{
	if (j->n_runs > 0 && j->runs[j->n_runs - 1].trusted == trusted)
		j->runs[j->n_runs - 1].end = end;
	else
		j->runs[j->n_runs++] = (struct text_run){.end = end, .trusted = trusted};
}

/* Repairs j->text, whose runs stand. A character is trusted if each of its bytes is. */
static int joined_text_repair(struct joined_text *j)
{
	struct joined_text out = {0};
	size_t at = 0, run = 0, last;
	uint32_t code;

	/* Only a character that lies across a border changes how often the provenance does, and
	 * never to more than two runs for each border. */
	out.text = malloc(3 * j->len + 1);
	out.runs = calloc(2 * j->n_runs + 1, sizeof(*out.runs));
	if (!out.text || !out.runs) {
		joined_text_done(&out);
		return -ENOMEM;
	}
	while (at < j->len) {
		size_t length = utf8_decode(j->text + at, j->len - at, &code);
		bool trusted;

		while (j->runs[run].end <= at)
			run++;
		trusted = j->runs[run].trusted;
		for (last = run; j->runs[last].end < at + length;)
			trusted = trusted && j->runs[++last].trusted;
		if (code == UINT32_MAX)
			code = 0xfffd;
		out.len += utf8_encode(code, out.text + out.len);
		joined_text_extend(&out, out.len, trusted);
		at += length;
	}
	joined_text_done(j);
	*j = out;
	return 0;
}

static int joined_text_new(const struct text_span *spans, size_t n_spans, struct joined_text *ret)
{
	struct joined_text j = {0};
	size_t i, total = 0;
	int r = 0;

	for (i = 0; i < n_spans; i++) {
		if (spans[i].len > TEXT_BYTES_MAX - total)
			return -E2BIG;
		total += spans[i].len;
	}
	j.text = malloc(total + 1);
	j.runs = calloc(n_spans ? n_spans : 1, sizeof(*j.runs));
	if (!j.text || !j.runs) {
		joined_text_done(&j);
		return -ENOMEM;
	}
	for (i = 0; i < n_spans; i++) {
		if (spans[i].len == 0)
			continue;
		memcpy(j.text + j.len, spans[i].text, spans[i].len);
		j.len += spans[i].len;
		joined_text_extend(&j, j.len, spans[i].trusted);
	}
	if (!utf8_valid(j.text, j.len))
		r = joined_text_repair(&j);
	if (r < 0) {
		joined_text_done(&j);
		return r;
	}
	*ret = j;
	return 0;
}

/* One call's state. */
struct encoding {
	const struct tokenizer *t;
	unsigned flags;
	enum text_place place; /* of the whole text */
	struct merger merger;
	struct token_sink sink;
};

/* first: the text begins with it, otherwise it is behind a control token. */
static int encoding_fragment(struct encoding *e, const char *s, size_t n, bool first)
{
	if (n == 0)
		return 0;
	if (e->t->spm)
		return spm_encode(e->t->spm, s, n, first ? e->place : TEXT_AFTER_CONTROL,
			&e->merger, &e->sink);
	return bpe_encode(e->t->bpe, s, n, e->flags & TOKENIZE_INTERPRET, &e->merger, &e->sink);
}

/* Cuts the control tokens out of what is trusted, the longest at each place. */
static int encoding_text(struct encoding *e, const struct joined_text *j)
{
	const struct vocabulary *v = e->t->v;
	size_t start = 0, at = 0, run;
	int r = 0;

	for (run = 0; run < j->n_runs; run++) {
		if (!j->runs[run].trusted) {
			at = j->runs[run].end;
			continue;
		}
		while (at < j->runs[run].end) {
			int32_t id = lexicon_match(
				&v->control, v, j->text + at, j->runs[run].end - at);

			if (id < 0) {
				at++;
				continue;
			}
			r = encoding_fragment(e, j->text + start, at - start, start == 0);
			if (r == 0)
				r = token_sink_push(&e->sink, id);
			if (r < 0)
				return r;
			start = at += v->tokens[id].key.len;
		}
	}
	return encoding_fragment(e, j->text + start, j->len - start, start == 0);
}

/* Templates of models that add BOS often write it themselves: one is meant. */
static bool encoding_begins_with_bos(const struct vocabulary *v, const struct joined_text *j)
{
	return v->bos >= 0 && j->n_runs > 0 && j->runs[0].trusted &&
	       lexicon_match(&v->control, v, j->text, j->runs[0].end) == v->bos;
}

int tokenizer_encode(const struct tokenizer *t, const struct text_span *spans, size_t n_spans,
	unsigned flags, struct token_list *ret)
{
	struct encoding e = {.t = t, .flags = flags};
	struct joined_text j;
	bool bos, eos;
	int r;

	e.place = flags & TOKENIZE_CONTINUE ? TEXT_CONTINUES : TEXT_BEGINS;
	r = joined_text_new(spans, n_spans, &j);
	if (r < 0)
		return r;
	eos = flags & TOKENIZE_MODEL && t->adds_eos;
	bos = flags & TOKENIZE_BOS ||
	      (flags & TOKENIZE_MODEL && t->adds_bos && !encoding_begins_with_bos(t->v, &j));
	if (bos && t->v->bos >= 0)
		r = token_sink_push(&e.sink, t->v->bos);
	if (r == 0)
		r = encoding_text(&e, &j);
	if (r == 0 && eos)
		r = token_sink_push(&e.sink, t->v->eos);
	joined_text_done(&j);
	merger_done(&e.merger);
	if (r < 0) {
		free(e.sink.ids);
		return r;
	}
	*ret = (struct token_list){.ids = e.sink.ids, .n = e.sink.n};
	return 0;
}

int tokenizer_continue(const struct tokenizer *t, int32_t behind, const struct text_span *spans,
	size_t n_spans, struct token_list *ret)
{
	struct encoding e = {.t = t};
	struct joined_text j;
	int r;

	assert(behind >= 0);
	e.place = t->spm && (uint32_t)behind < t->v->n ? spm_behind(t->spm, behind)
						       : TEXT_CONTINUES;
	r = joined_text_new(spans, n_spans, &j);
	if (r < 0)
		return r;
	r = encoding_text(&e, &j);
	joined_text_done(&j);
	merger_done(&e.merger);
	if (r < 0) {
		free(e.sink.ids);
		return r;
	}
	*ret = (struct token_list){.ids = e.sink.ids, .n = e.sink.n};
	return 0;
}

struct slice tokenizer_piece(const struct tokenizer *t, int32_t id)
{
	struct slice none = {.text = "", .len = 0};

	if (id < 0 || (uint32_t)id >= t->v->n)
		return none;
	if (t->v->tokens[id].kind == TOKEN_CONTROL || t->v->tokens[id].kind == TOKEN_UNKNOWN)
		return none;
	return t->v->tokens[id].text;
}

/* The text of the ids into `out` (NULL: only measured). Where a text begins, and behind each
 * control token, SentencePiece has put a space in front, which goes again. */
static size_t tokenizer_write(
	const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags, char *out)
{
	const enum space_prefix space = t->spm ? spm_space(t->spm) : SPACE_NEVER;
	bool drops_space = space != SPACE_NEVER && !(flags & DETOKENIZE_CONTINUE);
	size_t i, len = 0;

	for (i = 0; i < n; i++) {
		const struct token *token = &t->v->tokens[ids[i]];
		struct slice text = tokenizer_piece(t, ids[i]);
		bool named = token->kind == TOKEN_CONTROL || token->kind == TOKEN_UNKNOWN;

		if (named && flags & DETOKENIZE_SPECIAL)
			text = token->text;
		else if (!named && drops_space && token->kind != TOKEN_BYTE && text.len > 0 &&
			 text.text[0] == ' ')
			text = (struct slice){.text = text.text + 1, .len = text.len - 1};
		if (token->kind == TOKEN_CONTROL)
			drops_space = drops_space || space == SPACE_ALWAYS;
		else if (named || token->text.len > 0)
			drops_space = false;
		if (out)
			memcpy(out + len, text.text, text.len);
		len += text.len;
	}
	return len;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
	char **ret_text, size_t *ret_len)
{
	size_t i, len;
	char *text;

	for (i = 0; i < n; i++)
		if (ids[i] < 0 || (uint32_t)ids[i] >= t->v->n)
			return -EINVAL;
	/* The text is at most a text's tokens of TOKEN_BYTES_MAX each; far below SIZE_MAX. */
	len = tokenizer_write(t, ids, n, flags, NULL);
	text = malloc(len + 1);
	if (!text)
		return -ENOMEM;
	tokenizer_write(t, ids, n, flags, text);
	text[len] = '\0';
	*ret_text = text;
	*ret_len = len;
	return 0;
}
