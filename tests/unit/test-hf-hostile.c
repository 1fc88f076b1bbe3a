/* A Hugging Face directory whose files are damaged, byte by byte: a clean error or a load, never a
 * crash. Meant to run under ASan and UBSan. The directory is written here: a model of one layer
 * with two shards, a tokenizer.json, a tokenizer.model and the small files around them.
 *
 * What still loads is put to work: text is tokenised, a conversation rendered, and the weights of
 * every WEIGHTS_EVERYth go to the reference backend. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostile-fixture.h"

#define FILE_BYTES 4096

#define CONFIG                                                                                     \
	"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4,"    \
	"\"intermediate_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,"               \
	"\"num_key_value_heads\":1,\"vocab_size\":8,\"rms_norm_eps\":1e-5,"                        \
	"\"max_position_embeddings\":8,\"tie_word_embeddings\":true,\"eos_token_id\":[2,7],"       \
	"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2.0,\"beta_fast\":32}}"
#define GENERATION "{\"eos_token_id\":2,\"temperature\":0.7,\"top_k\":50,\"do_sample\":true}"
#define TOKENIZER_CONFIG                                                                           \
	"{\"add_bos_token\":true,\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"      \
	"\"added_tokens_decoder\":{\"7\":{\"content\":\"<x>\",\"special\":false}},"                \
	"\"chat_template\":[{\"name\":\"default\",\"template\":\"{% for m in messages %}"          \
	"{{m['content']}}{% endfor %}\"}]}"
#define TOKENIZER                                                                                  \
	"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}],"                     \
	"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","            \
	"\"prepend\":\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"            \
	"\"content\":\"\u2581\"}]},\"post_processor\":{\"type\":\"TemplateProcessing\","           \
	"\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]},"         \
	"\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"vocab\":"         \
	"{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"\u2581\":3,\"a\":4,\"b\":5,\"ab\":6},"                \
	"\"merges\":[\"a b\"]}}"
#define INDEX                                                                                      \
	"{\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\",\"model.norm.weight\":"  \
	"\"a.safetensors\"" LAYER_MAP("input_layernorm") LAYER_MAP("self_attn.q_proj")             \
		LAYER_MAP("self_attn.k_proj") LAYER_MAP("self_attn.v_proj")                        \
			LAYER_MAP("self_attn.o_proj") LAYER_MAP("post_attention_layernorm")        \
				LAYER_MAP("mlp.gate_proj") LAYER_MAP("mlp.up_proj")                \
					LAYER_MAP("mlp.down_proj") "}}"
#define LAYER_MAP(name) ",\"model.layers.0." name ".weight\":\"b.safetensors\""

struct file {
	const char *name;
	uint8_t bytes[FILE_BYTES];
	size_t len, damaged; /* only the first `damaged` bytes are hurt */
};

enum {
	FILE_A,
	FILE_B,
	FILE_INDEX,
	FILE_CONFIG,
	FILE_GENERATION,
	FILE_TOKENIZER_CONFIG,
	FILE_TOKENIZER,
	FILE_MODEL,
	N_FILES
};

static const char sample_text[] = "ab <s><x> 12 \xc3\xa9\xff\n  cab";

struct hostile {
	char path[64];
	int fd;
	struct file files[N_FILES];
	struct backend *backend;
	unsigned long opens, loads;
};

static void put(struct hostile *h, const struct file *f, const uint8_t *bytes, size_t len)
{
	int fd = openat(h->fd, f->name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	close(fd);
}

static void set_text(struct file *f, const char *name, const char *text)
{
	f->name = name;
	f->len = f->damaged = strlen(text);
	assert_true(f->len <= FILE_BYTES);
	memcpy(f->bytes, text, f->len);
}

/* Tensors of bf16, given as "name rows cols", rows 0 for a vector; all are 0.5. */
static void set_tensors(struct file *f, const char *name, const char *const *tensors)
{
	char header[FILE_BYTES] = "{", tensor[64];
	unsigned rows, cols, data = 0, i;
	size_t len = 1;
	uint64_t stated;

	for (i = 0; tensors[i]; i++) {
		char shape[32];
		unsigned bytes;

		assert_int_equal(sscanf(tensors[i], "%63s %u %u", tensor, &rows, &cols), 3);
		bytes = 2 * (rows ? rows : 1) * cols;
		if (rows)
			snprintf(shape, sizeof(shape), "[%u,%u]", rows, cols);
		else
			snprintf(shape, sizeof(shape), "[%u]", cols);
		len += (size_t)snprintf(header + len, sizeof(header) - len,
			"%s\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%u,%u]}",
			i ? "," : "", tensor, shape, data, data + bytes);
		data += bytes;
	}
	header[len++] = '}';
	stated = len;
	f->name = name;
	f->damaged = 8 + len;
	f->len = f->damaged + data;
	assert_true(f->len <= FILE_BYTES);
	memcpy(f->bytes, &stated, 8);
	memcpy(f->bytes + 8, header, len);
	for (i = 0; i < data; i += 2)
		memcpy(f->bytes + f->damaged + i, "\x00\x3f", 2);
}

/* Pieces of a tokenizer.model, BPE with neither bytes nor normalisation. */
static void set_pieces(struct file *f, const char *name)
{
	static const struct {
		const char *text;
		uint8_t type;
	} pieces[] = {{"<unk>", 2}, {"<s>", 3}, {"</s>", 3}, {"\xe2\x96\x81", 1}, {"a", 1},
		{"b", 1}, {"ab", 1}, {"c", 5}};
	uint8_t *at = f->bytes;
	size_t i;

	f->name = name;
	for (i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
		const uint8_t n = (uint8_t)strlen(pieces[i].text);
		const float score = -(float)i;

		*at++ = 0x0a;
		*at++ = (uint8_t)(n + 9);
		*at++ = 0x0a;
		*at++ = n;
		memcpy(at, pieces[i].text, n);
		at += n;
		*at++ = 0x15;
		memcpy(at, &score, 4);
		at += 4;
		*at++ = 0x18;
		*at++ = pieces[i].type;
	}
	/* trainer: model_type 2, unk_id 0; normalizer: remove_extra_whitespaces false */
	memcpy(at, "\x12\x05\x18\x02\xc0\x02\x00\x1a\x02\x20\x00", 11);
	f->len = f->damaged = (size_t)(at + 11 - f->bytes);
}

static int set_up(void **state)
{
	static const char *const a[] = {
		"model.embed_tokens.weight 8 4", "model.norm.weight 0 4", NULL};
	static const char *const b[] = {"model.layers.0.input_layernorm.weight 0 4",
		"model.layers.0.self_attn.q_proj.weight 4 4",
		"model.layers.0.self_attn.k_proj.weight 2 4",
		"model.layers.0.self_attn.v_proj.weight 2 4",
		"model.layers.0.self_attn.o_proj.weight 4 4",
		"model.layers.0.post_attention_layernorm.weight 0 4",
		"model.layers.0.mlp.gate_proj.weight 4 4", "model.layers.0.mlp.up_proj.weight 4 4",
		"model.layers.0.mlp.down_proj.weight 4 4", NULL};
	struct hostile *h = calloc(1, sizeof(*h));
	size_t i;

	assert_non_null(h);
	/* in memory, where there is such a place: files are written tens of thousands of times */
	strcpy(h->path, "/dev/shm/zeph-hostile-XXXXXX");
	if (!mkdtemp(h->path)) {
		strcpy(h->path, P_tmpdir "/zeph-hostile-XXXXXX");
		assert_non_null(mkdtemp(h->path));
	}
	h->fd = open(h->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(h->fd >= 0);
	set_tensors(&h->files[FILE_A], "a.safetensors", a);
	set_tensors(&h->files[FILE_B], "b.safetensors", b);
	set_text(&h->files[FILE_INDEX], "model.safetensors.index.json", INDEX);
	set_text(&h->files[FILE_CONFIG], "config.json", CONFIG);
	set_text(&h->files[FILE_GENERATION], "generation_config.json", GENERATION);
	set_text(&h->files[FILE_TOKENIZER_CONFIG], "tokenizer_config.json", TOKENIZER_CONFIG);
	set_text(&h->files[FILE_TOKENIZER], "tokenizer.json", TOKENIZER);
	set_pieces(&h->files[FILE_MODEL], "tokenizer.model");
	for (i = 0; i < N_FILES; i++)
		put(h, &h->files[i], h->files[i].bytes, h->files[i].len);
	assert_int_equal(backend_new_reference(1, &h->backend), 0);
	*state = h;
	return 0;
}

static int tear_down(void **state)
{
	struct hostile *h = *state;
	size_t i;

	for (i = 0; i < N_FILES; i++)
		unlinkat(h->fd, h->files[i].name, 0);
	rmdir(h->path);
	close(h->fd);
	backend_free(h->backend);
	free(h);
	return 0;
}

/* Opens the directory as it is now. */
static bool attempt(struct hostile *h)
{
	struct model *m = NULL;
	char error[256] = "";
	int r;

	h->opens++;
	r = model_open(h->path, NULL, &m, error, sizeof(error));
	if (r < 0) {
		assert_null(m);
		assert_true(error[0] != '\0');
		return false;
	}
	h->loads++;
	use_text(m, sample_text, sizeof(sample_text) - 1);
	if (h->loads % WEIGHTS_EVERY == 1)
		use_weights(m, h->backend);
	model_free(m);
	return true;
}

static void the_undamaged_directory_loads(void **state)
{
	struct hostile *h = *state;
	struct model *m;
	char error[256] = "";

	if (model_open(h->path, NULL, &m, error, sizeof(error)) < 0)
		fail_msg("%s", error);
	assert_non_null(m->tokenizer);
	assert_non_null(m->template);
	assert_int_equal(m->n_end_tokens, 2);
	assert_true(m->config.tied);
	use_text(m, sample_text, sizeof(sample_text) - 1);
	use_weights(m, h->backend);
	model_free(m);
}

static void hurt(struct hostile *h, const struct file *f)
{
	static const uint8_t flips[] = {0x01, 0x10, 0x80, 0xff};
	uint8_t bytes[FILE_BYTES];
	size_t at, i;

	memcpy(bytes, f->bytes, f->len);
	for (at = 0; at < f->damaged; at++) {
		for (i = 0; i < sizeof(flips); i++) {
			bytes[at] = f->bytes[at] ^ flips[i];
			put(h, f, bytes, f->len);
			attempt(h);
		}
		bytes[at] = f->bytes[at];
	}
	for (at = 0; at < f->damaged; at++) {
		put(h, f, f->bytes, at);
		attempt(h);
	}
	put(h, f, f->bytes, f->len);
}

static void every_byte_flipped_and_every_truncation(void **state)
{
	struct hostile *h = *state;
	size_t i;

	for (i = 0; i < N_FILES; i++) {
		/* tokenizer.model is read where there is no tokenizer.json */
		if (i == FILE_MODEL)
			assert_int_equal(unlinkat(h->fd, "tokenizer.json", 0), 0);
		hurt(h, &h->files[i]);
	}
	put(h, &h->files[FILE_TOKENIZER], h->files[FILE_TOKENIZER].bytes,
		h->files[FILE_TOKENIZER].len);
	assert_true(h->loads > 500 && h->loads < h->opens);
}

/* Data that is cut short, or longer than the tensors, is no safetensors file. */
static void the_data_section_is_exact(void **state)
{
	struct hostile *h = *state;
	const struct file *f = &h->files[FILE_B];
	uint8_t longer[FILE_BYTES] = {0};
	size_t n;

	for (n = f->damaged; n < f->len; n++) {
		put(h, f, f->bytes, n);
		assert_false(attempt(h));
	}
	memcpy(longer, f->bytes, f->len);
	put(h, f, longer, f->len + 1);
	assert_false(attempt(h));
	put(h, f, f->bytes, f->len);
	assert_true(attempt(h));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_undamaged_directory_loads),
		cmocka_unit_test(every_byte_flipped_and_every_truncation),
		cmocka_unit_test(the_data_section_is_exact),
	};

	return cmocka_run_group_tests_name("hf-hostile", tests, set_up, tear_down);
}
