/* From a row of logits to a token: processors, warpers, one draw.
 *
 * Names, order and cut rules are those of Hugging Face transformers (4.57 LogitsProcessor and
 * LogitsWarper): logit_bias, repetition penalty (prompt and reply), presence and frequency
 * penalties (reply only), mask, temperature, top_k, top_p, min_p, typical_p. Greedy applies
 * everything up to the mask and takes the maximum. Of equal logits top_k and typical_p keep all or
 * none; greedy and top_p, where transformers leaves it to a sort, take the lower token first.
 *
 * The draw is Philox4x32-10 with key = seed and counter = step: it depends on nothing else, so a
 * reply can be repeated. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sample_bias {
	int32_t token;
	float bias;
};

/* How often a token stands in what a penalty looks at (the last penalty_window tokens). */
struct sample_count {
	int32_t token;
	uint32_t in_all;   /* prompt and reply: the repetition penalty */
	uint32_t in_reply; /* reply only: presence and frequency */
};

struct sample_row {
	const struct sample_bias *bias; /* added to the raw logits; each token at most once */
	uint32_t n_bias;
	const struct sample_count *counts; /* each token at most once */
	uint32_t n_counts;
	float repetition_penalty; /* 1: off */
	float presence_penalty;   /* 0: off */
	float frequency_penalty;  /* 0: off */
	const uint32_t *mask;     /* bit t: token t may be drawn; NULL: all may */
	float temperature;        /* 0: greedy */
	uint32_t top_k;           /* 0: off */
	float top_p;              /* 1: off */
	float min_p;              /* 0: off */
	float typical_p;          /* 1: off */
	uint64_t seed, step;
	int32_t forced; /* a token to report in place of a draw, or -1 */
	bool want_logprob;
	uint32_t n_top; /* likeliest tokens to report, at most SAMPLE_TOP_MAX; needs want_logprob */
};

#define SAMPLE_TOP_MAX 100

struct sample_top {
	int32_t token;
	float logprob;
};

struct sample_result {
	int32_t token; /* -1: no token has a finite logit (the row fails, the call does not) */
	float logprob; /* natural logarithm of the softmax of the raw logits, before any processor
			*/
	uint32_t n_top;
	struct sample_top *top; /* caller's memory, [n_top], descending; NULL where n_top is 0 */
};

/* Scratch that grows to the vocabulary and is reused between calls. */
struct sampler;
struct sampler *sampler_new(void);
struct sampler *sampler_free(struct sampler *s); /* accepts NULL, returns NULL */

/* The host's implementation, shared by the backends that live there. logits [vocab], not changed.
 * -ENOMEM or 0. */
int sampler_draw(struct sampler *s, uint32_t vocab, const float *logits,
	const struct sample_row *row, struct sample_result *result);

/* What survives the processors and warpers, for tests: the probabilities [vocab] that the draw
 * uses, 0 for tokens that were cut. */
int sampler_probabilities(struct sampler *s, uint32_t vocab, const float *logits,
	const struct sample_row *row, float *probabilities);

/* One block of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);

/* The uniform number in [0, 1) of (seed, step): 24 bits of the first word. */
float philox_uniform(uint64_t seed, uint64_t step);
