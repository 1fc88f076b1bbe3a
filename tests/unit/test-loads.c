/* The same bytes under any load: requests of all kinds arrive at random among each other, chunks,
 * slots, pool and what is cached vary by seed, readers pause, passes are interrupted, the cache is
 * dropped; each reply's tokens and logprobs have the bits of the same request run alone.
 *
 * ZEPH_ROUNDS rounds from ZEPH_SEED on, on the processor; with TEST_CUDA on the shim's card. */
#define HEADS    2
#define KV_HEADS 1
#define HEAD_DIM 32 /* that keys and values can be q8_0 */
#ifdef TEST_CUDA    /* a launch is slow under the shim */
#define LAYERS 1
#endif
#include "tests/unit/engine-fixture.h"

#ifdef TEST_CUDA
#include "tests/unit/ops-fixture.h"
#define ROUNDS 1 /* the shim's seeds 1 and 2 are two */
#define LONG   90
#define NEW    5 /* tokens of a reply, at most */
#else
#define ROUNDS 20
#define LONG   200
#define NEW    24
#endif

#define DOCUMENTS 6
#define N_SCORED  8 /* the last jobs are score jobs */

/* Random numbers of one round. */
struct chance {
	uint64_t seed, drawn;
};

static uint32_t below(struct chance *c, uint32_t n)
{
	return (uint32_t)(philox_uniform(c->seed, c->drawn++) * (float)n);
}

static const enum dtype types[] = {DTYPE_F32, DTYPE_Q4_0, DTYPE_BF16, DTYPE_Q8_0, DTYPE_F16};

static const enum dtype kv_types[] = {DTYPE_F16, DTYPE_Q8_0, DTYPE_BF16, DTYPE_F32};
static enum dtype kv_type; /* of the round */

static struct fixture *fixture_of(struct chance *c)
{
	enum dtype type = types[below(c, sizeof(types) / sizeof(*types))];
	uint32_t window = below(c, 3) == 0 ? 40 + below(c, 50) : 0;
	struct backend *b = NULL;

	kv_type = kv_types[below(c, sizeof(kv_types) / sizeof(*kv_types))];
#ifdef TEST_CUDA
	assert_int_equal(make_cuda(below(c, 2) ? 90 : 61,
				 below(c, 2) ? ACTIVATIONS_FAST : ACTIVATIONS_EXACT, &b),
		0);
#else
	assert_int_equal(backend_new_cpu(1 + below(c, 3),
				 below(c, 2) ? ACTIVATIONS_FAST : ACTIVATIONS_EXACT, &b),
		0);
#endif
	return fixture_new_on(b, window, type);
}

static struct engine *engine_with(struct fixture *f, struct listener *l, uint32_t sequences,
	uint32_t chunk, uint32_t pages, uint32_t swap_pages)
{
	struct engine_options o;

	engine_options_default(&o);
	o.kv_dtype = kv_type;
	o.max_sequences = sequences;
	o.prefill_tokens = chunk;
	o.kv_bytes = pages * kv_page_bytes(&f->model.config, o.kv_dtype);
	o.swap_bytes = swap_pages * kv_page_bytes(&f->model.config, o.kv_dtype) * 2;
	return engine_of(f, l, &o);
}

/* Job `id` of the round: a document's beginning, then what is its own. */
static struct job *job_of(uint64_t seed, uint64_t id)
{
	struct chance c = {seed * 1000 + id, 0};
	uint32_t document = below(&c, DOCUMENTS), n, own;
	struct job *job;

	own = below(&c, 3) == 0 ? 0 : 1 + below(&c, 20);
	n = 1 + below(&c, 3) * 16 + below(&c, LONG - 80);
	job = job_for(id, n + own, id < JOBS_MAX - N_SCORED ? 1 + below(&c, NEW) : 0);
	for (uint32_t i = 0; i < n; i++)
		job->prompt[i] = (int32_t)(philox_uniform(seed * 100 + document, i) * VOCAB);
	job->uid = 1000 + below(&c, 3);
	job->batch_priority = below(&c, 3) == 0;
	job->weight = 1 + below(&c, 2);
	job->generation.echo = below(&c, 5) == 0;
	job->generation.temperature = below(&c, 3) ? 1 : 0;
	job->generation.top_k = below(&c, 2) ? 20 : 0;
	if (id < JOBS_MAX - N_SCORED)
		return job;
	job->choices = calloc(5, sizeof(*job->choices));
	assert_non_null(job->choices);
	for (uint32_t i = 0; i < 5; i++) {
		struct choice *choice = &job->choices[job->n_choices++];

		choice->n_tokens = 1 + below(&c, NEW / 2);
		choice->tokens = malloc(choice->n_tokens * sizeof(*choice->tokens));
		assert_non_null(choice->tokens);
		for (uint32_t k = 0; k < choice->n_tokens; k++)
			choice->tokens[k] = (int32_t)below(&c, VOCAB);
	}
	return job;
}

static void run_alone(struct fixture *f, uint64_t seed, struct listener *wanted)
{
	for (uint64_t id = 0; id < JOBS_MAX; id++) {
		struct engine *e = engine_with(f, wanted, 1, 256, 40, 0);

		engine_submit(e, job_of(seed, id));
		run(e);
		engine_free(e);
	}
}

static void same(const struct heard *got, const struct heard *wanted)
{
	assert_true(got->done);
	assert_int_equal(got->failure, FAILURE_NONE);
	assert_int_equal(got->finish, wanted->finish);
	same_reply(got, wanted);
	assert_int_equal(got->n_echo, wanted->n_echo);
	if (got->n_echo > 0)
		assert_memory_equal(got->echo_logprobs + 1, wanted->echo_logprobs + 1,
			(got->n_echo - 1) * sizeof(float));
	assert_int_equal(got->n_scores, wanted->n_scores);
	assert_memory_equal(got->scores, wanted->scores, sizeof(got->scores));
	assert_true(got->cached_tokens < got->prompt_tokens);
}

/* Adds how often prompt rows went through the layers over several steps. */
static void one_round(uint64_t seed, struct engine_stats *ret_stats, uint64_t *layered)
{
	static struct listener wanted, heard;
	struct chance c = {seed, 0};
	struct fixture *f = fixture_of(&c);
	struct engine *e;
	uint64_t submitted = 0;
	int left = 0, r = 1;

	memset(&wanted, 0, sizeof(wanted));
	memset(&heard, 0, sizeof(heard));
	run_alone(f, seed, &wanted);
	/* 32 pages hold the longest job alone */
	e = engine_with(f, &heard, 2 + below(&c, 15), 1 + below(&c, 64), 32 + below(&c, 60),
		below(&c, 2) ? below(&c, 200) : 0);
	if (below(&c, 2)) {
		struct job *document = job_of(seed, 0);

		assert_int_equal(engine_share_prefix(e, document->prompt, document->n_prompt), 0);
		job_free(document);
	}
	while (submitted < JOBS_MAX || r > 0) {
		for (uint32_t n = below(&c, 4); n > 0 && submitted < JOBS_MAX; n--)
			engine_submit(e, job_of(seed, submitted++));
		if (below(&c, 6) == 0)
			engine_pause(e, below(&c, JOBS_MAX), below(&c, 2));
		if (below(&c, 40) == 0)
			engine_drop_cache(e, 1000 + below(&c, 3), below(&c, 2));
		left = (int)below(&c, 12);
		if (below(&c, 4) == 0)
			engine_set_stop(e, countdown, &left);
		r = engine_step(e);
		assert_true(r >= 0);
		engine_set_stop(e, NULL, NULL);
		if (r == 0) /* whoever is paused would be waited for */
			for (uint64_t id = 0; id < submitted; id++)
				engine_pause(e, id, false);
		if (r == 0 && e->n_running + e->n_queued > 0)
			r = 1;
	}
	for (uint64_t id = 0; id < JOBS_MAX; id++)
		same(&heard.heard[id], &wanted.heard[id]);
	*layered += e->layered.n_begun;
	engine_stats(e, ret_stats);
	assert_int_equal(ret_stats->swap_bytes, 0);
	assert_int_equal(ret_stats->pages_used, ret_stats->shared_tokens / KV_PAGE_TOKENS);
	engine_drop_cache(e, 0, true);
	assert_int_equal(e->cache->n_nodes, ret_stats->shared_tokens / KV_PAGE_TOKENS);
	engine_free(e);
	fixture_free(f);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void replies_are_the_same_under_any_load(void **state)
{
	uint64_t seed = number("ZEPH_SEED", number("ZEPH_SHIM_SEED", 1));
	uint64_t rounds = number("ZEPH_ROUNDS", ROUNDS);
	uint64_t preempted = 0, cached = 0, swapped = 0, layered = 0;

	for (uint64_t i = 0; i < rounds; i++) {
		struct engine_stats stats;

		one_round(seed + i, &stats, &layered);
		preempted += stats.preempted;
		cached += stats.cached_tokens;
		swapped += stats.pages_swapped;
	}
	print_message("%llu rounds: %llu preempted, %llu tokens from the cache, %llu pages "
		      "swapped, %llu times layered\n",
		(unsigned long long)rounds, (unsigned long long)preempted,
		(unsigned long long)cached, (unsigned long long)swapped,
		(unsigned long long)layered);
	/* the rounds have met what they are about */
	assert_true(cached > 0 && (rounds < 4 || (preempted > 0 && swapped > 0 && layered > 0)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replies_are_the_same_under_any_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
