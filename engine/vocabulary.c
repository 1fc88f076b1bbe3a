/* The tokens of a model, copied into one arena, with a hash table over
 * what ordinary text may become and sorted lists of the tokens that are matched as they are
 * written. Owns all it points to; immutable after vocabulary_new(). */
#include "engine/vocabulary.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/utf8.h"

#define fail(code, ...) (snprintf(error, error_size, __VA_ARGS__), (code))

int vocabulary_alphabet_byte(uint32_t code)
{
	/* Bytes that print stand for themselves; the other 68 are U+0100 and up, in order. */
	if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) ||
		(code >= 174 && code <= 255))
		return (int)code;
	if (code < 256 || code > 256 + 67)
		return -1;
	code -= 256;
	return (int)(code <= 32 ? code : code < 67 ? code - 33 + 127 : 173);
}

bool vocabulary_alphabet_decode(const char *s, size_t n, char *out, size_t *ret_len)
{
	size_t i = 0, written = 0;
	uint32_t code;
	int byte;

	while (i < n) {
		i += utf8_decode(s + i, n - i, &code);
		byte = vocabulary_alphabet_byte(code);
		if (byte < 0)
			return false;
		out[written++] = (char)byte;
	}
	*ret_len = written;
	return true;
}

static uint64_t vocabulary_hash(const char *s, size_t n)
{
	const uint64_t k = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t h = n * k, word = 0;

	for (; n >= 8; s += 8, n -= 8) {
		memcpy(&word, s, 8);
		h = (h ^ word) * k;
		h ^= h >> 29;
	}
	word = 0;
	memcpy(&word, s, n);
	h = (h ^ word) * k;
	h ^= h >> 32;
	h *= k;
	return h ^ h >> 29;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *key, size_t len)
{
	size_t mask = v->n_slots - 1, i;
	uint64_t hash;

	if (len == 0 || len > v->key_bytes_max)
		return -1;
	hash = vocabulary_hash(key, len);
	for (i = hash & mask; v->slots[i]; i = (i + 1) & mask) {
		const uint32_t id = (uint32_t)(v->slots[i] >> 32) - 1;
		const struct slice *found = &v->tokens[id].key;

		if ((uint32_t)v->slots[i] == (uint32_t)(hash >> 32) && found->len == len &&
			memcmp(found->text, key, len) == 0)
			return (int32_t)id;
	}
	return -1;
}

/* Enters a token; of equal keys the first counts. */
static void vocabulary_enter(struct vocabulary *v, uint32_t id)
{
	const struct slice *key = &v->tokens[id].key;
	const uint64_t hash = vocabulary_hash(key->text, key->len);
	size_t mask = v->n_slots - 1, i;

	if (key->len > v->key_bytes_max)
		v->key_bytes_max = key->len;
	if (vocabulary_find(v, key->text, key->len) >= 0)
		return;
	for (i = hash & mask; v->slots[i];)
		i = (i + 1) & mask;
	v->slots[i] = (uint64_t)(id + 1) << 32 | hash >> 32;
}

int32_t lexicon_match(const struct lexicon *l, const struct vocabulary *v, const char *s, size_t n)
{
	size_t low, high, depth, middle, edge;
	int32_t found = -1;

	if (n == 0)
		return -1;
	low = l->first[(unsigned char)s[0]];
	high = l->first[(unsigned char)s[0] + 1];
	/* [low, high) begin with the first `depth` bytes; the shortest of them comes first. */
	for (depth = 1; low < high; depth++) {
		unsigned char byte;

		if (v->tokens[l->ids[low]].key.len == depth) {
			found = l->ids[low];
			while (low < high && v->tokens[l->ids[low]].key.len == depth)
				low++;
		}
		if (depth == n || low == high)
			break;
		byte = (unsigned char)s[depth];
		for (edge = high; low < edge;) {
			middle = low + (edge - low) / 2;
			if ((unsigned char)v->tokens[l->ids[middle]].key.text[depth] < byte)
				low = middle + 1;
			else
				edge = middle;
		}
		for (middle = low; middle < high;) {
			edge = middle + (high - middle) / 2;
			if ((unsigned char)v->tokens[l->ids[edge]].key.text[depth] > byte)
				high = edge;
			else
				middle = edge + 1;
		}
	}
	return found;
}

static int lexicon_compare(const void *a, const void *b, void *userdata)
{
	const struct vocabulary *v = userdata;
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
	const struct slice *p = &v->tokens[x].key, *q = &v->tokens[y].key;
	int order = memcmp(p->text, q->text, p->len < q->len ? p->len : q->len);

	if (order != 0)
		return order;
	if (p->len != q->len)
		return p->len < q->len ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* The tokens of either kind. A text that is not valid UTF-8 is never matched, so that what lies
 * between matches in valid text is valid too. */
static int lexicon_new(
	struct vocabulary *v, struct lexicon *l, enum token_kind kind, enum token_kind or_kind)
{
	size_t n = 0, b;
	uint32_t i;

	for (i = 0; i < v->n; i++)
		n += v->tokens[i].kind == kind || v->tokens[i].kind == or_kind;
	l->ids = calloc(n ? n : 1, sizeof(*l->ids));
	if (!l->ids)
		return -ENOMEM;
	for (i = 0; i < v->n; i++) {
		const struct token *t = &v->tokens[i];

		if ((t->kind == kind || t->kind == or_kind) && t->key.len > 0 &&
			utf8_valid(t->key.text, t->key.len))
			l->ids[l->n++] = (int32_t)i;
	}
	qsort_r(l->ids, l->n, sizeof(*l->ids), lexicon_compare, v);
	for (b = 0, n = 0; b <= 256; b++) {
		while (n < l->n && (unsigned char)v->tokens[l->ids[n]].key.text[0] < b)
			n++;
		l->first[b] = n;
	}
	return 0;
}

/* Converters have marked tokens such as <|im_end|> as user-defined, which any text may become. */
static bool vocabulary_looks_control(const struct slice *s)
{
	return s->len > 4 && memcmp(s->text, "<|", 2) == 0 &&
	       memcmp(s->text + s->len - 2, "|>", 2) == 0;
}

/* <0x00> … <0xFF>: the byte, or -1. */
static int vocabulary_byte_name(const struct slice *s)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *high, *low;

	if (s->len != 6 || memcmp(s->text, "<0x", 3) != 0 || s->text[5] != '>')
		return -1;
	high = memchr(digits, s->text[3], 16);
	low = memchr(digits, s->text[4], 16);
	return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

/* Keys and texts of one token into the arena at *at. */
static void vocabulary_read_token(
	struct vocabulary *v, struct token *t, struct slice raw, char **at)
{
	char *p = *at;
	size_t i, n;

	if (t->kind == TOKEN_USER_DEFINED && vocabulary_looks_control(&raw))
		t->kind = TOKEN_CONTROL;
	if (v->byte_level && t->kind == TOKEN_UNKNOWN)
		t->kind = TOKEN_CONTROL;

	memcpy(p, raw.text, raw.len);
	t->key = t->text = (struct slice){.text = p, .len = raw.len};
	if (t->kind == TOKEN_CONTROL || t->kind == TOKEN_UNKNOWN ||
		(v->byte_level && t->kind == TOKEN_USER_DEFINED)) {
		*at = p + raw.len;
		return;
	}
	if (v->byte_level) {
		/* Never longer than in the alphabet. Text beyond it stands for itself. */
		if (vocabulary_alphabet_decode(raw.text, raw.len, p, &n))
			t->key.len = t->text.len = n;
		else
			memcpy(p, raw.text, raw.len);
		*at = p + t->key.len;
		return;
	}
	p += raw.len;
	t->text.text = p;
	if (t->kind == TOKEN_BYTE) {
		*p++ = (char)vocabulary_byte_name(&raw);
	} else {
		for (i = 0; i < raw.len;) {
			if (raw.len - i >= ESCAPED_SPACE_BYTES &&
				memcmp(raw.text + i, ESCAPED_SPACE, ESCAPED_SPACE_BYTES) == 0) {
				*p++ = ' ';
				i += ESCAPED_SPACE_BYTES;
			} else {
				*p++ = raw.text[i++];
			}
		}
	}
	t->text.len = (size_t)(p - t->text.text);
	*at = p;
}

static int vocabulary_read_tokens(
	struct vocabulary *v, const struct tokenizer_source *from, char *error, size_t error_size)
{
	size_t bytes = 1;
	uint32_t i;
	char *at;

	v->tokens = calloc(v->n, sizeof(*v->tokens));
	if (!v->tokens)
		return fail(-ENOMEM, "%s: out of memory", from->tokens_name);
	for (i = 0; i < v->n; i++) {
		const struct token_source *t = &from->tokens[i];

		v->tokens[i].kind = t->kind;
		v->tokens[i].score = t->score;
		if (t->text.len > TOKEN_BYTES_MAX)
			return fail(-EINVAL, "%s: token %u has %zu bytes, at most %d are read",
				from->tokens_name, i, t->text.len, TOKEN_BYTES_MAX);
		if (!v->byte_level && t->kind == TOKEN_BYTE && vocabulary_byte_name(&t->text) < 0)
			return fail(-EINVAL,
				"%s: token %u is a byte but not named <0x00> to <0xFF>",
				from->tokens_name, i);
		bytes += 2 * t->text.len; /* at most 2^20 x 2^17 */
	}
	v->arena = malloc(bytes);
	if (!v->arena)
		return fail(-ENOMEM, "%s: out of memory", from->tokens_name);
	at = v->arena;
	for (i = 0; i < v->n; i++)
		vocabulary_read_token(v, &v->tokens[i], from->tokens[i].text, &at);
	assert((size_t)(at - v->arena) < bytes);
	return 0;
}

static int vocabulary_index(struct vocabulary *v)
{
	uint32_t i;

	for (v->n_slots = 16; v->n_slots < 2 * (size_t)v->n;)
		v->n_slots *= 2;
	v->slots = calloc(v->n_slots, sizeof(*v->slots));
	if (!v->slots || lexicon_new(v, &v->control, TOKEN_CONTROL, TOKEN_UNKNOWN) < 0 ||
		lexicon_new(v, &v->defined, TOKEN_USER_DEFINED, TOKEN_USER_DEFINED) < 0)
		return -ENOMEM;
	memset(v->byte_ids, 0xff, sizeof(v->byte_ids));
	for (i = 0; i < v->n; i++) {
		const struct token *t = &v->tokens[i];

		if (t->kind == TOKEN_UNUSED)
			v->has_unused = true;
		if (t->kind == TOKEN_BYTE && !v->byte_level) {
			int32_t *id = &v->byte_ids[(unsigned char)t->text.text[0]];

			if (*id < 0)
				*id = (int32_t)i;
		} else if (t->kind != TOKEN_CONTROL && t->kind != TOKEN_UNKNOWN && t->key.len > 0) {
			vocabulary_enter(v, i);
		}
	}
	for (i = 0; v->byte_level && i < 256; i++) {
		char byte = (char)i;

		v->byte_ids[i] = vocabulary_find(v, &byte, 1);
	}
	return 0;
}

int vocabulary_new(const struct tokenizer_source *from, struct vocabulary **ret, char *error,
	size_t error_size)
{
	struct vocabulary *v = calloc(1, sizeof(*v));
	int r;

	assert(from->n > 0 && from->n <= MODEL_VOCAB_MAX);
	if (!v)
		return fail(-ENOMEM, "%s: out of memory", from->tokens_name);
	v->n = from->n;
	v->byte_level = from->byte_level;
	v->bos = from->bos;
	v->eos = from->eos;
	v->unknown = from->unknown;
	r = vocabulary_read_tokens(v, from, error, error_size);
	if (r == 0) {
		r = vocabulary_index(v);
		if (r < 0)
			r = fail(r, "%s: out of memory", from->tokens_name);
	}
	if (r < 0) {
		vocabulary_free(v);
		return r;
	}
	*ret = v;
	return 0;
}

struct vocabulary *vocabulary_free(struct vocabulary *v)
{
	if (v) {
		free(v->tokens);
		free(v->arena);
		free(v->slots);
		free(v->control.ids);
		free(v->defined.ids);
		free(v);
	}
	return NULL;
}
