/* The split patterns of byte-level models, run by pcre2. The patterns are the models' own public
 * regular expressions (the pre_tokenizer of their tokenizer.json); \s is written out, because
 * pcre2's holds U+180E and theirs does not. The compiled pattern is immutable: each call makes its
 * own match data. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/pretokenize.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Inside brackets: Unicode's White_Space. */
#define WS                                                                                         \
	"\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
	"\\x{205f}\\x{3000}"

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

#define GPT2                                                                                       \
	"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|[" WS "]+(?![^" WS "])" \
	"|[" WS "]+"

/* Every digit is first cut off, then the text between goes through GPT-2's pattern: a digit ends
 * what that looks ahead at. */
#define GPT2_DIGITS                                                                                \
	"\\p{N}|'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?[^" WS "\\p{L}\\p{N}]+"                           \
	"|[" WS "]+(?![^" WS "\\p{N}])|[" WS "]+"

#define LLAMA3                                                                                     \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"                   \
	"| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

#define TEKKEN                                                                                     \
	"[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*"    \
	"|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])"     \
	"|[" WS "]+"

static const struct pretokenizer_kind kinds[] = {
	{"default", GPT2, false, false},
	{"gpt-2", GPT2, false, false},
	{"gpt2", GPT2, false, false},
	{"llama-bpe", LLAMA3, true, true},
	{"llama-v3", LLAMA3, true, true},
	{"llama3", LLAMA3, true, true},
	{"refact", GPT2_DIGITS, false, false},
	{"smollm", GPT2_DIGITS, false, false},
	{"starcoder", GPT2_DIGITS, false, false},
	{"tekken", TEKKEN, true, true},
};

struct pretokenizer {
	pcre2_code *code;
};

const struct pretokenizer_kind *pretokenizer_kind(struct slice name)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strlen(kinds[i].name) == name.len &&
			memcmp(kinds[i].name, name.text, name.len) == 0)
			return &kinds[i];
	return NULL;
}

const struct pretokenizer_kind *pretokenizer_of_regex(const char *regex)
{
	static const struct {
		const char *regex, *kind;
	} known[] = {
		{"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
			"gpt-2"},
		{"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
		 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
			"llama-bpe"},
		{"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
		 "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
		 "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
		 "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
		 "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
			"tekken"},
	};
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (strcmp(known[i].regex, regex) == 0)
			return pretokenizer_kind(
				(struct slice){known[i].kind, strlen(known[i].kind)});
	return NULL;
}

int pretokenizer_new(const struct pretokenizer_kind *kind, struct pretokenizer **ret, char *error,
	size_t error_size)
{
	struct pretokenizer *p = calloc(1, sizeof(*p));
	PCRE2_SIZE offset;
	int code;

	if (!p) {
		snprintf(error, error_size, "out of memory");
		return -ENOMEM;
	}
	p->code = pcre2_compile((PCRE2_SPTR)kind->pattern, PCRE2_ZERO_TERMINATED,
		PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
	if (!p->code) {
		snprintf(error, error_size, "the split pattern of %s: pcre2 error %d at %zu",
			kind->name, code, (size_t)offset);
		free(p);
		return code == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -ENOTSUP;
	}
	/* Not to be had where memory may not become executable: then pcre2 interprets. */
	(void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
	*ret = p;
	return 0;
}

struct pretokenizer *pretokenizer_free(struct pretokenizer *p)
{
	if (p) {
		pcre2_code_free(p->code);
		free(p);
	}
	return NULL;
}

int pretokenizer_split(const struct pretokenizer *p, const char *s, size_t n, bool interpret,
	int (*word)(void *userdata, const char *s, size_t n), void *userdata)
{
	uint32_t options = PCRE2_NO_UTF_CHECK | (interpret ? PCRE2_NO_JIT : 0);
	pcre2_match_context *context = pcre2_match_context_create(NULL);
	pcre2_match_data *data = pcre2_match_data_create(1, NULL);
	const PCRE2_SIZE *bounds;
	size_t at = 0;
	int r = 0;

	if (!context || !data) {
		r = -ENOMEM;
		goto done;
	}
	/* A repeat gives back at most what it took, in a handful of alternatives. */
	pcre2_set_match_limit(context, 10000 + 16 * (uint32_t)n);
	bounds = pcre2_get_ovector_pointer(data);
	while (at < n && r == 0) {
		int found = pcre2_match(p->code, (PCRE2_SPTR)s, n, at, options, data, context);

		if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
			options |= PCRE2_NO_JIT;
			continue;
		}
		if (found == PCRE2_ERROR_NOMATCH || (found >= 0 && bounds[1] == bounds[0])) {
			r = word(userdata, s + at, n - at);
			break;
		}
		if (found < 0) {
			r = found == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -E2BIG;
			break;
		}
		if (bounds[0] > at)
			r = word(userdata, s + at, bounds[0] - at);
		if (r == 0)
			r = word(userdata, s + bounds[0], bounds[1] - bounds[0]);
		at = bounds[1];
	}
done:
	pcre2_match_data_free(data);
	pcre2_match_context_free(context);
	return r;
}
