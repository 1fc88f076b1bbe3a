/* tokenizer.json, the file of the library `tokenizers`: its BPE in the two forms that Llama and
 * Mistral models have it, SentencePiece's (spaces as U+2581, bytes as <0x0A>) and GPT-2's (bytes in
 * an alphabet, split by a pattern). Every stage is recognised or refused by its name.
 *
 * Texts point into the parsed file, which the result owns. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/pretokenize.h"
#include "engine/source_hf.h"
#include "engine/vocabulary.h"

#define FILE_NAME "tokenizer.json"

/* "type" of a stage; "" where it has none. */
static const char *type_of(const json_t *stage)
{
	const char *type = json_string_value(json_object_get(stage, "type"));

	return type ? type : "";
}

static bool is_string(const json_t *v, const char *text)
{
	return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static int refuse_stage(const char *stage, const json_t *found, const struct model_refusal *why)
{
	return model_refuse(why, -ENOTSUP,
		FILE_NAME ": %s: \"%.60s\" is not implemented as it stands there", stage,
		type_of(found));
}

/* The stages of a sequence, or the one that is none: *i counts, NULL ends. */
static const json_t *next_stage(const json_t *stage, const char *list, size_t *i)
{
	if (strcmp(type_of(stage), "Sequence") == 0)
		return json_array_get(json_object_get(stage, list), (*i)++);
	return (*i)++ == 0 ? stage : NULL;
}

/* ---- SentencePiece's form ---- */

struct spaces {
	bool escaped;             /* ' ' becomes U+2581 */
	bool once;                /* no second one before a space */
	enum space_prefix prefix; /* one goes in front */
};

static int read_normalizer(
	const json_t *normalizer, struct spaces *spaces, const struct model_refusal *why)
{
	const json_t *stage;
	size_t i = 0;

	while (normalizer && (stage = next_stage(normalizer, "normalizers", &i))) {
		const json_t *pattern = json_object_get(stage, "pattern");

		if (strcmp(type_of(stage), "Prepend") == 0 && !spaces->escaped &&
			spaces->prefix == SPACE_NEVER &&
			is_string(json_object_get(stage, "prepend"), ESCAPED_SPACE))
			spaces->prefix = SPACE_ALWAYS;
		else if (strcmp(type_of(stage), "Replace") == 0 && !spaces->escaped &&
			 is_string(json_object_get(pattern, "String"), " ") &&
			 is_string(json_object_get(stage, "content"), ESCAPED_SPACE))
			spaces->escaped = true;
		else
			return refuse_stage("normalizer", stage, why);
	}
	return 0;
}

static int read_metaspace(
	const json_t *stage, struct spaces *spaces, const struct model_refusal *why)
{
	const json_t *scheme = json_member(stage, "prepend_scheme");
	const json_t *split = json_member(stage, "split");

	if (spaces->escaped || spaces->prefix != SPACE_NEVER || !json_is_false(split) ||
		!is_string(json_object_get(stage, "replacement"), ESCAPED_SPACE))
		return refuse_stage("pre_tokenizer", stage, why);
	spaces->escaped = true;
	spaces->once = true;
	if (is_string(scheme, "always"))
		spaces->prefix = SPACE_ALWAYS;
	else if (is_string(scheme, "first"))
		spaces->prefix = SPACE_FIRST;
	else if (!is_string(scheme, "never"))
		return refuse_stage("pre_tokenizer", stage, why);
	return 0;
}

/* ---- GPT-2's form ---- */

static bool is_byte_level(const json_t *stage, bool regex)
{
	const json_t *use = json_member(stage, "use_regex");

	return strcmp(type_of(stage), "ByteLevel") == 0 &&
	       json_is_false(json_object_get(stage, "add_prefix_space")) &&
	       (use ? json_is_true(use) : true) == regex;
}

static const struct pretokenizer_kind *find_split(const json_t *stage)
{
	const json_t *regex = json_object_get(json_object_get(stage, "pattern"), "Regex");

	if (strcmp(type_of(stage), "Split") != 0 || !json_is_string(regex) ||
		!is_string(json_object_get(stage, "behavior"), "Isolated") ||
		!json_is_false(json_object_get(stage, "invert")))
		return NULL;
	return pretokenizer_of_regex(json_string_value(regex));
}

/* ByteLevel alone, behind single digits, or behind a known pattern. */
static int read_split(
	const json_t *pre, struct tokenizer_source *s, const struct model_refusal *why)
{
	const json_t *stages[3] = {0}, *stage;
	size_t n = 0, i = 0;

	while (n < 3 && (stage = next_stage(pre, "pretokenizers", &i)))
		stages[n++] = stage;
	if (n == 1 && is_byte_level(stages[0], true))
		s->split = pretokenizer_kind((struct slice){"gpt-2", 5});
	else if (n == 2 && strcmp(type_of(stages[0]), "Digits") == 0 &&
		 json_is_true(json_object_get(stages[0], "individual_digits")) &&
		 is_byte_level(stages[1], true))
		s->split = pretokenizer_kind((struct slice){"smollm", 6});
	else if (n == 2 && is_byte_level(stages[1], false))
		s->split = find_split(stages[0]);
	if (!s->split)
		return refuse_stage("pre_tokenizer", n > 0 ? stages[0] : pre, why);
	return 0;
}

static int read_form(
	const json_t *root, struct tokenizer_source *s, const struct model_refusal *why)
{
	const json_t *normalizer = json_member(root, "normalizer");
	const json_t *pre = json_member(root, "pre_tokenizer");
	struct spaces spaces = {.prefix = SPACE_NEVER};
	int r;

	if (pre && strcmp(type_of(pre), "Metaspace") != 0) {
		if (normalizer)
			return refuse_stage("normalizer", normalizer, why);
		s->byte_level = true;
		return read_split(pre, s, why);
	}
	r = read_normalizer(normalizer, &spaces, why);
	if (r == 0 && pre)
		r = read_metaspace(pre, &spaces, why);
	if (r == 0 && !spaces.escaped)
		return model_refuse(why, -ENOTSUP,
			FILE_NAME ": normalizer, pre_tokenizer: neither escapes spaces nor splits, "
				  "which is not implemented");
	s->space_prefix = spaces.prefix;
	s->space_once = spaces.once;
	s->cuts_defined = true;
	return r;
}

/* What turns tokens into text must be what the form implies. */
static int check_decoder(
	const json_t *root, const struct tokenizer_source *s, const struct model_refusal *why)
{
	static const char *const known[] = {
		"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", NULL};
	const json_t *decoder = json_member(root, "decoder"), *stage;
	size_t i = 0, k;

	while (decoder && (stage = next_stage(decoder, "decoders", &i))) {
		for (k = 0; known[k] && strcmp(known[k], type_of(stage)) != 0; k++)
			;
		if (s->byte_level ? strcmp(type_of(stage), "ByteLevel") != 0 : !known[k])
			return refuse_stage("decoder", stage, why);
	}
	return 0;
}

/* ---- the vocabulary ---- */

int hf_name_token(struct tokenizer_source *s, const char *file, json_int_t id, struct slice text,
	bool special, const struct model_refusal *why)
{
	struct token_source *t, *more;
	size_t i;

	if (text.len == 0 || id < 0 || id >= MODEL_VOCAB_MAX)
		return model_refuse(why, -EINVAL,
			"%s: an added token with an id below %d and a content expected", file,
			MODEL_VOCAB_MAX);
	if (id >= s->n) {
		more = reallocarray(s->tokens, (size_t)id + 1, sizeof(*more));
		if (!more)
			return model_refuse(why, -ENOMEM, "%s: no memory", file);
		s->tokens = more;
		for (i = s->n; i <= (size_t)id; i++)
			more[i] = (struct token_source){{"", 0}, 0, TOKEN_CONTROL};
		s->n = (uint32_t)id + 1;
	}
	t = &s->tokens[id];
	if (t->text.len > 0 &&
		(t->text.len != text.len || memcmp(t->text.text, text.text, text.len) != 0))
		return model_refuse(why, -EINVAL,
			"%s: added token \"%.*s\": id %lld is that of \"%.*s\"", file,
			(int)(text.len < 60 ? text.len : 60), text.text, (long long)id,
			(int)(t->text.len < 60 ? t->text.len : 60), t->text.text);
	t->text = text;
	if (t->kind != TOKEN_UNKNOWN)
		t->kind = special ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
	return 0;
}

int hf_add_token(struct tokenizer_source *s, const char *file, json_int_t id, const json_t *token,
	const struct model_refusal *why)
{
	static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
	const json_t *content = json_object_get(token, "content");
	const struct slice text = {json_string_value(content), json_string_length(content)};
	size_t i;

	for (i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (json_is_true(json_object_get(token, flags[i])))
			return model_refuse(why, -ENOTSUP,
				"%s: added token \"%.60s\": %s is not implemented", file,
				text.text ? text.text : "", flags[i]);
	return hf_name_token(
		s, file, id, text, json_is_true(json_object_get(token, "special")), why);
}

static bool is_byte_name(const char *s)
{
	return strlen(s) == 6 && strncmp(s, "<0x", 3) == 0 && s[5] == '>' &&
	       strspn(s + 3, "0123456789ABCDEF") == 2;
}

static int read_vocabulary(
	json_t *model, struct tokenizer_source *s, bool bytes, const struct model_refusal *why)
{
	json_t *vocab = json_object_get(model, "vocab"), *value;
	json_int_t largest = -1;
	const char *key;
	uint32_t i;

	if (!json_is_object(vocab) || json_object_size(vocab) == 0)
		return model_refuse(
			why, -EINVAL, FILE_NAME ": model.vocab: an object of ids expected");
	json_object_foreach(vocab, key, value)
	{
		const json_int_t id = json_integer_value(value);

		if (!json_is_integer(value) || id < 0 || id >= MODEL_VOCAB_MAX)
			return model_refuse(why, -EINVAL,
				FILE_NAME ": model.vocab: \"%.60s\": an id below %d expected", key,
				MODEL_VOCAB_MAX);
		if (id > largest)
			largest = id;
	}
	s->tokens = calloc((size_t)largest + 1, sizeof(*s->tokens));
	if (!s->tokens)
		return model_refuse(why, -ENOMEM, FILE_NAME ": no memory");
	s->n = (uint32_t)largest + 1;
	json_object_foreach(vocab, key, value)
	{
		struct token_source *t = &s->tokens[json_integer_value(value)];

		if (t->text.text)
			return model_refuse(why, -EINVAL,
				FILE_NAME ": model.vocab: \"%.60s\" and \"%.60s\" have one id",
				t->text.text, key);
		t->text = (struct slice){key, strlen(key)};
		t->kind = bytes && is_byte_name(key) ? TOKEN_BYTE : TOKEN_NORMAL;
	}
	for (i = 0; i < s->n; i++)
		if (!s->tokens[i].text.text)
			s->tokens[i] = (struct token_source){{"", 0}, 0, TOKEN_CONTROL};
	return 0;
}

/* "left right", or [left, right]. */
static bool take_pair(const json_t *pair, struct merge_source *ret)
{
	const json_t *left = json_array_get(pair, 0), *right = json_array_get(pair, 1);
	const char *line, *space;

	if (json_is_array(pair)) {
		if (json_array_size(pair) != 2 || !json_is_string(left) || !json_is_string(right))
			return false;
		ret->left = (struct slice){json_string_value(left), json_string_length(left)};
		ret->right = (struct slice){json_string_value(right), json_string_length(right)};
	} else {
		line = json_string_value(pair);
		space = line ? strchr(line, ' ') : NULL;
		if (!space || strchr(space + 1, ' '))
			return false;
		ret->left = (struct slice){line, (size_t)(space - line)};
		ret->right = (struct slice){space + 1, strlen(space + 1)};
	}
	return ret->left.len > 0 && ret->right.len > 0;
}

static int read_merges(
	const json_t *model, struct tokenizer_source *s, const struct model_refusal *why)
{
	const json_t *merges = json_object_get(model, "merges");
	size_t n = json_array_size(merges), i;

	if (!json_is_array(merges))
		return model_refuse(why, -EINVAL, FILE_NAME ": model.merges: a list expected");
	s->merges = calloc(n ? n : 1, sizeof(*s->merges));
	if (!s->merges)
		return model_refuse(why, -ENOMEM, FILE_NAME ": no memory");
	for (i = 0; i < n; i++)
		if (!take_pair(json_array_get(merges, i), &s->merges[i]))
			return model_refuse(
				why, -EINVAL, FILE_NAME ": model.merges: entry %zu is no pair", i);
	s->n_merges = n;
	return 0;
}

/* Options of the model that would be another algorithm. */
static int check_model(
	const json_t *model, const struct tokenizer_source *s, const struct model_refusal *why)
{
	static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const double zero = 0;
	const char *text;
	double dropout;
	size_t i;
	int r;

	/* Files older than the key have BPE where there are merges. */
	if (type_of(model)[0] ? strcmp(type_of(model), "BPE") != 0
			      : !json_object_get(model, "merges"))
		return model_refuse(why, -ENOTSUP,
			FILE_NAME
			": model: BPE expected, found \"%.60s\", which is not implemented",
			type_of(model));
	r = json_get_number(model, FILE_NAME ": model", "dropout", &zero, 0, 1, &dropout, why);
	if (r < 0)
		return r;
	if (dropout != 0)
		return model_refuse(why, -ENOTSUP, FILE_NAME ": model.dropout: null expected");
	for (i = 0; i < 2; i++) {
		r = json_get_string(model, FILE_NAME ": model", affixes[i], &text, why);
		if (r < 0)
			return r;
		if (text && text[0])
			return model_refuse(why, -ENOTSUP,
				FILE_NAME ": model.%s: \"%.60s\" is not implemented", affixes[i],
				text);
	}
	if (s->byte_level && json_is_true(json_object_get(model, "byte_fallback")))
		return model_refuse(why, -ENOTSUP,
			FILE_NAME ": model.byte_fallback: true is not implemented for byte-level "
				  "BPE");
	return 0;
}

int32_t hf_find_token(const struct tokenizer_source *s, const char *text)
{
	const size_t len = strlen(text);
	uint32_t i;

	for (i = 0; i < s->n && len > 0; i++)
		if (s->tokens[i].text.len == len && memcmp(s->tokens[i].text.text, text, len) == 0)
			return (int32_t)i;
	return -1;
}

/* Without all 256 bytes, what is unknown becomes unk_token, and neighbours are one. */
static int read_unknown(
	const json_t *model, struct tokenizer_source *s, const struct model_refusal *why)
{
	const char *text;
	uint32_t bytes = 0, i;
	int r;

	r = json_get_string(model, FILE_NAME ": model", "unk_token", &text, why);
	if (r < 0)
		return r;
	s->unknown = text ? hf_find_token(s, text) : -1;
	if (text && s->unknown < 0)
		return model_refuse(why, -EINVAL,
			FILE_NAME ": model.unk_token: \"%.60s\" is not in model.vocab", text);
	if (s->unknown >= 0)
		s->tokens[s->unknown].kind = TOKEN_UNKNOWN;
	for (i = 0; i < s->n; i++)
		bytes += s->tokens[i].kind == TOKEN_BYTE;
	if (!s->byte_level && bytes < 256 && !json_is_true(json_object_get(model, "fuse_unk")))
		return model_refuse(why, -ENOTSUP,
			FILE_NAME ": model.fuse_unk: false is not implemented without all of "
				  "<0x00> to <0xFF>");
	return 0;
}

/* ---- what goes around the text ---- */

/* TemplateProcessing's `single`: [special] A [special]. */
static int read_template(
	const json_t *stage, struct tokenizer_source *s, const struct model_refusal *why)
{
	const json_t *single = json_object_get(stage, "single");
	bool text = false;
	size_t i;

	for (i = 0; i < json_array_size(single); i++) {
		const json_t *piece = json_array_get(single, i);
		const json_t *special = json_object_get(piece, "SpecialToken");
		const char *name = json_string_value(json_object_get(special, "id"));
		int32_t id = name ? hf_find_token(s, name) : -1;

		if (json_object_get(piece, "Sequence") && !text) {
			text = true;
		} else if (id >= 0 && !text && !s->adds_bos) {
			s->adds_bos = true;
			s->bos = id;
		} else if (id >= 0 && text && !s->adds_eos) {
			s->adds_eos = true;
			s->eos = id;
		} else {
			return refuse_stage("post_processor", stage, why);
		}
	}
	return text ? 0 : refuse_stage("post_processor", stage, why);
}

static int read_post_processor(
	const json_t *root, struct tokenizer_source *s, const struct model_refusal *why)
{
	const json_t *post = json_member(root, "post_processor"), *stage;
	size_t i = 0;
	int r;

	while (post && (stage = next_stage(post, "processors", &i))) {
		if (strcmp(type_of(stage), "ByteLevel") == 0)
			continue; /* moves offsets, which nobody asks for */
		if (strcmp(type_of(stage), "TemplateProcessing") != 0 || s->adds_bos || s->adds_eos)
			return refuse_stage("post_processor", stage, why);
		r = read_template(stage, s, why);
		if (r < 0)
			return r;
	}
	return 0;
}

static void release(void *owner)
{
	json_decref(owner);
}

int tokenizer_json_read(json_t *root, struct tokenizer_source *ret, const struct model_refusal *why)
{
	json_t *model = json_object_get(root, "model");
	const json_t *added = json_member(root, "added_tokens");
	struct tokenizer_source *s = ret;
	size_t i;
	int r;

	*s = (struct tokenizer_source){
		.owner = root,
		.release = release,
		.ranked = true,
		.bos = -1,
		.eos = -1,
		.tokens_name = FILE_NAME ": model.vocab",
		.merges_name = FILE_NAME ": model.merges",
	};
	if (!json_is_object(model))
		return model_refuse(why, -EINVAL, FILE_NAME ": model: an object expected");
	s->whole_words = json_is_true(json_object_get(model, "ignore_merges"));
	if ((r = read_form(root, s, why)) < 0 || (r = check_model(model, s, why)) < 0 ||
		(r = check_decoder(root, s, why)) < 0 ||
		(r = read_vocabulary(model, s,
			 json_is_true(json_object_get(model, "byte_fallback")), why)) < 0 ||
		(r = read_merges(model, s, why)) < 0 || (r = read_unknown(model, s, why)) < 0)
		return r;
	if (s->whole_words && !s->byte_level)
		return model_refuse(why, -ENOTSUP,
			FILE_NAME ": model.ignore_merges: true is not implemented without "
				  "ByteLevel");
	if (added && !json_is_array(added))
		return model_refuse(why, -EINVAL, FILE_NAME ": added_tokens: a list expected");
	for (i = 0; i < json_array_size(added); i++) {
		const json_t *token = json_array_get(added, i);
		const json_t *id = json_object_get(token, "id");

		r = hf_add_token(s, FILE_NAME, json_is_integer(id) ? json_integer_value(id) : -1,
			token, why);
		if (r < 0)
			return r;
	}
	return read_post_processor(root, s, why);
}
