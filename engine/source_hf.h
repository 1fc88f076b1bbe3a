/* The reader of Hugging Face directories, in parts. */
#pragma once

#include "engine/json.h"
#include "engine/safetensors.h"
#include "engine/source.h"

#define HF_MANIFEST_BYTES 1024 /* eight lines of name and SHA-256 */

struct hf {
	int fd;                      /* the directory */
	struct safetensors **shards; /* [n_shards] */
	size_t n_shards;
	json_t *config, *generation, *tokenizer_config, *special_tokens,
		*added_tokens; /* or NULL */
	char *template_file;   /* or NULL */
	size_t template_bytes;
	char name[128];
	char manifest[HF_MANIFEST_BYTES]; /* what the content hash covers beside the tensors */
	size_t manifest_bytes;
};

/* A file of the directory, whole and terminated; *ret is malloc'ed, NULL where there is none. Its
 * digest goes to the manifest. Symbolic links are followed: hub caches are made of them. */
int hf_read_file(struct hf *hf, const char *name, size_t max_bytes, char **ret, size_t *ret_len,
	const struct model_refusal *why);

/* A JSON object, or NULL where there is no such file. */
int hf_read_json(struct hf *hf, const char *name, json_t **ret, const struct model_refusal *why);

/* config.json and generation_config.json. */
int hf_read_config(struct model_source *s, const struct hf *hf, const struct model_refusal *why);
int hf_read_defaults(struct model_source *s, const struct hf *hf, const struct model_refusal *why);

/* tokenizer.json or tokenizer.model, and what tokenizer_config.json and special_tokens_map.json say
 * of them. *ret stays empty where there is neither. */
int hf_read_tokenizer(struct hf *hf, struct tokenizer_source *ret, const struct model_refusal *why);

/* chat_template.jinja, or tokenizer_config.json's. A fault of it costs the chat alone. */
void hf_read_template(struct model_source *s, const struct hf *hf);

/* The parsed file becomes the result's, also on failure. */
int tokenizer_json_read(
	json_t *root, struct tokenizer_source *ret, const struct model_refusal *why);
/* text becomes the result's, also on failure. */
int tokenizer_model_read(
	char *text, size_t len, struct tokenizer_source *ret, const struct model_refusal *why);

/* An added token's text on its id, which may be a new one. The text must live as long as *s. */
int hf_name_token(struct tokenizer_source *s, const char *file, json_int_t id, struct slice text,
	bool special, const struct model_refusal *why);
/* The same, with its content and its flags as files write them. */
int hf_add_token(struct tokenizer_source *s, const char *file, json_int_t id, const json_t *token,
	const struct model_refusal *why);
int32_t hf_find_token(const struct tokenizer_source *s, const char *text); /* or -1 */

/* The tokenizer of a directory alone. -ENOENT where it has none. */
int hf_open_tokenizer(const char *path, struct tokenizer **ret, const struct model_refusal *why);
