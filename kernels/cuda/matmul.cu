/* Products and what is fused with them: which kernel serves which weight, how many columns and
 * which card.
 *
 *   tensor cores (sm_80 on)  1 to 8 columns: one launch, RMSNorm in it; 9 to 64 and more than 64:
 *                            activations made ready by a launch of their own
 *   engine.exact = false     large prompts by cuBLASLt (inexact.cu)
 *   older cards              dp4a for quantised weights where activations may be int8, f32
 * otherwise F32 weights              f32 everywhere
 *
 * Weights of one type that read the same activations share a launch (Q, K and V; gate and up), up
 * to 8 columns those of two types that matmul_mixed_kernel() knows, too. Whoever completes a head
 * of Q, K or V on tensor cores also rotates it and writes it to its page. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/inexact.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_launch.cuh"

#include <assert.h>
#include <errno.h>

struct part_args {
	const struct weight *w, *bias; /* bias: or NULL */
	float *y;
};

/* One operation: x, perhaps normalised, times up to three weights. */
struct operation {
	uint32_t n, cols;
	const float *x;
	const struct weight *norm; /* or NULL */
	float eps;
	float *h; /* [n, cols], where there is a norm */
	struct part_args parts[PRODUCT_PARTS];
	uint32_t n_parts;
	enum epilogue epilogue; /* SWIGLU: parts are gate and up; ROPE: Q, K and V */
	struct rope_kv rope;
};

static bool kernels_of(enum dtype dtype, struct product_kernels *ret)
{
	return matmul_float_kernels(dtype, ret) || matmul_legacy_kernels(dtype, ret) ||
	       matmul_k_kernels(dtype, ret);
}

static bool tensor_cores(const struct cuda *c, const struct weight *w)
{
	return c->arch >= 80 && w->dtype != DTYPE_F32;
}

static struct product product_of(const struct cuda *c, const struct operation *o)
{
	struct product p = {};

	p.x = o->x;
	p.n = o->n;
	p.cols = o->cols;
	p.eps = o->eps;
	p.terms = c->activations == ACTIVATIONS_EXACT ? TERMS_MAX : 1;
	p.epilogue = o->epilogue;
	return p;
}

static struct product_part product_part_of(const struct part_args *a)
{
	struct product_part part = {};

	assert(!a->bias ||
		(a->bias->rows == 1 && a->bias->cols == a->w->rows && a->bias->dtype == DTYPE_F32));
	part.w = {a->w->quants, a->w->scales, a->w->supers, a->w->tiles, a->w->chunks};
	part.bias = a->bias ? (const float *)a->bias->quants : NULL;
	part.y = a->y;
	part.rows = a->w->rows;
	part.dtype = a->w->dtype;
	return part;
}

/* One weight without tensor cores; x is normalised already. */
static int plain_run(struct cuda *c, const struct operation *o, const struct part_args *a)
{
	const bool exact = c->activations == ACTIVATIONS_EXACT;
	struct product p = product_of(c, o);
	struct product_kernels kernels;
	int r;

	p.n_parts = 1;
	p.parts[0] = product_part_of(a);
	if (a->w->dtype == DTYPE_F32)
		return matmul_f32_launch(c, p);
	if (!kernels_of(a->w->dtype, &kernels))
		return cuda_fail(c, -ENOTSUP, "no product with weights of type %d", a->w->dtype);
	if (!exact && kernels.int8) {
		r = int8_launch(c, &p);
		if (r < 0)
			return r;
	}
	return cuda_launch(c, !exact && kernels.int8 ? kernels.int8 : kernels.plain,
		dim3(a->w->tiles, parts_of(p.n, COLUMNS)), PRODUCT_THREADS, 0, p);
}

/* The blocks of all parts, `tiles` tiles of 16 rows each, along one side of a grid. */
static uint32_t blocks_of(struct product *p, uint32_t tiles)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->n_parts; i++) {
		p->parts[i].first = n;
		n += parts_of(p->parts[i].w.tiles, tiles);
	}
	return n;
}

/* Weights of one type on tensor cores; activations are ready where n says that they must be. */
static int tensor_launch(struct cuda *c, struct product *p, const struct product_kernels &kernels)
{
	const bool pair = p->epilogue == EPILOGUE_SWIGLU;
	const uint32_t tiles = p->parts[0].w.tiles;
	size_t stage;
	dim3 grid;

	if (p->n <= FEW_COLUMNS)
		return cuda_launch(c, pair ? kernels.few_pair : kernels.few,
			dim3(pair ? tiles : blocks_of(p, 1)), PRODUCT_THREADS,
			pair ? kernels.few_pair_bytes : kernels.few_bytes, *p);
	if (p->n <= SOME_COLUMNS)
		return cuda_launch(c, kernels.some, dim3(pair ? tiles : blocks_of(p, 2)),
			PRODUCT_THREADS, kernels.some_bytes, *p);
	stage = kernels.wide_weights_bytes + (size_t)WIDE_COLUMNS * p->terms * TERM_BYTES;
	p->stages = (uint32_t)min((size_t)4, c->shared_max_bytes / stage);
	assert(p->stages > 0);
	grid = dim3(parts_of(p->n, WIDE_COLUMNS * COLUMNS),
		pair ? parts_of(tiles, WIDE_TILES / 2) : blocks_of(p, WIDE_TILES));
	return cuda_launch(c, kernels.wide, grid, PRODUCT_THREADS, p->stages * stage, *p);
}

/* What rotating needs beside the product. */
static int rope_prepare(struct cuda *c, const struct operation *o, struct product *p)
{
	const uint32_t heads = o->rope.n_heads + 2 * o->rope.n_kv_heads;
	const size_t blocks = o->n <= SOME_COLUMNS ? 1 : parts_of(o->n, WIDE_COLUMNS * COLUMNS);
	int r = arena_grow(
		c, &c->counters, blocks * heads * sizeof(uint32_t), true, "counters of heads");

	p->rope = o->rope;
	p->counters = (uint32_t *)c->counters.data;
	return r;
}

/* The first head of part i. */
static uint32_t head_of(const struct operation *o, uint32_t i)
{
	return i == 0 ? 0 : o->rope.n_heads + (i - 1) * o->rope.n_kv_heads;
}

/* All parts in one launch, though their types differ; false where there is no kernel for that. */
static bool mixed_run(struct cuda *c, const struct operation *o, struct product *p, int *ret)
{
	const enum dtype d = o->parts[0].w->dtype;
	enum dtype e = d;
	const void *kernel;
	size_t bytes;

	for (uint32_t i = 1; i < o->n_parts; i++)
		e = o->parts[i].w->dtype != d ? o->parts[i].w->dtype : e;
	for (uint32_t i = 1; i < o->n_parts; i++)
		if (o->parts[i].w->dtype != d && o->parts[i].w->dtype != e)
			return false;
	kernel = o->n <= FEW_COLUMNS && e != d ? matmul_mixed_kernel(d, e, &bytes) : NULL;
	if (!kernel)
		return false;
	p->n_parts = o->n_parts;
	for (uint32_t i = 0; i < o->n_parts; i++) {
		p->parts[i] = product_part_of(&o->parts[i]);
		p->parts[i].head = head_of(o, i);
	}
	*ret = cuda_launch(c, kernel, dim3(blocks_of(p, 1)), PRODUCT_THREADS, bytes, *p);
	return true;
}

/* Parts on tensor cores, those of one type together. */
static int tensor_run(struct cuda *c, const struct operation *o)
{
	struct product p = product_of(c, o);
	bool done[PRODUCT_PARTS] = {};
	struct product_kernels kernels;
	int r = 0;

	p.norm = o->norm ? (const float *)o->norm->quants : NULL;
	if (o->epilogue == EPILOGUE_ROPE)
		r = rope_prepare(c, o, &p);
	if (r == 0 && mixed_run(c, o, &p, &r))
		return r;
	if (r == 0 && o->n > FEW_COLUMNS)
		r = activations_launch(c, &p);
	for (uint32_t i = 0; i < o->n_parts && r == 0; i++) {
		if (done[i])
			continue;
		p.n_parts = 0;
		for (uint32_t k = i; k < o->n_parts; k++)
			if (!done[k] && o->parts[k].w->dtype == o->parts[i].w->dtype) {
				p.parts[p.n_parts] = product_part_of(&o->parts[k]);
				p.parts[p.n_parts++].head = head_of(o, k);
				done[k] = true;
			}
		for (uint32_t k = p.n_parts; k < PRODUCT_PARTS; k++)
			p.parts[k] = {};
		if (!kernels_of(o->parts[i].w->dtype, &kernels))
			return cuda_fail(c, -ENOTSUP, "no product with weights of type %d",
				o->parts[i].w->dtype);
		r = tensor_launch(c, &p, kernels);
	}
	return r;
}

static bool inexact_serves_all(struct cuda *c, const struct operation *o)
{
	bool all = true;

	for (uint32_t i = 0; i < o->n_parts; i++)
		all = all && inexact_serves(c, o->n, o->parts[i].w, o->parts[i].y);
	return all;
}

static int inexact_run(struct cuda *c, const struct operation *o)
{
	const struct part_args *gate = &o->parts[0], *up = &o->parts[1];
	int r = inexact_begin(c, o->n, o->cols, o->x, o->norm, o->eps);

	for (uint32_t i = 0; i < o->n_parts && r == 0; i++)
		r = inexact_product(c, o->n, o->parts[i].w, o->parts[i].bias,
			o->epilogue == EPILOGUE_ADD, o->parts[i].y);
	if (r == 0 && o->epilogue == EPILOGUE_SWIGLU)
		r = cuda_swiglu(&c->base, o->n, gate->w->rows, gate->y, up->y, gate->y);
	if (r == 0 && o->epilogue == EPILOGUE_ROPE)
		r = rope_kv_launch(c, o->rope, o->n);
	return r;
}

static int operation_run(struct cuda *c, struct operation *o)
{
	const struct part_args *gate = &o->parts[0], *up = &o->parts[1];
	bool tensor = true;
	int r = 0;

	if (o->n == 0)
		return 0;
	o->cols = gate->w->cols;
	for (uint32_t i = 0; i < o->n_parts; i++) {
		assert(o->parts[i].w->cols == o->cols);
		tensor = tensor && tensor_cores(c, o->parts[i].w);
	}
	if (inexact_serves_all(c, o))
		return inexact_run(c, o);
	if (o->epilogue == EPILOGUE_SWIGLU && (!tensor || gate->w->dtype != up->w->dtype)) {
		o->epilogue = EPILOGUE_STORE;
		r = operation_run(c, o);
		return r < 0 ? r
			     : cuda_swiglu(&c->base, o->n, gate->w->rows, gate->y, up->y, gate->y);
	}
	if (o->epilogue == EPILOGUE_ROPE && !tensor) {
		o->epilogue = EPILOGUE_STORE;
		r = operation_run(c, o);
		return r < 0 ? r : rope_kv_launch(c, o->rope, o->n);
	}
	if (tensor)
		return tensor_run(c, o);
	if (o->norm) {
		r = cuda_rmsnorm(&c->base, o->n, o->x, o->norm, o->eps, o->h);
		o->x = o->h;
		o->norm = NULL;
	}
	for (uint32_t i = 0; i < o->n_parts && r == 0; i++) {
		struct operation one = *o;

		one.parts[0] = o->parts[i];
		one.n_parts = 1;
		r = tensor_cores(c, one.parts[0].w) ? tensor_run(c, &one)
						    : plain_run(c, &one, &one.parts[0]);
	}
	return r;
}

int cuda_matmul(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *y)
{
	struct operation o = {};

	o.n = n;
	o.x = x;
	o.parts[0] = {w, bias, y};
	o.n_parts = 1;
	return operation_run(cuda_of(b), &o);
}

int cuda_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y)
{
	struct cuda *c = cuda_of(b);
	struct operation o = {};
	int r;

	(void)scratch;
	o.n = n;
	o.x = x;
	o.parts[0] = {w, bias, y};
	o.n_parts = 1;
	o.epilogue = EPILOGUE_ADD;
	r = operation_run(c, &o);
	return r < 0 ? r : cuda_pace(c);
}

int cuda_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a)
{
	struct cuda *c = cuda_of(b);
	struct operation o = {};
	int r;

	assert(a->gate->rows == a->up->rows);
	o.n = n;
	o.x = a->x;
	o.norm = a->norm;
	o.eps = a->eps;
	o.h = a->h;
	o.parts[0] = {a->gate, NULL, a->y};
	o.parts[1] = {a->up, NULL, a->u};
	o.n_parts = 2;
	o.epilogue = EPILOGUE_SWIGLU;
	r = operation_run(c, &o);
	return r < 0 ? r : cuda_pace_mark(c);
}

int cuda_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a)
{
	struct cuda *c = cuda_of(b);
	struct operation o = {};

	assert(batch->n_rows == c->batch.n_rows);
	o.n = batch->n_rows;
	o.x = a->x;
	o.norm = a->norm;
	o.eps = a->eps;
	o.h = a->h;
	o.parts[0] = {a->wq, a->bq, a->q};
	o.parts[1] = {a->wk, a->bk, a->k};
	o.parts[2] = {a->wv, a->bv, a->v};
	o.n_parts = 3;
	o.epilogue = EPILOGUE_ROPE;
	o.rope = rope_kv_of(c, a->shape, a->rope, a->q, a->k, a->v, a->kv, a->layer);
	return operation_run(c, &o);
}
