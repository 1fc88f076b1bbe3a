/* A whole model whose header region is damaged, byte by byte: a clean error or a load, never a
 * crash. Meant to run under ASan and UBSan; the model is zeph-mkmodel's tiny one, in memory.
 *
 * What still loads is put to work: text is tokenised and a conversation rendered with each, and
 * the weights of every WEIGHTS_EVERYth go to the reference backend. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/mkmodel.h"
#include "hostile-fixture.h"

static const char sample_text[] = "The sky's <|im_end|> 12 \xc3\xa9\xff\n  end";

struct hostile {
	int fd;
	char path[64];
	size_t header_bytes, file_bytes;
	uint8_t *header; /* [header_bytes] undamaged */
	struct backend *backend;
	unsigned long opens, loads;
};

static int set_up(void **state)
{
	const struct mkmodel_options o = {
		.shape = mkmodel_shape("tiny"), .type = "q4_0", .seed = 1, .threads = 1};
	struct hostile *h = calloc(1, sizeof(*h));
	struct gguf *g;
	char error[256];
	size_t i;

	assert_non_null(h);
	h->fd = memfd_create("hostile", MFD_CLOEXEC);
	assert_true(h->fd >= 0);
	snprintf(h->path, sizeof(h->path), "/proc/self/fd/%d", h->fd);
	if (mkmodel_write(&o, h->fd, error, sizeof(error)) < 0)
		fail_msg("mkmodel: %s", error);
	assert_int_equal(gguf_open(h->path, &g, error, sizeof(error)), 0);
	h->file_bytes = gguf_file_bytes(g);
	h->header_bytes = h->file_bytes;
	for (i = 0; i < gguf_n_tensors(g); i++)
		h->header_bytes -= (gguf_tensor_at(g, i)->bytes + 31) / 32 * 32;
	gguf_close(g);
	h->header = malloc(h->header_bytes);
	assert_non_null(h->header);
	assert_int_equal(pread(h->fd, h->header, h->header_bytes, 0), h->header_bytes);
	assert_int_equal(backend_new_reference(1, &h->backend), 0);
	*state = h;
	return 0;
}

static int tear_down(void **state)
{
	struct hostile *h = *state;

	backend_free(h->backend);
	close(h->fd);
	free(h->header);
	free(h);
	return 0;
}

/* Opens the file as it is now. */
static void attempt(struct hostile *h)
{
	struct model *m = NULL;
	char error[256] = "";
	int r;

	h->opens++;
	r = model_open(h->path, NULL, &m, error, sizeof(error));
	if (r < 0) {
		assert_null(m);
		assert_true(error[0] != '\0');
		return;
	}
	assert_non_null(m);
	h->loads++;
	use_text(m, sample_text, sizeof(sample_text) - 1);
	if (h->loads % WEIGHTS_EVERY == 1)
		use_weights(m, h->backend);
	model_free(m);
}

static void poke(struct hostile *h, size_t at, uint8_t v)
{
	assert_int_equal(pwrite(h->fd, &v, 1, (off_t)at), 1);
}

static void the_undamaged_model_loads(void **state)
{
	struct hostile *h = *state;

	attempt(h);
	assert_int_equal(h->loads, 1);
}

static void every_byte_flipped(void **state)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff};
	struct hostile *h = *state;
	size_t at, i;

	for (at = 0; at < h->header_bytes; at++) {
		for (i = 0; i < sizeof(flips); i++) {
			poke(h, at, h->header[at] ^ flips[i]);
			attempt(h);
		}
		if (h->header[at] != 0) {
			poke(h, at, 0);
			attempt(h);
		}
		poke(h, at, h->header[at]);
	}
	/* damage to a vocabulary's text still loads; damage to lengths and types does not */
	assert_true(h->loads > 1000 && h->loads < h->opens);
}

/* All eight bits of what is not vocabulary: the file's head, the model's numbers, the tensors. */
static void every_bit_of_the_tensor_list_and_the_first_keys_flipped(void **state)
{
	struct hostile *h = *state;
	const uint8_t *tokens = memmem(h->header, h->header_bytes, "tokenizer.ggml.tokens",
		strlen("tokenizer.ggml.tokens"));
	const uint8_t *tensors = memmem(
		h->header, h->header_bytes, "token_embd.weight", strlen("token_embd.weight"));
	size_t at;
	unsigned bit;

	assert_non_null(tokens);
	assert_non_null(tensors);
	for (at = 0; at < h->header_bytes; at++) {
		if (h->header + at > tokens + 40 && h->header + at < tensors - 8)
			continue;
		for (bit = 1; bit < 7; bit++) {
			poke(h, at, h->header[at] ^ (uint8_t)(1u << bit));
			attempt(h);
		}
		poke(h, at, h->header[at]);
	}
}

static void every_truncation(void **state)
{
	struct hostile *h = *state;
	const unsigned long loads = h->loads;
	size_t n;

	for (n = h->header_bytes; n-- > 0;) {
		assert_int_equal(ftruncate(h->fd, (off_t)n), 0);
		attempt(h);
	}
	assert_int_equal(h->loads, loads);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_undamaged_model_loads),
		cmocka_unit_test(every_byte_flipped),
		cmocka_unit_test(every_bit_of_the_tensor_list_and_the_first_keys_flipped),
		cmocka_unit_test(every_truncation),
	};

	return cmocka_run_group_tests_name("gguf-hostile", tests, set_up, tear_down);
}
