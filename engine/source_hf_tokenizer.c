/* Which tokenizer a Hugging Face directory has, and what its small files say of it, as transformers
 * (4.57) puts them together: tokenizer.json as it stands, or tokenizer.model as LlamaConverter
 * converts it; added_tokens_decoder and the special tokens over that. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/limits.h"
#include "engine/source_hf.h"

#define CONFIG  "tokenizer_config.json"
#define SPECIAL "special_tokens_map.json"

/* A token's text: a string, or an object with a content; NULL for anything else. */
static const char *content(const json_t *v)
{
	return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* tokenizer_config.json's, else special_tokens_map.json's. */
static const json_t *setting(const struct hf *hf, const char *key)
{
	const json_t *v = json_member(hf->tokenizer_config, key);

	return v ? v : json_member(hf->special_tokens, key);
}

/* tokenizer_class, where it says so; without one, models of this family have Llama's. */
static bool is_llama(const struct hf *hf, const struct tokenizer_source *s)
{
	const char *name = json_string_value(json_member(hf->tokenizer_config, "tokenizer_class"));

	if (!name)
		return !s->byte_level;
	return strcmp(name, "LlamaTokenizer") == 0 || strcmp(name, "LlamaTokenizerFast") == 0;
}

static int read_model(struct hf *hf, struct tokenizer_source *s, const struct model_refusal *why)
{
	bool prefix, legacy;
	char *text;
	size_t len;
	int r;

	r = hf_read_file(hf, "tokenizer.model", HF_FILE_BYTES_MAX, &text, &len, why);
	if (r < 0 || !text)
		return r;
	if ((r = tokenizer_model_read(text, len, s, why)) < 0 ||
		(r = json_get_bool(hf->tokenizer_config, CONFIG, "add_prefix_space", true, &prefix,
			 why)) < 0 ||
		(r = json_get_bool(hf->tokenizer_config, CONFIG, "legacy", true, &legacy, why)) < 0)
		return r;
	if (!prefix)
		s->space_prefix = SPACE_NEVER;
	else if (!legacy && s->space_prefix == SPACE_ALWAYS)
		s->space_prefix = SPACE_FIRST;
	s->space_once = !legacy;
	return 0;
}

static int read_added(
	const struct hf *hf, struct tokenizer_source *s, const struct model_refusal *why)
{
	json_t *added = json_member(hf->tokenizer_config, "added_tokens_decoder"), *token;
	const char *key;
	char *end;
	long id;
	int r;

	if (added && !json_is_object(added))
		return model_refuse(
			why, -EINVAL, CONFIG ": added_tokens_decoder: an object expected");
	json_object_foreach(added, key, token)
	{
		id = strtol(key, &end, 10);
		if (key[0] < '0' || key[0] > '9' || *end != '\0')
			return model_refuse(why, -EINVAL,
				CONFIG ": added_tokens_decoder: \"%.60s\" is no token id", key);
		r = hf_add_token(s, CONFIG, id, token, why);
		if (r < 0)
			return r;
	}
	return 0;
}

/* added_tokens.json, {text: id}: where older directories name what their tokenizer.model lacks. */
static int read_old_added(
	const struct hf *hf, struct tokenizer_source *s, const struct model_refusal *why)
{
	const char *key;
	json_t *id;
	int r;

	if (s->ranked || json_member(hf->tokenizer_config, "added_tokens_decoder"))
		return 0; /* tokenizer.json holds them, or they have been read */
	json_object_foreach(hf->added_tokens, key, id)
	{
		const json_int_t n = json_is_integer(id) ? json_integer_value(id) : -1;

		if (n >= 0 && n < s->n && s->tokens[n].text.len == strlen(key) &&
			memcmp(s->tokens[n].text.text, key, strlen(key)) == 0)
			continue;
		r = hf_name_token(
			s, "added_tokens.json", n, (struct slice){key, strlen(key)}, false, why);
		if (r < 0)
			return r;
	}
	return 0;
}

/* bos_token and its like: *ret is set where the files name one. */
static int read_special(const struct hf *hf, const char *key, bool required,
	struct tokenizer_source *s, int32_t *ret, const struct model_refusal *why)
{
	const json_t *v = setting(hf, key);
	const char *text = content(v);
	int32_t id = text ? hf_find_token(s, text) : -1;

	if (v && !text)
		return model_refuse(why, -EINVAL, CONFIG ": %s: a token's text expected", key);
	if (text && text[0] && id < 0 && required)
		return model_refuse(
			why, -EINVAL, CONFIG ": %s: \"%.60s\" is not in the vocabulary", key, text);
	if (id < 0)
		return 0;
	*ret = id;
	if (s->tokens[id].kind != TOKEN_UNKNOWN)
		s->tokens[id].kind = TOKEN_CONTROL;
	return 0;
}

/* One of the names that transformers gives a template (special_tokens_map of 4.57), and a token
 * that is control where the vocabulary has it. */
static int name_special(struct tokenizer_source *s, const char *name, const char *text,
	const struct model_refusal *why)
{
	int32_t id = text ? hf_find_token(s, text) : -1;
	int r;

	if (!text)
		return 0;
	if (id >= 0 && s->tokens[id].kind != TOKEN_UNKNOWN)
		s->tokens[id].kind = TOKEN_CONTROL;
	r = tokenizer_source_name(
		s, (struct slice){name, strlen(name)}, (struct slice){text, strlen(text)});
	return r < 0 ? model_refuse(why, r, CONFIG ": no memory") : 0;
}

/* All but bos_token and eos_token. */
static int name_specials(
	const struct hf *hf, struct tokenizer_source *s, const struct model_refusal *why)
{
	static const char *const names[] = {
		"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
	json_t *extra = json_member(hf->tokenizer_config, "extra_special_tokens"), *token;
	const json_t *list = setting(hf, "additional_special_tokens");
	const char *text, *key;
	size_t i;
	int r = 0;

	for (i = 0; i < sizeof(names) / sizeof(*names) && r == 0; i++) {
		text = content(setting(hf, names[i]));
		if (!text && i == 0 && is_llama(hf, s))
			text = "<unk>";
		r = name_special(s, names[i], text, why);
	}
	json_object_foreach(extra, key, token)
	{
		if (r == 0)
			r = name_special(s, key, content(token), why);
	}
	if (r < 0)
		return r;

	if (list && (!json_is_array(list) || json_array_size(list) > HF_SPECIAL_TOKENS_MAX))
		return model_refuse(why, -EINVAL,
			CONFIG ": additional_special_tokens: a list of at most %d expected",
			HF_SPECIAL_TOKENS_MAX);
	for (i = 0; i < json_array_size(list) && r == 0; i++)
		r = name_special(s, "", content(json_array_get(list, i)), why);
	return r;
}

/* Where no file names it: Llama's class has a default, and config.json a number. */
static void default_special(const struct hf *hf, const char *key, const char *llama,
	struct tokenizer_source *s, int32_t *ret)
{
	const json_t *v = json_member(hf->config, key);

	if (*ret >= 0)
		return;
	if (is_llama(hf, s))
		*ret = hf_find_token(s, llama);
	if (*ret < 0 && json_is_integer(v) && json_integer_value(v) >= 0 &&
		json_integer_value(v) < s->n)
		*ret = (int32_t)json_integer_value(v);
	if (*ret < 0)
		return;
	if (s->tokens[*ret].kind != TOKEN_UNKNOWN)
		s->tokens[*ret].kind = TOKEN_CONTROL;
}

static int read_additions(
	const struct hf *hf, struct tokenizer_source *s, const struct model_refusal *why)
{
	int r;

	/* Other classes leave it to tokenizer.json's post_processor, which has been read. */
	if (is_llama(hf, s) && ((r = json_get_bool(hf->tokenizer_config, CONFIG, "add_bos_token",
					 s->bos >= 0, &s->adds_bos, why)) < 0 ||
				       (r = json_get_bool(hf->tokenizer_config, CONFIG,
						"add_eos_token", false, &s->adds_eos, why)) < 0))
		return r;
	if ((s->adds_bos && s->bos < 0) || (s->adds_eos && s->eos < 0))
		return model_refuse(why, -EINVAL,
			CONFIG ": %s: true, but no file names such a token",
			s->adds_bos && s->bos < 0 ? "add_bos_token" : "add_eos_token");
	return 0;
}

int hf_read_tokenizer(struct hf *hf, struct tokenizer_source *ret, const struct model_refusal *why)
{
	struct tokenizer_source s = {0};
	const bool has_model = faccessat(hf->fd, "tokenizer.model", F_OK, 0) == 0;
	int32_t bos, eos;
	json_t *root = NULL;
	int r = 0;

	/* transformers converts tokenizer.model anew where add_prefix_space is set. */
	if (!has_model || !is_llama(hf, &s) ||
		!json_member(hf->tokenizer_config, "add_prefix_space"))
		r = hf_read_json(hf, "tokenizer.json", &root, why);
	if (r == 0 && root)
		r = tokenizer_json_read(root, &s, why);
	else if (r == 0)
		r = read_model(hf, &s, why);
	if (r < 0 || s.n == 0)
		goto out;
	bos = s.bos;
	eos = s.eos;
	if ((r = read_added(hf, &s, why)) < 0 || (r = read_old_added(hf, &s, why)) < 0 ||
		(r = read_special(hf, "unk_token", false, &s, &s.unknown, why)) < 0 ||
		(r = read_special(hf, "bos_token", true, &s, &s.bos, why)) < 0 ||
		(r = read_special(hf, "eos_token", true, &s, &s.eos, why)) < 0 ||
		(r = name_specials(hf, &s, why)) < 0)
		goto out;
	default_special(hf, "bos_token_id", "<s>", &s, &s.bos);
	default_special(hf, "eos_token_id", "</s>", &s, &s.eos);
	if ((s.adds_bos && bos != s.bos) || (s.adds_eos && eos != s.eos)) {
		if (!is_llama(hf, &s)) {
			r = model_refuse(why, -ENOTSUP,
				"tokenizer.json: post_processor: the tokens of " CONFIG
				" expected, others are not implemented");
			goto out;
		}
	}
	r = read_additions(hf, &s, why);
out:
	if (r < 0)
		tokenizer_source_done(&s);
	else
		*ret = s;
	return r;
}

void hf_read_template(struct model_source *s, const struct hf *hf)
{
	const json_t *v = json_member(hf->tokenizer_config, "chat_template"), *one;
	const json_t *found = NULL;
	size_t i;

	if (hf->template_file) {
		s->chat_template = (struct slice){hf->template_file, hf->template_bytes};
		return;
	}
	if (json_is_string(v))
		found = v;
	for (i = 0; json_is_array(v) && i < json_array_size(v); i++) {
		one = json_array_get(v, i);
		if (json_is_string(json_object_get(one, "name")) &&
			strcmp(json_string_value(json_object_get(one, "name")), "default") == 0)
			found = json_object_get(one, "template");
	}
	if (json_is_string(found))
		s->chat_template = (struct slice){
			json_string_value(found), json_string_length(found)};
	else if (v)
		snprintf(s->template_error, sizeof(s->template_error),
			CONFIG ": chat_template: a text expected, or a list with one named "
			       "\"default\"");
}
