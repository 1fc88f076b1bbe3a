/* What the card can do at best: reading its memory, and the vendor's matrix product. Each probe
 * takes its own memory and stream and gives them back; a backend beside it only shares the time. */
#include "kernels/cuda/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/ptx.cuh"

#ifdef ZEPH_SHIM /* fibers on a processor */
#define READ_BYTES   ((size_t)1 << 20)
#define READ_REPEATS 2
#else
#define READ_BYTES   ((size_t)1 << 30) /* far more than any cache */
#define READ_REPEATS 24
#endif
#define READ_THREADS   256
#define READ_LOADS     4    /* of 16 bytes, in flight in each thread */
#define MATMUL_SECONDS 0.05 /* of timed products, at least 8 */

struct probe_args {
	const uint4 *data;
	size_t n;      /* a multiple of the block's share */
	uint32_t *sum; /* written; of the fill the result [n] */
};

/* Each block reads its shares of the buffer; the sum is written where it can never be what it is
 * compared with, so that the loads stay. */
__global__ void probe_read_kernel(const struct probe_args p)
{
	const size_t share = (size_t)READ_THREADS * READ_LOADS;
	uint32_t sum = 0;

	for (size_t at = blockIdx.x * share; at < p.n; at += gridDim.x * share) {
		uint4 v[READ_LOADS];

		for (int i = 0; i < READ_LOADS; i++)
			v[i] = load_vector<uint4>(
				p.data + at + (size_t)i * READ_THREADS + threadIdx.x);
		for (int i = 0; i < READ_LOADS; i++)
			sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
	}
	if (sum == 0x5eed5eedu)
		*p.sum = sum;
}

/* bf16 numbers of either sign between 0.5 and 1: zeros would let a card run faster than it does. */
__global__ void probe_fill_kernel(const struct probe_args p)
{
	const size_t i = (size_t)blockIdx.x * READ_THREADS + threadIdx.x;
	uint32_t h = (uint32_t)i * 0x9e3779b9u;

	h = (h ^ h >> 15) * 0x85ebca6bu;
	if (i < p.n)
		p.sum[i] = ((h ^ h >> 13) & 0x807f807fu) | 0x3f003f00u;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int failed(cudaError_t e, const char *what, char *error, size_t error_size)
{
	cudaGetLastError();
	snprintf(error, error_size, "the probe (%s): %s", what, cudaGetErrorString(e));
	return e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO;
}

/* Everything that a probe takes. */
struct probe_memory {
	void *blocks[4];
	uint32_t n;
	cudaStream_t stream;
};

static cudaError_t take(struct probe_memory *m, size_t bytes)
{
	cudaError_t e = cudaMalloc(&m->blocks[m->n], bytes);

	if (e == cudaSuccess)
		e = cudaMemsetAsync(m->blocks[m->n++], 0, bytes, m->stream);
	return e;
}

static void give_back(struct probe_memory *m)
{
	if (m->stream)
		cudaStreamSynchronize(m->stream);
	while (m->n > 0)
		cudaFree(m->blocks[--m->n]);
	if (m->stream)
		cudaStreamDestroy(m->stream);
}

static cudaError_t begin(struct probe_memory *m, uint32_t card)
{
	cudaError_t e = cudaSetDevice((int)card);

	if (e == cudaSuccess)
		e = cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking);
	return e;
}

static cudaError_t launch(
	const struct probe_memory *m, const void *kernel, uint32_t blocks, struct probe_args *p)
{
	void *args[] = {p};
	cudaLaunchConfig_t config = {};

	config.gridDim = dim3(blocks);
	config.blockDim = dim3(READ_THREADS);
	config.stream = m->stream;
	return cudaLaunchKernelExC(&config, kernel, args);
}

static cudaError_t read_once(const struct probe_memory *m, size_t bytes, uint32_t blocks)
{
	struct probe_args p = {
		(const uint4 *)m->blocks[0], bytes / sizeof(uint4), (uint32_t *)m->blocks[1]};

	return launch(m, KERNEL(probe_read_kernel), blocks, &p);
}

/* n bf16 operands, an even number. */
static cudaError_t take_operand(struct probe_memory *m, size_t n)
{
	cudaError_t e = take(m, n * 2);
	struct probe_args p = {NULL, n / 2, NULL};

	if (e != cudaSuccess)
		return e;
	p.sum = (uint32_t *)m->blocks[m->n - 1];
	return launch(m, KERNEL(probe_fill_kernel),
		(uint32_t)((p.n + READ_THREADS - 1) / READ_THREADS), &p);
}

int cuda_probe_read(uint32_t card, double *ret_gbps, char *error, size_t error_size)
{
	const size_t share = (size_t)READ_THREADS * READ_LOADS * sizeof(uint4);
	size_t bytes = READ_BYTES, free_bytes = 0, total = 0;
	struct probe_memory m = {};
	cudaDeviceProp properties;
	double best = 0, since;
	cudaError_t e;
	int i;

	e = begin(&m, card);
	if (e == cudaSuccess)
		e = cudaGetDeviceProperties(&properties, (int)card);
	if (e == cudaSuccess)
		e = cudaMemGetInfo(&free_bytes, &total);
	if (bytes > free_bytes / 2)
		bytes = free_bytes / 2 / share * share;
	if (e == cudaSuccess)
		e = take(&m, bytes);
	if (e == cudaSuccess)
		e = take(&m, sizeof(uint32_t));
	for (i = 0; e == cudaSuccess && i <= READ_REPEATS; i++) {
		e = cudaStreamSynchronize(m.stream);
		since = now();
		if (e == cudaSuccess)
			e = read_once(&m, bytes, 8 * (uint32_t)properties.multiProcessorCount);
		if (e == cudaSuccess)
			e = cudaStreamSynchronize(m.stream);
		if (i > 0 && (double)bytes / (now() - since) > best) /* the first warms up */
			best = (double)bytes / (now() - since);
	}
	give_back(&m);
	if (e != cudaSuccess)
		return failed(e, "reading memory", error, error_size);
	*ret_gbps = best * 1e-9;
	return 0;
}

/* Times products one after another, after a round that warms up. */
static int time_products(const struct cublaslt *l, const struct cublaslt_product *p,
	const struct probe_memory *m, double *ret_seconds)
{
	int repeats = 2, status = 0;
	double seconds = 0, since;

	while (status == 0 && (seconds < MATMUL_SECONDS || repeats < 8) && repeats < 100000) {
		repeats *= 4;
		since = now();
		for (int i = 0; i < repeats && status == 0; i++)
			status = cublaslt_run(l, p, m->blocks[0], m->blocks[1], m->blocks[2], false,
				m->blocks[3], m->stream);
		if (status == 0 && cudaStreamSynchronize(m->stream) != cudaSuccess)
			status = -1;
		seconds = now() - since;
	}
	*ret_seconds = seconds / repeats;
	return status;
}

int cuda_probe_matmul(uint32_t card, uint32_t n, uint32_t rows, uint32_t cols, double *ret_seconds,
	char *error, size_t error_size)
{
	struct probe_memory m = {};
	struct cublaslt l = {};
	struct cublaslt_product p = {};
	cudaError_t e = begin(&m, card);
	double seconds = 0;
	int r = 0, status;

	if (e == cudaSuccess) {
		r = cublaslt_open(&l, error, error_size);
		if (r < 0)
			goto done;
		e = take_operand(&m, (size_t)rows * cols);
	}
	if (e == cudaSuccess)
		e = take_operand(&m, (size_t)n * cols);
	if (e == cudaSuccess)
		e = take(&m, (size_t)n * rows * 2);
	if (e == cudaSuccess)
		e = take(&m, CUBLASLT_WORKSPACE_BYTES);
	if (e != cudaSuccess) {
		r = failed(e, "a matrix product", error, error_size);
		goto done;
	}
	status = cublaslt_prepare(&l, n, rows, cols, rows, CUDA_TYPE_BF16, true, &p);
	if (status == 0)
		status = time_products(&l, &p, &m, &seconds);
	cublaslt_product_free(&l, &p);
	if (status != 0) {
		snprintf(error, error_size, "cuBLASLt: status %d for a product of %u x %u x %u",
			status, n, rows, cols);
		r = -EIO;
	} else {
		*ret_seconds = seconds;
	}

done:
	cublaslt_close(&l);
	give_back(&m);
	return r;
}
