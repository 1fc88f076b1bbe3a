/* The CUDA backend as the engine uses it, on the shim's card: a model's tokens are the reference's;
 * keys, values and logits have the same bits whatever the rows came with; graphs change nothing;
 * what a card can answer comes back as a value. */
#include "ops-fixture.h"

#include <errno.h>
#include <unistd.h>

#include "engine/forward.h"
#include "engine/mkmodel.h"

enum { VOCAB = 300, CONTEXT = 256, PROMPT = 126, STEPS = 4, SLOTS = 64, PAGES = 160 };

/* A model of one type, loaded on one backend. */
struct loaded {
	struct backend *b;
	struct model *model;
	struct weights *weights;
	struct kv_pool *pool;
	struct workspace *workspace;
	uint64_t owner; /* of the pool's pages */
};

static const struct mkmodel_shape shape = {"cuda-test", 2, 256, 256, 4, 2, VOCAB, CONTEXT, 0, 10000,
	false, MKMODEL_BYTE_BPE, "chatml"};
/* For types that blocks of 32 serve: a quarter of the time. */
static const struct mkmodel_shape narrow = {"cuda-test", 2, 128, 128, 4, 2, VOCAB, CONTEXT, 0,
	10000, false, MKMODEL_BYTE_BPE, "chatml"};
static const struct mkmodel_shape windowed = {"cuda-test", 2, 256, 256, 8, 1, VOCAB, CONTEXT, 24,
	10000, true, MKMODEL_BYTE_BPE, "chatml"};

static void load(struct loaded *l, struct backend *b, const struct mkmodel_shape *s,
	const char *type, enum dtype kv_dtype)
{
	const struct mkmodel_options options = {.shape = s, .type = type, .seed = 3, .threads = 1};
	char path[] = P_tmpdir "/zeph-test-cuda-XXXXXX", error[256] = "";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(mkmodel_write(&options, fd, error, sizeof(error)), 0);
	close(fd);
	l->b = b;
	l->owner = 1;
	assert_int_equal(model_open(path, NULL, &l->model, error, sizeof(error)), 0);
	unlink(path);
	assert_int_equal(
		weights_load(l->model, &b, 1, &(struct weights_options){.context = CONTEXT},
			&l->weights, error, sizeof(error)),
		0);
	assert_int_equal(kv_pool_new(l->weights, kv_dtype, PAGES, SLOTS, CONTEXT, &l->pool, error,
				 sizeof(error)),
		0);
	assert_int_equal(
		workspace_new(l->weights, 256, SLOTS, &l->workspace, error, sizeof(error)), 0);
}

static void unload(struct loaded *l)
{
	workspace_free(l->weights, l->workspace);
	kv_pool_free(l->pool);
	weights_free(l->weights);
	model_free(l->model);
	backend_free(l->b);
}

/* Rows of one step. */
struct rows {
	uint32_t n;
	int32_t tokens[256];
	uint32_t slots[256], positions[256], last[SLOTS], n_last;
};

/* Adds n tokens of a sequence, of which the last one's logits are wanted. */
static void rows_add(
	struct rows *r, uint32_t slot, uint32_t position, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		r->tokens[r->n] = tokens[i];
		r->slots[r->n] = slot;
		r->positions[r->n++] = position + i;
	}
	r->last[r->n_last++] = r->n - 1;
}

static int try_step_until(struct loaded *l, const struct rows *r, const struct forward_watch *watch)
{
	struct backend *failed;

	for (uint32_t i = 0; i < r->n; i++)
		assert_int_equal(
			kv_pool_extend(l->pool, r->slots[i], l->owner, r->positions[i] + 1), 0);
	const struct batch batch = {r->n, r->tokens, r->slots, r->positions, l->pool->page_table,
		l->pool->n_slots, l->pool->table_stride};
	return forward(l->weights, l->pool, l->workspace, &batch, NULL, r->last, r->n_last, watch,
		&failed);
}

static int try_step(struct loaded *l, const struct rows *r)
{
	return try_step_until(l, r, NULL);
}

/* The greedy token of each wanted row, and its logits where asked for. */
static void step(struct loaded *l, const struct rows *r, int32_t *tokens, float *logits)
{
	struct sample_row rows[SLOTS];
	struct sample_result results[SLOTS];

	assert_int_equal(try_step(l, r), 0);
	for (uint32_t i = 0; i < r->n_last; i++)
		rows[i] = (struct sample_row){
			.repetition_penalty = 1, .top_p = 1, .typical_p = 1, .forced = -1};
	assert_int_equal(
		l->b->ops->sample(l->b, r->n_last, VOCAB, l->workspace->logits, rows, results), 0);
	for (uint32_t i = 0; i < r->n_last; i++)
		tokens[i] = results[i].token;
	if (logits)
		assert_int_equal(l->b->ops->buffer_read(l->b, l->workspace->logits, logits,
					 (size_t)r->n_last * VOCAB),
			0);
}

static void prompt_of(uint32_t sequence, int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)(philox_uniform(77 + sequence, i) * VOCAB);
}

/* The prompt of sequence 0 in slot 0, `chunk` rows at a time (of 0: the first tokens one by one,
 * then the rest), then STEPS greedy tokens. */
static void generate(
	struct loaded *l, uint32_t n_prompt, uint32_t chunk, int32_t *tokens, float *logits)
{
	int32_t prompt[PROMPT], token = 0;

	prompt_of(0, prompt, n_prompt);
	for (uint32_t at = 0, n; at < n_prompt; at += n) {
		struct rows r = {0};

		n = chunk > 0 ? chunk : at < 2 ? 1 : n_prompt;
		n = n < n_prompt - at ? n : n_prompt - at;
		rows_add(&r, 0, at, prompt + at, n);
		step(l, &r, &token, logits);
	}
	for (uint32_t i = 0; i < STEPS; i++) {
		struct rows r = {0};

		tokens[i] = token;
		rows_add(&r, 0, n_prompt + i, &token, 1);
		step(l, &r, &token, logits);
	}
}

/* Keys and values of the first pages of a slot, all layers. */
static uint8_t *pages_of(struct loaded *l, enum dtype kv_dtype, uint32_t slot, uint32_t n_positions,
	size_t *ret_bytes)
{
	const struct model_config *c = &l->model->config;
	const size_t bytes = kv_page_bytes(c, kv_dtype) / c->n_layers;
	const uint32_t n = n_positions / KV_PAGE_TOKENS; /* whole pages */
	uint8_t *all = malloc(bytes * n * c->n_layers + 1);

	assert_non_null(all);
	*ret_bytes = 0;
	for (uint32_t layer = 0; layer < c->n_layers; layer++)
		for (uint32_t i = 0; i < n; i++) {
			assert_int_equal(
				l->b->ops->kv_read(l->b, l->pool->kvs[0], layer,
					l->pool->page_table[slot * l->pool->table_stride + i],
					all + *ret_bytes),
				0);
			*ret_bytes += bytes;
		}
	return all;
}

static void the_tokens_are_the_reference_s(void **state)
{
	static const char *types[] = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1",
		"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_k_m", "iq4_nl", "iq4_xs"};
	static const enum dtype kv_types[] = {DTYPE_F16, DTYPE_Q8_0, DTYPE_BF16};

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		/* with and without a window that ends within the prompt, with tensor cores and
		 * without */
		const struct mkmodel_shape *s = i % 2 ? &windowed : &shape;
		const enum dtype kv = kv_types[i % 3];
		const uint32_t n = i % 2 ? 30 : 12;
		struct loaded ours, reference;
		int32_t got[STEPS], want[STEPS];
		struct backend *b;

		assert_int_equal(backend_new_reference(1, &b), 0);
		load(&reference, b, s, types[i], kv);
		assert_int_equal(make_cuda(i / 2 % 2 ? 75 : 80, ACTIVATIONS_EXACT, &b), 0);
		load(&ours, b, s, types[i], kv);
		generate(&reference, n, n, want, NULL);
		generate(&ours, n, n, got, NULL);
		assert_memory_equal(got, want, sizeof(want));
		unload(&ours);
		unload(&reference);
	}
}

/* KV pages and logits of one sequence: its prompt as two rows and the rest, and as one chunk, each
 * time in pages that others gave back; and its tokens in steps of 64 rows with 63 others. */
static void bits_depend_on_the_tokens_alone(void **state)
{
	static const struct {
		const char *type;
		const struct mkmodel_shape *shape;
		int arch;
		enum activations activations;
		enum dtype kv;
	} cases[] = {
		{"q4_k_m", &shape, 90, ACTIVATIONS_FAST, DTYPE_F16},
		{"bf16", &narrow, 86, ACTIVATIONS_EXACT, DTYPE_Q8_0},
		{"q4_0", &narrow, 61, ACTIVATIONS_FAST, DTYPE_F16},
	};
	static const uint32_t chunks[] = {0, PROMPT};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		float want[VOCAB], got[SLOTS * VOCAB];
		uint8_t *want_pages = NULL, *pages;
		int32_t tokens[STEPS], others[SLOTS];
		size_t bytes;
		struct loaded l;
		struct backend *b;

		assert_int_equal(make_cuda(cases[i].arch, cases[i].activations, &b), 0);
		load(&l, b, cases[i].shape, cases[i].type, cases[i].kv);
		for (size_t k = 0; k < sizeof(chunks) / sizeof(*chunks); k++) {
			int32_t again[STEPS];

			generate(&l, PROMPT, chunks[k], k == 0 ? tokens : again, got);
			pages = pages_of(&l, cases[i].kv, 0, PROMPT + STEPS, &bytes);
			if (k == 0) {
				memcpy(want, got, sizeof(want));
				want_pages = pages;
			} else {
				assert_memory_equal(again, tokens, sizeof(again));
				assert_same_bits(got, want, VOCAB, cases[i].type);
				assert_memory_equal(pages, want_pages, bytes);
				free(pages);
			}
			kv_pool_clear(l.pool, 0);
			l.owner++; /* pages come zeroed */
		}

		/* Among 63 others, in another slot, each at a position of its own. */
		int32_t prompt[PROMPT];
		struct rows r = {0};
		for (uint32_t slot = 1; slot < SLOTS; slot++) {
			const uint32_t n = 1 + slot % 4;

			prompt_of(slot, prompt, n);
			rows_add(&r, slot - 1, 0, prompt, n);
		}
		step(&l, &r, &others[1], NULL);
		r = (struct rows){0};
		prompt_of(0, prompt, PROMPT);
		rows_add(&r, SLOTS - 1, 0, prompt, PROMPT);
		step(&l, &r, &others[0], NULL);
		for (uint32_t s = 0; s < STEPS; s++) {
			int32_t next[SLOTS];

			r = (struct rows){0};
			assert_int_equal(others[0], tokens[s]);
			for (uint32_t slot = 1; slot < SLOTS; slot++)
				rows_add(&r, slot - 1, 1 + slot % 4 + s, &others[slot], 1);
			rows_add(&r, SLOTS - 1, PROMPT + s, &others[0], 1);
			step(&l, &r, next, got);
			memcpy(&others[1], next, (SLOTS - 1) * sizeof(*next));
			others[0] = next[SLOTS - 1];
		}
		assert_same_bits(got + (SLOTS - 1) * VOCAB, want, VOCAB, cases[i].type);
		pages = pages_of(&l, cases[i].kv, SLOTS - 1, PROMPT + STEPS, &bytes);
		assert_memory_equal(pages, want_pages, bytes);
		free(pages);
		free(want_pages);
		unload(&l);
	}
}

/* Decoding replays graphs; their number does not grow with the steps. */
static void decoding_is_one_launch_a_step(void **state)
{
	struct shim_statistics before, after;
	int32_t tokens[STEPS];
	struct loaded l;
	struct backend *b;

	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
	load(&l, b, &shape, "q4_0", DTYPE_F16);
	shim_statistics(&before);
	generate(&l, 10, 10, tokens, NULL);
	shim_statistics(&after);
	/* the prompt and the first step are launched, all else is replayed */
	assert_int_equal(after.graphs - before.graphs, 1);
	assert_int_equal(after.graph_launches - before.graph_launches, STEPS - 1);
	unload(&l);
	shim_statistics(&after);
	assert_int_equal(after.graphs, 0);
	assert_int_equal(after.device_bytes, 0);
	assert_int_equal(after.pinned_bytes, 0);
}

/* Launches of one row's step. */
static size_t launches_of(const char *type, uint32_t n_layers)
{
	struct mkmodel_shape s = shape;
	struct shim_statistics before, after;
	struct rows r = {0};
	int32_t token = 1;
	struct loaded l;
	struct backend *b;

	s.n_layers = n_layers;
	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
	load(&l, b, &s, type, DTYPE_F16);
	shim_statistics(&before);
	rows_add(&r, 0, 0, &token, 1);
	step(&l, &r, &token, NULL);
	shim_statistics(&after);
	unload(&l);
	return after.launches - before.launches;
}

/* q4_k_m: also where V has another type than Q and K. */
static void a_layer_is_five_launches(void **state)
{
	assert_int_equal(launches_of("bf16", 2) - launches_of("bf16", 1), 5);
	assert_int_equal(launches_of("q4_k_m", 2) - launches_of("q4_k_m", 1), 5);
}

/* Asked before each layer; stops before the last one. */
struct asking {
	uint32_t times, until;
	size_t idle;  /* launches less runs before */
	size_t ahead; /* kernels launched and not run, at most */
};

static int asked(void *userdata, uint32_t layer)
{
	struct asking *a = userdata;
	struct shim_statistics now;

	shim_statistics(&now);
	if (a->times > 0 && now.launches - now.runs - a->idle > a->ahead)
		a->ahead = now.launches - now.runs - a->idle;
	return ++a->times == a->until ? -EINTR : 0;
}

/* Of a prompt only the product that ends a layer may be under way when it is asked whether to go
 * on: a launch that makes activations ready, and its own. */
static void a_prompt_stops_within_a_layer(void **state)
{
	struct asking a = {.until = 3};
	struct shim_statistics before;
	struct mkmodel_shape s = shape;
	int32_t prompt[PROMPT];
	struct rows r = {0};
	struct loaded l;
	struct backend *b;

	s.n_layers = 3;
	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
	load(&l, b, &s, "q8_0", DTYPE_F16);
	assert_int_equal(b->ops->sync(b), 0);
	shim_statistics(&before);
	a.idle = before.launches - before.runs;
	prompt_of(0, prompt, 70);
	rows_add(&r, 0, 0, prompt, 70);
	assert_int_equal(try_step_until(&l, &r, &(const struct forward_watch){asked, &a}), -EINTR);
	assert_int_equal(a.times, 3);
	assert_true(a.ahead <= 2);
	unload(&l);
}

static void the_upload_s_memory_is_given_back(void **state)
{
	struct shim_statistics loaded, running;
	struct rows r = {0};
	int32_t token = 1;
	struct loaded l;
	struct backend *b;

	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
	load(&l, b, &shape, "q8_0", DTYPE_F16);
	shim_statistics(&loaded);
	rows_add(&r, 0, 0, &token, 1);
	step(&l, &r, &token, NULL);
	shim_statistics(&running);
	assert_true(running.device_bytes < loaded.device_bytes);
	unload(&l);
}

static void a_full_card_says_how_full(void **state)
{
	float *buffers[8], *more = NULL;
	struct backend *b;

	shim_memory(1 << 20);
	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
	for (size_t i = 0; i < 8; i++)
		buffers[i] = put(b, NULL, 30000);
	assert_int_equal(b->ops->buffer_new(b, 30000, &more), -ENOMEM);
	assert_null(more);
	assert_non_null(strstr(b->error, "120000 bytes wanted"));
	assert_non_null(strstr(b->error, "88576 free"));

	/* and goes on */
	const struct kv_shape kv_shape = {1, 1000, 2, 64, DTYPE_F16};
	struct kv *kv = NULL;
	assert_int_equal(b->ops->kv_new(b, &kv_shape, &kv), -ENOMEM);
	assert_non_null(strstr(b->error, "the KV cache: 8192000 bytes wanted"));
	float *back = get(b, buffers[0], 30000);
	assert_true(back[29999] == 0);
	free(back);
	for (size_t i = 0; i < 8; i++)
		b->ops->buffer_free(b, buffers[i]);
	backend_free(b);
	shim_memory((size_t)1 << 40);
}

/* Wherever it happens: -EIO with a sentence, from then on always, and nothing leaks. */
static void a_lost_card_is_an_error_for_good(void **state)
{
	for (int after = 1; after < 40; after += 19) {
		struct shim_statistics stats;
		struct loaded l;
		struct backend *b;
		int32_t token = 5;
		int r = 0;

		assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
		load(&l, b, &shape, "q4_0", DTYPE_F16);
		shim_lose_card(after);
		for (uint32_t i = 0; i < 100 && r == 0; i++) {
			struct rows rows = {0};

			rows_add(&rows, 0, i, &token, 1);
			r = try_step(&l, &rows);
			if (r == 0)
				r = b->ops->sync(b);
		}
		assert_int_equal(r, -EIO);
		assert_non_null(strstr(b->error, "illegal memory access"));
		for (int i = 0; i < 2; i++) {
			float one;

			assert_int_equal(b->ops->sync(b), -EIO);
			assert_int_equal(
				b->ops->buffer_read(b, l.workspace->logits, &one, 1), -EIO);
			assert_int_equal(
				b->ops->add(b, 1, 1, l.workspace->logits, l.workspace->logits),
				-EIO);
		}
		assert_non_null(strstr(b->error, "illegal memory access"));
		unload(&l);
		shim_statistics(&stats);
		assert_int_equal(stats.device_bytes, 0);
		assert_int_equal(stats.pinned_bytes, 0);
	}
}

/* A card whose prompts of `rows` rows and more go to cuBLASLt. */
static struct backend *make_inexact(int arch, enum activations activations, uint32_t rows)
{
	const struct cuda_options o = {.activations = activations, .inexact_rows = rows};
	struct backend *b = NULL;
	char error[256] = "";

	shim_arch(arch);
	assert_int_equal(zeph_cuda_module.backend_new(&o, &b, error, sizeof(error)), 0);
	return b;
}

/* Every type, in panels of 64 rows, against f64: activations and weights are bf16, each off by half
 * a step of 2^-8 at most. Below the threshold the bits are the exact backend's. */
static void large_products_are_cublaslt_s(void **state)
{
	enum { N = 20, ROWS = 136, COLS = 256 };
	struct backend *b = make_inexact(90, ACTIVATIONS_FAST, N), *exact;
	float *x = random_floats(80, N * COLS);

	assert_true(b->device.inexact);
	assert_string_equal(b->device.note, "");
	assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &exact), 0);
	assert_false(exact->device.inexact);
	for (size_t t = 1; t < N_DTYPES; t++) { /* not F32 */
		struct stored w = store_random(b, all_dtypes[t], ROWS, COLS, 81);
		struct stored we = store_random(exact, all_dtypes[t], ROWS, COLS, 81);
		struct stored bias = store_random(b, DTYPE_F32, 1, ROWS, 82);
		struct stored biase = store_random(exact, DTYPE_F32, 1, ROWS, 82);
		float *in = put(b, x, N * COLS), *out = put(b, x, N * ROWS);
		float *ine = put(exact, x, N * COLS), *oute = put(exact, x, N * ROWS);

		assert_int_equal(b->ops->matmul_add(b, N, in, w.weight, bias.weight, NULL, out), 0);
		float *got = get(b, out, N * ROWS);
		size_t differ = 0;
		for (size_t i = 0; i < N; i++)
			for (size_t r = 0; r < ROWS; r++) {
				double want = (double)x[i * ROWS + r] + (double)bias.values[r];
				double sum = fabs(want);

				for (size_t k = 0; k < COLS; k++) {
					double p = (double)x[i * COLS + k] *
						   (double)w.values[r * COLS + k];

					want += p;
					sum += fabs(p);
				}
				assert_near((double)got[i * ROWS + r], want, sum * 0x1p-7,
					dtype_info(all_dtypes[t])->name, i * ROWS + r);
			}
		assert_int_equal(
			exact->ops->matmul_add(exact, N, ine, we.weight, biase.weight, NULL, oute),
			0);
		float *other = get(exact, oute, N * ROWS);
		for (size_t i = 0; i < N * ROWS; i++)
			differ += got[i] != other[i];
		assert_true(differ > 0); /* it was not the exact path */

		for (int k = 0; k < 2;
			k++) { /* the same call again; a row less than the threshold */
			assert_int_equal(b->ops->buffer_write(b, out, x, N * ROWS), 0);
			assert_int_equal(exact->ops->buffer_write(exact, oute, x, N * ROWS), 0);
			assert_int_equal(b->ops->matmul_add(b, N - (uint32_t)k, in, w.weight,
						 bias.weight, NULL, out),
				0);
			assert_int_equal(exact->ops->matmul_add(exact, N - 1, ine, we.weight,
						 biase.weight, NULL, oute),
				0);
			float *again = get(b, out, N * ROWS);
			float *want = k == 0 ? got : get(exact, oute, N * ROWS);
			assert_same_bits(again, want, N * ROWS, dtype_info(all_dtypes[t])->name);
			free(again);
			if (k == 1)
				free(want);
		}
		free(got);
		free(other);
		float *buffers[] = {in, out}, *bufferse[] = {ine, oute};
		for (int k = 0; k < 2; k++) {
			b->ops->buffer_free(b, buffers[k]);
			exact->ops->buffer_free(exact, bufferse[k]);
		}
		stored_free(b, &w);
		stored_free(b, &bias);
		stored_free(exact, &we);
		stored_free(exact, &biase);
	}
	free(x);
	backend_free(b);
	backend_free(exact);
}

/* A whole prompt: the logits are near the exact ones, and everything is given back. */
static void a_large_prompt_is_near_the_exact_one(void **state)
{
	static const char *types[] = {"q4_k_m", "bf16"};

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		float exact[VOCAB], inexact[VOCAB];
		struct shim_statistics stats;
		double off = 0, all = 0;
		struct backend *b;
		struct loaded l;

		for (int k = 0; k < 2; k++) {
			int32_t prompt[PROMPT], token;
			struct rows r = {0};

			if (k == 0)
				assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
			else
				b = make_inexact(90, ACTIVATIONS_FAST, 65);
			load(&l, b, &shape, types[i], DTYPE_F16);
			prompt_of(0, prompt, 80);
			rows_add(&r, 0, 0, prompt, 80);
			step(&l, &r, &token, k == 0 ? exact : inexact);
			unload(&l);
		}
		for (size_t k = 0; k < VOCAB; k++) {
			off += pow((double)inexact[k] - (double)exact[k], 2);
			all += pow((double)exact[k], 2);
		}
		/* measured: 1.0% (q4_k_m, whose weights are rounded) and 0.5% */
		assert_true(off > 0 && sqrt(off / all) < 0.02);
		shim_statistics(&stats);
		assert_int_equal(stats.device_bytes, 0);
	}
}

static void what_hinders_cublaslt_is_told(void **state)
{
	struct backend *b = make_inexact(75, ACTIVATIONS_FAST, 0);

	assert_false(b->device.inexact);
	assert_string_equal(b->device.note,
		"prompts are computed exactly though engine.exact is false: it needs a card of sm_80 "
		"or newer");
	backend_free(b);

	/* The tests' library has no product of 24 rows: exact from there on. */
	enum { N = 16, ROWS = 24, COLS = 64 };
	float *x = random_floats(90, N * COLS), *got[2];
	for (int k = 0; k < 2; k++) {
		if (k == 0)
			b = make_inexact(90, ACTIVATIONS_FAST, N);
		else
			assert_int_equal(make_cuda(90, ACTIVATIONS_FAST, &b), 0);
		struct stored w = store_random(b, DTYPE_Q8_0, ROWS, COLS, 91);
		float *in = put(b, x, N * COLS), *out = put(b, NULL, N * ROWS);

		assert_int_equal(b->device.inexact, k == 0);
		assert_int_equal(b->ops->matmul(b, N, in, w.weight, NULL, out), 0);
		assert_false(b->device.inexact);
		if (k == 0)
			assert_non_null(strstr(b->device.note, "no product of 16 x 24 x 64"));
		got[k] = get(b, out, N * ROWS);
		b->ops->buffer_free(b, in);
		b->ops->buffer_free(b, out);
		stored_free(b, &w);
		backend_free(b);
	}
	assert_same_bits(got[0], got[1], N * ROWS, "without cuBLASLt");
	free(got[0]);
	free(got[1]);
	free(x);
	b = make_inexact(90, ACTIVATIONS_EXACT, 0);
	assert_false(b->device.inexact);
	assert_non_null(strstr(b->device.note, "engine.activations is \"exact\""));
	backend_free(b);
}

static void the_module_tells_its_cards(void **state)
{
	const struct cuda_options beyond = {.card = 2};
	struct cuda_card cards[4];
	struct backend *b = NULL;
	char error[256] = "";
	uint32_t n;

	shim_arch(89);
	shim_cards(2);
	assert_int_equal(zeph_cuda_module.abi, CUDA_MODULE_ABI);
	assert_int_equal(zeph_cuda_module.cards(cards, 4, &n, error, sizeof(error)), 0);
	assert_int_equal(n, 2);
	assert_int_equal(cards[1].major, 8);
	assert_int_equal(cards[1].minor, 9);
	assert_true(cards[1].free_bytes == (uint64_t)1 << 40);
	assert_true(zeph_cuda_module.backend_new(&beyond, &b, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "card 2"));
	assert_null(b);
	shim_cards(0);
	assert_int_equal(zeph_cuda_module.cards(cards, 4, &n, error, sizeof(error)), 0);
	assert_int_equal(n, 0);
	shim_cards(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_tokens_are_the_reference_s),
		cmocka_unit_test(bits_depend_on_the_tokens_alone),
		cmocka_unit_test(decoding_is_one_launch_a_step),
		cmocka_unit_test(a_layer_is_five_launches),
		cmocka_unit_test(a_prompt_stops_within_a_layer),
		cmocka_unit_test(the_upload_s_memory_is_given_back),
		cmocka_unit_test(a_full_card_says_how_full),
		cmocka_unit_test(a_lost_card_is_an_error_for_good),
		cmocka_unit_test(large_products_are_cublaslt_s),
		cmocka_unit_test(a_large_prompt_is_near_the_exact_one),
		cmocka_unit_test(what_hinders_cublaslt_is_told),
		cmocka_unit_test(the_module_tells_its_cards),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
