/* Where cuBLASLt is on this machine. Nothing of zeph needs it; whoever asks hears where it was
 * looked for. */
#include "kernels/cuda/cublaslt.cuh"

#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef CUDART_VERSION
#define CUDART_VERSION 13000 /* the shim */
#endif
#define MAJOR (CUDART_VERSION / 1000)

/* The first file that matches. */
static void *open_pattern(const char *pattern)
{
	void *library = NULL;
	glob_t found;

	if (glob(pattern, GLOB_TILDE, NULL, &found) == 0)
		for (size_t i = 0; !library && i < found.gl_pathc; i++)
			library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	globfree(&found);
	return library;
}

static void *open_library(void)
{
	static const char *const patterns[] = {
		"/usr/local/cuda/lib64/libcublasLt.so.%d",
		"/usr/local/cuda-%d*/lib64/libcublasLt.so.%d",
		"~/.local/lib/python3*/site-packages/nvidia/cu%d/lib/libcublasLt.so.%d",
		"/usr/local/lib/python3*/*-packages/nvidia/cu%d/lib/libcublasLt.so.%d",
		"/usr/lib/python3*/*-packages/nvidia/cu%d/lib/libcublasLt.so.%d",
		"/usr/local/lib/python3*/*-packages/nvidia/cublas/lib/libcublasLt.so.%d",
		"/opt/*/lib/python3*/site-packages/nvidia/cu%d/lib/libcublasLt.so.%d",
	};
	const char *environment = getenv("VIRTUAL_ENV");
	char path[512];
	void *library;

	snprintf(path, sizeof(path), "libcublasLt.so.%d", MAJOR);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!library && environment) {
		snprintf(path, sizeof(path),
			"%.300s/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.%d",
			environment, MAJOR);
		library = open_pattern(path);
	}
	for (size_t i = 0; !library && i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		snprintf(path, sizeof(path), patterns[i], MAJOR, MAJOR);
		library = open_pattern(path);
	}
	return library;
}

int cublaslt_open(struct cublaslt *ret, char *error, size_t error_size)
{
	struct cublaslt l = {};
	const struct {
		void *slot;
		const char *name;
	} wanted[] = {
		{&l.create, "cublasLtCreate"},
		{&l.destroy, "cublasLtDestroy"},
		{&l.desc_new, "cublasLtMatmulDescCreate"},
		{&l.desc_free, "cublasLtMatmulDescDestroy"},
		{&l.desc_set, "cublasLtMatmulDescSetAttribute"},
		{&l.layout_new, "cublasLtMatrixLayoutCreate"},
		{&l.layout_free, "cublasLtMatrixLayoutDestroy"},
		{&l.pref_new, "cublasLtMatmulPreferenceCreate"},
		{&l.pref_free, "cublasLtMatmulPreferenceDestroy"},
		{&l.pref_set, "cublasLtMatmulPreferenceSetAttribute"},
		{&l.heuristic, "cublasLtMatmulAlgoGetHeuristic"},
		{&l.matmul, "cublasLtMatmul"},
	};
	void *library = open_library(), *symbol;
	int status;

	if (!library) {
		snprintf(error, error_size,
			"libcublasLt.so.%d is neither in the loader's path nor in a CUDA toolkit nor "
			"in Python's packages",
			MAJOR);
		return -ENOTSUP;
	}
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		symbol = dlsym(library, wanted[i].name);
		if (!symbol) {
			snprintf(error, error_size, "libcublasLt.so.%d has no %s", MAJOR,
				wanted[i].name);
			return -ENOTSUP;
		}
		memcpy(wanted[i].slot, &symbol, sizeof(symbol));
	}
	status = l.create(&l.handle);
	if (status != 0) {
		snprintf(error, error_size, "cuBLASLt does not start: status %d", status);
		return -ENOTSUP;
	}
	*ret = l;
	return 0;
}

void cublaslt_close(struct cublaslt *l)
{
	if (l->handle)
		l->destroy(l->handle);
	l->handle = NULL;
}

/* Row-major W [rows, cols], x [n, cols], y [n, rows] are column-major cols x rows, cols x n and
 * rows x n: y = W^T x. */
int cublaslt_prepare(const struct cublaslt *l, uint32_t n, uint32_t rows, uint32_t cols,
	uint32_t stride, int type, bool split, struct cublaslt_product *ret)
{
	const int32_t transpose = CUBLAS_TRANSPOSE;
	const uint64_t workspace = CUBLASLT_WORKSPACE_BYTES;
	const uint32_t none = 0, alignment = CUBLASLT_ALIGNMENT;
	struct cublaslt_product *p = ret;
	int found = 0, status;

	status = l->desc_new(&p->desc, CUBLAS_COMPUTE_32F_FLAG, CUDA_TYPE_F32);
	if (status == 0)
		status = l->desc_set(p->desc, CUBLASLT_DESC_TRANSA, &transpose, sizeof(transpose));
	if (status == 0)
		status = l->layout_new(&p->a, CUDA_TYPE_BF16, cols, rows, cols);
	if (status == 0)
		status = l->layout_new(&p->b, CUDA_TYPE_BF16, cols, n, cols);
	if (status == 0)
		status = l->layout_new(&p->d, type, rows, n, stride);
	if (status == 0)
		status = l->pref_new(&p->pref);
	if (status == 0)
		status = l->pref_set(
			p->pref, CUBLASLT_PREF_WORKSPACE, &workspace, sizeof(workspace));
	if (status == 0 && !split)
		status = l->pref_set(p->pref, CUBLASLT_PREF_REDUCTION_MASK, &none, sizeof(none));
	for (int i = 0; i < 4 && status == 0; i++)
		status = l->pref_set(
			p->pref, CUBLASLT_PREF_ALIGNMENT_A + i, &alignment, sizeof(alignment));
	if (status == 0)
		status = l->heuristic(
			l->handle, p->desc, p->a, p->b, p->d, p->d, p->pref, 1, &p->chosen, &found);
	return status != 0 ? status : found > 0 ? p->chosen.status : -1;
}

void cublaslt_product_free(const struct cublaslt *l, struct cublaslt_product *p)
{
	void *const layouts[] = {p->a, p->b, p->d};

	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		if (layouts[i])
			l->layout_free(layouts[i]);
	if (p->pref)
		l->pref_free(p->pref);
	if (p->desc)
		l->desc_free(p->desc);
	*p = {};
}

int cublaslt_run(const struct cublaslt *l, const struct cublaslt_product *p, const void *w,
	const void *x, void *y, bool add, void *workspace, cudaStream_t stream)
{
	const float one = 1, beta = add ? 1 : 0;

	return l->matmul(l->handle, p->desc, &one, w, p->a, x, p->b, &beta, y, p->d, y, p->d,
		&p->chosen.algo, workspace, CUBLASLT_WORKSPACE_BYTES, stream);
}
