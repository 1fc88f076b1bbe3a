/* Scores: what a choice is worth is what echo says of prompt and choice alone, bit by bit, whatever
 * runs beside it. */
#include "tests/unit/engine-fixture.h"

#define PAGE    KV_PAGE_TOKENS
#define CHOICES 20

static struct listener heard;

static uint32_t choice_tokens(uint32_t index)
{
	return 1 + index * 7 % 23;
}

static int32_t choice_token(uint32_t index, uint32_t i)
{
	return (int32_t)(philox_uniform(900 + index, i) * VOCAB);
}

static struct job *score_job(uint64_t id, uint32_t n, uint32_t n_choices)
{
	struct job *job = job_for(id, n, 0);

	job->choices = calloc(n_choices, sizeof(*job->choices));
	assert_non_null(job->choices);
	for (uint32_t i = 0; i < n_choices; i++) {
		struct choice *c = &job->choices[job->n_choices++];

		c->n_tokens = choice_tokens(i);
		c->tokens = malloc(c->n_tokens * sizeof(*c->tokens));
		assert_non_null(c->tokens);
		for (uint32_t k = 0; k < c->n_tokens; k++)
			c->tokens[k] = choice_token(i, k);
	}
	return job;
}

/* The sum that echo gives, prompt and choice alone in one piece. */
static double expected(struct fixture *f, uint64_t id, uint32_t n, uint32_t index)
{
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, CONTEXT, 0);
	struct job *job = job_for(id, n, 0);
	double sum = 0;

	memset(&l, 0, sizeof(l));
	job->n_prompt = n + choice_tokens(index);
	job->prompt = realloc(job->prompt, job->n_prompt * sizeof(*job->prompt));
	assert_non_null(job->prompt);
	for (uint32_t k = 0; k < choice_tokens(index); k++)
		job->prompt[n + k] = choice_token(index, k);
	job->generation.echo = true;
	engine_submit(e, job);
	run(e);
	assert_int_equal(l.heard[id].n_echo, n + choice_tokens(index));
	for (uint32_t k = n; k < l.heard[id].n_echo; k++)
		sum += l.heard[id].echo_logprobs[k];
	engine_free(e);
	return sum;
}

static void a_score_is_what_echo_says(void **state)
{
	static const uint32_t prompts[] = {1, 15, 16, 17, 18, 33, 100};
	static const uint32_t slots[] = {1, 3, 16}, chunks[] = {1, 13, 256};

	for (uint32_t window = 0; window <= 24; window += 24) {
		struct fixture *f = fixture_new(window);

		for (uint32_t p = 0; p < sizeof(prompts) / sizeof(*prompts); p++) {
			double wanted[CHOICES];

			for (uint32_t i = 0; i < CHOICES; i++)
				wanted[i] = expected(f, p, prompts[p], i);
			for (uint32_t k = 0; k < 3; k++) {
				struct engine *e = engine_for(f, &heard, slots[k], chunks[k], 0);

				memset(&heard, 0, sizeof(heard));
				engine_submit(e, job_for(50, 70, 30));
				engine_submit(e, score_job(p, prompts[p], CHOICES));
				engine_submit(e, job_for(51, 7, 60));
				run(e);
				assert_int_equal(heard.heard[p].failure, FAILURE_NONE);
				assert_true(heard.heard[p].done);
				assert_int_equal(heard.heard[p].n_scores, CHOICES);
				assert_memory_equal(heard.heard[p].scores, wanted, sizeof(wanted));
				assert_int_equal(heard.heard[p].prompt_tokens, prompts[p]);
				assert_int_equal(heard.heard[p].completion_tokens, 0);
				assert_int_equal(heard.heard[p].prefill_done, prompts[p]);
				assert_true(heard.heard[50].done && heard.heard[51].done);
				all_given_back(e);
				engine_free(e);
			}
		}
		fixture_free(f);
	}
}

static void choices_run_side_by_side(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_for(f, &heard, 16, 256, 0);
	uint32_t steps = 0;

	memset(&heard, 0, sizeof(heard));
	engine_submit(e, score_job(1, 4 * PAGE + 1, 16));
	while (engine_step(e) > 0)
		steps++;
	assert_int_equal(heard.heard[1].n_scores, 16);
	/* the prompt, then all rows of all choices but for what the budget of logits spreads */
	assert_in_range(steps, 2, 4);
	engine_free(e);
	fixture_free(f);
}

static void a_prompt_scored_again_is_not_run_again(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_for(f, &heard, 4, 256, 0);
	struct engine_stats a, b;

	memset(&heard, 0, sizeof(heard));
	engine_submit(e, score_job(1, 100, 3));
	run(e);
	engine_stats(e, &a);
	heard.heard[2] = heard.heard[1];
	memset(&heard.heard[1], 0, sizeof(heard.heard[1]));
	engine_submit(e, score_job(1, 100, 3));
	run(e);
	engine_stats(e, &b);
	assert_memory_equal(heard.heard[1].scores, heard.heard[2].scores, 3 * sizeof(double));
	assert_int_equal(heard.heard[1].cached_tokens, 96);
	assert_int_equal(heard.heard[2].cached_tokens, 0);
	assert_true(b.prompt_tokens - a.prompt_tokens < 100);
	assert_int_equal(b.done, 2);
	engine_free(e);
	fixture_free(f);
}

static void a_cancelled_score_leaves_nothing(void **state)
{
	struct fixture *f = fixture_new(0);

	for (int after = 0; after < 12; after++) {
		struct engine *e = engine_for(f, &heard, 2, 32, 0);

		memset(&heard, 0, sizeof(heard));
		engine_submit(e, score_job(1, 70, CHOICES));
		for (int i = 0; i < after; i++)
			assert_int_equal(engine_step(e), 1);
		engine_cancel(e, 1, FAILURE_NONE, NULL);
		assert_true(heard.heard[1].done);
		assert_int_equal(heard.heard[1].finish, FINISH_CANCELLED);
		assert_int_equal(engine_step(e), 0);
		all_given_back(e);
		engine_drop_cache(e, 0, true);
		assert_int_equal(e->cache->n_nodes, 0);
		engine_free(e);
	}
	fixture_free(f);
}

static void scores_survive_a_short_pool(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_for(
		f, &heard, 8, 64, 24 * kv_page_bytes(&f->model.config, DTYPE_F32));

	memset(&heard, 0, sizeof(heard));
	engine_submit(e, job_for(2, 100, 200));
	engine_submit(e, score_job(1, 100, CHOICES));
	engine_submit(e, job_for(3, 100, 200));
	run(e);
	assert_int_equal(heard.heard[1].n_scores, CHOICES);
	for (uint32_t i = 0; i < CHOICES; i++)
		assert_true(heard.heard[1].scores[i] == expected(f, 1, 100, i));
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void choices_over_the_context_are_refused(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_for(f, &heard, 2, 64, 0);
	struct job *job;

	for (uint32_t over = 0; over < 2; over++) {
		memset(&heard, 0, sizeof(heard));
		job = score_job(1, CONTEXT - choice_tokens(2) + over, 3); /* 1, 8 and 15 tokens */
		engine_submit(e, job);
		run(e);
		assert_int_equal(heard.heard[1].failure, over ? FAILURE_TOO_LARGE : FAILURE_NONE);
		assert_int_equal(heard.heard[1].n_scores, over ? 0 : 3);
	}
	engine_free(e);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_score_is_what_echo_says),
		cmocka_unit_test(choices_run_side_by_side),
		cmocka_unit_test(a_prompt_scored_again_is_not_run_again),
		cmocka_unit_test(a_cancelled_score_leaves_nothing),
		cmocka_unit_test(scores_survive_a_short_pool),
		cmocka_unit_test(choices_over_the_context_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
