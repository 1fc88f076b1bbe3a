/* What the sampler leaves of a row of logits, for tests that compare with transformers.
 *
 *   zeph-sample VOCAB
 *
 * Reads rows from stdin, in this machine's order: struct settings, VOCAB logits (f32), VOCAB biases
 * (f32), VOCAB bytes (bit 0: stands in prompt or reply, bit 1: suppressed). Writes for each VOCAB
 * probabilities (f32). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/sample.h"

struct settings {
	float repetition_penalty, temperature, top_p, min_p, typical_p;
	uint32_t top_k;
};

struct buffers {
	float *logits, *biases, *probabilities;
	uint8_t *marks;
	struct sample_bias *bias;
	struct sample_count *counts;
	uint32_t *mask;
};

/* 1, or 0 at the input's end or on failure. */
static int answer(struct sampler *s, uint32_t vocab, struct buffers *b)
{
	struct settings settings;
	struct sample_row row = {
		.bias = b->bias, .counts = b->counts, .mask = b->mask, .forced = -1};

	if (fread(&settings, sizeof(settings), 1, stdin) != 1 ||
		fread(b->logits, sizeof(float), vocab, stdin) != vocab ||
		fread(b->biases, sizeof(float), vocab, stdin) != vocab ||
		fread(b->marks, 1, vocab, stdin) != vocab)
		return 0;
	row.repetition_penalty = settings.repetition_penalty;
	row.temperature = settings.temperature;
	row.top_k = settings.top_k;
	row.top_p = settings.top_p;
	row.min_p = settings.min_p;
	row.typical_p = settings.typical_p;
	for (uint32_t t = 0; t < vocab; t++) {
		if (t % 32 == 0)
			b->mask[t / 32] = ~0u;
		if (b->marks[t] & 2)
			b->mask[t / 32] &= ~(1u << t % 32);
		if (b->marks[t] & 1)
			b->counts[row.n_counts++] = (struct sample_count){(int32_t)t, 1, 0};
		if (b->biases[t] != 0)
			b->bias[row.n_bias++] = (struct sample_bias){(int32_t)t, b->biases[t]};
	}
	return sampler_probabilities(s, vocab, b->logits, &row, b->probabilities) == 0 &&
	       fwrite(b->probabilities, sizeof(float), vocab, stdout) == vocab;
}

int main(int argc, char **argv)
{
	uint32_t vocab = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
	struct sampler *s = sampler_new();
	struct buffers b = {
		.logits = calloc(vocab + 1u, sizeof(*b.logits)),
		.biases = calloc(vocab + 1u, sizeof(*b.biases)),
		.probabilities = calloc(vocab + 1u, sizeof(*b.probabilities)),
		.marks = calloc(vocab + 1u, sizeof(*b.marks)),
		.bias = calloc(vocab + 1u, sizeof(*b.bias)),
		.counts = calloc(vocab + 1u, sizeof(*b.counts)),
		.mask = calloc(vocab / 32 + 1u, sizeof(*b.mask)),
	};
	int status = 1;

	if (vocab == 0)
		fputs("usage: zeph-sample VOCAB\n", stderr);
	else if (s && b.logits && b.biases && b.probabilities && b.marks && b.bias && b.counts &&
		 b.mask) {
		while (answer(s, vocab, &b))
			;
		status = feof(stdin) && fflush(stdout) == 0 ? 0 : 1;
	}
	free(b.logits);
	free(b.biases);
	free(b.probabilities);
	free(b.marks);
	free(b.bias);
	free(b.counts);
	free(b.mask);
	sampler_free(s);
	return status;
}
