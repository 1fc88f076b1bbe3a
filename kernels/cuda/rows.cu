/* The operations on rows that are no product: RMSNorm, SwiGLU, sum, gather. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

#include <assert.h>

#define THREADS 256

struct rmsnorm {
	const float *x, *w;
	float *y;
	uint32_t dim;
	float eps;
};

/* A block normalises one row. */
__global__ void rmsnorm_kernel(const struct rmsnorm p)
{
	SHARED(float, scratch, [ROW_WARPS]);
	const float *x = p.x + (size_t)blockIdx.x * p.dim;
	float *y = p.y + (size_t)blockIdx.x * p.dim;

	grid_wait();
	grid_release();

	const float scale = row_scale(x, p.dim, p.eps, scratch);
	for (uint32_t i = threadIdx.x; i < p.dim; i += ROW_THREADS)
		y[i] = normalised(x[i], scale, p.w[i]);
}

int cuda_rmsnorm(
	struct backend *b, uint32_t n, const float *x, const struct weight *w, float eps, float *y)
{
	const struct rmsnorm p = {x, (const float *)w->quants, y, w->cols, eps};

	assert(w->rows == 1 && w->dtype == DTYPE_F32);
	return n == 0 ? 0
		      : cuda_launch(cuda_of(b), KERNEL(rmsnorm_kernel), dim3(n), ROW_THREADS, 0, p);
}

struct elements {
	const float *a, *b;
	float *y;
	size_t n;
};

__global__ void swiglu_kernel(const struct elements p)
{
	const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;

	grid_wait();
	grid_release();
	if (i < p.n)
		p.y[i] = swiglu(p.a[i], p.b[i]);
}

__global__ void add_kernel(const struct elements p)
{
	const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;

	grid_wait();
	grid_release();
	if (i < p.n)
		p.y[i] += p.a[i];
}

static int elements_run(struct backend *b, const void *kernel, const struct elements &p)
{
	if (p.n == 0)
		return 0;
	return cuda_launch(
		cuda_of(b), kernel, dim3((uint32_t)((p.n + THREADS - 1) / THREADS)), THREADS, 0, p);
}

int cuda_swiglu(
	struct backend *b, uint32_t n, uint32_t dim, const float *gate, const float *up, float *y)
{
	return elements_run(b, KERNEL(swiglu_kernel), {gate, up, y, (size_t)n * dim});
}

int cuda_add(struct backend *b, uint32_t n, uint32_t dim, const float *x, float *y)
{
	return elements_run(b, KERNEL(add_kernel), {x, NULL, y, (size_t)n * dim});
}

struct gather {
	const uint32_t *index;
	const float *x;
	float *y;
	uint32_t dim, none;
};

__global__ void gather_kernel(const struct gather p)
{
	const uint32_t i = blockIdx.x * THREADS + threadIdx.x;

	grid_wait();
	grid_release();
	if (i < p.dim)
		p.y[(size_t)blockIdx.y * p.dim + i] = p.x[(size_t)p.index[blockIdx.y] * p.dim + i];
}

int cuda_gather(struct backend *b, uint32_t n, uint32_t dim, const uint32_t *index, const float *x,
	float *y)
{
	struct cuda *c = cuda_of(b);
	struct gather p = {NULL, x, y, dim, 0};
	int r;

	if (n == 0)
		return 0;
	r = cuda_index(c, n, index, &p.index);
	if (r < 0)
		return r;
	return cuda_launch(
		c, KERNEL(gather_kernel), dim3(parts_of(dim, THREADS), n), THREADS, 0, p);
}
