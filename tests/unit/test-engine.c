/* The engine on a tiny random model and the reference backend: a reply is the same alone, in a
 * batch, in chunks, after a cancel of its neighbours; everything taken is given back. */
#include "tests/unit/engine-fixture.h"

static const uint32_t lengths[] = {1, 15, 16, 17, 33, 127, 128, 129};
#define N_LENGTHS (sizeof(lengths) / sizeof(*lengths))

static void replies_are_the_same_alone_and_in_a_batch(void **state)
{
	static const uint32_t chunks[] = {1, 7, 16, 64};
	static struct heard wanted[N_LENGTHS];
	static struct listener l;

	for (uint32_t window = 0; window <= 24; window += 24) {
		struct fixture *f = fixture_new(window);

		for (uint32_t i = 0; i < N_LENGTHS; i++) {
			alone(f, i, lengths[i], 40, &wanted[i]);
			assert_int_equal(wanted[i].finish, FINISH_LENGTH);
			assert_int_equal(wanted[i].n_tokens, 40);
		}
		for (uint32_t c = 0; c < sizeof(chunks) / sizeof(*chunks); c++) {
			struct engine *e = engine_for(f, &l, 5, chunks[c], 0);

			memset(&l, 0, sizeof(l));
			for (uint32_t i = 0; i < N_LENGTHS; i++)
				engine_submit(e, job_for(i, lengths[i], 40));
			run(e);
			for (uint32_t i = 0; i < N_LENGTHS; i++) {
				same_reply(&l.heard[i], &wanted[i]);
				assert_int_equal(l.heard[i].prefill_done, lengths[i]);
				assert_int_equal(l.heard[i].prompt_tokens, lengths[i]);
			}
			all_given_back(e);
			engine_free(e);
		}
		fixture_free(f);
	}
}

static void a_window_longer_than_the_text_changes_nothing(void **state)
{
	struct fixture *all = fixture_new(0), *wide = fixture_new(200), *narrow = fixture_new(64);
	static struct heard a, b, c;

	alone(all, 1, 100, 60, &a);
	alone(wide, 1, 100, 60, &b);
	alone(narrow, 1, 100, 60, &c);
	same_reply(&a, &b);
	assert_memory_not_equal(a.logprobs, c.logprobs, sizeof(float) * 60);
	fixture_free(all);
	fixture_free(wide);
	fixture_free(narrow);
}

static void pages_behind_the_window_are_given_back(void **state)
{
	struct fixture *f = fixture_new(24);
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, 16, 0);
	uint32_t most = 0;

	memset(&l, 0, sizeof(l));
	engine_submit(e, job_for(0, 200, 200));
	while (engine_step(e) > 0) {
		struct engine_stats stats;

		engine_stats(e, &stats);
		most = stats.pages_used > most ? stats.pages_used : most;
	}
	/* window 24 + chunk 16, and a page's rest at either end */
	assert_true(most <= (24 + 16 + 2 * KV_PAGE_TOKENS) / KV_PAGE_TOKENS + 1);
	assert_int_equal(l.heard[0].n_tokens, 200);
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void a_cancel_between_layers_leaves_the_others_untouched(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct heard wanted;
	static struct listener l;

	alone(f, 0, 40, 30, &wanted);
	/* The stop is asked for after so many layers, at every place of the first steps. */
	for (int after = 0; after < 40; after++) {
		struct engine *e = engine_for(f, &l, 2, 16, 0);
		int left = after;

		memset(&l, 0, sizeof(l));
		engine_submit(e, job_for(0, 40, 30));
		engine_submit(e, job_for(1, 100, 30));
		engine_set_stop(e, countdown, &left);
		while (left >= 0)
			assert_int_equal(engine_step(e), 1);
		engine_set_stop(e, NULL, NULL);
		engine_cancel(e, 1, FAILURE_NONE, NULL);
		run(e);
		same_reply(&l.heard[0], &wanted);
		assert_true(l.heard[1].done);
		assert_int_equal(l.heard[1].failure, FAILURE_NONE);
		assert_int_equal(l.heard[1].finish, FINISH_CANCELLED);
		assert_int_equal(l.heard[1].completion_tokens, l.heard[1].n_tokens);
		all_given_back(e);
		engine_free(e);
	}
	fixture_free(f);
}

static void a_cancel_by_the_daemon_carries_its_reason(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, 16, 0);

	memset(&l, 0, sizeof(l));
	engine_submit(e, job_for(0, 5, 100));
	engine_submit(e, job_for(1, 5, 100));
	assert_int_equal(engine_step(e), 1);
	engine_cancel(e, 1, FAILURE_TIMEOUT, "too late");
	engine_cancel(e, 0, FAILURE_CANCELLED, "stopping");
	engine_cancel(e, 7, FAILURE_CANCELLED, "nobody");
	assert_int_equal(l.heard[0].failure, FAILURE_CANCELLED);
	assert_string_equal(l.heard[0].reason, "stopping");
	assert_int_equal(l.heard[1].failure, FAILURE_TIMEOUT);
	assert_int_equal(engine_step(e), 0);
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void who_waits_is_told_its_place(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, 64, 0);
	struct job *batch = job_for(4, 3, 2);

	memset(&l, 0, sizeof(l));
	batch->batch_priority = true;
	engine_submit(e, batch);
	for (uint64_t i = 0; i < 4; i++)
		engine_submit(e, job_for(i, 3, 2));
	run(e);
	assert_int_equal(l.heard[0].n_places, 0);
	assert_int_equal(l.heard[1].n_places, 1);
	assert_int_equal(l.heard[1].places[0], 0);
	assert_int_equal(l.heard[3].n_places, 3);
	assert_int_equal(l.heard[3].places[0], 2);
	assert_int_equal(l.heard[3].places[2], 0);
	/* submitted first, but batch waits for interactive */
	assert_int_equal(l.heard[4].n_places, 4);
	assert_int_equal(l.heard[4].places[0], 3);
	engine_free(e);
	fixture_free(f);
}

static void jobs_wait_for_pages(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct heard wanted[4];
	static struct listener l;
	struct engine_stats stats;
	struct engine *e;

	for (uint32_t i = 0; i < 4; i++)
		alone(f, i, 60, 60, &wanted[i]);
	/* 16 pages: two sequences of 120 positions (8 pages) at once */
	e = engine_for(f, &l, 4, 64, 16 * kv_page_bytes(&f->model.config, DTYPE_F32));
	memset(&l, 0, sizeof(l));
	for (uint32_t i = 0; i < 4; i++)
		engine_submit(e, job_for(i, 60, 60));
	assert_int_equal(engine_step(e), 1);
	engine_stats(e, &stats);
	assert_int_equal(stats.pages, 16);
	assert_int_equal(stats.running, 2);
	assert_int_equal(stats.context, 256);
	run(e);
	for (uint32_t i = 0; i < 4; i++)
		same_reply(&l.heard[i], &wanted[i]);
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void a_paused_sequence_waits_and_goes_on(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct heard wanted;
	static struct listener l;
	struct engine *e = engine_for(f, &l, 2, 64, 0);

	alone(f, 0, 20, 30, &wanted);
	memset(&l, 0, sizeof(l));
	engine_submit(e, job_for(0, 20, 30));
	engine_step(e);
	engine_step(e);
	engine_pause(e, 0, true);
	engine_pause(e, 9, true);
	assert_int_equal(engine_step(e), 0);
	engine_submit(e, job_for(1, 20, 5));
	run(e);
	assert_true(l.heard[1].done);
	assert_false(l.heard[0].done);
	engine_pause(e, 0, false);
	run(e);
	same_reply(&l.heard[0], &wanted);
	engine_free(e);
	fixture_free(f);
}

static void the_reply_ends_at_the_context(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, 64, 0);

	memset(&l, 0, sizeof(l));
	engine_submit(e, job_for(0, CONTEXT - 3, 1000));
	engine_submit(e, job_for(1, CONTEXT - 1, 1000));
	engine_submit(e, job_for(2, CONTEXT, 1000));
	run(e);
	assert_int_equal(l.heard[0].n_tokens, 3);
	assert_int_equal(l.heard[0].finish, FINISH_LENGTH);
	assert_int_equal(l.heard[1].n_tokens, 1);
	assert_int_equal(l.heard[2].failure, FAILURE_TOO_LARGE);
	assert_non_null(strstr(l.heard[2].reason, "512"));
	all_given_back(e);
	engine_free(e);
	fixture_free(f);
}

static void echo_tells_the_prompt_s_logprobs(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct listener l;
	static struct heard reply;
	struct engine *e = engine_for(f, &l, 2, 48, 0);
	struct job *job;

	/* What greedy generation says of its own tokens, echo must say of them as a prompt. */
	memset(&l, 0, sizeof(l));
	job = job_for(0, 10, 90);
	job->generation.temperature = 0;
	engine_submit(e, job);
	run(e);
	reply = l.heard[0];
	assert_int_equal(reply.n_tokens, 90);

	for (uint32_t max_new = 0; max_new < 2; max_new++) {
		memset(&l, 0, sizeof(l));
		job = job_for(0, 10, max_new);
		job->generation.echo = true;
		job->prompt = realloc(job->prompt, 100 * sizeof(*job->prompt));
		assert_non_null(job->prompt);
		memcpy(job->prompt + 10, reply.tokens, 90 * sizeof(int32_t));
		job->n_prompt = 100;
		engine_submit(e, job);
		run(e);
		assert_int_equal(l.heard[0].n_echo, 100);
		assert_int_equal(l.heard[0].n_tokens, max_new);
		assert_true(isnan(l.heard[0].echo_logprobs[0]));
		assert_memory_equal(
			l.heard[0].echo_logprobs + 10, reply.logprobs, 90 * sizeof(float));
		assert_memory_equal(l.heard[0].echo + 10, reply.tokens, 90 * sizeof(int32_t));
	}
	engine_free(e);
	fixture_free(f);
}

static void an_end_token_ends_the_reply_and_is_counted(void **state)
{
	struct fixture *f = fixture_new(0);
	static struct heard free_run, ended;

	alone(f, 3, 9, 30, &free_run);
	f->model.end_tokens[0] = free_run.tokens[7];
	f->model.n_end_tokens = 1;
	alone(f, 3, 9, 30, &ended);
	for (uint32_t i = 0; i < ended.n_tokens; i++)
		assert_int_equal(ended.tokens[i], free_run.tokens[i]);
	assert_true(ended.n_tokens <= 7);
	assert_int_equal(free_run.tokens[ended.n_tokens], free_run.tokens[7]);
	assert_int_equal(ended.finish, FINISH_STOP);
	assert_int_equal(ended.completion_tokens, ended.n_tokens + 1);
	fixture_free(f);
}

/* The device that fails: attention of the reference until the countdown is over. */
static int attention_left;
static int (*real_attention)(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y);

static int failing_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	if (--attention_left < 0) {
		snprintf(b->error, sizeof(b->error), "the card fell off the bus");
		return -EIO;
	}
	return real_attention(b, batch, shape, q, kv, layer, y);
}

static void a_lost_device_is_told_to_everybody(void **state)
{
	struct fixture *f = fixture_new(0);
	const struct backend_ops *real = f->backend->ops;
	struct backend_ops failing = *real;
	static struct listener l;
	struct engine *e = engine_for(f, &l, 1, 64, 0);
	int r;

	memset(&l, 0, sizeof(l));
	real_attention = real->attention;
	failing.attention = failing_attention;
	f->backend->ops = &failing;
	attention_left = 7;
	for (uint64_t i = 0; i < 3; i++)
		engine_submit(e, job_for(i, 5, 50));
	while ((r = engine_step(e)) > 0)
		;
	assert_int_equal(r, -EIO);
	engine_submit(e, job_for(3, 5, 50));
	for (uint32_t i = 0; i < 4; i++) {
		assert_true(l.heard[i].done);
		assert_int_equal(l.heard[i].failure, FAILURE_ENGINE);
	}
	assert_non_null(strstr(l.heard[0].reason, "fell off the bus"));
	f->backend->ops = real;
	engine_free(e);
	fixture_free(f);
}

static uint32_t touched_pages, touches_left;

static bool count_touch(struct backend *b, struct kv *kv, uint32_t n_pages)
{
	assert_non_null(b);
	assert_non_null(kv);
	touched_pages = n_pages;
	return touches_left > 0 && touches_left-- > 0;
}

static void memory_is_found_ahead_of_its_use(void **state)
{
	struct fixture *f = fixture_new(0);
	const struct backend_ops *real = f->backend->ops;
	struct backend_ops touching = *real;
	static struct listener l;
	struct engine *e = engine_for(
		f, &l, 4, 64, 100 * kv_page_bytes(&f->model.config, DTYPE_F32));

	(void)state;
	assert_false(engine_prepare(e)); /* nothing to do where the memory is there at once */
	touching.kv_touch = count_touch;
	f->backend->ops = &touching;
	touches_left = 2;
	assert_true(engine_prepare(e));
	assert_true(engine_prepare(e));
	assert_false(engine_prepare(e));
	assert_int_equal(touched_pages, 25); /* a context has more than a quarter of the pool */
	for (uint32_t i = 0; i < 4; i++)
		engine_submit(e, job_for(i, 150, 10));
	run(e);
	assert_false(engine_prepare(e));
	assert_in_range(e->kv->n_used_max, 26, 40); /* 4 x 160 positions */
	assert_int_equal(touched_pages, e->kv->n_used_max + 25);
	for (uint32_t i = 4; i < 12; i++)
		engine_submit(e, job_for(i, 150, 10));
	run(e);
	assert_false(engine_prepare(e));
	assert_in_range(e->kv->n_used_max, 76, 100);
	assert_int_equal(touched_pages, 100); /* all that there are */
	engine_free(e);
	e = engine_for(f, &l, 4, 64, 200 * kv_page_bytes(&f->model.config, DTYPE_F32));
	assert_false(engine_prepare(e));
	assert_int_equal(touched_pages, CONTEXT / KV_PAGE_TOKENS);
	f->backend->ops = real;
	engine_free(e);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replies_are_the_same_alone_and_in_a_batch),
		cmocka_unit_test(a_window_longer_than_the_text_changes_nothing),
		cmocka_unit_test(pages_behind_the_window_are_given_back),
		cmocka_unit_test(a_cancel_between_layers_leaves_the_others_untouched),
		cmocka_unit_test(a_cancel_by_the_daemon_carries_its_reason),
		cmocka_unit_test(who_waits_is_told_its_place),
		cmocka_unit_test(jobs_wait_for_pages),
		cmocka_unit_test(a_paused_sequence_waits_and_goes_on),
		cmocka_unit_test(the_reply_ends_at_the_context),
		cmocka_unit_test(echo_tells_the_prompt_s_logprobs),
		cmocka_unit_test(an_end_token_ends_the_reply_and_is_counted),
		cmocka_unit_test(a_lost_device_is_told_to_everybody),
		cmocka_unit_test(memory_is_found_ahead_of_its_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
