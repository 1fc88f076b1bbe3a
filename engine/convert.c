/* From a tensor's rows to the same rows in another type: what quantising at load time and
 * zeph-quantize share. Nothing is kept but one row of f32 for each thread. */
#include "engine/convert.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct conversion {
	const struct tensor *from;
	enum dtype to;
	const uint8_t *in;
	uint8_t *out;
	size_t in_bytes, out_bytes; /* of a row */
	float *rows;                /* [threads][cols] */
	float largest;              /* the largest magnitude that `to` takes */
	atomic_uint refused;        /* a row that does not fit, or UINT_MAX */
};

/* The magnitudes' bits order as the numbers do; infinities and what is no number come last. */
static float largest_magnitude(const float *x, size_t n)
{
	uint32_t top = 0;
	float f;

	for (size_t i = 0; i < n; i++) {
		uint32_t bits;

		memcpy(&bits, &x[i], sizeof(bits));
		bits &= 0x7fffffff;
		top = bits > top ? bits : top;
	}
	memcpy(&f, &top, sizeof(f));
	return f;
}

static void convert_rows(void *arg, struct pool_range range)
{
	struct conversion *c = arg;
	const uint32_t cols = c->from->cols;
	float *x = c->rows + (size_t)range.thread * cols;

	for (uint32_t i = range.begin; i < range.end; i++) {
		dequantize_row(c->from->dtype, c->in + i * c->in_bytes, x, cols);
		if (!(largest_magnitude(x, cols) <= c->largest)) {
			atomic_store(&c->refused, i);
			return;
		}
		quantize_row(c->to, x, NULL, c->out + i * c->out_bytes, cols);
	}
}

int convert_tensor(struct pool *pool, const struct tensor *from, enum dtype to, void *out,
	char *error, size_t error_size)
{
	struct conversion c = {.from = from, .to = to, .in = from->data, .out = out};
	size_t floats;
	bool fits;

	fits = dtype_row_bytes(from->dtype, from->cols, &c.in_bytes) &&
	       dtype_row_bytes(to, from->cols, &c.out_bytes);
	assert(fits && from->bytes == c.in_bytes * from->rows);
	/* Other types keep a scale in f16, and f16 itself ends there. */
	c.largest = to == DTYPE_F32 || to == DTYPE_BF16 ? 3.3e38f : 65504.0f;
	atomic_init(&c.refused, UINT32_MAX);
	if (__builtin_mul_overflow((size_t)pool_threads(pool), from->cols, &floats))
		return -ENOMEM;
	c.rows = calloc(floats, sizeof(*c.rows));
	if (!c.rows) {
		snprintf(error, error_size, "tensor %s: no memory to convert it", from->name);
		return -ENOMEM;
	}
	pool_run(pool, convert_rows, &c, from->rows, 4);
	free(c.rows);
	if (atomic_load(&c.refused) == UINT32_MAX)
		return 0;
	snprintf(error, error_size,
		"tensor %s: numbers up to %g expected, which %s can hold, found one in row %u that is "
		"larger or no number",
		from->name, (double)c.largest, dtype_info(to)->name, atomic_load(&c.refused));
	return -EINVAL;
}
