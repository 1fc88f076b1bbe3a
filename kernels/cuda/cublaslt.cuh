/* The little of cuBLASLt that zeph calls, declared here: the library is opened with dlopen where it
 * is and its headers (a 400 MB package) are not needed to build. Names, numbers and layouts are
 * those of cublasLt.h, the same in CUDA 12 and 13. */
#pragma once

#include <cuda_runtime.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUBLAS_COMPUTE_32F_FLAG      68 /* CUBLAS_COMPUTE_32F */
#define CUBLAS_TRANSPOSE             1  /* CUBLAS_OP_T */
#define CUDA_TYPE_BF16               14 /* CUDA_R_16BF */
#define CUDA_TYPE_F32                0  /* CUDA_R_32F */
#define CUBLASLT_DESC_TRANSA         3
#define CUBLASLT_PREF_WORKSPACE      1 /* bytes, u64 */
#define CUBLASLT_PREF_REDUCTION_MASK 3 /* u32; 0: no split of the sum */
#define CUBLASLT_PREF_ALIGNMENT_A                                                                  \
	5 /* bytes that a pointer is a multiple of, u32; B, C, D: 6 … 8                          \
	   */
#define CUBLASLT_WORKSPACE_BYTES ((size_t)32 << 20) /* what its own frameworks give it */
#define CUBLASLT_ALIGNMENT       16                 /* of every operand that zeph hands over */

struct cublaslt_algo {
	uint64_t data[8];
};

struct cublaslt_heuristic {
	struct cublaslt_algo algo;
	size_t workspace_bytes;
	int status;
	float waves;
	int reserved[4];
};

/* All return 0 on success. Matrices are column-major. */
struct cublaslt {
	void *handle; /* cublasLtHandle_t */
	int (*create)(void **handle);
	int (*destroy)(void *handle);
	int (*desc_new)(void **desc, int compute, int scale_type);
	int (*desc_free)(void *desc);
	int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
	int (*layout_new)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
	int (*layout_free)(void *layout);
	int (*pref_new)(void **pref);
	int (*pref_free)(void *pref);
	int (*pref_set)(void *pref, int attribute, const void *value, size_t bytes);
	int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref,
		int n, struct cublaslt_heuristic *ret, int *ret_n);
	int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
		const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
		void *d, void *d_layout, const struct cublaslt_algo *algo, void *workspace,
		size_t workspace_bytes, cudaStream_t stream);
};

/* One product, ready to run as often as one likes: y [n, rows] = x [n, cols] @ W [rows, cols]^T, W
 * and x bf16, sums in f32. */
struct cublaslt_product {
	void *desc, *a, *b, *d, *pref;
	struct cublaslt_heuristic chosen;
};

/* stride: of a row of y, in elements; type: of y, CUDA_TYPE_BF16 or CUDA_TYPE_F32; split: sums may
 * be cut in parts that are added in whatever order. The status, 0 on success; what was made is
 * freed by the caller either way. */
int cublaslt_prepare(const struct cublaslt *l, uint32_t n, uint32_t rows, uint32_t cols,
	uint32_t stride, int type, bool split, struct cublaslt_product *ret);
void cublaslt_product_free(const struct cublaslt *l, struct cublaslt_product *p);

/* y = W x, or y += W x. workspace: CUBLASLT_WORKSPACE_BYTES on the card. The status. */
int cublaslt_run(const struct cublaslt *l, const struct cublaslt_product *p, const void *w,
	const void *x, void *y, bool add, void *workspace, cudaStream_t stream);

/* Finds and opens the library of this toolkit's major version: in the loader's path, the toolkit's
 * folder, Python's site-packages. -ENOTSUP with a sentence where there is none. The card must be
 * current. */
int cublaslt_open(struct cublaslt *ret, char *error, size_t error_size);
void cublaslt_close(struct cublaslt *l); /* the library itself stays loaded */
