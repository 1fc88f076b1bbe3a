/* The sampler of the backends that live on the host.
 *
 * Works on a list of candidates that each warper shortens. top_k selects with a heap and top_p
 * first drops the tail that cannot survive, so that the vocabulary is never sorted as a whole. Owns
 * its scratch only. */
#include "kernels/sample.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
	float logit;
	int32_t token;
	double key; /* a probability, or what the list is sorted by */
};

struct sampler {
	uint32_t size;                /* vocabulary that the scratch has room for */
	float *logits;                /* [size] after the processors */
	struct candidate *candidates; /* [size] */
	uint32_t n;                   /* candidates left */
	bool sorted;                  /* by better() */
};

struct sampler *sampler_new(void)
{
	return calloc(1, sizeof(struct sampler));
}

struct sampler *sampler_free(struct sampler *s)
{
	if (!s)
		return NULL;
	free(s->logits);
	free(s->candidates);
	free(s);
	return NULL;
}

static int sampler_reserve(struct sampler *s, uint32_t vocab)
{
	float *logits;
	struct candidate *candidates;

	if (vocab <= s->size)
		return 0;
	logits = malloc((size_t)vocab * sizeof(*logits));
	candidates = malloc((size_t)vocab * sizeof(*candidates));
	if (!logits || !candidates) {
		free(logits);
		free(candidates);
		return -ENOMEM;
	}
	free(s->logits);
	free(s->candidates);
	s->logits = logits;
	s->candidates = candidates;
	s->size = vocab;
	return 0;
}

/* The order of everything here: the higher logit first, of equal ones the lower token. */
static bool better(const struct candidate *a, const struct candidate *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static int by_rank(const void *a, const void *b)
{
	return better(a, b) ? -1 : 1;
}

static int by_token(const void *a, const void *b)
{
	return ((const struct candidate *)a)->token < ((const struct candidate *)b)->token ? -1 : 1;
}

static int by_key(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return by_token(a, b);
}

/* Lets the candidate at the root of a heap of n, the worst on top, sink to its place. */
static void sink(struct candidate *heap, uint32_t n)
{
	uint32_t at = 0;

	for (;;) {
		uint32_t worst = at, left = 2 * at + 1, right = left + 1;
		struct candidate t;

		if (left < n && better(&heap[worst], &heap[left]))
			worst = left;
		if (right < n && better(&heap[worst], &heap[right]))
			worst = right;
		if (worst == at)
			return;
		t = heap[at];
		heap[at] = heap[worst];
		heap[worst] = t;
		at = worst;
	}
}

/* The best k (at least 1) of logits [vocab] that are finite, best first. Returns how many there
 * are. */
static uint32_t select_top(const float *logits, uint32_t vocab, uint32_t k, struct candidate *heap)
{
	uint32_t n = 0;

	for (uint32_t t = 0; t < vocab; t++) {
		struct candidate c = {.logit = logits[t], .token = (int32_t)t};

		if (!isfinite(c.logit))
			continue;
		if (n < k) {
			/* Tokens come in ascending order, so a heap made by swimming stays exact.
			 */
			uint32_t at = n++;

			heap[at] = c;
			while (at > 0 && better(&heap[(at - 1) / 2], &heap[at])) {
				heap[at] = heap[(at - 1) / 2];
				at = (at - 1) / 2;
				heap[at] = c;
			}
		} else if (c.logit > heap[0].logit) {
			heap[0] = c;
			sink(heap, n);
		}
	}
	qsort(heap, n, sizeof(*heap), by_rank);
	return n;
}

/* logit_bias, the three penalties and the mask: s->logits [vocab]. */
static void process(
	struct sampler *s, uint32_t vocab, const float *logits, const struct sample_row *row)
{
	memcpy(s->logits, logits, (size_t)vocab * sizeof(*logits));
	for (uint32_t i = 0; i < row->n_bias; i++)
		s->logits[row->bias[i].token] += row->bias[i].bias;
	for (uint32_t i = 0; i < row->n_counts; i++) {
		const struct sample_count *c = &row->counts[i];
		float *logit = &s->logits[c->token];

		if (c->in_all > 0 && row->repetition_penalty != 1)
			*logit = *logit < 0 ? *logit * row->repetition_penalty
					    : *logit / row->repetition_penalty;
	}
	for (uint32_t i = 0; i < row->n_counts; i++) {
		const struct sample_count *c = &row->counts[i];

		if (c->in_reply > 0)
			s->logits[c->token] -= row->presence_penalty +
					       row->frequency_penalty * (float)c->in_reply;
	}
	for (uint32_t t = 0; row->mask && t < vocab; t++)
		if (!(row->mask[t / 32] >> (t % 32) & 1))
			s->logits[t] = -INFINITY;
}

static float highest(const struct sampler *s)
{
	float max = -INFINITY;

	if (s->sorted)
		return s->candidates[0].logit;
	for (uint32_t i = 0; i < s->n; i++)
		max = s->candidates[i].logit > max ? s->candidates[i].logit : max;
	return max;
}

/* Gives each candidate its probability among those that are left. */
static void softmax(struct sampler *s)
{
	float max = highest(s);
	double sum = 0;

	for (uint32_t i = 0; i < s->n; i++) {
		s->candidates[i].key = expf(s->candidates[i].logit - max);
		sum += s->candidates[i].key;
	}
	for (uint32_t i = 0; i < s->n; i++)
		s->candidates[i].key /= sum;
}

/* TopKLogitsWarper: what is lower than the k-th goes, so all that equal it stay. */
static void cut_top_k(struct sampler *s, uint32_t vocab, uint32_t k)
{
	const struct candidate *last;

	s->n = select_top(s->logits, vocab, k, s->candidates);
	s->sorted = true;
	if (s->n < k)
		return;
	last = &s->candidates[k - 1];
	for (uint32_t t = (uint32_t)last->token + 1; t < vocab; t++)
		if (s->logits[t] == last->logit)
			s->candidates[s->n++] = (struct candidate){
				.logit = last->logit, .token = (int32_t)t};
}

/* TopPLogitsWarper: a token goes when it and all less likely ones together hold at most 1 - top_p;
 * one always stays. */
static void cut_top_p(struct sampler *s, float top_p)
{
	double rest = 1 - (double)top_p, above = 0;
	uint32_t n = 0;

	softmax(s);
	if (!s->sorted) {
		/* Tokens below rest / n go even if all of them were that likely. */
		double least = rest / s->n;

		for (uint32_t i = 0; i < s->n; i++)
			if (s->candidates[i].key >= least)
				s->candidates[n++] = s->candidates[i];
		s->n = n;
		qsort(s->candidates, s->n, sizeof(*s->candidates), by_rank);
		s->sorted = true;
	}
	for (n = 0; n < s->n && (n == 0 || 1 - above > rest); n++)
		above += s->candidates[n].key;
	s->n = n;
}

/* MinPLogitsWarper: a token goes when it is less likely than min_p times the likeliest. */
static void cut_min_p(struct sampler *s, float min_p)
{
	float max = highest(s);
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n; i++)
		if (s->candidates[i].logit == max ||
			exp((double)s->candidates[i].logit - max) >= (double)min_p)
			s->candidates[n++] = s->candidates[i];
	s->n = n;
}

/* TypicalLogitsWarper (Meister et al. 2022): tokens whose surprise is closest to the entropy stay,
 * until they hold typical_p, and those that are as close as the last. */
static void cut_typical_p(struct sampler *s, float typical_p)
{
	double entropy = 0, mass = 0, max = highest(s), log_sum = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->n; i++)
		log_sum += exp(s->candidates[i].logit - max);
	log_sum = log(log_sum) + max;
	for (uint32_t i = 0; i < s->n; i++) {
		double surprise = log_sum - s->candidates[i].logit;

		entropy += surprise * exp(-surprise);
	}
	for (uint32_t i = 0; i < s->n; i++)
		s->candidates[i].key = fabs(log_sum - s->candidates[i].logit - entropy);
	qsort(s->candidates, s->n, sizeof(*s->candidates), by_key);
	s->sorted = false;
	do
		mass += exp(s->candidates[n++].logit - log_sum);
	while (n < s->n && mass < (double)typical_p);
	while (n < s->n && s->candidates[n].key == s->candidates[n - 1].key)
		n++;
	s->n = n;
}

/* Temperature and the four cuts. Leaves the survivors and their probabilities, by token. */
static void warp(struct sampler *s, uint32_t vocab, const struct sample_row *row)
{
	float max = -INFINITY;

	for (uint32_t t = 0; t < vocab; t++)
		if (isfinite(s->logits[t]) && s->logits[t] > max)
			max = s->logits[t];
	/* A temperature close to 0 must not make infinities: only differences count. */
	if (isfinite(max / row->temperature))
		max = 0;
	for (uint32_t t = 0; t < vocab; t++)
		s->logits[t] = (s->logits[t] - max) / row->temperature;
	if (row->top_k > 0 && row->top_k < vocab) {
		cut_top_k(s, vocab, row->top_k);
	} else {
		s->sorted = false;
		s->n = 0;
		for (uint32_t t = 0; t < vocab; t++)
			if (isfinite(s->logits[t]))
				s->candidates[s->n++] = (struct candidate){
					.logit = s->logits[t], .token = (int32_t)t};
	}
	if (s->n == 0)
		return;
	if (row->top_p < 1)
		cut_top_p(s, row->top_p);
	if (row->min_p > 0)
		cut_min_p(s, row->min_p);
	if (row->typical_p < 1)
		cut_typical_p(s, row->typical_p);
	qsort(s->candidates, s->n, sizeof(*s->candidates), by_token);
	s->sorted = false;
	softmax(s);
}

/* The first survivor, by token, at which the probabilities so far pass the uniform draw. */
static int32_t draw(const struct sampler *s, float uniform)
{
	double sum = 0;

	for (uint32_t i = 0; i + 1 < s->n; i++) {
		sum += s->candidates[i].key;
		if (sum > (double)uniform)
			return s->candidates[i].token;
	}
	return s->candidates[s->n - 1].token;
}

static int32_t greedy(const float *logits, uint32_t vocab)
{
	int32_t best = -1;

	for (uint32_t t = 0; t < vocab; t++)
		if (isfinite(logits[t]) && (best < 0 || logits[t] > logits[best]))
			best = (int32_t)t;
	return best;
}

/* log(sum(exp(logits))), the sum in double. */
static double log_sum_exp(const float *logits, uint32_t vocab)
{
	float max = -INFINITY;
	double sum = 0;

	for (uint32_t t = 0; t < vocab; t++)
		max = logits[t] > max ? logits[t] : max;
	for (uint32_t t = 0; t < vocab; t++)
		sum += expf(logits[t] - max);
	return (double)max + log(sum);
}

int sampler_draw(struct sampler *s, uint32_t vocab, const float *logits,
	const struct sample_row *row, struct sample_result *result)
{
	double log_sum = 0;
	int r;

	assert(row->n_top <= SAMPLE_TOP_MAX && (row->n_top == 0 || result->top));
	r = sampler_reserve(s, vocab);
	if (r < 0)
		return r;
	result->token = row->forced;
	if (row->forced < 0) {
		process(s, vocab, logits, row);
		if (row->temperature == 0) {
			result->token = greedy(s->logits, vocab);
		} else {
			warp(s, vocab, row);
			if (s->n > 0)
				result->token = draw(s, philox_uniform(row->seed, row->step));
		}
	}
	result->logprob = NAN;
	result->n_top = 0;
	if (!row->want_logprob || result->token < 0)
		return 0;
	log_sum = log_sum_exp(logits, vocab);
	result->logprob = (float)(logits[result->token] - log_sum);
	if (row->n_top > 0) {
		result->n_top = select_top(logits, vocab, row->n_top, s->candidates);
		for (uint32_t i = 0; i < result->n_top; i++)
			result->top[i] = (struct sample_top){.token = s->candidates[i].token,
				.logprob = (float)(s->candidates[i].logit - log_sum)};
	}
	return 0;
}

int sampler_probabilities(struct sampler *s, uint32_t vocab, const float *logits,
	const struct sample_row *row, float *probabilities)
{
	int r;

	r = sampler_reserve(s, vocab);
	if (r < 0)
		return r;
	process(s, vocab, logits, row);
	memset(probabilities, 0, (size_t)vocab * sizeof(*probabilities));
	if (row->temperature == 0) {
		int32_t token = greedy(s->logits, vocab);

		if (token >= 0)
			probabilities[token] = 1;
		return 0;
	}
	warp(s, vocab, row);
	for (uint32_t i = 0; i < s->n; i++)
		probabilities[s->candidates[i].token] = (float)s->candidates[i].key;
	return 0;
}
