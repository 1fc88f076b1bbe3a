/* A CUDA module without CUDA: its cards are the CPU backend with a limited memory and with faults.
 *
 * FAKE_CARDS="NAME:SM:TOTAL:FREE,…" in bytes, e.g. "Small:90:8000000:6000000". ZEPH_FAULT is a list
 * of KIND:N: alloc:N fails the N-th allocation of the process, put:N the N-th tensor of the process
 * (both for want of memory), sticky:N loses each backend at its N-th matrix product, hang:N stops
 * there for ever; once:1 lets only the first backend fail so; refuse:1 runs no tensor type.
 * FAKE_LEDGER names a file that gets a line for each backend that comes ("new CARD") and goes
 * ("free CARD USED PEAK", in bytes). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/module.h"

#define CARDS_MAX    8
#define BACKENDS_MAX 8
#define BLOCKS_MAX   4096

#ifndef FAKE_ARCHS
#define FAKE_ARCHS "sm_75 sm_80 sm_90"
#endif
#ifndef FAKE_ABI
#define FAKE_ABI CUDA_MODULE_ABI
#endif

/* One living backend: the CPU's, under a table of our own. */
struct fake {
	struct backend *backend; /* NULL: this entry is free */
	const struct backend_ops *inner;
	struct backend_ops ops;
	uint32_t card;
	uint64_t used, peak, limit;
	long products;
	bool lost, may_fail;
	struct {
		const void *at;
		uint64_t bytes;
	} blocks[BLOCKS_MAX];
};

static struct fake fakes[BACKENDS_MAX];
static long n_allocs, n_puts, n_backends;

static long fault(const char *kind)
{
	const char *text = getenv("ZEPH_FAULT"), *at = text ? strstr(text, kind) : NULL;

	return at ? atol(at + strlen(kind)) : 0;
}

static void ledger(const char *word, const struct fake *f)
{
	const char *path = getenv("FAKE_LEDGER");
	FILE *file = path ? fopen(path, "a") : NULL;

	if (!file)
		return;
	fprintf(file, "%s %u %llu %llu\n", word, f->card, (unsigned long long)f->used,
		(unsigned long long)f->peak);
	fclose(file);
}

static struct fake *of(const struct backend *b)
{
	for (int i = 0; i < BACKENDS_MAX; i++)
		if (fakes[i].backend == b)
			return &fakes[i];
	abort();
}

/* Before an allocation: is it to fail? */
static int take(struct backend *b, uint64_t bytes)
{
	struct fake *f = of(b);

	if (++n_allocs == fault("alloc:") || f->used + bytes > f->limit) {
		snprintf(b->error, sizeof(b->error), "out of memory: %llu bytes wanted, %llu free",
			(unsigned long long)bytes, (unsigned long long)(f->limit - f->used));
		return -ENOMEM;
	}
	return 0;
}

static void keep(struct backend *b, const void *at, uint64_t bytes)
{
	struct fake *f = of(b);

	for (int i = 0; i < BLOCKS_MAX; i++)
		if (!f->blocks[i].at) {
			f->blocks[i].at = at;
			f->blocks[i].bytes = bytes;
			f->used += bytes;
			f->peak = f->used > f->peak ? f->used : f->peak;
			return;
		}
	abort();
}

static void let_go(struct backend *b, const void *at)
{
	struct fake *f = of(b);

	for (int i = 0; at && i < BLOCKS_MAX; i++)
		if (f->blocks[i].at == at) {
			f->used -= f->blocks[i].bytes;
			f->blocks[i].at = NULL;
			return;
		}
}

static int fake_weight_put(struct backend *b, const struct tensor *t, struct weight **ret)
{
	int r = take(b, t->bytes);

	if (r == 0 && ++n_puts == fault("put:")) {
		snprintf(b->error, sizeof(b->error), "out of memory: %zu bytes wanted", t->bytes);
		r = -ENOMEM;
	}
	if (r == 0 && fault("refuse:"))
		r = -ENOTSUP;
	if (r == 0)
		r = of(b)->inner->weight_put(b, t, ret);
	if (r == 0)
		keep(b, *ret, t->bytes);
	return r;
}

static void fake_weight_free(struct backend *b, struct weight *w)
{
	let_go(b, w);
	of(b)->inner->weight_free(b, w);
}

static int fake_buffer_new(struct backend *b, size_t n_floats, float **ret)
{
	int r = take(b, n_floats * sizeof(float));

	if (r == 0)
		r = of(b)->inner->buffer_new(b, n_floats, ret);
	if (r == 0)
		keep(b, *ret, n_floats * sizeof(float));
	return r;
}

static void fake_buffer_free(struct backend *b, float *buffer)
{
	let_go(b, buffer);
	of(b)->inner->buffer_free(b, buffer);
}

static int fake_kv_new(struct backend *b, const struct kv_shape *s, struct kv **ret)
{
	uint64_t bytes = 2ull * s->n_layers * s->n_pages * s->n_kv_heads * s->head_dim *
			 KV_PAGE_TOKENS * (s->dtype == DTYPE_F32 ? 4 : 2);
	int r = take(b, bytes);

	if (r == 0)
		r = of(b)->inner->kv_new(b, s, ret);
	if (r == 0)
		keep(b, *ret, bytes);
	return r;
}

static void fake_kv_free(struct backend *b, struct kv *kv)
{
	let_go(b, kv);
	of(b)->inner->kv_free(b, kv);
}

/* What a lost card answers. */
static int lost(struct backend *b)
{
	struct fake *f = of(b);

	f->products++;
	if (f->may_fail && f->products == fault("hang:"))
		for (;;)
			pause();
	if (f->may_fail && f->products == fault("sticky:"))
		f->lost = true;
	if (!f->lost)
		return 0;
	snprintf(b->error, sizeof(b->error), "an illegal memory access was encountered");
	return -EIO;
}

static int fake_attention(struct backend *b, const struct batch *batch,
	const struct attention_shape *shape, const float *q, struct kv *kv, uint32_t layer,
	float *y)
{
	int r = lost(b);

	return r < 0 ? r : of(b)->inner->attention(b, batch, shape, q, kv, layer, y);
}

static int fake_sync(struct backend *b)
{
	return of(b)->lost ? lost(b) : of(b)->inner->sync(b);
}

static void fake_free(struct backend *b)
{
	struct fake *f;

	if (!b)
		return;
	f = of(b);
	ledger("free", f);
	b->ops = f->inner;
	f->inner->free(b);
	memset(f, 0, sizeof(*f));
}

static int fake_cards(
	struct cuda_card *ret, uint32_t max, uint32_t *ret_n, char *error, size_t error_size)
{
	const char *text = getenv("FAKE_CARDS");
	uint32_t n = 0;

	if (text && strcmp(text, "error") == 0) {
		snprintf(error, error_size, "the driver and its kernel module differ in version");
		return -EIO;
	}
	while (text && *text && n < max) {
		unsigned long long total, free_bytes;
		unsigned sm;
		int used = 0;

		memset(&ret[n], 0, sizeof(ret[n]));
		if (sscanf(text, "%95[^:]:%u:%llu:%llu%n", ret[n].name, &sm, &total, &free_bytes,
			    &used) != 4)
			abort();
		ret[n].major = sm / 10;
		ret[n].minor = sm % 10;
		ret[n].memory_bytes = total;
		ret[n].free_bytes = free_bytes;
		for (int i = 0; i < BACKENDS_MAX; i++)
			if (fakes[i].backend && fakes[i].card == n)
				ret[n].free_bytes -= fakes[i].used;
		n++;
		text += used;
		text += *text == ',';
	}
	*ret_n = n;
	return 0;
}

static int fake_backend_new(
	const struct cuda_options *o, struct backend **ret, char *error, size_t error_size)
{
	struct cuda_card cards[CARDS_MAX];
	struct fake *f = fakes;
	uint32_t n = 0;
	int r;

	r = fake_cards(cards, CARDS_MAX, &n, error, error_size);
	if (r < 0)
		return r;
	if (o->card >= n)
		abort();
	while (f->backend)
		f++;
	r = backend_new_cpu(2, o->activations, ret);
	if (r < 0)
		return r;
	f->backend = *ret;
	f->inner = (*ret)->ops;
	f->ops = *f->inner;
	f->ops.name = "cuda";
	f->ops.free = fake_free;
	f->ops.weight_put = fake_weight_put;
	f->ops.weight_free = fake_weight_free;
	f->ops.buffer_new = fake_buffer_new;
	f->ops.buffer_free = fake_buffer_free;
	f->ops.kv_new = fake_kv_new;
	f->ops.kv_free = fake_kv_free;
	f->ops.attention = fake_attention;
	f->ops.sync = fake_sync;
	f->card = o->card;
	f->limit = cards[o->card].free_bytes;
	f->may_fail = n_backends++ == 0 || !fault("once:");
	(*ret)->ops = &f->ops;
	(*ret)->device.kind = "cuda";
	memcpy((*ret)->device.name, cards[o->card].name, sizeof((*ret)->device.name));
	snprintf((*ret)->device.isa, sizeof((*ret)->device.isa), "sm_%u%u", cards[o->card].major,
		cards[o->card].minor);
	(*ret)->device.memory_bytes = cards[o->card].memory_bytes;
	(*ret)->device.inexact = !o->exact && !fault("nocublaslt:");
	if (!o->exact && fault("nocublaslt:"))
		snprintf((*ret)->device.note, sizeof((*ret)->device.note), "no cuBLASLt here");
	ledger("new", f);
	return 0;
}

static int fake_probe_read(uint32_t card, double *ret_gbps, char *error, size_t error_size)
{
	(void)card, (void)error, (void)error_size;
	*ret_gbps = 1;
	return 0;
}

static int fake_probe_matmul(uint32_t card, uint32_t n, uint32_t rows, uint32_t cols,
	double *ret_seconds, char *error, size_t error_size)
{
	(void)card, (void)error, (void)error_size;
	*ret_seconds = 2e-12 * n * rows * cols;
	return 0;
}

const struct cuda_module zeph_cuda_module = {
	.abi = FAKE_ABI,
	.toolkit = 13000,
	.arch_names = FAKE_ARCHS,
	.cards = fake_cards,
	.backend_new = fake_backend_new,
	.probe_read = fake_probe_read,
	.probe_matmul = fake_probe_matmul,
};
