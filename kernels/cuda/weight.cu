/* Weights on the card: a tensor's bytes go up in slices, through two pinned buffers in turn, and
 * are packed there (pack.cu) while the next slice is copied. F32 tensors stay as they are: norms,
 * biases, rotation tables, and the matrices of small models.
 *
 * The upload's buffers are freed when the first batch is announced. */
#include "kernels/cuda/cuda.cuh"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/packed.cuh"

#define UPLOAD_BYTES ((size_t)64 << 20) /* of a slot, at most */

void cuda_upload_free(struct cuda *c)
{
	for (uint32_t i = 0; i < UPLOAD_SLOTS; i++) {
		struct upload_slot *s = &c->upload[i];

		if (s->done)
			cudaEventDestroy(s->done);
		if (s->pinned)
			cudaFreeHost(s->pinned);
		if (s->device)
			cudaFree(s->device);
		memset(s, 0, sizeof(*s));
	}
	c->upload_bytes = 0;
}

static int upload_grow(struct cuda *c, size_t bytes)
{
	size_t size = (size_t)1 << 16;
	int r = 0;

	if (bytes <= c->upload_bytes)
		return 0;
	while (size < bytes)
		size *= 2;
	cuda_upload_free(c);
	for (uint32_t i = 0; i < UPLOAD_SLOTS && r == 0; i++) {
		struct upload_slot *s = &c->upload[i];

		r = cuda_alloc(c, size, "a tensor's upload", &s->device);
		if (r == 0)
			r = cuda_check(c, cudaHostAlloc(&s->pinned, size, cudaHostAllocDefault),
				"pinned memory for uploads");
		if (r == 0)
			r = cuda_check(c,
				cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming),
				"making an event");
	}
	if (r < 0) {
		cuda_upload_free(c);
		return r;
	}
	c->upload_bytes = size;
	return 0;
}

/* The next slot with `bytes` of host memory on their way to it. */
static int upload(struct cuda *c, const void *host, size_t bytes, struct upload_slot **ret)
{
	struct upload_slot *s = &c->upload[c->upload_next++ % UPLOAD_SLOTS];
	int r = cuda_check(c, cudaEventSynchronize(s->done), "waiting for an upload");

	if (r < 0)
		return r;
	memcpy(s->pinned, host, bytes);
	*ret = s;
	return cuda_check(c,
		cudaMemcpyAsync(s->device, s->pinned, bytes, cudaMemcpyHostToDevice, c->stream),
		"uploading a tensor");
}

static int put_rows(struct cuda *c, struct weight *w, const struct tensor *t, size_t row_bytes)
{
	const uint8_t *data = (const uint8_t *)t->data;
	/* whole tiles at a time, and a multiple of 16 bytes of F32 */
	size_t tile_bytes = row_bytes * TILE_ROWS, rows_once;
	int r;

	rows_once = (UPLOAD_BYTES / tile_bytes > 0 ? UPLOAD_BYTES / tile_bytes : 1) * TILE_ROWS;
	rows_once = rows_once < t->rows ? rows_once : t->rows;
	r = upload_grow(c, rows_once * row_bytes);
	for (size_t row = 0; row < t->rows && r == 0; row += rows_once) {
		const size_t n = t->rows - row < rows_once ? t->rows - row : rows_once;
		struct upload_slot *s = NULL;

		r = upload(c, data + row * row_bytes, n * row_bytes, &s);
		if (r < 0)
			break;
		if (w->dtype == DTYPE_F32)
			r = cuda_check(c,
				cudaMemcpyAsync(w->quants + row * row_bytes, s->device,
					n * row_bytes, cudaMemcpyDeviceToDevice, c->stream),
				"placing a tensor");
		else
			r = cuda_pack(c, w, s->device, row_bytes, (uint32_t)row, (uint32_t)n);
		if (r == 0)
			r = cuda_check(c, cudaEventRecord(s->done, c->stream), "an event");
	}
	return r;
}

static bool sizes_of(enum dtype dtype, struct packed_sizes *ret)
{
	switch (dtype) {
#define SIZES(d)                                                                                   \
	case d: *ret = packed<d>::SIZES; return true;
		PACKED_TYPES(SIZES)
#undef SIZES
	default: return false;
	}
}

/* Where the planes begin, each at a multiple of 256 bytes. Their sizes are bounded by a small
 * multiple of the tensor's own, which lie in memory. */
static int planes_new(struct cuda *c, struct weight *w, const struct tensor *t)
{
	struct packed_sizes sizes;
	size_t quants, scales, supers, chunks;
	int r;

	if (w->dtype == DTYPE_F32) {
		w->bytes = t->bytes;
		return cuda_alloc(c, w->bytes, t->name, &w->quants);
	}
	if (!sizes_of(w->dtype, &sizes))
		return cuda_fail(c, -ENOTSUP, "tensor %s: no kernel for type %s", t->name,
			dtype_info(w->dtype)->name);
	w->tiles = parts_of(w->rows, TILE_ROWS);
	w->chunks = parts_of(w->cols, CHUNK_COLS);
	chunks = (size_t)w->tiles * w->chunks;
	quants = chunks * WARP_LANES * (size_t)sizes.quants;
	scales = (chunks * 8 * (size_t)sizes.scales + 255) / 256 * 256;
	supers = (size_t)w->tiles * parts_of(w->chunks, SUPER_CHUNKS) * 8 * (size_t)sizes.supers;
	w->bytes = quants + scales + supers;
	r = cuda_alloc(c, w->bytes, t->name, &w->quants);
	w->scales = w->quants + quants;
	w->supers = w->scales + scales;
	return r;
}

int cuda_weight_put(struct backend *b, const struct tensor *t, struct weight **ret)
{
	struct cuda *c = cuda_of(b);
	const struct dtype_info *info = dtype_info(t->dtype);
	size_t row_bytes, bytes;
	struct weight *w;
	int r;

	if (!info)
		return cuda_fail(
			c, -ENOTSUP, "tensor %s: type %d is not known", t->name, (int)t->dtype);
	if (!dtype_row_bytes(t->dtype, t->cols, &row_bytes) ||
		__builtin_mul_overflow(row_bytes, (size_t)t->rows, &bytes) || bytes != t->bytes)
		return cuda_fail(c, -EINVAL,
			"tensor %s: %zu bytes do not hold %u rows of %u elements of type %s",
			t->name, t->bytes, t->rows, t->cols, info->name);
	r = cuda_flush(c);
	if (r < 0)
		return r;
	w = (struct weight *)calloc(1, sizeof(*w));
	if (!w)
		return cuda_fail(c, -ENOMEM, "tensor %s: no memory", t->name);
	w->rows = t->rows;
	w->cols = t->cols;
	w->dtype = t->dtype;
	c->gathering = false;
	r = planes_new(c, w, t);
	if (r == 0)
		r = put_rows(c, w, t, row_bytes);
	if (r < 0) {
		cuda_weight_free(b, w);
		return r;
	}
	*ret = w;
	return 0;
}

void cuda_weight_free(struct backend *b, struct weight *w)
{
	if (!w)
		return;
	cuda_release(cuda_of(b), w->quants);
	free(w);
}
