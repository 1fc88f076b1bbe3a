/* Prefix reuse: who finds whose pages, who loses them, and that no reply tells the difference. */
#include "tests/unit/engine-fixture.h"

#define PAGE KV_PAGE_TOKENS

static struct listener heard;

static struct engine *engine_with_pages(struct fixture *f, uint32_t sequences, uint32_t pages)
{
	memset(&heard, 0, sizeof(heard));
	return engine_for(
		f, &heard, sequences, 64, pages * kv_page_bytes(&f->model.config, DTYPE_F32));
}

/* A job with the prompt of another, by a uid. */
static struct job *job_like(
	uint64_t id, uint64_t prompt_of, uint32_t n, uint32_t max_new, uint32_t uid)
{
	struct job *job = job_for(prompt_of, n, max_new);

	job->id = id;
	job->uid = uid;
	return job;
}

static const struct heard *run_job(struct engine *e, struct job *job)
{
	uint64_t id = job->id;

	memset(&heard.heard[id], 0, sizeof(heard.heard[id]));
	engine_submit(e, job);
	run(e);
	assert_true(heard.heard[id].done);
	assert_int_equal(heard.heard[id].failure, FAILURE_NONE);
	return &heard.heard[id];
}

static struct engine_stats stats_of(const struct engine *e)
{
	struct engine_stats s;

	engine_stats(e, &s);
	return s;
}

static void a_prompt_sent_again_runs_its_last_part_only(void **state)
{
	static const uint32_t prompts[] = {
		1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 1, 200};
	static struct heard first;

	for (uint32_t window = 0; window <= 24; window += 8) {
		struct fixture *f = fixture_new(window);

		for (uint32_t i = 0; i < sizeof(prompts) / sizeof(*prompts); i++) {
			struct engine *e = engine_with_pages(f, 2, 64);
			uint32_t n = prompts[i], before;

			first = *run_job(e, job_like(0, 5, n, 20, 7));
			assert_int_equal(first.cached_tokens, 0);
			before = stats_of(e).prompt_tokens;
			same_reply(run_job(e, job_like(1, 5, n, 20, 7)), &first);
			assert_int_equal(heard.heard[1].cached_tokens, (n - 1) / PAGE * PAGE);
			assert_int_equal(heard.heard[1].prompt_tokens, n);
			assert_int_equal(heard.heard[1].prefill_done, n);
			assert_int_equal(
				stats_of(e).prompt_tokens - before, n - (n - 1) / PAGE * PAGE);
			engine_free(e);
		}
		fixture_free(f);
	}
}

static void a_reply_s_pages_are_as_good_as_a_prompt_s(void **state)
{
	static struct heard reply, fresh;

	for (uint32_t window = 0; window <= 24; window += 24) {
		struct fixture *f = fixture_new(window);
		struct engine *e = engine_with_pages(f, 2, 64);
		struct job *job[2];

		reply = *run_job(e, job_for(0, 21, 100));
		assert_int_equal(reply.n_tokens, 100);
		for (int i = 0; i < 2; i++) { /* the conversation goes on, and alone */
			job[i] = job_for(0, 21 + 100 + 9, 30);
			job[i]->id = 1 + i;
			memcpy(job[i]->prompt + 21, reply.tokens, 100 * sizeof(int32_t));
		}
		run_job(e, job[0]);
		/* the last token was drawn and never run */
		assert_int_equal(heard.heard[1].cached_tokens, (21 + 99) / PAGE * PAGE);
		fresh = heard.heard[1];
		engine_free(e);
		e = engine_with_pages(f, 1, 64);
		same_reply(run_job(e, job[1]), &fresh);
		assert_int_equal(heard.heard[2].cached_tokens, 0);
		engine_free(e);
		fixture_free(f);
	}
}

static void prompts_share_up_to_the_page_where_they_part(void **state)
{
	struct fixture *f = fixture_new(0);

	for (uint32_t at = 0; at < 3 * PAGE; at += 5) {
		struct engine *e = engine_with_pages(f, 2, 64);
		struct job *job = job_for(1, 100, 4);

		job->prompt[at] = (job->prompt[at] + 1) % VOCAB;
		run_job(e, job_for(1, 100, 4));
		run_job(e, job);
		assert_int_equal(heard.heard[1].cached_tokens, at / PAGE * PAGE);
		engine_free(e);
	}
	fixture_free(f);
}

static void nobody_finds_another_s_pages(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 2, 64);
	struct job *job;

	run_job(e, job_like(0, 3, 100, 4, 1000));
	run_job(e, job_like(1, 3, 100, 4, 1001));
	assert_int_equal(heard.heard[1].cached_tokens, 0);
	run_job(e, job_like(2, 3, 100, 4, 1001));
	assert_int_equal(heard.heard[2].cached_tokens, 96);
	for (uint64_t key = 0; key < 3; key++) { /* the uid of many people: one key for each */
		for (uint32_t twice = 0; twice < 2; twice++) {
			job = job_like(3, 3, 100, 4, 65534);
			job->cache_key = key;
			run_job(e, job);
			assert_int_equal(heard.heard[3].cached_tokens, twice ? 96 : 0);
		}
	}
	engine_free(e);
	fixture_free(f);
}

static uint32_t zeroed;
static int (*real_zero)(struct backend *b, struct kv *kv, uint32_t page);

static int counted_zero(struct backend *b, struct kv *kv, uint32_t page)
{
	zeroed++;
	return real_zero(b, kv, page);
}

static void a_page_changes_its_owner_only_zeroed(void **state)
{
	struct fixture *f = fixture_new(0);
	const struct backend_ops *real = f->backend->ops;
	struct backend_ops counting = *real;
	struct engine *e;
	float page[2 * KV_HEADS * PAGE * HEAD_DIM];

	real_zero = real->kv_zero;
	counting.kv_zero = counted_zero;
	f->backend->ops = &counting;
	zeroed = 0;
	e = engine_with_pages(f, 1, 16);
	for (uint64_t i = 0; i < 6; i++) /* one uid alone: its own pages again and again */
		run_job(e, job_like(i, i, 100, 20, 1000));
	assert_int_equal(zeroed, 0);
	run_job(e, job_like(6, 6, 5, 1, 1001));
	assert_int_equal(zeroed, 1);
	for (uint32_t p = 0; p < 16; p++) {
		if (e->kv->refs[p] == 0 && e->kv->owners[p] == e->cache->last_root) {
			/* what the short prompt has not written is zeros */
			assert_int_equal(
				f->backend->ops->kv_read(f->backend, e->kv->kvs[0], 1, p, page), 0);
			for (uint32_t t = 6; t < PAGE; t++)
				for (uint32_t d = 0; d < HEAD_DIM; d++)
					assert_true(page[t * HEAD_DIM + d] == 0);
		}
	}
	assert_true(engine_drop_cache(e, 0, true) > 0);
	for (uint32_t p = 0; p < 16; p++) {
		assert_int_equal(e->kv->owners[p], 0);
		assert_int_equal(
			f->backend->ops->kv_read(f->backend, e->kv->kvs[0], 0, p, page), 0);
		for (uint32_t i = 0; i < sizeof(page) / sizeof(*page); i++)
			assert_true(page[i] == 0);
	}
	f->backend->ops = real;
	engine_free(e);
	fixture_free(f);
}

static void the_oldest_pages_go_first(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 1, 20); /* three prompts of six pages */

	for (uint64_t i = 0; i < 3; i++)
		run_job(e, job_for(i, 6 * PAGE, 1));
	run_job(e, job_like(3, 0, 6 * PAGE, 1, 0)); /* 0 is used again: 1 is the oldest now */
	assert_int_equal(heard.heard[3].cached_tokens, 5 * PAGE);
	run_job(e, job_for(4, 6 * PAGE, 1));
	run_job(e, job_like(5, 0, 6 * PAGE, 1, 0));
	assert_int_equal(heard.heard[5].cached_tokens, 5 * PAGE);
	run_job(e, job_like(6, 2, 6 * PAGE, 1, 0));
	assert_int_equal(heard.heard[6].cached_tokens, 5 * PAGE);
	run_job(e, job_like(7, 1, 6 * PAGE, 1, 0));
	/* of a chain the end goes first */
	assert_in_range(heard.heard[7].cached_tokens, 0, 3 * PAGE);
	engine_free(e);
	fixture_free(f);
}

static void nobody_is_pushed_out_of_a_fair_share(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 1, 32);

	for (uint64_t i = 0; i < 8; i++) /* one uid alone may fill the pool */
		run_job(e, job_like(i, i, 4 * PAGE, 1, 1000));
	assert_int_equal(stats_of(e).pages_cached, 32);
	for (uint64_t i = 8; i < 20; i++) /* another takes half of it, and no more */
		run_job(e, job_like(i, i, 4 * PAGE, 1, 1001));
	assert_int_equal(stats_of(e).pages_cached, 32);
	for (const struct tenant *t = e->cache->tenants; t; t = t->next)
		assert_int_equal(t->pages, t->shared ? 0 : 16);
	for (uint64_t i = 4; i < 8; i++) { /* the younger half of the first is there */
		run_job(e, job_like(20 + i, i, 4 * PAGE, 1, 1000));
		assert_int_equal(heard.heard[20 + i].cached_tokens, 3 * PAGE);
	}
	assert_int_equal(engine_drop_cache(e, 1001, false), 16);
	assert_int_equal(stats_of(e).pages_cached, 16);
	assert_int_equal(engine_drop_cache(e, 0, true), 16);
	assert_int_equal(stats_of(e).pages_cached, 0);
	assert_int_equal(e->cache->n_nodes, 0);
	engine_free(e);
	fixture_free(f);
}

static void the_shared_prompt_is_everybody_s_and_stays(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 2, 16);
	static struct heard alone_heard;
	struct job *model_job = job_for(9, 100, 1);

	alone(f, 9, 100, 10, &alone_heard);
	memset(&heard, 0, sizeof(heard));
	/* 70 tokens are four whole pages */
	assert_int_equal(engine_share_prefix(e, model_job->prompt, 70), 0);
	assert_int_equal(stats_of(e).shared_tokens, 4 * PAGE);
	run_job(e, job_like(9, 9, 100, 10, 1000)); /* beside the shared one's own computation */
	same_reply(&heard.heard[9], &alone_heard);
	assert_int_equal(heard.heard[9].cached_tokens, 4 * PAGE);
	for (uint64_t i = 0; i < 6; i++) { /* the pool fills and empties */
		run_job(e, job_like(i, i, 10 * PAGE, 1, 1001));
		run_job(e, job_like(10 + i, 9, 70 + i, 4, 1002 + i));
		assert_int_equal(heard.heard[10 + i].cached_tokens, 4 * PAGE);
	}
	engine_drop_cache(e, 0, true);
	assert_int_equal(stats_of(e).pages_used, 4);
	assert_int_equal(stats_of(e).pages_cached, 0);
	assert_int_equal(stats_of(e).done, 13); /* its own computation is nobody's request */
	run_job(e, job_like(20, 9, 100, 10, 1003));
	assert_int_equal(heard.heard[20].cached_tokens, 4 * PAGE);
	job_free(model_job);
	engine_free(e);
	fixture_free(f);
}

static void a_prefix_in_the_making_is_waited_for(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 8, 128);
	static struct heard wanted[8];

	for (uint32_t i = 0; i < 8; i++)
		alone(f, 1, 300, 10 + i, &wanted[i]);
	memset(&heard, 0, sizeof(heard));
	for (uint64_t i = 0; i < 8; i++)
		engine_submit(e, job_like(i, 1, 300, 10 + i, 1000));
	run(e);
	for (uint64_t i = 0; i < 8; i++)
		same_reply(&heard.heard[i], &wanted[i]);
	/* 18 whole pages once, and what is behind them eight times */
	assert_int_equal(stats_of(e).prompt_tokens, 18 * PAGE + 8 * (300 - 18 * PAGE));
	engine_free(e);
	fixture_free(f);
}

static void echo_runs_the_rows_that_it_tells(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 2, 64);
	static struct heard first;

	for (uint64_t i = 0; i < 2; i++) {
		struct job *job = job_like(i, 4, 100, 5, 1000);

		job->generation.echo = true;
		run_job(e, job);
		assert_int_equal(heard.heard[i].n_echo, 100);
		assert_int_equal(heard.heard[i].cached_tokens, 0);
		if (i == 0)
			first = heard.heard[0];
	}
	same_reply(&heard.heard[1], &first);
	assert_memory_equal(heard.heard[1].echo_logprobs + 1, first.echo_logprobs + 1, 99 * 4);
	engine_free(e);
	fixture_free(f);
}

/* A pool for two sequences and eight that want it, echo among them. */
static void who_gives_way_says_the_same_in_the_end(void **state)
{
	static struct heard wanted[8];

	for (uint32_t window = 0; window <= 40; window += 40) {
		struct fixture *f = fixture_new(window);
		struct engine *e;

		for (uint32_t i = 0; i < 8; i++)
			alone(f, i, 30 + i, 200, &wanted[i]);
		e = engine_with_pages(f, 8, window ? 20 : 40);
		for (uint64_t i = 0; i < 8; i++) {
			struct job *job = job_like(i, i, 30 + i, 200, i % 3);

			job->batch_priority = i < 2;
			job->generation.echo = i == 5;
			engine_submit(e, job);
		}
		run(e);
		assert_true(window || stats_of(e).preempted > 0);
		for (uint64_t i = 0; i < 8; i++) {
			same_reply(&heard.heard[i], &wanted[i]);
			assert_int_equal(heard.heard[i].cached_tokens, 0);
			assert_int_equal(heard.heard[i].n_echo, i == 5 ? 35 : 0);
			assert_int_equal(heard.heard[i].prefill_done, 30 + i);
		}
		all_given_back(e);
		engine_drop_cache(e, 0, true);
		assert_int_equal(stats_of(e).pages_cached, 0);
		engine_free(e);
		fixture_free(f);
	}
}

/* … and what it had is copied to the host's memory and back, or computed again: whichever is
 * quicker, as the engine believes. Whoever waits again is told its place again. */
static void what_gave_way_is_copied_or_computed_again(void **state)
{
	static struct heard wanted[8];
	struct fixture *f = fixture_new(0);

	for (uint32_t i = 0; i < 8; i++)
		alone(f, i, 30 + i, 200, &wanted[i]);
	for (int dear = 0; dear < 2; dear++) { /* copying is */
		struct engine *e = engine_with_pages(f, 8, 40);
		uint32_t told[8] = {0}; /* places, before it had begun */
		bool again = false;
		int r;

		run_job(e, job_like(8, 8, 30, 20, 3)); /* now it knows what steps cost */
		for (uint64_t i = 0; i < 8; i++)
			engine_submit(e, job_like(i, i, 30 + i, 200, i % 3));
		e->cache->saved_max_bytes = 1 << 20;
		do {
			e->cache->save_usec = dear ? 1e12 : 1e-3;
			r = engine_step(e);
			assert_true(r >= 0);
			for (uint64_t i = 0; i < 8; i++) {
				if (heard.heard[i].n_tokens == 0)
					told[i] = heard.heard[i].n_places;
				again |= heard.heard[i].n_places > told[i];
			}
		} while (r > 0);
		for (uint64_t i = 0; i < 8; i++)
			same_reply(&heard.heard[i], &wanted[i]);
		assert_true(stats_of(e).preempted > 0 && again);
		if (dear) {
			assert_int_equal(stats_of(e).pages_swapped, 0);
			assert_true(stats_of(e).recomputed_tokens >= PAGE);
		} else {
			assert_true(stats_of(e).pages_swapped > 0);
			assert_true(stats_of(e).pages_restored > 0);
		}
		assert_int_equal(stats_of(e).swap_bytes, 0);
		all_given_back(e);
		engine_free(e);
	}
	fixture_free(f);
}

static void a_slow_reader_s_pages_are_lent_after_ten_seconds(void **state)
{
	static struct heard wanted[2];
	struct fixture *f = fixture_new(0);
	struct engine *e;

	for (uint32_t i = 0; i < 2; i++)
		alone(f, i, 300, 40, &wanted[i]);
	e = engine_with_pages(f, 8, 32); /* for one of them */
	engine_submit(e, job_like(0, 0, 300, 40, 1000));
	while (heard.heard[0].n_tokens < 10)
		assert_int_equal(engine_step(e), 1);
	engine_pause(e, 0, true);
	engine_submit(e, job_like(1, 1, 300, 40, 1001));
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(engine_step(e), 0);
	assert_int_equal(stats_of(e).queued, 1);
	e->running->paused_usec -= 11000000;
	run(e);
	same_reply(&heard.heard[1], &wanted[1]);
	assert_false(heard.heard[0].done);
	engine_pause(e, 0, false);
	run(e);
	same_reply(&heard.heard[0], &wanted[0]);
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void nobody_gives_way_in_vain(void **state)
{
	struct fixture *f = fixture_new(0);
	struct engine *e = engine_with_pages(f, 8, 40);
	struct job *batch = job_like(1, 1, 20, 60, 1001);

	batch->batch_priority = true;
	engine_submit(e, job_like(0, 0, 290, 100, 1000)); /* 25 pages */
	engine_submit(e, batch);
	while (!heard.heard[0].n_tokens)
		assert_int_equal(engine_step(e), 1);
	engine_submit(e, job_like(2, 2, 340, 10, 1002)); /* not even with those of the batch job */
	while (!heard.heard[0].done) {
		assert_int_equal(stats_of(e).preempted, 0);
		assert_int_equal(heard.heard[2].n_tokens, 0);
		assert_int_equal(engine_step(e), 1);
	}
	run(e);
	assert_true(heard.heard[1].done && heard.heard[2].done);
	assert_int_equal(heard.heard[2].n_tokens, 10);
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_sent_again_runs_its_last_part_only),
		cmocka_unit_test(a_reply_s_pages_are_as_good_as_a_prompt_s),
		cmocka_unit_test(prompts_share_up_to_the_page_where_they_part),
		cmocka_unit_test(nobody_finds_another_s_pages),
		cmocka_unit_test(a_page_changes_its_owner_only_zeroed),
		cmocka_unit_test(the_oldest_pages_go_first),
		cmocka_unit_test(nobody_is_pushed_out_of_a_fair_share),
		cmocka_unit_test(the_shared_prompt_is_everybody_s_and_stays),
		cmocka_unit_test(a_prefix_in_the_making_is_waited_for),
		cmocka_unit_test(echo_runs_the_rows_that_it_tells),
		cmocka_unit_test(who_gives_way_says_the_same_in_the_end),
		cmocka_unit_test(what_gave_way_is_copied_or_computed_again),
		cmocka_unit_test(a_slow_reader_s_pages_are_lent_after_ten_seconds),
		cmocka_unit_test(nobody_gives_way_in_vain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
