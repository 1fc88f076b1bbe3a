/* Tensors taken over into the layouts of layout.h, packed by all threads: whoever packs a group
 * touches its memory first. */
#include "kernels/cpu/cpu.h"

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

int cpu_weight_put(struct backend *b, const struct tensor *t, struct weight **ret)
{
	struct cpu *cpu = cpu_of(b);
	struct pack_run run = {.data = t->data};
	struct weight *w;
	size_t whole;

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
	if (!dtype_row_bytes(t->dtype, t->cols, &run.row_bytes) ||
		__builtin_mul_overflow(run.row_bytes, (size_t)t->rows, &whole) ||
		whole != t->bytes || !layout_size(w)) {
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
