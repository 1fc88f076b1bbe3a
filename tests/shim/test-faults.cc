/* The shim catches what it is there for: each fault is planted in a small kernel, beside the same
 * kernel without it. A fault that ends the process is planted in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/module.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/shim/shim.h"

extern "C" {
#include <cmocka.h> /* last: it has a macro fail() */
}

#define THREADS 128
#define SEEDS   20

struct args {
	const float *x;
	float *y;
	int fault;
};

/* y[i] = x[THREADS - 1 - i], by way of shared memory; fault: no barrier */
__global__ void reverse(const struct args a)
{
	SHARED(float, shared, [THREADS]);

	shared[threadIdx.x] = a.x[threadIdx.x];
	if (!a.fault)
		__syncthreads();
	a.y[threadIdx.x] = shared[THREADS - 1 - threadIdx.x];
}

/* as above within a warp; fault: no __syncwarp */
__global__ void reverse_warp(const struct args a)
{
	SHARED(float, shared, [THREADS]);

	shared[threadIdx.x] = a.x[threadIdx.x];
	if (!a.fault)
		__syncwarp();
	a.y[threadIdx.x] = shared[threadIdx.x ^ 31];
}

/* fault: the last lane reads one element too far */
__global__ void shift(const struct args a)
{
	const uint32_t i = threadIdx.x + (a.fault ? 1 : 0);

	a.y[threadIdx.x] = a.x[i];
}

/* fault: the last lane writes one element past its shared array */
__global__ void overrun(const struct args a)
{
	SHARED(float, shared, [THREADS]);
	float *first = shared; /* a compiler knows the array's bounds, not the pointer's */

	first[threadIdx.x + (a.fault ? 1 : 0)] = 1;
	__syncthreads();
	a.y[threadIdx.x] = shared[threadIdx.x];
}

/* fault: vectors begin one element off */
__global__ void vectors(const struct args a)
{
	const float4 v = load_vector<float4>(a.x + 4 * (threadIdx.x % 16) + (a.fault ? 1 : 0));

	a.y[threadIdx.x] = v.x;
}

/* fault: half of the threads go past the barrier */
__global__ void half_barrier(const struct args a)
{
	if (!a.fault || threadIdx.x < THREADS / 2)
		__syncthreads();
	a.y[threadIdx.x] = 1;
}

/* fault: threads wait at two barriers, as many at each as the block has in all */
__global__ void two_barriers(const struct args a)
{
	if (a.fault && threadIdx.x % 2)
		__syncthreads();
	else
		__syncthreads();
	a.y[threadIdx.x] = 1;
}

/* fault: lanes of the mask stay away from the shuffle */
__global__ void absent(const struct args a)
{
	float v = a.x[threadIdx.x];

	if (!a.fault || threadIdx.x % 32 < 16)
		v = __shfl_xor_sync(ALL_LANES, v, 1);
	a.y[threadIdx.x] = v;
}

/* fault: a lane reads a lane outside the mask */
__global__ void outside(const struct args a)
{
	float v = a.x[threadIdx.x];

	if (threadIdx.x % 32 < 16)
		v = __shfl_sync(0xffffu, v, a.fault ? 20 : 2);
	a.y[threadIdx.x] = v;
}

/* fault: the copy is not waited for */
__global__ void copied(const struct args a)
{
	SHARED(float, shared, [THREADS]);

	copy_async<4>(&shared[threadIdx.x], &a.x[threadIdx.x]);
	copy_async_commit();
	if (!a.fault)
		copy_async_wait<0>();
	a.y[threadIdx.x] = shared[threadIdx.x];
	copy_async_wait<0>();
}

/* fault: the last lane copies from one element too far */
__global__ void copied_beyond(const struct args a)
{
	SHARED(float, shared, [THREADS]);

	copy_async<4>(&shared[threadIdx.x], &a.x[threadIdx.x + (a.fault ? 1 : 0)]);
	copy_async_commit();
	copy_async_wait<0>();
	a.y[threadIdx.x] = shared[threadIdx.x];
}

/* y [THREADS] of one block of the kernel on x[i] = i; NULL on an error of the launch. */
static float *run(const void *kernel, int fault, size_t shared_bytes, unsigned threads)
{
	static float host[THREADS];
	float *x, *y;
	cudaStream_t s;
	cudaLaunchConfig_t config = {};
	cudaError_t e;

	for (int i = 0; i < THREADS; i++)
		host[i] = (float)i;
	assert_int_equal(cudaStreamCreateWithFlags(&s, 0), cudaSuccess);
	assert_int_equal(cudaMalloc(&x, sizeof(host)), cudaSuccess);
	assert_int_equal(cudaMalloc(&y, sizeof(host)), cudaSuccess);
	cudaMemcpyAsync(x, host, sizeof(host), cudaMemcpyHostToDevice, s);
	const struct args a = {x, y, fault};
	void *args[] = {(void *)&a};
	config.gridDim = dim3(1);
	config.blockDim = dim3(threads);
	config.dynamicSmemBytes = shared_bytes;
	config.stream = s;
	e = cudaLaunchKernelExC(&config, kernel, args);
	if (e == cudaSuccess) {
		cudaMemcpyAsync(host, y, sizeof(host), cudaMemcpyDeviceToHost, s);
		cudaStreamSynchronize(s);
	}
	cudaFree(x);
	cudaFree(y);
	cudaStreamDestroy(s);
	return e == cudaSuccess ? host : NULL;
}

/* The child's last words, and that it did not end well. */
static void assert_dies(const void *kernel, const char *words)
{
	static char said[1 << 16];
	size_t n = 0;
	ssize_t got;
	int fds[2], status;
	pid_t child;

	assert_non_null(run(kernel, 0, 0, THREADS));
	assert_int_equal(pipe(fds), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(fds[1], 2);
		close(fds[0]);
		run(kernel, 1, 0, THREADS);
		_exit(0);
	}
	close(fds[1]);
	while (n < sizeof(said) - 1 && (got = read(fds[0], said + n, sizeof(said) - 1 - n)) > 0)
		n += (size_t)got;
	said[n] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		fail_msg("the fault went unseen, where \"%s\" was wanted", words);
	if (!strstr(said, words))
		fail_msg("it said: %s", said);
}

/* Wrong results with every seed, right ones with every seed where the fault is not. */
static void assert_spoils(const void *kernel, const float wanted[THREADS])
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		shim_seed(seed);
		assert_memory_equal(run(kernel, 0, 0, THREADS), wanted, THREADS * sizeof(float));
		shim_seed(seed);
		assert_memory_not_equal(
			run(kernel, 1, 0, THREADS), wanted, THREADS * sizeof(float));
	}
}

static void a_missing_barrier_spoils_the_result(void **)
{
	float wanted[THREADS];

	for (int i = 0; i < THREADS; i++)
		wanted[i] = (float)(THREADS - 1 - i);
	assert_spoils(KERNEL(reverse), wanted);
	for (int i = 0; i < THREADS; i++)
		wanted[i] = (float)(i ^ 31);
	assert_spoils(KERNEL(reverse_warp), wanted);
}

static void a_copy_that_is_not_waited_for_spoils_the_result(void **)
{
	float wanted[THREADS];

	for (int i = 0; i < THREADS; i++)
		wanted[i] = (float)i;
	assert_spoils(KERNEL(copied), wanted);
}

static void a_lane_out_of_bounds_is_caught(void **)
{
#ifdef __SANITIZE_ADDRESS__
	assert_dies(KERNEL(shift), "heap-buffer-overflow");
	assert_dies(KERNEL(overrun), "heap-buffer-overflow");
	assert_dies(KERNEL(copied_beyond), "heap-buffer-overflow");
#else
	fail_msg("built without AddressSanitizer");
#endif
}

static void a_misaligned_load_is_caught(void **)
{
	assert_dies(KERNEL(vectors), "shim: misaligned: a vector load");
}

static void a_divergent_barrier_is_caught(void **)
{
	assert_dies(KERNEL(half_barrier), "shim: divergent barrier");
	assert_dies(KERNEL(two_barriers), "shim: divergent barrier");
}

static void a_missing_lane_is_caught(void **)
{
	assert_dies(KERNEL(absent), "lane");
	assert_dies(KERNEL(outside), "which is not in the mask");
}

static void a_launch_beyond_the_card_is_refused(void **)
{
	shim_arch(61);
	assert_null(run(KERNEL(shift), 0, 0, 2048));
	assert_null(run(KERNEL(shift), 0, 49 * 1024, THREADS));
	assert_int_equal(cudaFuncSetAttribute(KERNEL(shift),
				 cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024),
		cudaErrorInvalidValue);
	shim_arch(90);
	assert_int_equal(cudaFuncSetAttribute(KERNEL(shift),
				 cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024),
		cudaSuccess);
	assert_non_null(run(KERNEL(shift), 0, 49 * 1024, THREADS));
}

/* What the host does to pinned memory before the stream has read it is seen with some seeds, and
 * not with others. */
static void streams_run_late(void **)
{
	int early = 0, late = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		float *pinned, *device;
		cudaStream_t s;

		shim_seed(seed);
		cudaStreamCreateWithFlags(&s, 0);
		cudaHostAlloc(&pinned, 2 * sizeof(float), cudaHostAllocDefault);
		cudaMalloc(&device, sizeof(float));
		pinned[0] = 1;
		cudaMemcpyAsync(device, pinned, sizeof(float), cudaMemcpyHostToDevice, s);
		pinned[0] = 2;
		cudaMemcpyAsync(pinned + 1, device, sizeof(float), cudaMemcpyDeviceToHost, s);
		cudaStreamSynchronize(s);
		early += pinned[1] == 1;
		late += pinned[1] == 2;
		cudaFree(device);
		cudaFreeHost(pinned);
		cudaStreamDestroy(s);
	}
	assert_true(early > 0 && late > 0);
	assert_int_equal(early + late, SEEDS);
}

/* This program is not told where the tests' cuBLASLt is. */
static void without_cublaslt_products_stay_exact(void **)
{
	const struct cuda_options o = {};
	struct backend *b = NULL;
	char error[256] = "";

	assert_int_equal(zeph_cuda_module.backend_new(&o, &b, error, sizeof(error)), 0);
	assert_false(b->device.inexact);
	assert_non_null(strstr(b->device.note, "exactly though engine.exact is false: "));
	assert_non_null(strstr(b->device.note, "cu"));
	b->ops->free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_missing_barrier_spoils_the_result),
		cmocka_unit_test(a_copy_that_is_not_waited_for_spoils_the_result),
		cmocka_unit_test(a_lane_out_of_bounds_is_caught),
		cmocka_unit_test(a_misaligned_load_is_caught),
		cmocka_unit_test(a_divergent_barrier_is_caught),
		cmocka_unit_test(a_missing_lane_is_caught),
		cmocka_unit_test(a_launch_beyond_the_card_is_refused),
		cmocka_unit_test(streams_run_late),
		cmocka_unit_test(without_cublaslt_products_stay_exact),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
