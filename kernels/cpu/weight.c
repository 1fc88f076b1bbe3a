/* Tensors taken over into the layouts of layout.h, packed by all threads: whoever packs a group
 * touches its memory first. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct pack_run {
	struct weight *w;
	const uint8_t *data;
	size_t row_bytes;
};

static void pack_groups(void *arg, struct pool_range range)
{
	const struct pack_run *run = arg;

	for (uint32_t g = range.begin; g < range.end; g++)
		layout_pack(run->w, run->data, run->row_bytes, g);
}

static int refuse(struct cpu *cpu, const struct tensor *t, const char *what)
{
	snprintf(cpu->base.error, sizeof(cpu->base.error), "tensor %s (%s %u x %u): %s",
		t->name ? t->name : "?", dtype_info(t->dtype) ? dtype_info(t->dtype)->name : "?",
		t->rows, t->cols, what);
	return -EINVAL;
}

/* The weight without its data; row_bytes are a row's in the file. */
static int weight_new(
	struct cpu *cpu, const struct tensor *t, size_t *ret_row_bytes, struct weight **ret)
{
	struct weight *w;

	if (t->rows == 0 || t->cols == 0)
		return refuse(cpu, t, "a tensor needs rows and columns");
	w = calloc(1, sizeof(*w));
	if (!w)
		return cpu_no_memory(cpu, "a tensor", sizeof(*w));
	w->dtype = t->dtype;
	w->rows = t->rows;
	w->cols = t->cols;
	if (!layout_of(t->dtype, t->rows, cpu->isa.byte_zero, &w->layout)) {
		free(w);
		refuse(cpu, t, "no kernel for this type");
		return -ENOTSUP;
	}
	if (!dtype_row_bytes(t->dtype, t->cols, ret_row_bytes) || !layout_size(w)) {
		free(w);
		return refuse(cpu, t, "its bytes do not fit its shape");
	}
	*ret = w;
	return 0;
}

int cpu_weight_put(struct backend *b, const struct tensor *t, struct weight **ret)
{
	struct cpu *cpu = cpu_of(b);
	struct pack_run run = {.data = t->data};
	struct weight *w = NULL;
	size_t whole;
	int r;

	r = weight_new(cpu, t, &run.row_bytes, &w);
	if (r < 0)
		return r;
	if (__builtin_mul_overflow(run.row_bytes, (size_t)t->rows, &whole) || whole != t->bytes) {
		free(w);
		return refuse(cpu, t, "its bytes do not fit its shape");
	}
	w->data = cpu_slab_take(cpu, w->bytes, &w->slab);
	if (!w->data) {
		cpu_no_memory(cpu, t->name ? t->name : "a tensor", w->bytes);
		free(w);
		return -ENOMEM;
	}
	run.w = w;
	pool_run(cpu->pool, pack_groups, &run, w->groups, w->groups > 64 ? 16 : 4);
	*ret = w;
	return 0;
}

/* The number is raised when layout.h changes, or what layout_pack() writes (test-cpu-weight knows
 * it). */
const char *cpu_weight_layout(const struct backend *b)
{
	return ((const struct cpu *)b)->isa.byte_zero ? "cpu 1, bytes from 128" : "cpu 1";
}

int cpu_weight_adopt(struct backend *b, const struct tensor *t, struct weight **ret)
{
	struct weight *w = NULL;
	size_t row_bytes;
	int r;

	assert((uintptr_t)t->data % 64 == 0);
	r = weight_new(cpu_of(b), t, &row_bytes, &w);
	if (r < 0)
		return r;
	if (w->bytes != t->bytes) {
		free(w);
		return refuse(cpu_of(b), t, "its packed bytes do not fit its shape");
	}
	w->data = (uint8_t *)t->data; /* no kernel writes to a weight */
	*ret = w;
	return 0;
}

void cpu_weight_free(struct backend *b, struct weight *w)
{
	(void)b;
	if (!w)
		return;
	cpu_slab_unref(w->slab);
	free(w);
}

size_t cpu_weight_bytes(const struct weight *w)
{
	return w->bytes;
}

const void *cpu_weight_data(const struct weight *w)
{
	return w->data;
}

uint32_t cpu_weight_rows(const struct weight *w)
{
	return w->rows;
}
