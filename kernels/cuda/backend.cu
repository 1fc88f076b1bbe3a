/* The CUDA backend: one card, its memory, its errors, and the table of operations.
 *
 * Errors stay values: what the runtime answers becomes a negative errno and a sentence. Memory that
 * is not there is -ENOMEM and leaves the card usable; any other answer marks it lost, and every
 * later call fails with -EIO. Weights, buffers and KV are the caller's to free; all else is freed
 * with the backend, and so is the card's context. */
#include "kernels/cuda/cuda.cuh"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/inexact.cuh"
#include "kernels/cuda/module.h"

int cuda_fail(struct cuda *c, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(c->base.error, sizeof(c->base.error), format, args);
	va_end(args);
	return error;
}

int cuda_check(struct cuda *c, cudaError_t e, const char *what)
{
	if (e == cudaSuccess)
		return 0;
	cudaGetLastError(); /* what does not stay is forgotten */
	if (e == cudaErrorMemoryAllocation) {
		size_t free_bytes = 0, total = 0;

		cudaMemGetInfo(&free_bytes, &total);
		return cuda_fail(c, -ENOMEM, "no memory on the card for %s: %zu bytes free", what,
			free_bytes);
	}
	c->dead = true;
	return cuda_fail(c, -EIO, "the card failed (%s): %s", what, cudaGetErrorString(e));
}

int cuda_enter(struct cuda *c)
{
	if (c->dead)
		return c->base.error[0] != '\0' ? -EIO
						: cuda_fail(c, -EIO, "the card has failed before");
	return cuda_check(c, cudaSetDevice(c->card), "choosing the card");
}

int cuda_alloc(struct cuda *c, size_t bytes, const char *what, uint8_t **ret)
{
	size_t free_bytes = 0, total = 0;
	cudaError_t e;
	int r = cuda_enter(c);

	if (r < 0)
		return r;
	e = cudaMalloc(ret, bytes > 0 ? bytes : 1);
	if (e != cudaErrorMemoryAllocation)
		return cuda_check(c, e, what);
	*ret = NULL;
	cudaGetLastError();
	cudaMemGetInfo(&free_bytes, &total);
	return cuda_fail(c, -ENOMEM, "no memory on the card for %s: %zu bytes wanted, %zu free",
		what, bytes, free_bytes);
}

void cuda_release(struct cuda *c, void *p)
{
	if (!p)
		return;
	cuda_flush(c);
	cudaFree(p); /* waits for what uses it */
}

int arena_grow(struct cuda *c, struct arena *a, size_t bytes, bool zeroed, const char *what)
{
	size_t size = a->bytes > 0 ? a->bytes : 4096;
	uint8_t *data;
	int r;

	if (bytes <= a->bytes)
		return 0;
	while (size < bytes && size <= SIZE_MAX / 4)
		size += size / 2;
	size = size < bytes ? bytes : (size + 255) / 256 * 256;
	r = cuda_flush(c); /* launches that were gathered know the old place */
	if (r == 0)
		r = cuda_alloc(c, size, what, &data);
	if (r == 0 && zeroed)
		r = cuda_check(c, cudaMemsetAsync(data, 0, size, c->stream), what);
	if (r < 0)
		return r;
	cuda_release(c, a->data);
	a->data = data;
	a->bytes = size;
	return 0;
}

void arena_free(struct cuda *c, struct arena *a)
{
	cuda_release(c, a->data);
	a->data = NULL;
	a->bytes = 0;
}

static int cuda_buffer_new(struct backend *b, size_t n_floats, float **ret)
{
	struct cuda *c = cuda_of(b);
	uint8_t *data;
	size_t bytes;
	int r;

	if (__builtin_mul_overflow(n_floats, sizeof(float), &bytes))
		return cuda_fail(c, -ENOMEM, "%zu floats are more than an address holds", n_floats);
	r = cuda_alloc(c, bytes, "activations", &data);
	if (r < 0)
		return r;
	r = cuda_check(c, cudaMemsetAsync(data, 0, bytes, c->stream), "clearing activations");
	if (r < 0) {
		cuda_release(c, data);
		return r;
	}
	*ret = (float *)data;
	return 0;
}

static void cuda_buffer_free(struct backend *b, float *buffer)
{
	cuda_release(cuda_of(b), buffer);
}

static int cuda_buffer_read(struct backend *b, const float *buffer, float *host, size_t n_floats)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	if (r == 0)
		r = cuda_check(c,
			cudaMemcpyAsync(host, buffer, n_floats * sizeof(float),
				cudaMemcpyDeviceToHost, c->stream),
			"reading a buffer");
	return r == 0 ? cuda_finish(c) : r;
}

static int cuda_buffer_write(struct backend *b, float *buffer, const float *host, size_t n_floats)
{
	struct cuda *c = cuda_of(b);
	int r = cuda_flush(c);

	if (r == 0)
		r = cuda_check(c,
			cudaMemcpyAsync(buffer, host, n_floats * sizeof(float),
				cudaMemcpyHostToDevice, c->stream),
			"writing a buffer");
	/* The host's memory may be pinned by somebody: then the copy is still under way. */
	return r == 0 ? cuda_finish(c) : r;
}

static size_t cuda_weight_bytes(const struct weight *w)
{
	return w->bytes;
}

static const void *cuda_weight_data(const struct weight *w)
{
	(void)w;
	return NULL;
}

static uint32_t cuda_weight_rows(const struct weight *w)
{
	return w->rows;
}

static int cuda_sync(struct backend *b)
{
	return cuda_finish(cuda_of(b));
}

/* Backends of this process: cudaDeviceReset() would take the card from all of them. The one
 * variable here that is no backend's own. */
static int n_backends;

static void cuda_free(struct backend *b)
{
	struct cuda *c = cuda_of(b);

	if (!c)
		return;
	c->n_launches = 0;
	cudaSetDevice(c->card);
	if (c->stream)
		cudaStreamSynchronize(c->stream);
	cuda_graphs_free(c);
	free(c->launches);
	cuda_upload_free(c);
	struct arena *arenas[] = {&c->batch_arena, &c->index_arena, &c->acts, &c->partials,
		&c->counters, &c->sampler, &c->panel, &c->rows_bf16, &c->lt_workspace};
	inexact_close(c);
	for (struct arena *a : arenas)
		cudaFree(a->data);
	if (c->pinned)
		cudaFreeHost(c->pinned);
	if (c->sampler_pinned)
		cudaFreeHost(c->sampler_pinned);
	cudaEventDestroy(c->paced);
	if (c->stream)
		cudaStreamDestroy(c->stream);
	if (__atomic_sub_fetch(&n_backends, 1, __ATOMIC_SEQ_CST) == 0)
		cudaDeviceReset(); /* other programs have the card's memory back */
	free(c);
}

static const struct backend_ops cuda_ops = {
	.name = "cuda",
	.free = cuda_free,
	.weight_put = cuda_weight_put,
	.weight_free = cuda_weight_free,
	.weight_bytes = cuda_weight_bytes,
	.weight_rows = cuda_weight_rows,
	.weight_data = cuda_weight_data,
	.buffer_new = cuda_buffer_new,
	.buffer_free = cuda_buffer_free,
	.buffer_read = cuda_buffer_read,
	.buffer_write = cuda_buffer_write,
	.kv_new = cuda_kv_new,
	.kv_free = cuda_kv_free,
	.kv_zero = cuda_kv_zero,
	.kv_read = cuda_kv_read,
	.kv_page_bytes = cuda_kv_page_bytes,
	.kv_save = cuda_kv_save,
	.kv_restore = cuda_kv_restore,
	.batch_begin = cuda_batch_begin,
	.embed = cuda_embed,
	.rmsnorm = cuda_rmsnorm,
	.matmul = cuda_matmul,
	.rope_kv = cuda_rope_kv,
	.attention = cuda_attention,
	.swiglu = cuda_swiglu,
	.add = cuda_add,
	.gather = cuda_gather,
	.sample = cuda_sample,
	.sync = cuda_sync,
	.qkv = cuda_qkv,
	.gate_up = cuda_gate_up,
	.matmul_add = cuda_matmul_add,
};

/* What module.cu exports */
int cuda_backend_new(
	const struct cuda_options *o, struct backend **ret, char *error, size_t error_size)
{
	struct cuda *c = (struct cuda *)calloc(1, sizeof(*c));
	cudaDeviceProp prop;
	int r, driver = 0;

	if (!c) {
		snprintf(error, error_size, "no memory for a backend");
		return -ENOMEM;
	}
	c->base.ops = &cuda_ops;
	c->card = (int)o->card;
	c->activations = o->activations;
	c->inexact_rows = o->inexact_rows > 0 ? o->inexact_rows : INEXACT_ROWS;
	r = cuda_check(c, cudaSetDevice(c->card), "choosing the card");
	if (r == 0)
		r = cuda_check(
			c, cudaGetDeviceProperties(&prop, c->card), "asking for its properties");
	if (r == 0)
		r = cuda_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking),
			"making a stream");
	if (r == 0)
		r = cuda_check(c, cudaEventCreateWithFlags(&c->paced, cudaEventDisableTiming),
			"making an event");
	if (r < 0) {
		snprintf(error, error_size, "card %u: %s", o->card, c->base.error);
		if (c->stream)
			cudaStreamDestroy(c->stream);
		free(c);
		return r;
	}
	__atomic_add_fetch(&n_backends, 1, __ATOMIC_SEQ_CST);
	c->arch = (uint32_t)(10 * prop.major + prop.minor);
	/* in graphs since CUDA 12.3 */
	c->overlap = c->arch >= 90 && cudaDriverGetVersion(&driver) == cudaSuccess &&
		     driver >= 12030;
	c->shared_max_bytes = prop.sharedMemPerBlockOptin;
	c->processors = (uint32_t)prop.multiProcessorCount;
	c->base.device.kind = "cuda";
	snprintf(c->base.device.name, sizeof(c->base.device.name), "%.95s", prop.name);
	snprintf(c->base.device.isa, sizeof(c->base.device.isa), "sm_%u", c->arch);
	c->base.device.threads = c->processors;
	c->base.device.memory_bytes = prop.totalGlobalMem;
	if (!o->exact)
		inexact_open(c); /* without it products are exact */
	*ret = &c->base;
	return 0;
}
