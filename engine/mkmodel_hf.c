/* A random model as a Hugging Face directory: the files that transformers writes for that shape.
 *
 * The tensors are drawn in the order of the GGUF, and what is one row of it is the same row here:
 * both layouts of one seed are the same model. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "engine/limits.h"
#include "engine/mkmodel.h"
#include "engine/template.h"

#define SHARD_BYTES 2000000000u /* as Zephyr's own */
#define NAME_BYTES  80

__attribute__((format(printf, 4, 5))) static int fail(
	char *error, size_t size, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, size, format, args);
	va_end(args);
	return r;
}

struct plan {
	const struct mkmodel_options *options;
	enum dtype dtype;
	struct mkmodel_tensor *tensors; /* [n] */
	char (*names)[NAME_BYTES];      /* [n] */
	uint32_t *shards;               /* [n] */
	size_t n;
	uint32_t n_shards;
	uint64_t shard_bytes; /* of the last shard so far */
	int directory;
};

/* ---- small files ---- */

static int write_bytes(int directory, const char *name, const void *bytes, size_t n)
{
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	const char *at = bytes;
	ssize_t written = 1;

	if (fd < 0)
		return -errno;
	for (; n > 0 && written > 0; at += written, n -= (size_t)written)
		written = write(fd, at, n);
	if (close(fd) < 0 || n > 0)
		return -EIO;
	return 0;
}

/* Takes root over; NULL is a failed allocation. */
static int write_json(int directory, const char *name, json_t *root)
{
	char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
	int r = text ? write_bytes(directory, name, text, strlen(text)) : -ENOMEM;

	free(text);
	json_decref(root);
	return r;
}

static const char *dtype_word(enum dtype dtype)
{
	return dtype == DTYPE_F32 ? "float32" : dtype == DTYPE_F16 ? "float16" : "bfloat16";
}

static int write_config(const struct plan *p)
{
	const struct mkmodel_shape *s = p->options->shape;
	json_t *window = s->window ? json_integer(s->window) : json_null();

	return write_json(p->directory, "config.json",
		json_pack(
			"{s:[s], s:i, s:i, s:s, s:i, s:i, s:i, s:s, s:i, s:i, s:i, s:f, s:n, s:f, "
			"s:o, s:b, s:s, s:i}",
			"architectures", s->window ? "MistralForCausalLM" : "LlamaForCausalLM",
			"bos_token_id", 1, "eos_token_id", 2, "hidden_act", "silu", "hidden_size",
			(int)s->dim, "intermediate_size", (int)s->ffn_dim,
			"max_position_embeddings", (int)s->context, "model_type",
			s->window ? "mistral" : "llama", "num_attention_heads", (int)s->n_heads,
			"num_hidden_layers", (int)s->n_layers, "num_key_value_heads",
			(int)s->n_kv_heads, "rms_norm_eps", 1e-5, "rope_scaling", "rope_theta",
			(double)s->rope_theta, "sliding_window", window, "tie_word_embeddings",
			s->tied, "torch_dtype", dtype_word(p->dtype), "vocab_size", (int)s->vocab));
}

static int write_tokenizer_config(const struct plan *p)
{
	const struct mkmodel_shape *s = p->options->shape;
	const bool pieces = s->from || s->tokenizer == MKMODEL_SENTENCEPIECE;
	struct template *t;
	const char *source;
	char error[128];
	size_t len;
	int r;

	r = template_new_builtin(s->template_name, "", "", &t, error, sizeof(error));
	if (r < 0)
		return r;
	source = template_source(t, &len);
	r = write_json(p->directory, "tokenizer_config.json",
		json_pack("{s:b, s:b, s:s, s:s%, s:b, s:s, s:s, s:s, s:s}", "add_bos_token", pieces,
			"add_eos_token", 0, "bos_token", pieces ? "<s>" : "<|im_start|>",
			"chat_template", source, len, "clean_up_tokenization_spaces", 0,
			"eos_token", pieces ? "</s>" : "<|im_end|>", "pad_token",
			pieces ? "</s>" : "<|im_end|>", "tokenizer_class",
			pieces ? "LlamaTokenizer" : "PreTrainedTokenizerFast", "unk_token",
			pieces ? "<unk>" : "<|endoftext|>"));
	template_free(t);
	return r;
}

/* ---- the tokenizer ---- */

static int write_tokenizer_json(const struct plan *p, const struct tokenizer_source *s)
{
	json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
	uint32_t i;
	int bad = 0;

	for (i = 0; i < s->n; i++) {
		const struct token_source *t = &s->tokens[i];

		bad |= json_object_set_new(vocab, t->text.text, json_integer(i));
		if (t->kind == TOKEN_CONTROL)
			bad |= json_array_append_new(added,
				json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)i,
					"content", t->text.text, "single_word", 0, "lstrip", 0,
					"rstrip", 0, "normalized", 0, "special", 1));
	}
	for (i = 0; i < s->n_merges; i++)
		bad |= json_array_append_new(merges,
			json_pack("[s, s]", s->merges[i].left.text, s->merges[i].right.text));
	if (bad) {
		json_decref(vocab);
		json_decref(merges);
		json_decref(added);
		return -ENOMEM;
	}
	return write_json(p->directory, "tokenizer.json",
		json_pack(
			"{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:[{s:s, s:b}, {s:s, s:b, s:b, s:b}]}, "
			"s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, "
			"s:o, s:o}}",
			"version", "1.0", "truncation", "padding", "added_tokens", added,
			"normalizer", "pre_tokenizer", "type", "Sequence", "pretokenizers", "type",
			"Digits", "individual_digits", 1, "type", "ByteLevel", "add_prefix_space",
			0, "trim_offsets", 1, "use_regex", 1, "post_processor", "decoder", "type",
			"ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1,
			"model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
			"end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
			"vocab", vocab, "merges", merges));
}

static uint8_t *put_varint(uint8_t *at, uint32_t v)
{
	for (; v >= 0x80; v >>= 7)
		*at++ = (uint8_t)(v | 0x80);
	*at++ = (uint8_t)v;
	return at;
}

/* tokenizer.model: pieces (field 1), trainer_spec (2: BPE, vocab_size, byte_fallback) and
 * normalizer_spec (3: as it is, a space in front). */
static int write_tokenizer_model(const struct plan *p, const struct tokenizer_source *s)
{
	static const uint8_t normalizer[] = {0x1a, 16, 0x0a, 8, 'i', 'd', 'e', 'n', 't', 'i', 't',
		'y', 0x18, 1, 0x20, 0, 0x28, 1};
	uint8_t *bytes, *at, trainer[16], *end = trainer;
	size_t room = 64;
	uint32_t i;
	int r;

	for (i = 0; i < s->n; i++)
		room += s->tokens[i].text.len + 24;
	bytes = malloc(room);
	if (!bytes)
		return -ENOMEM;
	for (at = bytes, i = 0; i < s->n; i++) {
		const struct token_source *t = &s->tokens[i];
		uint8_t head[8];
		const size_t len = (size_t)(put_varint(head, (uint32_t)t->text.len) - head);

		*at++ = 0x0a;
		at = put_varint(at, (uint32_t)(1 + len + t->text.len + 7));
		*at++ = 0x0a;
		memcpy(at, head, len);
		memcpy(at + len, t->text.text, t->text.len);
		at += len + t->text.len;
		*at++ = 0x15;
		memcpy(at, &t->score, 4);
		at += 4;
		*at++ = 0x18;
		*at++ = (uint8_t)t->kind;
	}
	*end++ = 0x18;
	*end++ = 2;
	*end++ = 0x20;
	end = put_varint(end, s->n);
	end = put_varint(end, 35 << 3);
	*end++ = 1;
	*at++ = 0x12;
	*at++ = (uint8_t)(end - trainer);
	memcpy(at, trainer, (size_t)(end - trainer));
	at += end - trainer;
	memcpy(at, normalizer, sizeof(normalizer));
	at += sizeof(normalizer);
	r = write_bytes(p->directory, "tokenizer.model", bytes, (size_t)(at - bytes));
	free(bytes);
	return r;
}

static int write_tokenizer(const struct plan *p)
{
	struct tokenizer_source s;
	int r;

	if (p->options->shape->from)
		return 0; /* the caller copies its file */
	r = mkmodel_vocabulary(p->options->shape, &s);
	if (r < 0)
		return r;
	r = s.byte_level ? write_tokenizer_json(p, &s) : write_tokenizer_model(p, &s);
	tokenizer_source_done(&s);
	return r;
}

/* ---- the weights ---- */

static void plan_tensor(struct plan *p, const char *name, uint32_t rows, uint32_t cols, float mean,
	float spread, uint32_t halves)
{
	struct mkmodel_tensor *t = &p->tensors[p->n];

	*t = (struct mkmodel_tensor){.dtype = p->dtype,
		.rows = rows,
		.cols = cols,
		.mean = mean,
		.spread = spread,
		.halves = halves};
	(void)dtype_row_bytes(t->dtype, cols, &t->row_bytes);
	if (p->n_shards == 0 || p->shard_bytes + rows * (uint64_t)t->row_bytes > SHARD_BYTES) {
		p->n_shards++;
		p->shard_bytes = 0;
	}
	t->offset = p->shard_bytes;
	p->shard_bytes += rows * (uint64_t)t->row_bytes;
	p->shards[p->n] = p->n_shards - 1;
	snprintf(p->names[p->n], NAME_BYTES, "%s", name);
	p->n++;
}

static float spread(uint32_t fan_in)
{
	return 2 / sqrtf((float)fan_in);
}

static void plan_tensors(struct plan *p)
{
	const struct mkmodel_shape *s = p->options->shape;
	const uint32_t head = s->dim / s->n_heads, kv_dim = head * s->n_kv_heads, d = s->dim,
		       f = s->ffn_dim;
	const struct {
		const char *name;
		uint32_t rows, cols, halves;
	} layer[] = {
		{"input_layernorm", 1, d, 0},
		{"self_attn.q_proj", d, d, head},
		{"self_attn.k_proj", kv_dim, d, head},
		{"self_attn.v_proj", kv_dim, d, 0},
		{"self_attn.o_proj", d, d, 0},
		{"post_attention_layernorm", 1, d, 0},
		{"mlp.gate_proj", f, d, 0},
		{"mlp.up_proj", f, d, 0},
		{"mlp.down_proj", d, f, 0},
	};
	char name[NAME_BYTES];
	uint32_t i;
	size_t k;

	plan_tensor(p, "model.embed_tokens.weight", s->vocab, d, 0, 1, 0);
	for (i = 0; i < s->n_layers; i++)
		for (k = 0; k < sizeof(layer) / sizeof(*layer); k++) {
			const bool norm = layer[k].rows == 1;

			snprintf(name, sizeof(name), "model.layers.%u.%s.weight", i, layer[k].name);
			plan_tensor(p, name, layer[k].rows, layer[k].cols, norm,
				norm ? 0.1f : spread(layer[k].cols), layer[k].halves);
		}
	plan_tensor(p, "model.norm.weight", 1, d, 1, 0.1f, 0);
	if (!s->tied)
		plan_tensor(p, "lm_head.weight", s->vocab, d, 0, spread(d), 0);
}

static void shard_name(const struct plan *p, uint32_t shard, char name[NAME_BYTES])
{
	if (p->n_shards == 1)
		snprintf(name, NAME_BYTES, "model.safetensors");
	else
		snprintf(
			name, NAME_BYTES, "model-%05u-of-%05u.safetensors", shard + 1, p->n_shards);
}

/* The header, padded to a multiple of 8; the tensors' offsets become the file's. */
static int write_shard(struct plan *p, uint32_t shard, int *ret_fd)
{
	static const char *const words[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16"};
	json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
	char name[NAME_BYTES], *text;
	uint64_t bytes = 0, length = 0;
	size_t i;
	int fd = -1, r = 0, bad = 0;

	*ret_fd = -1;
	for (i = 0; i < p->n; i++) {
		const struct mkmodel_tensor *t = &p->tensors[i];
		const json_int_t begin = (json_int_t)t->offset,
				 end = begin + (json_int_t)(t->rows * (uint64_t)t->row_bytes);
		json_t *shape;

		if (p->shards[i] != shard)
			continue;
		shape = t->rows == 1 ? json_pack("[i]", (int)t->cols)
				     : json_pack("[i, i]", (int)t->rows, (int)t->cols);
		bad |= json_object_set_new(header, p->names[i],
			json_pack("{s:s, s:o, s:[I, I]}", "dtype",
				t->dtype == DTYPE_BF16 ? "BF16" : words[t->dtype], "shape", shape,
				"data_offsets", begin, end));
		bytes = (uint64_t)end;
	}
	text = bad ? NULL : json_dumps(header, JSON_COMPACT);
	json_decref(header);
	if (!text)
		return -ENOMEM;
	length = (strlen(text) + 7) / 8 * 8;
	shard_name(p, shard, name);
	fd = openat(p->directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, (off_t)(8 + length + bytes)) < 0)
		r = -errno;
	/* little-endian machines only, as the rest of the project */
	if (r == 0 && (pwrite(fd, &length, 8, 0) != 8 ||
			      pwrite(fd, text, strlen(text), 8) != (ssize_t)strlen(text)))
		r = -EIO;
	for (i = strlen(text); r == 0 && i < length; i++)
		r = pwrite(fd, " ", 1, (off_t)(8 + i)) == 1 ? 0 : -EIO;
	free(text);
	for (i = 0; i < p->n; i++)
		if (p->shards[i] == shard) {
			p->tensors[i].offset += 8 + length;
			p->tensors[i].fd = fd;
		}
	*ret_fd = fd;
	return r;
}

static int write_index(const struct plan *p)
{
	json_t *map = json_object();
	uint64_t bytes = 0;
	char name[NAME_BYTES];
	size_t i;
	int bad = 0;

	for (i = 0; i < p->n; i++) {
		shard_name(p, p->shards[i], name);
		bad |= json_object_set_new(map, p->names[i], json_string(name));
		bytes += p->tensors[i].rows * (uint64_t)p->tensors[i].row_bytes;
	}
	if (bad) {
		json_decref(map);
		return -ENOMEM;
	}
	return write_json(p->directory, "model.safetensors.index.json",
		json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)bytes,
			"weight_map", map));
}

static int write_weights(struct plan *p)
{
	int *fds = malloc(p->n_shards * sizeof(*fds));
	uint32_t opened = 0;
	int r = fds ? 0 : -ENOMEM;

	while (r == 0 && opened < p->n_shards) {
		r = write_shard(p, opened, &fds[opened]);
		if (r < 0 && fds[opened] < 0)
			break;
		opened++;
	}
	if (r == 0 && p->n_shards > 1)
		r = write_index(p);
	if (r == 0)
		r = mkmodel_fill_files(p->tensors, p->n, p->options);
	while (opened > 0)
		if (close(fds[--opened]) < 0 && r == 0)
			r = -errno;
	free(fds);
	return r;
}

int mkmodel_write_directory(
	const struct mkmodel_options *o, int directory, char *error, size_t error_size)
{
	const size_t room = 3 + 9 * (size_t)o->shape->n_layers;
	const int dtype = dtype_from_name(o->type);
	struct plan p = {.options = o, .directory = directory};
	int r;

	if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
		return fail(error, error_size, -EINVAL,
			"type \"%s\" is none of f32, f16, bf16, which a Hugging Face directory can "
			"have; quantised types want OUT.gguf",
			o->type);
	p.dtype = (enum dtype)dtype;
	p.tensors = calloc(room, sizeof(*p.tensors));
	p.names = calloc(room, sizeof(*p.names));
	p.shards = calloc(room, sizeof(*p.shards));
	if (!p.tensors || !p.names || !p.shards) {
		r = -ENOMEM;
	} else {
		plan_tensors(&p);
		if ((r = write_config(&p)) == 0 && (r = write_tokenizer_config(&p)) == 0 &&
			(r = write_json(directory, "generation_config.json",
				 json_pack("{s:i, s:i}", "bos_token_id", 1, "eos_token_id", 2))) ==
				0 &&
			(r = write_tokenizer(&p)) == 0)
			r = write_weights(&p);
	}
	if (r < 0)
		fail(error, error_size, r, "writing the model: %s", strerror(-r));
	free(p.tensors);
	free(p.names);
	free(p.shards);
	return r;
}
