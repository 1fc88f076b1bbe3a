/* A Hugging Face directory as a model's source: which files there are, and the tensors by their
 * names. struct hf owns the mapped shards and the parsed files, and is the source's. */
#include "engine/source_hf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/digest.h"
#include "engine/limits.h"

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

static const struct source_names names = {
	.fixed = {[TENSOR_EMBED] = "model.embed_tokens.weight",
		[TENSOR_OUTPUT_NORM] = "model.norm.weight",
		[TENSOR_OUTPUT] = "lm_head.weight"},
	.layer_prefix = "model.layers.",
	.layer = {[LAYER_ATTN_NORM] = "input_layernorm.weight",
		[LAYER_Q] = "self_attn.q_proj.weight",
		[LAYER_K] = "self_attn.k_proj.weight",
		[LAYER_V] = "self_attn.v_proj.weight",
		[LAYER_O] = "self_attn.o_proj.weight",
		[LAYER_BQ] = "self_attn.q_proj.bias",
		[LAYER_BK] = "self_attn.k_proj.bias",
		[LAYER_BV] = "self_attn.v_proj.bias",
		[LAYER_BO] = "self_attn.o_proj.bias",
		[LAYER_FFN_NORM] = "post_attention_layernorm.weight",
		[LAYER_GATE] = "mlp.gate_proj.weight",
		[LAYER_UP] = "mlp.up_proj.weight",
		[LAYER_DOWN] = "mlp.down_proj.weight",
		[LAYER_BGATE] = "mlp.gate_proj.bias",
		[LAYER_BUP] = "mlp.up_proj.bias",
		[LAYER_BDOWN] = "mlp.down_proj.bias"},
};

/* -ENOENT where there is none, without a sentence. */
static int open_file(const struct hf *hf, const char *name, const struct model_refusal *why)
{
	/* O_NONBLOCK: a FIFO in a file's place is refused, not waited for. */
	int fd = openat(hf->fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0 && errno != ENOENT)
		return model_refuse(why, -errno, "%s: %s", name, strerror(errno));
	return fd < 0 ? -ENOENT : fd;
}

static int read_all(int fd, const char *name, size_t max_bytes, char **ret, size_t *ret_len,
	const struct model_refusal *why)
{
	struct stat st;
	size_t len = 0;
	ssize_t n = 1;
	char *text;

	if (fstat(fd, &st) < 0)
		return model_refuse(why, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return model_refuse(why, -EINVAL, "%s: a regular file expected", name);
	if ((uint64_t)st.st_size > max_bytes)
		return model_refuse(why, -EINVAL, "%s: at most %zu bytes expected, found %lld",
			name, max_bytes, (long long)st.st_size);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return model_refuse(
			why, -ENOMEM, "%s: no memory for %lld bytes", name, (long long)st.st_size);
	while (len < (size_t)st.st_size && n > 0) {
		n = read(fd, text + len, (size_t)st.st_size - len);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			len += (size_t)n;
	}
	if (n < 0) {
		n = -errno;
		free(text);
		return model_refuse(why, (int)n, "%s: %s", name, strerror((int)-n));
	}
	text[len] = '\0';
	*ret = text;
	*ret_len = len;
	return 0;
}

/* *ret is NULL where there is no such file. */
static int load_file(const struct hf *hf, const char *name, size_t max_bytes, char **ret,
	size_t *ret_len, const struct model_refusal *why)
{
	int fd = open_file(hf, name, why), r;

	*ret = NULL;
	*ret_len = 0;
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	r = read_all(fd, name, max_bytes, ret, ret_len, why);
	close(fd);
	return r;
}

int hf_read_file(struct hf *hf, const char *name, size_t max_bytes, char **ret, size_t *ret_len,
	const struct model_refusal *why)
{
	char digest[65];
	int r = load_file(hf, name, max_bytes, ret, ret_len, why);

	if (r < 0 || !*ret)
		return r;
	r = digest_sha256(*ret, *ret_len, digest);
	if (r < 0) {
		free(*ret);
		*ret = NULL;
		return model_refuse(why, r, "%s: no SHA-256", name);
	}
	r = snprintf(hf->manifest + hf->manifest_bytes, sizeof(hf->manifest) - hf->manifest_bytes,
		"%s %s\n", name, digest);
	hf->manifest_bytes += (size_t)r;
	assert(hf->manifest_bytes < sizeof(hf->manifest));
	return 0;
}

/* Takes text over. */
static int parse_object(
	char *text, size_t len, const char *name, json_t **ret, const struct model_refusal *why)
{
	json_t *root;
	int r;

	r = json_read(text, len, name, &root, why);
	free(text);
	if (r < 0)
		return r;
	if (!json_is_object(root)) {
		json_decref(root);
		return model_refuse(why, -EINVAL, "%s: an object expected", name);
	}
	*ret = root;
	return 0;
}

int hf_read_json(struct hf *hf, const char *name, json_t **ret, const struct model_refusal *why)
{
	char *text;
	size_t len;
	int r = hf_read_file(hf, name, HF_FILE_BYTES_MAX, &text, &len, why);

	return r < 0 || !text ? r : parse_object(text, len, name, ret, why);
}

static int open_shard(struct hf *hf, const char *name, const struct model_refusal *why)
{
	int fd = open_file(hf, name, why), r;

	if (fd == -ENOENT)
		return model_refuse(why, fd, "%s: no such file in the directory", name);
	if (fd < 0)
		return fd;
	r = safetensors_open_fd(fd, name, &hf->shards[hf->n_shards], why);
	close(fd);
	if (r == 0)
		hf->n_shards++;
	return r;
}

/* A file of this directory, and no path out of it. */
static bool is_shard_name(const char *name)
{
	const size_t len = strlen(name), end = strlen(".safetensors");

	return !strchr(name, '/') && len > end && len < 256 &&
	       strcmp(name + len - end, ".safetensors") == 0;
}

/* Opens each file that the index names, once, and compares the index with what they hold. */
static int open_shards(struct hf *hf, const json_t *index, const struct model_refusal *why)
{
	json_t *map = json_object_get(index, "weight_map"), *value;
	const char *key, **files;
	size_t n_files = 0, found = 0, i, k;
	int r = 0;

	if (!json_is_object(map) || json_object_size(map) == 0)
		return model_refuse(
			why, -EINVAL, INDEX ": weight_map: an object of file names expected");
	files = calloc(MODEL_SHARDS_MAX, sizeof(*files));
	hf->shards = calloc(MODEL_SHARDS_MAX, sizeof(*hf->shards));
	if (!files || !hf->shards) {
		free(files);
		return model_refuse(why, -ENOMEM, INDEX ": no memory");
	}
	json_object_foreach(map, key, value)
	{
		const char *file = json_string_value(value);

		if (!file || !is_shard_name(file)) {
			r = model_refuse(why, -EINVAL,
				INDEX
				": weight_map: %.100s: the name of a .safetensors file beside it "
				"expected",
				key);
			goto out;
		}
		for (i = 0; i < n_files && strcmp(files[i], file) != 0; i++)
			;
		if (i < n_files)
			continue;
		if (n_files == MODEL_SHARDS_MAX) {
			r = model_refuse(why, -EINVAL, INDEX ": at most %d files expected",
				MODEL_SHARDS_MAX);
			goto out;
		}
		files[n_files++] = file;
		r = open_shard(hf, file, why);
		if (r < 0)
			goto out;
	}
	for (i = 0; i < hf->n_shards; i++)
		for (k = 0; k < hf->shards[i]->n; k++, found++) {
			const char *name = hf->shards[i]->tensors[k].name.text;
			const char *file = json_string_value(json_object_get(map, name));

			if (!file || strcmp(file, files[i]) != 0) {
				r = model_refuse(why, -EINVAL,
					"%s: tensor %.100s: " INDEX " says %s", files[i], name,
					file ? "another file" : "nothing of it");
				goto out;
			}
		}
	if (found != json_object_size(map))
		r = model_refuse(why, -EINVAL, INDEX ": %zu tensors expected, its files hold %zu",
			json_object_size(map), found);
out:
	free(files);
	return r;
}

static int open_weights(struct hf *hf, const struct model_refusal *why)
{
	json_t *index = NULL;
	char *text;
	size_t len;
	int r;

	if (faccessat(hf->fd, SINGLE, F_OK, 0) == 0) {
		hf->shards = calloc(1, sizeof(*hf->shards));
		if (!hf->shards)
			return model_refuse(why, -ENOMEM, SINGLE ": no memory");
		return open_shard(hf, SINGLE, why);
	}
	/* Not in the manifest: the same tensors in other files are the same model. */
	r = load_file(hf, INDEX, HF_FILE_BYTES_MAX, &text, &len, why);
	if (r < 0)
		return r;
	if (!text)
		return model_refuse(why, -ENOENT,
			"the directory has neither " SINGLE " nor " INDEX
			" (weights in other formats are not read)");
	r = parse_object(text, len, INDEX, &index, why);
	if (r < 0)
		return r;
	r = open_shards(hf, index, why);
	json_decref(index);
	return r;
}

/* What transformers does not load either: rotary frequencies that old checkpoints store, and an
 * output matrix where the embedding is it. */
static bool is_spare(const struct model_source *s, const struct source_tensor *t)
{
	static const char end[] = ".self_attn.rotary_emb.inv_freq";
	const struct slice n = t->name;

	if (s->ties == TIED && strcmp(n.text, names.fixed[TENSOR_OUTPUT]) == 0)
		return true;
	return n.len > strlen(end) &&
	       strncmp(n.text, names.layer_prefix, strlen(names.layer_prefix)) == 0 &&
	       strcmp(n.text + n.len - strlen(end), end) == 0;
}

static int list_tensors(
	struct model_source *s, const struct hf *hf, const struct model_refusal *why)
{
	size_t n = 0, i, k;

	for (i = 0; i < hf->n_shards; i++)
		n += hf->shards[i]->n;
	s->tensors = calloc(n ? n : 1, sizeof(*s->tensors));
	if (!s->tensors)
		return model_refuse(why, -ENOMEM, "no memory for a list of %zu tensors", n);
	for (i = 0; i < hf->n_shards; i++)
		for (k = 0; k < hf->shards[i]->n; k++)
			if (!is_spare(s, &hf->shards[i]->tensors[k]))
				s->tensors[s->n_tensors++] = hf->shards[i]->tensors[k];
	s->names = &names;
	return 0;
}

/* A snapshot of the hub's cache, …/models--ORG--NAME/snapshots/REVISION, is called NAME: its own
 * folder's name says nothing. Otherwise *ret stays empty. */
static void snapshot_name(const char *path, char *ret, size_t size)
{
	const char *mark = "/snapshots/", *end, *at, *name;

	for (end = NULL, at = strstr(path, mark); at; at = strstr(at + 1, mark))
		end = at;
	if (!end)
		return;
	at = memrchr(path, '/', (size_t)(end - path));
	at = at ? at + 1 : path;
	if (strncmp(at, "models--", 8) != 0)
		return;
	at += 8;
	name = memmem(at, (size_t)(end - at), "--", 2);
	name = name ? name + 2 : at;
	snprintf(ret, size, "%.*s", (int)(end - name), name);
}

static void hf_done(struct hf *hf)
{
	size_t i;

	for (i = 0; i < hf->n_shards; i++)
		safetensors_close(hf->shards[i]);
	free(hf->shards);
	json_decref(hf->config);
	json_decref(hf->generation);
	json_decref(hf->tokenizer_config);
	json_decref(hf->special_tokens);
	json_decref(hf->added_tokens);
	free(hf->template_file);
	if (hf->fd >= 0)
		close(hf->fd);
}

static void close_hf(void *files)
{
	hf_done(files);
	free(files);
}

static int open_directory(struct hf *hf, const char *path, const struct model_refusal *why)
{
	int r;

	hf->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (hf->fd < 0)
		return model_refuse(
			why, -errno, "cannot open the model's directory: %s", strerror(errno));
	if ((r = hf_read_json(hf, "config.json", &hf->config, why)) < 0 ||
		(r = hf_read_json(hf, "generation_config.json", &hf->generation, why)) < 0 ||
		(r = hf_read_json(hf, "tokenizer_config.json", &hf->tokenizer_config, why)) < 0 ||
		(r = hf_read_json(hf, "special_tokens_map.json", &hf->special_tokens, why)) < 0 ||
		(r = hf_read_json(hf, "added_tokens.json", &hf->added_tokens, why)) < 0)
		return r;
	return 0;
}

/* Fine-tunes have added tokens (a padding token, mostly) for which their matrices have no row: no
 * model can read or write one, so text that looks like it stays text. */
static void drop_rowless(struct tokenizer_source *t, uint64_t vocab)
{
	while (t->n > vocab && (int64_t)t->n - 1 > t->bos && (int64_t)t->n - 1 > t->eos &&
		(int64_t)t->n - 1 > t->unknown &&
		(t->tokens[t->n - 1].kind == TOKEN_CONTROL ||
			t->tokens[t->n - 1].kind == TOKEN_USER_DEFINED))
		t->n--;
}

int source_read_hf(struct model_source *s, const char *path, const struct model_refusal *why)
{
	struct hf *hf = calloc(1, sizeof(*hf));
	int r;

	if (!hf)
		return model_refuse(why, -ENOMEM, "no memory for the model");
	hf->fd = -1;
	s->files = hf;
	s->close = close_hf;
	r = open_directory(hf, path, why);
	if (r < 0)
		return r;
	if (!hf->config)
		return model_refuse(why, -ENOENT,
			"the directory has no config.json: a Hugging Face model expected");
	if ((r = hf_read_config(s, hf, why)) < 0 || (r = open_weights(hf, why)) < 0 ||
		(r = list_tensors(s, hf, why)) < 0 || (r = hf_read_defaults(s, hf, why)) < 0 ||
		(r = hf_read_tokenizer(hf, &s->tokenizer, why)) < 0 ||
		(r = hf_read_file(hf, "chat_template.jinja", TEMPLATE_BYTES_MAX, &hf->template_file,
			 &hf->template_bytes, why)) < 0)
		return r;
	drop_rowless(&s->tokenizer, s->stated_vocab);
	hf_read_template(s, hf);
	snapshot_name(path, hf->name, sizeof(hf->name));
	s->name = (struct slice){hf->name, strlen(hf->name)};
	s->metadata[0] = (struct slice){hf->manifest, hf->manifest_bytes};
	s->n_metadata = 1;
	return 0;
}

int hf_open_tokenizer(const char *path, struct tokenizer **ret, const struct model_refusal *why)
{
	struct tokenizer_source source = {0};
	struct hf hf = {.fd = -1};
	int r = open_directory(&hf, path, why);

	if (r == 0)
		r = hf_read_tokenizer(&hf, &source, why);
	if (r == 0 && source.n == 0)
		r = model_refuse(why, -ENOENT, "the directory has no tokenizer that zeph reads");
	if (r == 0)
		r = tokenizer_new(&source, ret, why->text, why->size);
	tokenizer_source_done(&source);
	hf_done(&hf);
	return r;
}
