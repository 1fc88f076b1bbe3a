/* The cpu backend against the reference, and its promise about bits: in every instruction set that
 * this machine has, a row's result is the same alone and among others, on one thread and on three,
 * as a prompt and as single steps, fused and in parts.
 *
 * Tolerances: f32 sums of up to 1536 terms stay within 2e-6 of the sum of magnitudes (2^-24 times
 * the square root of the terms). int8 with a scale per 16 rounds each activation by at most 1/254
 * of the largest of its 16: measured 0.4% of the result's rms, held to 1%. bf16 rounds by at most
 * 2^-9: held to 0.4%. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

static const char *const isas[] = {
	"generic", "avx2", "avxvnni", "avxvnni_evex", "avx512", "amx_soft", "amx", "neon"};

#ifdef ZEPH_X86
/* isa_avxvnni.c compiled for AVX-512 VNNI and VL: for machines that have those alone. */
extern const struct cpu_isa cpu_isa_avxvnni_evex;
void with_amx_soft(struct cpu_isa *isa); /* isa_amx.c over tiles-soft.h */
#endif

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0,
	DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K,
	DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static uint64_t random_state;

/* About normal, deterministic. */
static float noise(void)
{
	float sum = 0;

	for (int i = 0; i < 4; i++) {
		random_state = random_state * 6364136223846793005u + 1442695040888963407u;
		sum += (float)(random_state >> 40) / 16777216.0f - 0.5f;
	}
	return sum * 1.7f;
}

static float *noises(size_t n)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = noise();
	return x;
}

#ifdef ZEPH_X86
static struct backend *amx_soft(uint32_t threads, enum activations activations)
{
	struct cpu_isa isa = cpu_isa_avx512;
	struct backend *b;

	with_amx_soft(&isa);
	assert_int_equal(cpu_new(&isa, threads, activations, &b), 0);
	return b;
}
#endif

/* NULL where this machine lacks the instruction set. Whoever knows the processor says in
 * ZEPH_TEST_ISA what is to be found on it and alone tested, so that nothing goes untested unseen.
 */
static struct backend *backend_of(const char *isa, uint32_t threads, enum activations activations)
{
	const char *only = getenv("ZEPH_TEST_ISA");
	struct backend *b;

	if (only && strcmp(only, isa) != 0)
		return NULL;
#ifdef ZEPH_X86
	if (strcmp(isa, "avxvnni_evex") == 0) {
		if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vl"))
			return NULL;
		assert_int_equal(cpu_new(&cpu_isa_avxvnni_evex, threads, activations, &b), 0);
		return b;
	}
	if (strcmp(isa, "amx_soft") == 0)
		return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")
			       ? amx_soft(threads, activations)
			       : NULL;
#endif
	assert_int_equal(setenv("ZEPH_ISA", isa, 1), 0);
	assert_int_equal(backend_new_cpu(threads, activations, &b), 0);
	if (only)
		assert_string_equal(b->device.isa, only);
	if (strcmp(b->device.isa, isa) != 0)
		return backend_free(b);
	return b;
}

static void the_instruction_set_is_the_best_allowed(void **state)
{
	const char *want = getenv("ZEPH_TEST_ISA"), *best = want;
	struct backend *b, *there;

	(void)state;
	assert_int_equal(setenv("ZEPH_ISA", "mmx", 1), 0);
	assert_int_equal(backend_new_cpu(1, ACTIVATIONS_FAST, &b), 0);
	assert_string_equal(b->device.isa, "generic");
	backend_free(b);
	assert_int_equal(unsetenv("ZEPH_ISA"), 0);
	assert_int_equal(backend_new_cpu(1, ACTIVATIONS_FAST, &b), 0);
	for (size_t i = 0; !want && i < COUNT(isas); i++) /* ascending */
		if (strcmp(isas[i], "avxvnni_evex") != 0 && strcmp(isas[i], "amx_soft") != 0) {
			there = backend_of(isas[i], 1, ACTIVATIONS_FAST);
			best = there ? isas[i] : best;
			backend_free(there);
		}
	assert_string_equal(b->device.isa, best);
	backend_free(b);
}

static struct backend *reference(void)
{
	struct backend *b;

	assert_int_equal(backend_new_reference(1, &b), 0);
	return b;
}

/* A tensor of that type; the caller frees its data. */
static struct tensor tensor_make(enum dtype dtype, uint32_t rows, uint32_t cols)
{
	float *x = noises((size_t)rows * cols);
	struct tensor t = {.name = "t", .dtype = dtype, .rows = rows, .cols = cols};
	uint8_t *data;
	size_t row;

	assert_true(dtype_row_bytes(dtype, cols, &row));
	t.bytes = row * rows;
	data = malloc(t.bytes);
	assert_non_null(data);
	for (uint32_t r = 0; r < rows; r++)
		quantize_row(dtype, x + (size_t)r * cols, NULL, data + r * row, cols);
	free(x);
	t.data = data;
	return t;
}

static struct weight *put(struct backend *b, const struct tensor *t)
{
	struct weight *w;

	assert_int_equal(b->ops->weight_put(b, t, &w), 0);
	assert_int_equal(b->ops->weight_rows(w), t->rows);
	return w;
}

static uint32_t block_of(enum dtype dtype)
{
	return dtype_info(dtype)->block_elements;
}

static float rms(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (double)x[i] * x[i];
	return (float)sqrt(sum / (double)n);
}

/* rms of a - b over rms of b */
static float distance(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
	return (float)sqrt(sum / (double)n) / rms(b, n);
}

static void matmul_is_near(enum activations activations, enum dtype dtype, uint32_t rows,
	uint32_t cols, uint32_t n, float tolerance)
{
	const struct tensor t = tensor_make(dtype, rows, cols);
	const struct tensor tb = tensor_make(DTYPE_F32, 1, rows);
	struct backend *ref = reference();
	struct weight *w = put(ref, &t), *bias = put(ref, &tb);
	float *x = noises((size_t)n * cols), *want = noises((size_t)n * rows);
	float *got = noises((size_t)n * rows);

	assert_int_equal(ref->ops->matmul(ref, n, x, w, bias, want), 0);
	ref->ops->weight_free(ref, w);
	ref->ops->weight_free(ref, bias);
	backend_free(ref);
	for (size_t i = 0; i < COUNT(isas); i++) {
		struct backend *b = backend_of(isas[i], 2, activations);

		if (!b)
			continue;
		w = put(b, &t);
		bias = put(b, &tb);
		assert_int_equal(b->ops->matmul(b, n, x, w, bias, got), 0);
		if (!(distance(got, want, (size_t)n * rows) < tolerance))
			fail_msg("%s %s %u x %u, %u columns: off by %g of the rms", isas[i],
				dtype_info(dtype)->name, rows, cols, n,
				(double)distance(got, want, (size_t)n * rows));
		b->ops->weight_free(b, w);
		b->ops->weight_free(b, bias);
		backend_free(b);
	}
	free((void *)t.data);
	free((void *)tb.data);
	free(x);
	free(want);
	free(got);
}

static void exact_equals_the_reference(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(dtypes); i++) {
		const uint32_t block = block_of(dtypes[i]);

		matmul_is_near(ACTIVATIONS_EXACT, dtypes[i], 1, 3 * block, 2, 2e-6f);
		matmul_is_near(ACTIVATIONS_EXACT, dtypes[i], 16, block, 1, 2e-6f);
		matmul_is_near(ACTIVATIONS_EXACT, dtypes[i], 65, 5 * block, 9, 2e-6f);
		matmul_is_near(ACTIVATIONS_EXACT, dtypes[i], 33, 1536, 3, 2e-6f);
	}
}

static void fast_is_near_the_reference(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(dtypes); i++) {
		const uint32_t block = block_of(dtypes[i]);
		const float tolerance = block > 1                 ? 0.01f
					: dtypes[i] == DTYPE_BF16 ? 0.004f
								  : 2e-6f;

		matmul_is_near(ACTIVATIONS_FAST, dtypes[i], 15, block == 1 ? 7 : block, 1,
			dtypes[i] == DTYPE_BF16 ? 0.01f : 2.0f * tolerance);
		matmul_is_near(ACTIVATIONS_FAST, dtypes[i], 65, 5 * block, 8, 1.5f * tolerance);
		matmul_is_near(ACTIVATIONS_FAST, dtypes[i], 576, 1536, 1, tolerance);
		matmul_is_near(ACTIVATIONS_FAST, dtypes[i], 33, 1536, 13, tolerance);
	}
}

static void assert_same_bits(const char *what, const char *isa, enum dtype dtype, const float *a,
	const float *b, size_t n)
{
	if (memcmp(a, b, n * sizeof(float)) == 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (memcmp(&a[i], &b[i], sizeof(float)) != 0)
			fail_msg("%s %s %s: element %zu of %zu is %.9g, was %.9g", what, isa,
				dtype_info(dtype)->name, i, n, (double)a[i], (double)b[i]);
}

/* y [n, rows]: each of n columns in a call of its own. */
static void matmul_alone(struct backend *b, const struct tensor *t, const struct weight *w,
	const float *x, uint32_t n, float *y)
{
	for (uint32_t c = 0; c < n; c++)
		assert_int_equal(b->ops->matmul(b, 1, x + (size_t)c * t->cols, w, NULL,
					 y + (size_t)c * t->rows),
			0);
}

/* n of them in one call: the same bits. y [n, rows] is what came. */
static void matmul_together(struct backend *b, const char *isa, const struct tensor *t,
	const struct weight *w, const float *x, uint32_t n, const float *alone, float *y)
{
	assert_int_equal(b->ops->matmul(b, n, x, w, NULL, y), 0);
	assert_same_bits("matmul", isa, t->dtype, y, alone, (size_t)n * t->rows);
}

/* More columns than go through all groups of rows at once, and a rest; an odd number of groups; of
 * bf16 blocks more than AMX takes at once, and a rest. */
static void matmul_bits_do_not_depend_on_many_columns(void **state)
{
	static const enum dtype types[] = {DTYPE_Q4_1, DTYPE_Q6_K, DTYPE_F16, DTYPE_BF16};
	const uint32_t rows = 16 * 6 + 3, most = 557, n = 2 * 128 + 5;
	float *x = noises((size_t)n * most);
	float *one = noises((size_t)n * rows), *y = noises((size_t)n * rows);

	(void)state;
	for (size_t d = 0; d < COUNT(types); d++)
		for (size_t i = 0; i < COUNT(isas); i++) {
			struct backend *b = backend_of(isas[i], 3, ACTIVATIONS_FAST);
			const struct tensor t = tensor_make(
				types[d], rows, types[d] == DTYPE_BF16 ? most : 256);
			struct weight *w;

			if (b) {
				w = put(b, &t);
				matmul_alone(b, &t, w, x, n, one);
				matmul_together(b, isas[i], &t, w, x, n, one, y);
				b->ops->weight_free(b, w);
				backend_free(b);
			}
			free((void *)t.data);
		}
	free(x);
	free(one);
	free(y);
}

static void matmul_bits_do_not_depend_on_company(void **state)
{
	static const uint32_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 17, 25};
	const uint32_t rows = 16 * 10 + 3, cols = 768, most = 25;

	(void)state;
	for (size_t d = 0; d < COUNT(dtypes); d++)
		for (size_t i = 0; i < COUNT(isas); i++) {
			const struct tensor t = tensor_make(dtypes[d], rows, cols);
			float *x = noises((size_t)most * cols);
			float *one = noises((size_t)most * rows), *y = noises((size_t)most * rows);
			float *sum = noises((size_t)most * rows);

			for (int a = 0; a < 2; a++) {
				for (uint32_t threads = 1; threads <= 3; threads++) {
					struct backend *b = backend_of(isas[i], threads,
						a ? ACTIVATIONS_EXACT : ACTIVATIONS_FAST);
					struct weight *w;

					if (!b)
						break;
					w = put(b, &t);
					if (threads == 1)
						matmul_alone(b, &t, w, x, most, one);
					for (size_t n = 0; n < COUNT(widths); n++)
						matmul_together(
							b, isas[i], &t, w, x, widths[n], one, y);
					memcpy(sum, x, (size_t)most * rows * sizeof(float));
					assert_int_equal(b->ops->add(b, most, rows, y, sum), 0);
					memcpy(y, x, (size_t)most * rows * sizeof(float));
					assert_int_equal(
						b->ops->matmul_add(b, most, x, w, NULL, NULL, y),
						0);
					assert_same_bits("matmul_add", isas[i], dtypes[d], y, sum,
						(size_t)most * rows);
					b->ops->weight_free(b, w);
					backend_free(b);
				}
			}
			free((void *)t.data);
			free(x);
			free(one);
			free(y);
			free(sum);
		}
}

#ifdef ZEPH_X86
/* The processor's tile registers, where it has them, against tiles-soft.h. */
static void tiles_do_what_the_manual_says(void **state)
{
	const uint32_t rows = 16 * 6 + 5, cols = 1000, n = 70;
	const struct tensor t = tensor_make(DTYPE_BF16, rows, cols);
	float *x = noises((size_t)n * cols), *soft = noises((size_t)n * rows);
	float *y = noises((size_t)n * rows);
	struct backend *amx = backend_of("amx", 1, ACTIVATIONS_FAST), *b = NULL;
	struct weight *w;

	(void)state;
	if (amx) {
		b = amx_soft(1, ACTIVATIONS_FAST);
		w = put(b, &t);
		assert_int_equal(b->ops->matmul(b, n, x, w, NULL, soft), 0);
		b->ops->weight_free(b, w);
		w = put(amx, &t);
		matmul_together(amx, "amx", &t, w, x, n, soft, y);
		amx->ops->weight_free(amx, w);
	}
	backend_free(b);
	backend_free(amx);
	free((void *)t.data);
	free(x);
	free(soft);
	free(y);
}
#endif

static void embed_is_the_files_row(void **state)
{
	static const int32_t tokens[] = {0, 15, 16, 36, 5};
	const uint32_t rows = 37, cols = 512;

	(void)state;
	for (size_t d = 0; d < COUNT(dtypes); d++)
		for (size_t i = 0; i < COUNT(isas); i++) {
			struct backend *b = backend_of(isas[i], 2, ACTIVATIONS_FAST);
			const struct tensor t = tensor_make(dtypes[d], rows, cols);
			const struct batch batch = {.n_rows = COUNT(tokens), .tokens = tokens};
			float y[COUNT(tokens) * 512], want[512];
			struct weight *w;
			size_t row;

			if (b) {
				w = put(b, &t);
				assert_int_equal(b->ops->embed(b, &batch, w, y), 0);
				assert_true(dtype_row_bytes(dtypes[d], cols, &row));
				for (size_t k = 0; k < COUNT(tokens); k++) {
					dequantize_row(dtypes[d],
						(const uint8_t *)t.data + (size_t)tokens[k] * row,
						want, cols);
					for (size_t e = 0; e < cols; e++)
						assert_true(y[k * cols + e] == want[e]);
				}
				b->ops->weight_free(b, w);
				backend_free(b);
			}
			free((void *)t.data);
		}
}

/* One layer's attention of two sequences, prompts of `length` and 3 tokens, in given steps. */
struct scene {
	struct attention_shape shape;
	enum dtype dtype;
	uint32_t length; /* of slot 0; slot 1 has 3 */
	float *q, *k, *v;
	struct tensor rope;
	uint32_t pages[2][40];
};

static struct scene scene_make(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
	uint32_t window, enum dtype dtype, uint32_t length)
{
	const size_t rows = length + 3;
	struct scene s = {.shape = {.n_heads = n_heads,
				  .n_kv_heads = n_kv_heads,
				  .head_dim = head_dim,
				  .rope_dim = head_dim > 2 ? head_dim - 2 : head_dim,
				  .rope_layout = window ? ROPE_HALVES : ROPE_INTERLEAVED,
				  .window = window,
				  .scale = 1.0f / sqrtf((float)head_dim)},
		.dtype = dtype,
		.length = length,
		.q = noises(rows * n_heads * head_dim),
		.k = noises(rows * n_kv_heads * head_dim),
		.v = noises(rows * n_kv_heads * head_dim),
		.rope = tensor_make(DTYPE_F32, length, head_dim > 2 ? head_dim - 2 : head_dim)};

	/* pages in no order, none shared */
	for (uint32_t i = 0; i < 40; i++) {
		s.pages[0][i] = (i * 7 + 3) % 40;
		s.pages[1][i] = 40 + i;
	}
	return s;
}

static void scene_free(struct scene *s)
{
	free(s->q);
	free(s->k);
	free(s->v);
	free((void *)s->rope.data);
}

/* Rows go in `step` at a time; slot 1's three rows join the first step. y [length + 3, heads x
 * dim], slot 1 last. */
static void scene_run(const struct scene *s, struct backend *b, uint32_t step, float *y)
{
	const uint32_t width = s->shape.n_heads * s->shape.head_dim;
	const uint32_t kv_width = s->shape.n_kv_heads * s->shape.head_dim;
	const struct kv_shape kv_shape = {.n_layers = 2,
		.n_pages = 80,
		.n_kv_heads = s->shape.n_kv_heads,
		.head_dim = s->shape.head_dim,
		.dtype = s->dtype};
	struct weight *rope = put(b, &s->rope);
	uint32_t *slots = calloc(s->length + 3, sizeof(*slots));
	uint32_t *positions = calloc(s->length + 3, sizeof(*positions));
	float *q = malloc((s->length + 3) * width * sizeof(float));
	float *k = malloc((s->length + 3) * kv_width * sizeof(float));
	float *v = malloc((s->length + 3) * kv_width * sizeof(float));
	struct kv *kv;

	assert_int_equal(b->ops->kv_new(b, &kv_shape, &kv), 0);
	for (uint32_t done = 0; done < s->length; done += step) {
		const uint32_t more = done == 0 ? 3 : 0;
		uint32_t n = s->length - done < step ? s->length - done : step;
		const struct batch batch = {.n_rows = n + more,
			.slots = slots,
			.positions = positions,
			.page_table = s->pages[0],
			.n_slots = 2,
			.page_table_stride = 40};
		float *out = malloc((n + more) * width * sizeof(float));

		for (uint32_t i = 0; i < n + more; i++) {
			slots[i] = i >= n;
			positions[i] = i < n ? done + i : i - n;
		}
		memcpy(q, s->q + (size_t)done * width, (size_t)n * width * sizeof(float));
		memcpy(k, s->k + (size_t)done * kv_width, (size_t)n * kv_width * sizeof(float));
		memcpy(v, s->v + (size_t)done * kv_width, (size_t)n * kv_width * sizeof(float));
		memcpy(q + (size_t)n * width, s->q + (size_t)s->length * width,
			more * width * sizeof(float));
		memcpy(k + (size_t)n * kv_width, s->k + (size_t)s->length * kv_width,
			more * kv_width * sizeof(float));
		memcpy(v + (size_t)n * kv_width, s->v + (size_t)s->length * kv_width,
			more * kv_width * sizeof(float));
		assert_int_equal(b->ops->batch_begin(b, &batch), 0);
		assert_int_equal(b->ops->rope_kv(b, &batch, &s->shape, rope, q, k, v, kv, 1), 0);
		assert_int_equal(b->ops->attention(b, &batch, &s->shape, q, kv, 1, out), 0);
		memcpy(y + (size_t)done * width, out, (size_t)n * width * sizeof(float));
		memcpy(y + (size_t)s->length * width, out + (size_t)n * width,
			more * width * sizeof(float));
		free(out);
		if (more) {
			/* what slot 1 wrote is there, and what nobody wrote is zero */
			const uint32_t dim = s->shape.head_dim;
			uint8_t want[1024], *page;
			size_t row;

			assert_true(dtype_row_bytes(s->dtype, dim, &row) && row <= sizeof(want));
			page = malloc(2u * 16 * kv_width / dim * row);
			assert_int_equal(b->ops->kv_read(b, kv, 1, s->pages[1][0], page), 0);
			for (size_t t = 0; t < 16; t++) {
				memset(want, 0, row);
				if (t < 3)
					quantize_row(s->dtype,
						s->v + ((size_t)s->length + t) * kv_width, NULL,
						want, dim);
				assert_memory_equal(
					page + 16 * kv_width / dim * row + t * row, want, row);
			}
			free(page);
		}
	}
	b->ops->kv_free(b, kv);
	b->ops->weight_free(b, rope);
	free(slots);
	free(positions);
	free(q);
	free(k);
	free(v);
}

static void attention_holds(uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
	uint32_t window, enum dtype dtype, uint32_t length)
{
	struct scene s = scene_make(n_heads, n_kv_heads, head_dim, window, dtype, length);
	const size_t n = (size_t)(length + 3) * n_heads * head_dim;
	float *want = noises(n), *first = noises(n), *y = noises(n);
	struct backend *ref = reference();

	scene_run(&s, ref, length, want);
	backend_free(ref);
	for (size_t i = 0; i < COUNT(isas); i++) {
		static const uint32_t steps[] = {1, 5, 16, 33, 1000};

		for (uint32_t threads = 1; threads <= 3; threads++) {
			struct backend *b = backend_of(isas[i], threads, ACTIVATIONS_FAST);

			if (!b)
				break;
			for (size_t k = 0; k < COUNT(steps); k++) {
				scene_run(&s, b, steps[k], y);
				if (threads == 1 && k == 0)
					memcpy(first, y, n * sizeof(float));
				assert_same_bits("attention", isas[i], dtype, y, first, n);
			}
			/* exp to 2 ulp and f32 sums: 1e-6 of the rms expected */
			if (!(distance(y, want, n) < 5e-6f))
				fail_msg("%s %u/%u heads of %u, window %u: off by %g", isas[i],
					n_heads, n_kv_heads, head_dim, window,
					(double)distance(y, want, n));
			backend_free(b);
		}
	}
	free(want);
	free(first);
	free(y);
	scene_free(&s);
}

static void attention_bits_do_not_depend_on_steps(void **state)
{
	(void)state;
	attention_holds(9, 3, 64, 0, DTYPE_F16, 300);
	attention_holds(4, 4, 40, 0, DTYPE_F32, 129);
	attention_holds(8, 1, 128, 0, DTYPE_BF16, 128);
	attention_holds(4, 2, 32, 100, DTYPE_F16, 390);
	attention_holds(2, 1, 2, 1, DTYPE_F16, 40);
	attention_holds(40, 1, 16, 17, DTYPE_F32, 33);
	attention_holds(9, 3, 64, 0, DTYPE_Q8_0, 300);
	attention_holds(8, 1, 96, 20, DTYPE_Q8_0, 140);
}

static void rows_are_near_the_reference(void **state)
{
	static const uint32_t dims[] = {1, 15, 16, 17, 576, 4096};

	(void)state;
	for (size_t d = 0; d < COUNT(dims); d++)
		for (size_t i = 0; i < COUNT(isas); i++) {
			const uint32_t dim = dims[d], n = 5;
			struct backend *b = backend_of(isas[i], 2, ACTIVATIONS_FAST), *ref;
			const struct tensor t = tensor_make(DTYPE_F32, 1, dim);
			float *x = noises((size_t)n * dim), *u = noises((size_t)n * dim);
			float *got = noises((size_t)n * dim), *want = noises((size_t)n * dim);

			if (b) {
				struct weight *w = put(b, &t), *wr;

				ref = reference();
				wr = put(ref, &t);
				b->ops->rmsnorm(b, n, x, w, 1e-5f, got);
				ref->ops->rmsnorm(ref, n, x, wr, 1e-5f, want);
				assert_true(distance(got, want, (size_t)n * dim) < 1e-6f);
				x[0] = 200;
				x[dim - 1] = -200;
				b->ops->swiglu(b, n, dim, x, u, got);
				ref->ops->swiglu(ref, n, dim, x, u, want);
				assert_true(distance(got, want, (size_t)n * dim) < 1e-6f);
				b->ops->weight_free(b, w);
				ref->ops->weight_free(ref, wr);
				backend_free(ref);
				backend_free(b);
			}
			free((void *)t.data);
			free(x);
			free(u);
			free(got);
			free(want);
		}
}

/* qkv and gate_up against their parts, types mixed as K-quant files mix them. */
static void fused_slots_have_the_bits_of_their_parts(void **state)
{
	const uint32_t dim = 512, ffn = 600, n = 6;
	const uint32_t positions[] = {0, 1, 2, 3, 4, 5}, slots[6] = {0}, pages[] = {1};
	const struct batch batch = {n, NULL, slots, positions, pages, 1, 1};
	const struct attention_shape shape = {4, 2, 64, 64, ROPE_HALVES, 0, 0.125f};
	const struct kv_shape kv_shape = {1, 2, 2, 64, DTYPE_F16};

	(void)state;
	for (size_t i = 0; i < COUNT(isas); i++) {
		struct backend *b = backend_of(isas[i], 2, ACTIVATIONS_FAST);
		const struct tensor t[] = {tensor_make(DTYPE_Q4_K, 256, dim),
			tensor_make(DTYPE_F16, 128, dim), tensor_make(DTYPE_Q6_K, 128, dim),
			tensor_make(DTYPE_F32, 1, dim), tensor_make(DTYPE_F32, 6, 64),
			tensor_make(DTYPE_Q8_0, ffn, dim), tensor_make(DTYPE_BF16, ffn, dim)};
		struct weight *w[COUNT(t)];
		float *x = noises(n * dim), *h = noises(n * dim), *q = noises(n * 256);
		float *k = noises(n * 128), *v = noises(n * 128), *q2 = noises(n * 256);
		float *y = noises(n * ffn), *u = noises(n * ffn), *y2 = noises(n * ffn);
		uint8_t one[2 * 2 * 16 * 64 * 2], two[sizeof(one)];
		struct kv *kv;

		if (b) {
			for (size_t j = 0; j < COUNT(t); j++)
				w[j] = put(b, &t[j]);
			assert_int_equal(b->ops->kv_new(b, &kv_shape, &kv), 0);
			const struct qkv_args a = {&shape, x, w[3], 1e-5f, w[0], w[1], w[2], NULL,
				NULL, NULL, w[4], kv, 0, h, k, v, q};
			const struct gate_up_args g = {x, w[3], 1e-5f, w[5], w[6], h, u, y};

			assert_int_equal(b->ops->qkv(b, &batch, &a), 0);
			assert_int_equal(b->ops->kv_read(b, kv, 0, 1, one), 0);
			assert_int_equal(b->ops->rmsnorm(b, n, x, w[3], 1e-5f, h), 0);
			assert_int_equal(b->ops->matmul(b, n, h, w[0], NULL, q2), 0);
			assert_int_equal(b->ops->matmul(b, n, h, w[1], NULL, k), 0);
			assert_int_equal(b->ops->matmul(b, n, h, w[2], NULL, v), 0);
			assert_int_equal(
				b->ops->rope_kv(b, &batch, &shape, w[4], q2, k, v, kv, 0), 0);
			assert_int_equal(b->ops->kv_read(b, kv, 0, 1, two), 0);
			assert_same_bits("qkv", isas[i], DTYPE_Q4_K, q, q2, n * 256);
			assert_memory_equal(one, two, sizeof(one));

			assert_int_equal(b->ops->gate_up(b, n, &g), 0);
			assert_int_equal(b->ops->matmul(b, n, h, w[5], NULL, y2), 0);
			assert_int_equal(b->ops->matmul(b, n, h, w[6], NULL, u), 0);
			assert_int_equal(b->ops->swiglu(b, n, ffn, y2, u, y2), 0);
			assert_same_bits("gate_up", isas[i], DTYPE_Q8_0, y, y2, n * ffn);
			b->ops->kv_free(b, kv);
			for (size_t j = 0; j < COUNT(t); j++)
				b->ops->weight_free(b, w[j]);
			backend_free(b);
		}
		for (size_t j = 0; j < COUNT(t); j++)
			free((void *)t[j].data);
		free(x);
		free(h);
		free(q);
		free(k);
		free(v);
		free(q2);
		free(y);
		free(u);
		free(y2);
	}
}

/* test-cpu [PATTERN]: the tests whose names match it. */
int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_instruction_set_is_the_best_allowed),
		cmocka_unit_test(exact_equals_the_reference),
		cmocka_unit_test(fast_is_near_the_reference),
		cmocka_unit_test(matmul_bits_do_not_depend_on_company),
		cmocka_unit_test(matmul_bits_do_not_depend_on_many_columns),
#ifdef ZEPH_X86
		cmocka_unit_test(tiles_do_what_the_manual_says),
#endif
		cmocka_unit_test(embed_is_the_files_row),
		cmocka_unit_test(attention_bits_do_not_depend_on_steps),
		cmocka_unit_test(rows_are_near_the_reference),
		cmocka_unit_test(fused_slots_have_the_bits_of_their_parts),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
