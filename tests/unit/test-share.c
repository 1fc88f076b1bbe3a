/* Who gets how much of a step, on a device of known speed: what a step costs is told to the engine
 * instead of measured, and the tests count that time. */
#define CONTEXT 8192
#define LAYERS  16
#include "tests/unit/engine-fixture.h"

/* Microseconds of a step, of each of its rows, and of each position that a row sees: a processor's
 * rows cost, on a card the first one does. */
struct speed {
	double fixed, row, seen;
};
static const struct speed processor = {1000, 360, 0.3}, card = {2000, 10, 0.003};

static double told_usec(const struct speed *s, struct cost_work w)
{
	return s->fixed + s->row * w.rows + s->seen * w.seen;
}

static struct speed speed;
static uint64_t clock_usec; /* of the formula */
static const struct backend_ops *real;

static uint64_t told_now(void)
{
	return clock_usec;
}

/* Its time is told, a layer's, what it says does not matter: nothing is attended to. */
static int told_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	const struct cost none = {0};
	struct cost_work work = {0};

	(void)b, (void)q, (void)kv, (void)layer;
	for (uint32_t i = 0; i < batch->n_rows; i++)
		work = cost_add(&none, work, batch->positions[i], 1);
	clock_usec += (uint64_t)(told_usec(&speed, work) / LAYERS);
	memset(y, 0, sizeof(*y) * batch->n_rows * shape->n_heads * shape->head_dim);
	return 0;
}

/* What one job saw, in the formula's time. */
struct seen {
	uint64_t tokens[CONTEXT]; /* when each came */
	uint32_t n, prefilled;    /* tokens; prompt rows in the step before last */
	bool done;
	uint64_t device_usec;
};
static struct seen seen[JOBS_MAX];

static void see(void *userdata, struct event *e)
{
	struct seen *s = &seen[e->job];

	if (e->kind == EVENT_TOKENS)
		for (uint32_t i = 0; i < e->n_tokens; i++)
			s->tokens[s->n++] = clock_usec;
	if (e->kind == EVENT_PREFILL)
		s->prefilled = e->done;
	s->done |= e->kind == EVENT_DONE;
	s->device_usec += e->device_usec;
	event_free(e);
}

struct machine {
	struct fixture *f;
	struct backend_ops told;
	struct engine *e;
};

static void machine_new(struct machine *m, struct speed s, uint32_t chunk)
{
	struct engine_sink sink = {see, NULL};
	struct engine_options o;
	char error[256];

	memset(seen, 0, sizeof(seen));
	clock_usec = 0;
	speed = s;
	m->f = fixture_new(0);
	real = m->f->backend->ops;
	m->told = *real;
	m->told.attention = told_attention;
	m->f->backend->ops = &m->told;
	engine_options_default(&o);
	o.kv_dtype = DTYPE_F32;
	o.prefill_tokens = chunk;
	assert_int_equal(engine_new(&m->f->weights, &o, &sink, &m->e, error, sizeof(error)), 0);
	m->e->clock = told_now;
	m->e->cost.seen_usec = s.seen;
	for (uint32_t k = 0; k < COST_POINTS; k++) {
		struct cost_work w = {1u << k, 0};

		cost_note(&m->e->cost, w, (uint64_t)told_usec(&s, w));
	}
}

static void machine_free(struct machine *m)
{
	engine_free(m->e);
	m->f->backend->ops = real;
	fixture_free(m->f);
}

static void submit(
	struct machine *m, uint64_t id, uint32_t uid, bool batch, uint32_t n, uint32_t max_new)
{
	struct job *job = job_for(id, n, max_new);

	job->uid = uid;
	job->batch_priority = batch;
	job->generation.logprobs = false;
	engine_submit(m->e, job);
}

static void step(struct machine *m)
{
	assert_int_equal(engine_step(m->e), 1);
}

static void until(struct machine *m, uint64_t id, uint32_t tokens)
{
	while (seen[id].n < tokens && !seen[id].done)
		step(m);
}

struct figures {
	double first_usec, token_usec;
};

/* A stream of uid 2 that comes when uid 1's requests are well under way. */
static struct figures stream_beside(struct speed s, uint32_t n_others, bool batch)
{
	struct machine m;
	struct figures f;
	uint64_t began;

	machine_new(&m, s, 64);
	for (uint64_t i = 0; i < n_others; i++)
		submit(&m, i, 1, batch, 20, 400);
	for (uint32_t i = 0; n_others > 0 && i < 60; i++)
		step(&m);
	began = clock_usec;
	submit(&m, 60, 2, false, 40, 80);
	until(&m, 60, 60);
	f.first_usec = (double)(seen[60].tokens[0] - began);
	f.token_usec = (double)(seen[60].tokens[59] - seen[60].tokens[0]) / 59;
	/* nobody starves */
	for (uint64_t i = 0; i < (n_others < 16 ? n_others : 15); i++)
		assert_true(seen[i].n > 1);
	machine_free(&m);
	return f;
}

static void a_stream_beside_a_crowd_of_batch_requests(void **state)
{
	static const struct speed speeds[] = {processor, card};

	for (uint32_t i = 0; i < 2; i++) {
		struct figures one = stream_beside(speeds[i], 1, false);
		struct figures crowd = stream_beside(speeds[i], 32, true);

		print_message("# %s: first token %.2fx, rate %.2fx\n", i ? "card" : "processor",
			crowd.first_usec / one.first_usec, one.token_usec / crowd.token_usec);
		assert_true(crowd.first_usec <= 2 * one.first_usec);
		assert_true(one.token_usec / crowd.token_usec >= 0.6);
	}
}

static void a_stream_beside_a_crowd_of_streams_gets_half(void **state)
{
	struct figures alone = stream_beside(processor, 0, false);
	struct figures crowd = stream_beside(processor, 16, false);

	print_message("# rate %.2fx\n", alone.token_usec / crowd.token_usec);
	assert_true(alone.token_usec / crowd.token_usec >= 0.45);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* A prompt of 4,000 tokens among four streams of its uid. Returns the worst gap of theirs meanwhile
 * over the median before. */
static double long_prompt_among_streams(struct speed s, uint32_t chunk)
{
	enum { LONG = 4000, BEFORE = 400, LOOKED_AT = 200 };
	static uint64_t gaps[4 * LOOKED_AT];
	struct machine m;
	uint64_t began, alone, among, median, worst = 0;
	uint32_t n_gaps = 0, before[4];

	machine_new(&m, s, chunk);
	m.e->cost = (struct cost){0}; /* nothing is known yet */
	submit(&m, 50, 1, false, LONG, 1);
	until(&m, 50, 1);
	alone = clock_usec;
	for (uint64_t i = 0; i < 4; i++)
		submit(&m, i, 1, false, 30, CONTEXT / 2);
	for (uint64_t i = 0; i < 4; i++)
		until(&m, i, BEFORE);
	for (uint64_t i = 0; i < 4; i++) {
		before[i] = seen[i].n;
		for (uint32_t k = before[i] - LOOKED_AT; k < before[i]; k++)
			gaps[n_gaps++] = seen[i].tokens[k] - seen[i].tokens[k - 1];
	}
	qsort(gaps, n_gaps, sizeof(*gaps), by_size);
	median = gaps[n_gaps / 2];

	began = clock_usec;
	submit(&m, 51, 1, false, LONG, 1);
	while (!seen[51].done) {
		struct cost_work own = {0};
		uint32_t prefilled = seen[51].prefilled, had[4];
		uint64_t at = clock_usec;

		for (uint64_t i = 0; i < 4; i++)
			had[i] = seen[i].n;
		for (uint64_t i = 0; i < 4; i++)
			own = cost_add(&m.e->cost, own, 30 + had[i], 1);
		step(&m);
		/* every stream goes on in every step, and no step has more of the prompt */
		assert_true(seen[51].prefilled - prefilled <= chunk);
		for (uint64_t i = 0; i < 4; i++)
			assert_int_equal(seen[i].n, had[i] + 1);
		assert_true((double)(clock_usec - at) <= 3 * told_usec(&s, own));
	}
	among = clock_usec - began;
	for (uint64_t i = 0; i < 4; i++)
		for (uint32_t k = before[i]; k < seen[i].n; k++)
			if (seen[i].tokens[k] - seen[i].tokens[k - 1] > worst)
				worst = seen[i].tokens[k] - seen[i].tokens[k - 1];
	print_message(
		"# the prompt takes %.2fx its time alone, the worst gap is %.2fx the median\n",
		(double)among / (double)alone, (double)worst / (double)median);
	assert_true(among <= alone * 2.5);
	machine_free(&m);
	return (double)worst / (double)median;
}

static void a_long_prompt_lets_streams_go_on(void **state)
{
	static const struct speed dear = {1000, 360, 2};

	assert_true(long_prompt_among_streams(processor, 256) <= 3);
	assert_true(long_prompt_among_streams(card, 1024) <= 3);
	/* what these rows see makes the streams more than twice as slow by themselves before the
	 * prompt is there: it is not made to wait for that */
	assert_true(long_prompt_among_streams(dear, 256) <= 8);
}

static void weight_and_priority_count(void **state)
{
	struct machine m;
	double first, second;

	machine_new(&m, processor, 64);
	for (uint64_t i = 0; i < 16; i++) { /* uid 2 counts for three */
		struct job *job = job_for(i, 10, 400);

		job->uid = 1 + i % 2;
		job->weight = i % 2 ? 3 : 1;
		job->batch_priority = true;
		job->generation.logprobs = false;
		engine_submit(m.e, job);
	}
	submit(&m, 20, 3, false, 10, 200); /* the base: what is left is divided */
	until(&m, 20, 150);
	first = second = 0;
	for (uint64_t i = 0; i < 16; i++)
		*(i % 2 ? &second : &first) += seen[i].n;
	print_message("# the weighty one gets %.2fx\n", second / first);
	assert_true(second / first > 2 && second / first < 4);
	machine_free(&m);
}

static void batch_has_a_third_of_what_a_stream_has(void **state)
{
	struct machine m;
	uint64_t began;
	uint32_t had[8];
	double share = 0;

	machine_new(&m, processor, 64);
	for (uint64_t i = 0; i < 8; i++)
		submit(&m, i, 1, true, 20, 300);
	submit(&m, 20, 2, false, 20, 200);
	until(&m, 20, 50);
	for (uint64_t i = 0; i < 8; i++)
		had[i] = seen[i].n;
	began = clock_usec;
	until(&m, 20, 150);
	for (uint64_t i = 0; i < 8; i++)
		for (uint32_t k = had[i]; k < seen[i].n; k++)
			share += processor.row + processor.seen * (20 + k);
	share /= (double)(clock_usec - began);
	print_message("# batch %.3f of the time\n", share);
	assert_true(share > 0.2 && share < 0.27); /* 1 : 3 */
	machine_free(&m);
}

static void time_is_charged_to_who_took_it(void **state)
{
	struct machine m;
	double a, b;

	machine_new(&m, processor, 64);
	submit(&m, 0, 1, false, 20, 200);
	submit(&m, 1, 2, false, 20, 200);
	for (uint64_t i = 2; i < 5; i++)
		submit(&m, i, 3, false, 20, 200);
	for (uint64_t i = 0; i < 5; i++)
		until(&m, i, 200);
	a = (double)seen[0].device_usec / (double)seen[1].device_usec;
	b = (double)(seen[2].device_usec + seen[3].device_usec + seen[4].device_usec) /
	    (double)seen[1].device_usec;
	print_message("# of equal streams one has %.2fx; three of one uid %.2fx\n", a, b);
	assert_true(a > 0.9 && a < 1.1);
	assert_true(b > 1.2 && b < 2.2); /* (1000 + 3 * 360) / (1000 + 360) */
	machine_free(&m);
}

static struct cost_work work_of(uint32_t n_rows, double positions)
{
	return (struct cost_work){n_rows, positions};
}

/* The engine learns what steps cost from their times: within a few steps the estimate is near. */
static void costs_are_learnt(void **state)
{
	static const struct speed speeds[] = {processor, card};

	for (uint32_t i = 0; i < 2; i++) {
		static const uint32_t rows[] = {16, 3, 1, 70, 300, 2, 9, 1024};
		const struct speed *s = &speeds[i];
		struct cost c = {0};

		assert_true(cost_of(&c, work_of(0, 0)) == 0);
		assert_true(cost_of(&c, work_of(2, 0)) > cost_of(&c, work_of(1, 0)));
		for (uint32_t k = 0; k < 64; k++)
			cost_note(&c, work_of(rows[k % 8], 0),
				(uint64_t)told_usec(s, work_of(rows[k % 8], 0)));
		for (uint32_t n = 1; n <= 1024; n++)
			assert_true(fabs(cost_of(&c, work_of(n, 0)) / told_usec(s, work_of(n, 0)) -
					    1) < 0.01);
		assert_int_equal(cost_rows(&c, work_of(16, 0), 0, 0.5, 100), 0);
		/* 17 to 32 rows were never seen: so far and no further */
		assert_int_equal(cost_rows(&c, work_of(16, 0), 0, 1e9, 100), 16);
		assert_int_equal(cost_rows(&c, work_of(65, 0), 0, 1e9, 60), 60);
		cost_note(&c, work_of(1, 0), 1000000000); /* one step that was disturbed */
		assert_true(cost_of(&c, work_of(1, 0)) < 1.1 * told_usec(s, work_of(1, 0)));
	}
}

/* A prompt alone tells what its rows see costs: that is known at any position then, and for chunks
 * of another size. */
static void what_rows_see_is_learnt(void **state)
{
	static const struct speed speeds[] = {processor, card};

	for (uint32_t i = 0; i < 2; i++) {
		const struct speed *s = &speeds[i];
		struct cost c = {0};

		for (uint32_t round = 0; round < 4; round++)
			for (uint32_t n = 1; n <= 256; n *= 4)
				for (uint32_t at = 0; at + n <= 16 * n; at += n) {
					struct cost_work w = cost_add(&c, work_of(0, 0), at, n);

					cost_note(&c, w, (uint64_t)told_usec(s, w));
				}
		print_message("# a position %.4f us, told %.4f\n", c.seen_usec, s->seen);
		assert_true(fabs(c.seen_usec / s->seen - 1) < 0.1);
		for (uint32_t at = 0; at < 8000; at += 500) {
			struct cost_work w = cost_add(&c, work_of(0, 0), at, 200);

			assert_true(fabs(cost_of(&c, w) / told_usec(s, w) - 1) < 0.1);
		}
		/* its parts make up the whole */
		assert_true(fabs(cost_part(&c, work_of(5, 900), work_of(1, 300)) +
				    cost_part(&c, work_of(5, 900), work_of(4, 600)) -
				    cost_of(&c, work_of(5, 900))) < 1e-6);
	}
}

/* What n rows from a position on see is what they see one by one. */
static void what_rows_see_is_counted(void **state)
{
	static const uint32_t windows[] = {0, 1, 2, 16, 100};

	for (uint32_t i = 0; i < 5; i++) {
		struct cost c = {.window = windows[i]};

		for (uint32_t first = 0; first < 120; first++) {
			double sum = 0;

			for (uint32_t n = 0; n < 40; n++) {
				assert_true(cost_add(&c, work_of(0, 0), first, n).seen == sum);
				sum += c.window && first + n + 1 > c.window ? c.window
									    : first + n + 1;
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_beside_a_crowd_of_batch_requests),
		cmocka_unit_test(a_stream_beside_a_crowd_of_streams_gets_half),
		cmocka_unit_test(a_long_prompt_lets_streams_go_on),
		cmocka_unit_test(weight_and_priority_count),
		cmocka_unit_test(batch_has_a_third_of_what_a_stream_has),
		cmocka_unit_test(time_is_charged_to_who_took_it),
		cmocka_unit_test(costs_are_learnt),
		cmocka_unit_test(what_rows_see_is_learnt),
		cmocka_unit_test(what_rows_see_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
