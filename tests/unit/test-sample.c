/* The sampler against transformers (tests/golden/sampling.json), against published vectors of its
 * random numbers, and on its own promises: ties by token, one draw per (seed, step). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>
#include <jansson.h>

#include "kernels/sample.h"

#define VOCAB 48

static struct sample_row plain(void)
{
	return (struct sample_row){.repetition_penalty = 1,
		.temperature = 1,
		.top_p = 1,
		.typical_p = 1,
		.forced = -1};
}

static float number(const json_t *row, const char *key, float otherwise)
{
	const json_t *v = json_object_get(row, key);

	return v ? (float)json_number_value(v) : otherwise;
}

/* The counts that the golden's prompt and reply amount to. */
static uint32_t counts_of(const json_t *row, struct sample_count *counts)
{
	uint32_t all[VOCAB] = {0}, n = 0;
	const json_t *lists[] = {json_object_get(row, "prompt"), json_object_get(row, "reply")};

	for (int l = 0; l < 2; l++)
		for (size_t i = 0; i < json_array_size(lists[l]); i++)
			all[json_integer_value(json_array_get(lists[l], i))]++;
	for (int32_t t = 0; t < VOCAB; t++)
		if (all[t])
			counts[n++] = (struct sample_count){.token = t, .in_all = all[t]};
	return n;
}

static void survivors_and_probabilities_are_transformers(void **state)
{
	json_t *golden = json_load_file(GOLDEN_DIR "/sampling.json", 0, NULL);
	struct sampler *s = sampler_new();
	size_t i;
	json_t *g;

	assert_non_null(golden);
	assert_non_null(s);
	assert_true(json_array_size(golden) > 100);
	json_array_foreach(golden, i, g)
	{
		float logits[VOCAB], got[VOCAB];
		struct sample_count counts[VOCAB];
		struct sample_bias bias[VOCAB];
		struct sample_row row = plain();
		uint32_t mask[VOCAB / 32 + 1];
		const char *key;
		json_t *value;
		size_t k;

		for (size_t t = 0; t < VOCAB; t++)
			logits[t] = (float)json_number_value(
				json_array_get(json_object_get(g, "logits"), t));
		json_object_foreach(json_object_get(g, "bias"), key, value)
		{
			bias[row.n_bias++] = (struct sample_bias){
				(int32_t)strtol(key, NULL, 10), (float)json_number_value(value)};
		}
		row.bias = bias;
		row.counts = counts;
		row.n_counts = counts_of(g, counts);
		if (json_object_get(g, "suppress")) {
			row.mask = mask;
			mask[0] = mask[1] = ~0u;
		}
		json_array_foreach(json_object_get(g, "suppress"), k, value)
		{
			const json_int_t banned = json_integer_value(value);

			mask[banned / 32] &= ~(1u << banned % 32);
		}
		row.repetition_penalty = number(g, "repetition_penalty", 1);
		row.temperature = number(g, "temperature", 1);
		row.top_k = (uint32_t)number(g, "top_k", 0);
		row.top_p = number(g, "top_p", 1);
		row.min_p = number(g, "min_p", 0);
		row.typical_p = number(g, "typical_p", 1);
		assert_int_equal(sampler_probabilities(s, VOCAB, logits, &row, got), 0);
		for (size_t t = 0; t < VOCAB; t++) {
			double wanted = json_number_value(
				json_array_get(json_object_get(g, "probabilities"), t));

			/* f32 softmax, printed with 7 digits; an underflow there is none here */
			if (wanted == 0)
				assert_true(got[t] == 0 || got[t] < 1e-37f);
			else
				assert_true(fabs(got[t] - wanted) <= 2e-6 * wanted + 1e-37);
		}
	}
	json_decref(golden);
	sampler_free(s);
}

static void philox_gives_the_published_vectors(void **state)
{
	/* Random123's known answers for philox4x32-10 */
	static const struct {
		uint32_t counter[4], key[2], wanted[4];
	} known[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u},
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		uint32_t got[4];

		philox4x32(known[i].counter, known[i].key, got);
		assert_memory_equal(got, known[i].wanted, sizeof(got));
	}
	assert_true(philox_uniform(0, 0) == (float)(0x6627e8d5 >> 8) / 16777216);
}

static void draws_follow_the_probabilities(void **state)
{
	/* probabilities 1/2, 1/4, 1/8, 1/8 */
	static const float logits[4] = {0, -0.6931472f, -1.3862944f, -1.3862944f};
	static const double wanted[4] = {0.5, 0.25, 0.125, 0.125};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	uint32_t seen[4] = {0};

	for (row.step = 0; row.step < 20000; row.step++) {
		struct sample_result result = {0};

		row.seed = 5;
		assert_int_equal(sampler_draw(s, 4, logits, &row, &result), 0);
		seen[result.token]++;
	}
	/* five standard deviations of a binomial count */
	for (int t = 0; t < 4; t++)
		assert_true(fabs(seen[t] - 20000 * wanted[t]) <
			    5 * sqrt(20000 * wanted[t] * (1 - wanted[t])));
	sampler_free(s);
}

static void the_same_seed_and_step_draw_the_same(void **state)
{
	struct sampler *s = sampler_new();
	float logits[1000];
	uint32_t differ = 0;

	for (uint32_t t = 0; t < 1000; t++)
		logits[t] = philox_uniform(1, t) * 4;
	for (uint64_t step = 0; step < 50; step++) {
		struct sample_row row = plain();
		struct sample_result a = {0}, b = {0}, c = {0};

		row.seed = 99;
		row.step = step;
		assert_int_equal(sampler_draw(s, 1000, logits, &row, &a), 0);
		assert_int_equal(sampler_draw(s, 1000, logits, &row, &b), 0);
		assert_int_equal(a.token, b.token);
		row.seed = 100;
		assert_int_equal(sampler_draw(s, 1000, logits, &row, &c), 0);
		differ += a.token != c.token;
	}
	assert_true(differ > 40);
	sampler_free(s);
}

static void equal_logits_go_by_token(void **state)
{
	static const float logits[8] = {1, 3, 3, 0, 3, 3, 1, 3};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	struct sample_result result = {0};
	float p[8];

	row.temperature = 0;
	assert_int_equal(sampler_draw(s, 8, logits, &row, &result), 0);
	assert_int_equal(result.token, 1);
	row.temperature = 1;
	row.top_k = 3; /* nothing is lower than the third but what is lower than all five */
	assert_int_equal(sampler_probabilities(s, 8, logits, &row, p), 0);
	assert_true(p[1] > 0 && p[2] > 0 && p[4] > 0 && p[5] > 0 && p[7] > 0);
	assert_true(p[0] == 0 && p[3] == 0 && p[6] == 0);
	row.top_k = 0;
	row.top_p = 0.3f;
	assert_int_equal(sampler_probabilities(s, 8, logits, &row, p), 0);
	assert_true(p[1] > 0 && p[2] > 0 && p[4] == 0);
	sampler_free(s);
}

static void selection_equals_sorting(void **state)
{
	enum { N = 5000 };
	static float logits[N], got[N];
	struct sampler *s = sampler_new();

	for (uint32_t t = 0; t < N; t++)
		logits[t] = floorf(philox_uniform(3, t) * 400) / 16; /* many ties */
	for (uint32_t k = 1; k < 200; k += 13) {
		struct sample_row row = plain();

		row.top_k = k;
		assert_int_equal(sampler_probabilities(s, N, logits, &row, got), 0);
		for (uint32_t t = 0; t < N; t++) {
			uint32_t higher = 0;

			for (uint32_t u = 0; u < N; u++)
				higher += logits[u] > logits[t];
			assert_int_equal(got[t] > 0, higher < k);
		}
	}
	sampler_free(s);
}

static void penalties_count_the_reply(void **state)
{
	static const float logits[4] = {2, 2, 2, 2};
	struct sample_count counts[] = {
		{.token = 1, .in_all = 3, .in_reply = 0}, {.token = 2, .in_all = 2, .in_reply = 2}};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	float p[4];

	row.counts = counts;
	row.n_counts = 2;
	row.presence_penalty = 0.5f;
	row.frequency_penalty = 0.25f;
	assert_int_equal(sampler_probabilities(s, 4, logits, &row, p), 0);
	assert_true(p[0] == p[1] && p[0] == p[3]);
	assert_true(fabsf(p[2] / p[0] - expf(-1)) < 1e-6f);
	sampler_free(s);
}

static void a_mask_and_infinities_leave_only_what_is_allowed(void **state)
{
	static const float logits[40] = {[3] = 9, [35] = 5, [36] = -INFINITY, [37] = NAN};
	uint32_t mask[2] = {0, 1u << 3 | 1u << 4 | 1u << 5};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	struct sample_result result = {0};

	row.mask = mask;
	assert_int_equal(sampler_draw(s, 40, logits, &row, &result), 0);
	assert_int_equal(result.token, 35);
	mask[1] = 1u << 4;
	for (int greedy = 0; greedy < 2; greedy++) {
		row.temperature = greedy ? 0 : 1;
		assert_int_equal(sampler_draw(s, 40, logits, &row, &result), 0);
		assert_int_equal(result.token, -1);
	}
	sampler_free(s);
}

static void a_tiny_temperature_is_greedy_in_effect(void **state)
{
	static const float logits[4] = {80, 100, 99, -100};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	struct sample_result result = {0};

	row.temperature = 1e-38f;
	assert_int_equal(sampler_draw(s, 4, logits, &row, &result), 0);
	assert_int_equal(result.token, 1);
	sampler_free(s);
}

static void logprobs_are_the_model_s_own(void **state)
{
	static const float logits[5] = {1, 4, 2, 4, -3};
	struct sample_bias bias = {.token = 2, .bias = 50};
	struct sample_top top[3];
	struct sample_result result = {.top = top};
	struct sampler *s = sampler_new();
	struct sample_row row = plain();
	double sum = 0;

	for (int t = 0; t < 5; t++)
		sum += exp(logits[t]);
	row.bias = &bias;
	row.n_bias = 1;
	row.temperature = 0;
	row.want_logprob = true;
	row.n_top = 3;
	assert_int_equal(sampler_draw(s, 5, logits, &row, &result), 0);
	assert_int_equal(result.token, 2);
	assert_true(fabs(result.logprob - (2 - log(sum))) < 1e-6);
	assert_int_equal(result.n_top, 3);
	assert_int_equal(top[0].token, 1);
	assert_int_equal(top[1].token, 3);
	assert_int_equal(top[2].token, 2);
	assert_true(fabs(top[0].logprob - (4 - log(sum))) < 1e-6);
	row.forced = 4;
	assert_int_equal(sampler_draw(s, 5, logits, &row, &result), 0);
	assert_int_equal(result.token, 4);
	assert_true(fabs(result.logprob - (-3 - log(sum))) < 1e-6);
	sampler_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survivors_and_probabilities_are_transformers),
		cmocka_unit_test(philox_gives_the_published_vectors),
		cmocka_unit_test(draws_follow_the_probabilities),
		cmocka_unit_test(the_same_seed_and_step_draw_the_same),
		cmocka_unit_test(equal_logits_go_by_token),
		cmocka_unit_test(selection_equals_sorting),
		cmocka_unit_test(penalties_count_the_reply),
		cmocka_unit_test(a_mask_and_infinities_leave_only_what_is_allowed),
		cmocka_unit_test(a_tiny_temperature_is_greedy_in_effect),
		cmocka_unit_test(logprobs_are_the_model_s_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
