/* Rows that go through the layers over several passes (forward.h), beside rows that go through all
 * in each: logits, keys and values have the bits of the same rows' single pass. With TEST_CUDA the
 * passes are on the shim's card. */
#define HEADS    2
#define KV_HEADS 1
#define HEAD_DIM 32
#define LAYERS   5
#include "tests/unit/engine-fixture.h"

#ifdef TEST_CUDA
#include "tests/unit/ops-fixture.h"
#define BACKENDS 1
#define STREAMS  3 /* few ways to come and go: a launch is slow under the shim */
#define STOPS    3
#else
#define BACKENDS 2
#define STREAMS  16
#define STOPS    1
#endif

#define SLOTS  4 /* the prompt's, then the streams' */
#define PROMPT 23
#define BEFORE 9 /* positions of the prompt that are there */
#define PASSES (2 * LAYERS)

/* A pool of its own, with what stands before the rows in it. */
struct run {
	struct fixture *f;
	struct kv_pool *pool;
	struct workspace *workspace;
	uint32_t n_cached[SLOTS];
};

static int32_t token_at(uint32_t slot, uint32_t position)
{
	return (int32_t)((slot * 37 + position * 11 + 5) % VOCAB);
}

/* A batch of the prompt's n rows, then one row of each slot with its bit in `streams`. Logits of
 * the last prompt row, where there is one, then of the streams, in logits. */
static int pass(struct run *r, uint32_t n, unsigned streams, struct forward_part *part,
	const struct forward_watch *watch, float (*logits)[VOCAB])
{
	int32_t tokens[PROMPT + SLOTS];
	uint32_t slots[PROMPT + SLOTS], positions[PROMPT + SLOTS], wanted[SLOTS];
	uint32_t n_rows = 0, n_wanted = 0;
	struct backend *failed;
	int result;

	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		uint32_t rows = slot == 0 ? n : streams >> slot & 1;

		assert_int_equal(kv_pool_extend(r->pool, slot, 1, r->n_cached[slot] + rows), 0);
		for (uint32_t i = 0; i < rows; i++, n_rows++) {
			slots[n_rows] = slot;
			positions[n_rows] = r->n_cached[slot] + i;
			tokens[n_rows] = token_at(slot, positions[n_rows]);
		}
		if (rows > 0)
			wanted[n_wanted++] = n_rows - 1;
	}
	const struct batch batch = {n_rows, tokens, slots, positions, r->pool->page_table,
		r->pool->n_slots, r->pool->table_stride};
	result = forward(&r->f->weights, r->pool, r->workspace, &batch, part, wanted, n_wanted,
		watch, &failed);
	if (result < 0)
		return result;
	assert_int_equal(r->f->backend->ops->sync(r->f->backend), 0);
	if (n > 0)
		memcpy(logits[0], r->workspace->logits, sizeof(*logits));
	for (uint32_t slot = 1, k = n > 0; slot < SLOTS; slot++)
		if (streams >> slot & 1) {
			memcpy(logits[slot], r->workspace->logits + (size_t)k++ * VOCAB,
				sizeof(*logits));
			r->n_cached[slot]++;
		}
	return 0;
}

static void run_new(struct run *r, struct fixture *f)
{
	static float logits[SLOTS][VOCAB];
	char error[256];

	memset(r, 0, sizeof(*r));
	r->f = f;
	assert_int_equal(kv_pool_new(&f->weights, DTYPE_F16, 16, SLOTS, CONTEXT, &r->pool, error,
				 sizeof(error)),
		0);
	assert_int_equal(workspace_new(&f->weights, PROMPT + SLOTS, SLOTS, &r->workspace, error,
				 sizeof(error)),
		0);
	assert_int_equal(pass(r, BEFORE, 0, NULL, NULL, logits), 0);
	r->n_cached[0] = BEFORE;
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(pass(r, 0, 14, NULL, NULL, logits), 0);
}

static void run_free(struct run *r)
{
	workspace_free(&r->f->weights, r->workspace);
	kv_pool_free(r->pool);
}

static int stops(void *userdata, uint32_t layer)
{
	(void)layer;
	return countdown(userdata) ? -EINTR : 0;
}

/* One pass after another, each taking the prompt through so many layers, streams coming and going;
 * every pass is first stopped before the layer stop_at, where that is not 0. */
static void layered_is_whole(struct fixture *f, const uint32_t *layers, unsigned seed, int stop_at)
{
	static float wanted[SLOTS][VOCAB], got[SLOTS][VOCAB];
	struct run alone, beside;
	struct forward_part part = {.n_rows = PROMPT};

	run_new(&alone, f);
	run_new(&beside, f);
	for (uint32_t i = 0; part.layer < LAYERS; i++) {
		const unsigned streams = (seed + i * 6) & 14;

		assert_true(i < PASSES);
		part.to = part.layer + layers[i];
		if (stop_at > 0) {
			int left = stop_at;
			const struct forward_watch watch = {stops, &left};

			assert_int_equal(
				pass(&beside, PROMPT, streams, &part, &watch, got), -EINTR);
		}
		assert_int_equal(pass(&beside, PROMPT, streams, &part, NULL, got), 0);
		assert_int_equal(part.layer, part.to);
		if (streams)
			assert_int_equal(pass(&alone, 0, streams, NULL, NULL, wanted), 0);
		for (uint32_t slot = 1; slot < SLOTS; slot++)
			if (streams >> slot & 1)
				assert_memory_equal(got[slot], wanted[slot], sizeof(*got));
	}
	assert_int_equal(pass(&alone, PROMPT, 0, NULL, NULL, wanted), 0);
	assert_memory_equal(got[0], wanted[0], sizeof(*got));
	/* what comes after sees the same keys and values */
	alone.n_cached[0] = beside.n_cached[0] = BEFORE + PROMPT;
	assert_int_equal(pass(&alone, 1, 14, NULL, NULL, wanted), 0);
	assert_int_equal(pass(&beside, 1, 14, NULL, NULL, got), 0);
	assert_memory_equal(got, wanted, sizeof(got));
	run_free(&alone);
	run_free(&beside);
}

/* The two in the middle are another backend's: on the way the rows are carried there and back. */
static void on_two_backends(struct fixture *f, struct backend *both[2])
{
	uint32_t n_layers[2] = {0, 0};

	both[0] = f->backend;
	f->weights.backends = both;
	f->weights.n_backends = 2;
	for (uint32_t i = 0; i < LAYERS; i++) {
		uint32_t b = i == 2 || i == 3;

		f->weights.layers[i].backend = both[b];
		f->weights.layers[i].kv_layer = n_layers[b]++;
	}
}

static void parts_are_the_whole(void **state)
{
	static const uint32_t ways[][PASSES] = {{1, 1, 1, 1, 1}, {2, 3}, {5}, {0, 3, 0, 2}, {4, 1}};

	for (uint32_t n_backends = 1; n_backends <= BACKENDS; n_backends++) {
		struct backend *both[2] = {NULL, NULL}, *b;
		struct fixture *f;

#ifdef TEST_CUDA
		assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
#else
		assert_int_equal(backend_new_cpu(2, ACTIVATIONS_FAST, &b), 0);
#endif
		f = fixture_new_on(b, 0, DTYPE_Q8_0);
		if (n_backends == 2) {
			assert_int_equal(backend_new_cpu(1, ACTIVATIONS_FAST, &both[1]), 0);
			on_two_backends(f, both);
		}
		for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
			for (unsigned seed = 0; seed < STREAMS; seed += 2)
				for (int stop_at = 0; stop_at <= LAYERS; stop_at += STOPS)
					layered_is_whole(f, ways[i], seed, stop_at);
		f->weights.backends = &f->backend;
		f->weights.n_backends = 1;
		fixture_free(f);
		if (both[1])
			backend_free(both[1]);
	}
}

/* A processor on which a step's time is told: 10 us a layer, and as much for each row. */
static uint64_t now_usec;
static const struct backend_ops *real;

static uint64_t told_now(void)
{
	return now_usec;
}

static int told_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	now_usec += 10 * (1 + batch->n_rows);
	return real->attention(b, batch, shape, q, kv, layer, y);
}

/* Runs until the job's prompt rows are on their way through the layers. */
static void until_layered(struct engine *e)
{
	for (uint32_t i = 0; !e->layered.sequence || e->layered.part.layer == 0; i++) {
		assert_true(i < 200);
		assert_int_equal(engine_step(e), 1);
	}
	assert_true(e->layered.part.layer < LAYERS);
}

/* A long prompt, while two streams run, is on its way: then something happens to it. Its reply and
 * theirs are those of each alone, and nothing of it stays behind. */
static void what_is_under_way_can_go(void **state)
{
	static struct heard wanted[3];
	static struct listener heard;
	enum { NOTHING, CANCEL, PREEMPT, PAUSE, STREAMS_END, STOPPED, N_EVENTS };

	for (uint32_t event = NOTHING; event < N_EVENTS; event++) {
		struct backend_ops told;
		struct fixture *f = fixture_new(0);
		struct engine *e;

		memset(&heard, 0, sizeof(heard));
		real = f->backend->ops;
		told = *real;
		told.attention = told_attention;
		f->backend->ops = &told;
		for (uint64_t id = 0; id < 3; id++)
			alone(f, id, id < 2 ? 5 : 150, id < 2 ? 90 : 6, &wanted[id]);
		e = engine_for(f, &heard, 3, 64, 0);
		e->clock = told_now;
		for (uint64_t id = 0; id < 2; id++)
			engine_submit(e, job_for(id, 5, 90));
		for (uint32_t i = 0; i < 8; i++)
			assert_int_equal(engine_step(e), 1);
		engine_submit(e, job_for(2, 150, 6));
		until_layered(e);
		if (event == CANCEL)
			engine_cancel(e, 2, FAILURE_CANCELLED, "");
		if (event == PREEMPT)
			engine_preempt(e, e->layered.sequence);
		if (event == PAUSE)
			engine_pause(e, 2, true);
		for (uint32_t i = 0; event == STOPPED && e->layered.part.layer < LAYERS; i++) {
			int left = LAYERS; /* before the output */

			assert_true(i < LAYERS);
			engine_set_stop(e, countdown, &left);
			assert_int_equal(engine_step(e), 1);
			engine_set_stop(e, NULL, NULL);
		}
		if (event == STREAMS_END || event == STOPPED) {
			engine_cancel(e, 0, FAILURE_CANCELLED, "");
			engine_cancel(e, 1, FAILURE_CANCELLED, "");
		}
		for (uint32_t i = 0; i < 3; i++)
			assert_true(engine_step(e) >= 0);
		if (event == PAUSE) {
			assert_null(e->layered.sequence);
			engine_pause(e, 2, false);
		}
		run(e);
		assert_null(e->layered.sequence);
		assert_true(e->layered.n_begun > 0);
		if (event != CANCEL)
			same_reply(&heard.heard[2], &wanted[2]);
		for (uint64_t id = 0; id < 2 && event < STREAMS_END; id++)
			same_reply(&heard.heard[id], &wanted[id]);
		all_given_back(e);
		engine_free(e);
		f->backend->ops = real;
		fixture_free(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts_are_the_whole),
		cmocka_unit_test(what_is_under_way_can_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
