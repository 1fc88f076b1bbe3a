/* Texts to token ids and back, for tests that compare with other tokenizers.
 *
 *   zeph-tokens [--no-jit] [--trusted] [--model] [--time N] MODEL
 *
 * Reads from stdin texts, each as its length (32 bits, this machine's order) and bytes, until the
 * input ends. Writes for each: the number of ids, the ids, the length of the detokenised text, its
 * bytes. --time N tokenises each text N times and writes the processor seconds of the fastest to
 * stderr. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/source_gguf.h"
#include "engine/source_hf.h"
#include "engine/tokenizer.h"

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int write_counted(uint32_t count, const void *items, size_t item_bytes)
{
	return fwrite(&count, sizeof(count), 1, stdout) == 1 &&
	       (count == 0 || fwrite(items, item_bytes, count, stdout) == count);
}

/* 0, or the exit status. */
static int answer(const struct tokenizer *t, char *text, uint32_t len, bool trusted, unsigned flags,
	unsigned long repeat)
{
	struct text_span span = {.text = text, .len = len, .trusted = trusted};
	struct token_list ids = {0};
	double fastest = 0, start;
	size_t back_len;
	char *back;
	unsigned long i;
	int r, written;

	for (i = 0; i <= repeat; i++) {
		token_list_done(&ids);
		start = seconds();
		r = tokenizer_encode(t, &span, 1, flags, &ids);
		start = seconds() - start;
		if (i == 0 || start < fastest)
			fastest = start;
		if (r < 0) {
			fprintf(stderr, "zeph-tokens: encode: %s\n", strerror(-r));
			return 1;
		}
	}
	if (repeat)
		fprintf(stderr, "%.6f\n", fastest);
	r = tokenizer_decode(t, ids.ids, ids.n, DETOKENIZE_SPECIAL, &back, &back_len);
	if (r < 0) {
		fprintf(stderr, "zeph-tokens: decode: %s\n", strerror(-r));
		token_list_done(&ids);
		return 1;
	}
	written = write_counted((uint32_t)ids.n, ids.ids, sizeof(*ids.ids)) &&
		  write_counted((uint32_t)back_len, back, 1);
	token_list_done(&ids);
	free(back);
	return written ? 0 : 1;
}

static int answer_all(const struct tokenizer *t, bool trusted, unsigned flags, unsigned long repeat)
{
	uint32_t len;
	int status = 0;

	while (status == 0 && fread(&len, sizeof(len), 1, stdin) == 1) {
		char *text = malloc((size_t)len + 1);

		if (!text || fread(text, 1, len, stdin) != len) {
			fprintf(stderr, "zeph-tokens: a text of %u bytes is cut short\n", len);
			status = 1;
		} else {
			status = answer(t, text, len, trusted, flags, repeat);
		}
		free(text);
	}
	return status;
}

/* Of a GGUF file or a Hugging Face directory; neither needs weights. */
static int open_tokenizer(const char *path, struct tokenizer **ret, char *error, size_t error_size)
{
	const struct model_refusal why = {error, error_size};
	struct tokenizer_source source = {0};
	struct gguf *g;
	struct stat st;
	int r;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return hf_open_tokenizer(path, ret, &why);
	r = gguf_open(path, &g, error, error_size);
	if (r < 0)
		return r;
	r = source_gguf_tokenizer(g, &source, &why);
	if (r == 0)
		r = tokenizer_new(&source, ret, error, error_size);
	tokenizer_source_done(&source);
	gguf_close(g);
	return r;
}

int main(int argc, char **argv)
{
	unsigned flags = 0;
	unsigned long repeat = 0;
	bool trusted = false;
	struct tokenizer *t;
	char error[256];
	int i, status;

	for (i = 1; i < argc - 1; i++) {
		if (strcmp(argv[i], "--no-jit") == 0)
			flags |= TOKENIZE_INTERPRET;
		else if (strcmp(argv[i], "--trusted") == 0)
			trusted = true;
		else if (strcmp(argv[i], "--model") == 0)
			flags |= TOKENIZE_MODEL;
		else if (strcmp(argv[i], "--time") == 0 && i < argc - 2)
			repeat = strtoul(argv[++i], NULL, 10);
		else
			break;
	}
	if (i != argc - 1) {
		fprintf(stderr, "usage: zeph-tokens [--no-jit] [--trusted] [--model] [--time N] "
				"MODEL.gguf\n");
		return 2;
	}
	if (open_tokenizer(argv[i], &t, error, sizeof(error)) < 0) {
		fprintf(stderr, "zeph-tokens: %s: %s\n", argv[i], error);
		return 1;
	}
	status = answer_all(t, trusted, flags, repeat);
	tokenizer_free(t);
	return fflush(stdout) == 0 ? status : 1;
}
