/* Matrix products and what is fused with them: which kernel serves which weight, the activations
 * made ready once for all weights of an operation, groups of rows shared out over the threads, and
 * the steps that follow a product while its results are still in the cache (bias, residual sum,
 * SwiGLU). The inner loops are in kernel_*.h. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PARTS_MAX   3
#define COLUMNS     128   /* that go through all groups of rows before the next ones do */
#define SERIAL_ACTS 16384 /* activations that the caller alone makes ready */

/* product_take() */
#define RUN_BYTES  ((size_t)1 << 20)
#define RUN_COLS   8
#define RUN_SHARES 4

enum kernel { KERNEL_VECTOR, KERNEL_QUANTS, KERNEL_EXACT, KERNEL_FLOAT, KERNEL_BF16 };
enum epilogue { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_SWIGLU };

struct part {
	const struct weight *w, *bias;
	float *y; /* [n, w->rows] */
};

struct product {
	struct cpu *cpu;
	uint32_t n;
	const float *x;            /* [n, cols] */
	const struct weight *norm; /* or NULL: x as it is */
	float eps;
	float *h; /* [n, cols] where there is a norm */
	struct part parts[PARTS_MAX];
	uint32_t n_parts;
	uint32_t groups;        /* of all parts, gate and up counted once */
	enum epilogue epilogue; /* SWIGLU: parts are gate and up, the result goes to gate's y */
	struct cpu_acts acts;
	bool want_int8, want_bf16, want_f32;
	size_t panel_bytes; /* of a thread's scratch, before the results */
	uint32_t run;       /* groups that a thread takes at once */
};

static enum kernel kernel_of(const struct cpu *cpu, const struct weight *w)
{
	switch (w->layout.family) {
	case FAMILY_VECTOR: return KERNEL_VECTOR;
	case FAMILY_QUANTS:
		return cpu->activations == ACTIVATIONS_EXACT ? KERNEL_EXACT : KERNEL_QUANTS;
	case FAMILY_BF16:
		return cpu->activations == ACTIVATIONS_FAST && cpu->isa.matmul_bf16 ? KERNEL_BF16
										    : KERNEL_FLOAT;
	default: return KERNEL_FLOAT;
	}
}

/* One column normalised and converted to what the weights of the operation want. */
static void acts_columns(void *arg, struct pool_range range)
{
	struct product *p = arg;
	const struct cpu_isa *isa = &p->cpu->isa;
	const uint32_t cols = p->acts.cols;

	for (uint32_t c = range.begin; c < range.end; c++) {
		const float *x = p->x + (size_t)c * cols;

		if (p->norm) {
			float *h = p->h + (size_t)c * cols;

			isa->rmsnorm(x, (const float *)p->norm->data, p->eps, cols, h);
			x = h;
		}
		if (p->want_int8)
			isa->acts_int8(x, &p->acts, c);
		if (p->want_bf16)
			isa->acts_bf16(x, &p->acts, c);
		if (p->want_f32)
			isa->acts_f32(x, &p->acts, c);
	}
}

static uint8_t *take(uint8_t **at, size_t bytes)
{
	uint8_t *p = *at;

	*at += (bytes + 63) / 64 * 64;
	return p;
}

static void zeros_note(struct cpu_acts *a, uint32_t zero)
{
	for (uint32_t i = 0; i < a->n_zeros; i++)
		if (a->zeros[i] == zero)
			return;
	assert(a->n_zeros < ACTS_ZEROS);
	a->zeros[a->n_zeros++] = zero;
}

static size_t bf16_columns(const struct cpu *cpu, uint32_t cols)
{
	const size_t multiple = cpu->isa.bf16_multiple;

	return (cols + multiple - 1) / multiple * multiple;
}

/* Lays out the activations in the arena. The sizes are bounded: n and cols are 32-bit, and an x of
 * 4 n cols bytes exists. */
static int acts_new(struct product *p)
{
	struct cpu_acts *a = &p->acts;
	const size_t all = (size_t)p->n * a->cols, per16 = (size_t)p->n * (a->cols / 16) * 4;
	const size_t bf16 = (size_t)p->n * bf16_columns(p->cpu, a->cols) * sizeof(uint16_t);
	size_t bytes = 16 * 64;
	uint8_t *at;
	int r;

	bytes += p->want_int8 ? all + per16 * (3 + a->n_zeros) : 0;
	bytes += (p->want_bf16 ? bf16 + BF16_MORE : 0) + (p->want_f32 ? all * 4 : 0);
	r = cpu_arena(p->cpu, bytes);
	if (r < 0)
		return r;
	at = p->cpu->arena;
	if (p->want_int8) {
		a->q = (int8_t *)take(&at, all);
		a->scale = (float *)take(&at, per16);
		a->sum16 = (float *)take(&at, per16);
		a->sum32 = (float *)take(&at, per16 / 2);
		for (uint32_t z = 0; z < a->n_zeros; z++)
			a->init[z] = (int32_t *)take(&at, per16);
	}
	if (p->want_bf16)
		a->bf16 = (uint16_t *)take(&at, bf16 + BF16_MORE);
	if (p->want_f32)
		a->f32 = (float *)take(&at, all * 4);
	return 0;
}

/* A vector weight as a matrix of one row: no group of sixteen to fill. */
static void product_vector(const struct product *p, const struct part *part)
{
	for (uint32_t c = 0; c < p->n; c++) {
		const float *x = (p->norm ? p->h : p->x) + (size_t)c * p->acts.cols;
		float v = p->cpu->isa.dot(x, (const float *)part->w->data, p->acts.cols);

		if (part->bias)
			v += ((const float *)part->bias->data)[0];
		if (p->epilogue == EPILOGUE_ADD)
			v = part->y[c] + v;
		part->y[c] = v;
	}
	if (p->epilogue == EPILOGUE_SWIGLU && part == &p->parts[1])
		for (uint32_t c = 0; c < p->n; c++)
			p->cpu->isa.swiglu(&p->parts[0].y[c], &part->y[c], 1, &p->parts[0].y[c]);
}

/* The activations of n columns from c0 on, a multiple of COLUMNS and so of every tile's. */
static struct cpu_acts acts_slice(
	const struct cpu *cpu, const struct cpu_acts *all, uint32_t c0, uint32_t n)
{
	const size_t c = c0, cols = all->cols;
	struct cpu_acts a = *all;

	a.n = n;
	if (a.q) {
		a.q += c * cols;
		a.scale += c * (cols / 16);
		a.sum16 += c * (cols / 16);
		a.sum32 += c * (cols / 32);
		for (uint32_t z = 0; z < a.n_zeros; z++)
			a.init[z] += c * (cols / 16);
	}
	a.bf16 = a.bf16 ? a.bf16 + c * bf16_columns(cpu, all->cols) : NULL;
	a.f32 = a.f32 ? a.f32 + c * cols : NULL;
	return a;
}

static uint32_t ahead_of(const struct cpu *cpu, const struct weight *w, uint32_t n)
{
	if (n > 1)
		return cpu->ahead.more;
	return w->layout.family == FAMILY_QUANTS && SCALES_BLOCKS(w->layout.scales) == 8
		       ? cpu->ahead.one_record
		       : cpu->ahead.one;
}

/* out [n_groups][n][16] */
static void product_groups(const struct product *p, const struct weight *w, uint32_t g,
	uint32_t n_groups, struct cpu_acts *acts, float *out, void *panel)
{
	const struct cpu_isa *isa = &p->cpu->isa;
	const enum kernel kernel = kernel_of(p->cpu, w);

	acts->ahead = ahead_of(p->cpu, w, acts->n);

	if (kernel == KERNEL_FLOAT) {
		isa->matmul_float(w, g, n_groups, acts, out);
		return;
	}
	if (kernel == KERNEL_BF16) {
		isa->matmul_bf16(w, g, n_groups, acts, out);
		return;
	}
	if (kernel == KERNEL_QUANTS) {
		isa->matmul_quants(w, g, n_groups, acts, out, panel);
		return;
	}
	for (uint32_t i = 0; i < n_groups; i++)
		isa->matmul_exact(w, g + i, acts, out + (size_t)i * acts->n * GROUP_ROWS, panel);
}

/* The groups' results, out [n_groups][n][16], to y of the columns from c0 on; `up` of the same
 * shape with SwiGLU. Column by column: lines of y that lie side by side are written together. */
static void product_store(const struct product *p, const struct part *part, uint32_t g,
	uint32_t n_groups, uint32_t c0, uint32_t n, float *out, const float *up)
{
	const uint32_t rows = part->w->rows;
	const float *bias = part->bias ? (const float *)part->bias->data : NULL;

	for (uint32_t c = 0; c < n; c++)
		for (uint32_t i = 0; i < n_groups; i++) {
			const uint32_t first = (g + i) * GROUP_ROWS;
			const uint32_t width = rows - first < GROUP_ROWS ? rows - first
									 : GROUP_ROWS;
			const size_t at = ((size_t)i * n + c) * GROUP_ROWS;
			float *y = part->y + (size_t)(c0 + c) * rows + first;

			for (uint32_t k = 0; bias && k < width; k++)
				out[at + k] += bias[first + k];
			if (p->epilogue == EPILOGUE_ADD)
				p->cpu->isa.add(out + at, width, y);
			else if (p->epilogue == EPILOGUE_SWIGLU)
				p->cpu->isa.swiglu(out + at, up + at, width, y);
			else
				memcpy(y, out + at, width * sizeof(float));
		}
}

/* The results of a run of groups, for the columns that are done at once. */
static size_t result_floats(const struct product *p)
{
	return (size_t)p->run * (p->n < COLUMNS ? p->n : COLUMNS) * GROUP_ROWS;
}

/* Item: (columns, group of rows). */
static void product_items(void *arg, struct pool_range range)
{
	const struct product *p = arg;
	uint8_t *scratch = cpu_scratch_of(p->cpu, range.thread);
	float *out = (float *)(void *)(scratch + p->panel_bytes);
	float *up = out + result_floats(p);
	uint32_t item = range.begin;

	while (item < range.end) {
		const uint32_t c0 = item / p->groups * COLUMNS;
		const uint32_t n = p->n - c0 < COLUMNS ? p->n - c0 : COLUMNS;
		struct cpu_acts acts = acts_slice(p->cpu, &p->acts, c0, n);
		uint32_t part = 0, g = item % p->groups, n_groups;

		while (p->epilogue != EPILOGUE_SWIGLU && g >= p->parts[part].w->groups)
			g -= p->parts[part++].w->groups;
		n_groups = p->parts[part].w->groups - g;
		n_groups = n_groups < range.end - item ? n_groups : range.end - item;
		n_groups = n_groups < p->run ? n_groups : p->run;
		product_groups(p, p->parts[part].w, g, n_groups, &acts, out, scratch);
		if (p->epilogue == EPILOGUE_SWIGLU)
			product_groups(p, p->parts[1].w, g, n_groups, &acts, up, scratch);
		product_store(p, &p->parts[part], g, n_groups, c0, n, out, up);
		item += n_groups;
	}
}

/* Memory comes at its full speed only some KiB after the place where reading began: with few
 * columns a thread reads RUN_BYTES of gate before it turns to up, but leaves something to share at
 * the end. */
static uint32_t product_take(const struct product *p)
{
	const uint32_t unit = p->cpu->isa.run, fair = p->groups / (p->cpu->threads * RUN_SHARES);
	const size_t group_bytes = p->parts[0].w->group_bytes;
	uint32_t run = unit;

	if (p->epilogue != EPILOGUE_SWIGLU || p->n > RUN_COLS)
		return unit;
	while (run + unit <= fair && (run + unit) * group_bytes <= RUN_BYTES)
		run += unit;
	return run;
}

/* Runs the whole operation. All parts have the same cols. */
static int product_run(struct product *p)
{
	struct cpu *cpu = p->cpu;
	bool vector = false;
	int r;

	p->acts.n = p->n;
	p->acts.cols = p->parts[0].w->cols;
	p->acts.tile = cpu->isa.tile;
	for (uint32_t i = 0; i < p->n_parts; i++) {
		const struct weight *w = p->parts[i].w;

		assert(w->cols == p->acts.cols);
		p->groups += i == 0 || p->epilogue != EPILOGUE_SWIGLU ? w->groups : 0;
		switch (kernel_of(cpu, w)) {
		case KERNEL_VECTOR: vector = true; break;
		case KERNEL_QUANTS:
			p->want_int8 = true;
			zeros_note(&p->acts, w->layout.zero);
			p->panel_bytes = PANELS * PANEL_BYTES(w->cols);
			break;
		case KERNEL_BF16: p->want_bf16 = true; break;
		case KERNEL_EXACT:
			p->panel_bytes = EXACT_CHUNK * GROUP_ROWS * sizeof(float);
			p->want_f32 = true;
			break;
		case KERNEL_FLOAT: p->want_f32 = true; break;
		}
	}
	if (p->n == 0)
		return 0;
	r = acts_new(p);
	if (r < 0)
		return r;
	p->run = product_take(p);
	r = cpu_scratch(cpu, p->panel_bytes + 2 * result_floats(p) * sizeof(float));
	if (r < 0)
		return r;
	if ((size_t)p->n * p->acts.cols <= SERIAL_ACTS)
		acts_columns(p, (struct pool_range){0, p->n, 0});
	else
		pool_run(cpu->pool, acts_columns, p, p->n, 1);
	if (vector) {
		for (uint32_t i = 0; i < p->n_parts; i++) {
			assert(p->parts[i].w->layout.family == FAMILY_VECTOR);
			product_vector(p, &p->parts[i]);
		}
		return 0;
	}
	pool_run(cpu->pool, product_items, p, (p->n + COLUMNS - 1) / COLUMNS * p->groups, p->run);
	return 0;
}

int cpu_matmul(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *y)
{
	struct product p = {
		.cpu = cpu_of(b), .n = n, .x = x, .parts = {{w, bias, y}}, .n_parts = 1};

	return product_run(&p);
}

int cpu_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y)
{
	struct product p = {.cpu = cpu_of(b),
		.n = n,
		.x = x,
		.parts = {{w, bias, y}},
		.n_parts = 1,
		.epilogue = EPILOGUE_ADD};

	(void)scratch;
	return product_run(&p);
}

int cpu_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a)
{
	struct product p = {.cpu = cpu_of(b),
		.n = n,
		.x = a->x,
		.norm = a->norm,
		.eps = a->eps,
		.h = a->h,
		.parts = {{a->gate, NULL, a->y}, {a->up, NULL, a->u}},
		.n_parts = 2,
		.epilogue = EPILOGUE_SWIGLU};

	return product_run(&p);
}

int cpu_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a)
{
	struct product p = {.cpu = cpu_of(b),
		.n = batch->n_rows,
		.x = a->x,
		.norm = a->norm,
		.eps = a->eps,
		.h = a->h,
		.parts = {{a->wq, a->bq, a->q}, {a->wk, a->bk, a->k}, {a->wv, a->bv, a->v}},
		.n_parts = 3};
	const int r = product_run(&p);

	if (r < 0)
		return r;
	return cpu_rope_kv(b, batch, a->shape, a->rope, a->q, a->k, a->v, a->kv, a->layer);
}
