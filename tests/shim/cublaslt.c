/* The twelve functions of cuBLASLt that kernels/cuda/cublaslt.cuh declares, over the shim's
 * streams: a plain loop in f32. Found by dlopen as the real one is. It holds the caller to what the
 * manual says: objects of their kinds, an algorithm chosen for just these layouts, operands on the
 * card and as aligned as was promised, the workspace that was announced. */
#include "shim.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum kind { HANDLE = 0x1a01, DESC, LAYOUT, PREFERENCE };
enum { BF16 = 14, F32 = 0, COMPUTE_32F = 68, TRANSPOSE = 1 };
enum { DESC_TRANSA = 3, PREF_WORKSPACE = 1, PREF_REDUCTION = 3, PREF_ALIGNMENT = 5 };

struct object {
	enum kind kind;
	int transpose;             /* DESC */
	int type;                  /* LAYOUT */
	uint64_t rows, cols, ld;   /* LAYOUT, column-major */
	uint64_t workspace;        /* PREFERENCE */
	uint32_t split, alignment; /* PREFERENCE */
};

struct algo {
	uint64_t magic, rows, n, cols, ld, workspace, alignment, type;
};

struct heuristic {
	struct algo algo;
	size_t workspace;
	int status;
	float waves;
	int reserved[4];
};

struct product {
	uint64_t rows, n, cols, ld;
	const uint16_t *w, *x;
	void *y;
	float alpha, beta;
	int type;
};

static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("shim: cuBLASLt: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	abort();
}

static struct object *object_of(void *p, enum kind kind)
{
	struct object *o = p;

	if (!o || o->kind != kind)
		fail("%p is no object of kind %#x", p, kind);
	return o;
}

static int object_new(void **ret, enum kind kind)
{
	struct object *o = calloc(1, sizeof(*o));

	if (!o)
		return 3; /* CUBLAS_STATUS_ALLOC_FAILED */
	o->kind = kind;
	o->split = 7;
	o->alignment = 256;
	*ret = o;
	return 0;
}

static int object_free(void *p, enum kind kind)
{
	object_of(p, kind)->kind = 0;
	free(p);
	return 0;
}

EXPORT int cublasLtCreate(void **handle)
{
	return object_new(handle, HANDLE);
}

EXPORT int cublasLtDestroy(void *handle)
{
	return object_free(handle, HANDLE);
}

EXPORT int cublasLtMatmulDescCreate(void **desc, int compute, int scale_type)
{
	if (compute != COMPUTE_32F || scale_type != F32)
		fail("compute type %d, scale type %d", compute, scale_type);
	return object_new(desc, DESC);
}

EXPORT int cublasLtMatmulDescDestroy(void *desc)
{
	return object_free(desc, DESC);
}

EXPORT int cublasLtMatmulDescSetAttribute(
	void *desc, int attribute, const void *value, size_t bytes)
{
	if (attribute != DESC_TRANSA || bytes != sizeof(int))
		fail("attribute %d of a product", attribute);
	memcpy(&object_of(desc, DESC)->transpose, value, bytes);
	return 0;
}

EXPORT int cublasLtMatrixLayoutCreate(
	void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
	int r = object_new(layout, LAYOUT);
	struct object *o = *layout;

	if (r != 0)
		return r;
	if ((type != BF16 && type != F32) || ld < (int64_t)rows)
		fail("a matrix of type %d with %ld between columns", type, (long)ld);
	o->type = type;
	o->rows = rows;
	o->cols = cols;
	o->ld = (uint64_t)ld;
	return 0;
}

EXPORT int cublasLtMatrixLayoutDestroy(void *layout)
{
	return object_free(layout, LAYOUT);
}

EXPORT int cublasLtMatmulPreferenceCreate(void **pref)
{
	return object_new(pref, PREFERENCE);
}

EXPORT int cublasLtMatmulPreferenceDestroy(void *pref)
{
	return object_free(pref, PREFERENCE);
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(
	void *pref, int attribute, const void *value, size_t bytes)
{
	struct object *o = object_of(pref, PREFERENCE);

	if (attribute == PREF_WORKSPACE && bytes == sizeof(o->workspace))
		memcpy(&o->workspace, value, bytes);
	else if (attribute == PREF_REDUCTION && bytes == sizeof(o->split))
		memcpy(&o->split, value, bytes);
	else if (attribute >= PREF_ALIGNMENT && attribute < PREF_ALIGNMENT + 4 &&
		 bytes == sizeof(o->alignment))
		memcpy(&o->alignment, value, bytes);
	else
		fail("attribute %d of a preference", attribute);
	return 0;
}

/* The shape of op(a) b = d, checked. */
static struct algo algo_of(void *desc, void *a, void *b, void *c, void *d)
{
	const struct object *la = object_of(a, LAYOUT), *lb = object_of(b, LAYOUT);
	const struct object *ld = object_of(d, LAYOUT);

	if (object_of(desc, DESC)->transpose != TRANSPOSE || c != d || la->type != BF16 ||
		lb->type != BF16 || la->rows != lb->rows || la->cols != ld->rows ||
		lb->cols != ld->cols || la->ld != la->rows || lb->ld != lb->rows)
		fail("a product that zeph does not make");
	return (struct algo){
		0x5eed, ld->rows, ld->cols, la->rows, ld->ld, 0, 0, (uint64_t)ld->type};
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *desc, void *a, void *b, void *c,
	void *d, void *pref, int n, struct heuristic *ret, int *ret_n)
{
	const struct object *p = object_of(pref, PREFERENCE);

	object_of(handle, HANDLE);
	if (n < 1)
		fail("%d algorithms wanted", n);
	*ret = (struct heuristic){.algo = algo_of(desc, a, b, c, d)};
	if (ret->algo.type == F32 && p->split != 0)
		fail("sums that are split, in a product that the engine uses");
	if (ret->algo.rows == 24) { /* so that the tests see that, too */
		*ret_n = 0;
		return 0;
	}
	ret->algo.workspace = ret->workspace = p->workspace;
	ret->algo.alignment = p->alignment;
	*ret_n = 1;
	return 0;
}

static float bf16(uint16_t h)
{
	const uint32_t u = (uint32_t)h << 16;
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static void run(void *arg)
{
	struct product *p = arg;

	for (uint64_t j = 0; j < p->n; j++)
		for (uint64_t i = 0; i < p->rows; i++) {
			const uint64_t at = j * p->ld + i;
			float sum = 0, *y = p->y;
			uint32_t u;

			for (uint64_t k = 0; k < p->cols; k++)
				sum += bf16(p->w[i * p->cols + k]) * bf16(p->x[j * p->cols + k]);
			sum *= p->alpha;
			if (p->type == F32) {
				y[at] = p->beta != 0 ? sum + p->beta * y[at] : sum;
				continue;
			}
			memcpy(&u, &sum, sizeof(u));
			((uint16_t *)p->y)[at] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
		}
	free(p);
}

EXPORT int cublasLtMatmul(void *handle, void *desc, const float *alpha, const void *a,
	void *a_layout, const void *b, void *b_layout, const float *beta, const void *c,
	void *c_layout, void *d, void *d_layout, const struct algo *algo, void *workspace,
	size_t workspace_bytes, void *stream)
{
	const struct shim_stream_calls *calls = *(const struct shim_stream_calls **)stream;
	const struct algo wanted = algo_of(desc, a_layout, b_layout, c_layout, d_layout);
	const size_t element = wanted.type == F32 ? 4 : 2;
	const size_t extent = ((wanted.n - 1) * wanted.ld + wanted.rows) * element;
	struct product *p;

	object_of(handle, HANDLE);
	if (algo->magic != wanted.magic || algo->rows != wanted.rows || algo->n != wanted.n ||
		algo->cols != wanted.cols || algo->ld != wanted.ld || algo->type != wanted.type)
		fail("an algorithm that was chosen for other matrices");
	if (c != d || workspace_bytes < algo->workspace ||
		!calls->on_device(workspace, workspace_bytes) ||
		!calls->on_device(a, wanted.rows * wanted.cols * 2) ||
		!calls->on_device(b, wanted.n * wanted.cols * 2) || !calls->on_device(d, extent))
		fail("an operand that is not on the card as a whole");
	if ((uintptr_t)a % algo->alignment || (uintptr_t)b % algo->alignment ||
		(uintptr_t)d % algo->alignment)
		fail("an operand that is not as aligned as was promised");
	p = malloc(sizeof(*p));
	if (!p)
		return 3;
	*p = (struct product){wanted.rows, wanted.n, wanted.cols, wanted.ld, a, b, d, *alpha, *beta,
		(int)wanted.type};
	calls->enqueue(stream, run, p);
	return 0;
}
