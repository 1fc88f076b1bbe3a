/* Attention over pages: which queries meet which blocks, on which thread.
 *
 * Rows of one sequence are cut into tiles; a tile's queries of one KV head (its rows times the
 * heads that share that KV head) meet one block of 128 positions after the other, each key and
 * value read once for all of them. Where tiles are too few or too unlike for the threads to share
 * (decode), the blocks of a tile are computed apart and merged afterwards, in the same ascending
 * order by the same arithmetic: the bits are the same either way. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define BLOCK_PAGES  (ATTENTION_BLOCK / KV_PAGE_TOKENS)
#define TILE_QUERIES 32                 /* aimed at */
#define TILE_SMALL   16                 /* where that leaves threads idle */
#define PARTIALS_MAX ((size_t)64 << 20) /* bytes of blocks computed apart */
#define SERIAL_MERGE 512                /* blocks x queries that the caller alone merges */

struct tile {
	uint32_t row, n_rows; /* of one sequence */
	uint32_t first, last; /* blocks that its rows see */
	uint32_t item;        /* its first item when blocks are computed apart */
};

struct attention_run {
	struct cpu *cpu;
	const struct batch *batch;
	const struct attention_shape *shape;
	const float *q;
	float *y;
	struct kv *kv;
	uint32_t layer;
	uint32_t group;   /* heads that share a KV head */
	uint32_t queries; /* most of a tile */
	uint32_t n_tiles;
	uint64_t work; /* blocks that rows see, of all rows */
	struct tile *tiles;
	float *partials; /* [items][queries][2 + padded_dim], NULL: not apart */
};

/* A thread's scratch. */
struct workspace {
	float *q, *p, *max, *sum, *out; /* one block's queries, scores, results */
	float *all_max, *all_sum, *all; /* merged */
	uint32_t *lo, *hi;
};

static size_t workspace_bytes(const struct attention_run *r)
{
	const size_t per = r->shape->head_dim + 128 + 2 * (size_t)r->kv->padded_dim + 6;

	return (r->queries * per + 16 * 10) * sizeof(float);
}

static struct workspace workspace_at(const struct attention_run *r, uint32_t thread)
{
	const size_t n = r->queries, dim = r->kv->padded_dim;
	float *at = cpu_scratch_of(r->cpu, thread);
	struct workspace w;

	w.p = at;
	w.out = w.p + n * 128;
	w.all = w.out + n * dim;
	w.q = w.all + n * dim;
	w.max = w.q + n * r->shape->head_dim;
	w.sum = w.max + n;
	w.all_max = w.sum + n;
	w.all_sum = w.all_max + n;
	w.lo = (uint32_t *)(void *)(w.all_sum + n);
	w.hi = w.lo + n;
	return w;
}

/* Query i of a tile is row i / group, head i % group of the KV head's. */
static const float *query(
	const struct attention_run *r, const struct tile *t, uint32_t of, uint32_t i)
{
	const size_t row = t->row + i / r->group, head = of * r->group + i % r->group;

	return r->q + (row * r->shape->n_heads + head) * r->shape->head_dim;
}

/* Into tiles of columns, [head_dim][width] each. */
static void queries_load(
	const struct attention_run *r, const struct tile *t, uint32_t of, uint32_t n, float *to)
{
	const uint32_t dim = r->shape->head_dim, tile = r->cpu->isa.tile;

	for (uint32_t i = 0; i < n; i++) {
		const uint32_t first = i - i % tile, width = n - first < tile ? n - first : tile;
		const float *x = query(r, t, of, i);
		float *at = to + (size_t)first * dim + i % tile;

		for (uint32_t d = 0; d < dim; d++)
			at[(size_t)d * width] = x[d];
	}
}

/* The first position that a row at `position` sees. */
static uint32_t window_start(const struct attention_shape *s, uint32_t position)
{
	return s->window > 0 && position + 1 > s->window ? position + 1 - s->window : 0;
}

/* The keys of a block's pages: NULL where no row of the tile sees one. A row's window begins one
 * position after that of the row before it, so that between the first one's begin and the last
 * one's position all is seen. */
static void pages_find(const struct attention_run *r, const struct tile *t, uint32_t of,
	uint32_t block, const uint8_t *ret_keys[BLOCK_PAGES])
{
	const struct batch *batch = r->batch;
	const uint32_t begin = window_start(r->shape, batch->positions[t->row]);
	const uint32_t last = batch->positions[t->row + t->n_rows - 1];
	const uint32_t *pages = batch->page_table +
				(size_t)batch->slots[t->row] * batch->page_table_stride;

	for (uint32_t i = 0; i < BLOCK_PAGES; i++) {
		const uint32_t page = block * BLOCK_PAGES + i;

		ret_keys[i] = NULL;
		if (page < begin / KV_PAGE_TOKENS || page > last / KV_PAGE_TOKENS)
			continue;
		assert(pages[page] < r->kv->shape.n_pages);
		ret_keys[i] = kv_head(r->kv, r->layer, pages[page], of);
	}
}

/* What is attended to after that block, fetched meanwhile; at the end, what is there already. */
static void pages_ahead(const struct attention_run *r, const struct tile *t, uint32_t of,
	uint32_t block, struct cpu_attend *a)
{
	bool more = true;

	if (block < t->last) {
		block++;
	} else if (of + 1 < r->shape->n_kv_heads) {
		of++;
		block = t->first;
	} else if (t + 1 < r->tiles + r->n_tiles) {
		t++;
		of = 0;
		block = t->first;
	} else {
		more = false;
	}
	if (more)
		pages_find(r, t, of, block, a->next);
	for (uint32_t i = 0; i < BLOCK_PAGES; i++)
		if (!a->next[i])
			a->next[i] = a->k[i];
}

static void attend_block(const struct attention_run *r, const struct tile *t, uint32_t of,
	uint32_t block, const struct workspace *w)
{
	const struct batch *batch = r->batch;
	const uint32_t base = block * ATTENTION_BLOCK, n = t->n_rows * r->group;
	struct cpu_attend a = {.dtype = r->kv->shape.dtype,
		.head_dim = r->shape->head_dim,
		.padded_dim = r->kv->padded_dim,
		.n = n,
		.q = w->q,
		.scale = r->shape->scale,
		.lo = w->lo,
		.hi = w->hi,
		.p = w->p,
		.max = w->max,
		.sum = w->sum,
		.out = w->out};

	for (uint32_t i = 0; i < n; i++) {
		const uint32_t position = batch->positions[t->row + i / r->group];
		const uint32_t start = window_start(r->shape, position);

		w->lo[i] = start > base ? start - base : 0;
		w->hi[i] = position < base                      ? 0
			   : position - base >= ATTENTION_BLOCK ? ATTENTION_BLOCK
								: position - base + 1;
		if (w->lo[i] >= w->hi[i])
			w->lo[i] = w->hi[i] = 0;
	}
	pages_find(r, t, of, block, a.k);
	for (uint32_t i = 0; i < BLOCK_PAGES; i++)
		a.v[i] = a.k[i] ? a.k[i] + kv_values_offset(r->kv) : NULL;
	pages_ahead(r, t, of, block, &a);
	r->cpu->isa.attend(&a);
}

/* The merged results of queries begin … end - 1, divided by their sums, to y. */
static void results_store(const struct attention_run *r, const struct tile *t, uint32_t of,
	uint32_t begin, uint32_t end, const struct workspace *w)
{
	const uint32_t dim = r->shape->head_dim;

	for (uint32_t i = begin; i < end; i++) {
		const size_t row = t->row + i / r->group, head = of * r->group + i % r->group;
		const float *all = w->all + (size_t)i * r->kv->padded_dim;
		float *y = r->y + (row * r->shape->n_heads + head) * dim;
		const float scale = 1.0f / w->all_sum[i];

		for (uint32_t d = 0; d < dim; d++)
			y[d] = all[d] * scale;
	}
}

/* Query i of the tile: one more block. */
static void merge_query(const struct attention_run *r, uint32_t i, const struct workspace *w,
	const float *max, const float *sum, const float *out)
{
	const size_t dim = r->kv->padded_dim;

	r->cpu->isa.merge(&w->all_max[i], &w->all_sum[i], w->all + i * dim, max[i], sum[i],
		out + i * dim, (uint32_t)dim);
}

/* Item: (tile, KV head), all blocks. */
static void attend_tiles(void *arg, struct pool_range range)
{
	const struct attention_run *r = arg;
	const uint32_t heads = r->shape->n_kv_heads;
	const struct workspace w = workspace_at(r, range.thread);

	for (uint32_t item = range.begin; item < range.end; item++) {
		const struct tile *t = &r->tiles[item / heads];
		const uint32_t head = item % heads, n = t->n_rows * r->group;

		queries_load(r, t, head, n, w.q);
		memset(w.all_sum, 0, n * sizeof(float));
		for (uint32_t block = t->first; block <= t->last; block++) {
			attend_block(r, t, head, block, &w);
			for (uint32_t i = 0; i < n; i++)
				merge_query(r, i, &w, w.max, w.sum, w.out);
		}
		results_store(r, t, head, 0, n, &w);
	}
}

static float *partial_at(const struct attention_run *r, uint32_t item)
{
	return r->partials + (size_t)item * r->queries * (2 + r->kv->padded_dim);
}

/* Item: (tile, KV head, block). */
static void attend_apart(void *arg, struct pool_range range)
{
	const struct attention_run *r = arg;
	struct workspace w = workspace_at(r, range.thread);
	uint32_t at = 0;

	for (uint32_t item = range.begin; item < range.end; item++) {
		while (at + 1 < r->n_tiles && r->tiles[at + 1].item <= item)
			at++;
		const struct tile *t = &r->tiles[at];
		const uint32_t blocks = t->last - t->first + 1;
		const uint32_t head = (item - t->item) / blocks, block = (item - t->item) % blocks;

		w.max = partial_at(r, item);
		w.sum = w.max + r->queries;
		w.out = w.sum + r->queries;
		if (block == 0 || item == range.begin)
			queries_load(r, t, head, t->n_rows * r->group, w.q);
		attend_block(r, t, head, t->first + block, &w);
	}
}

/* Item: (row, KV head): its blocks' results, ascending. */
static void merge_apart(void *arg, struct pool_range range)
{
	const struct attention_run *r = arg;
	const uint32_t heads = r->shape->n_kv_heads;
	const struct workspace w = workspace_at(r, range.thread);
	uint32_t at = 0;

	for (uint32_t item = range.begin; item < range.end; item++) {
		const uint32_t row = item / heads, head = item % heads;

		while (at + 1 < r->n_tiles && r->tiles[at + 1].row <= row)
			at++;
		const struct tile *t = &r->tiles[at];
		const uint32_t begin = (row - t->row) * r->group, end = begin + r->group;
		const uint32_t blocks = t->last - t->first + 1;

		memset(w.all_sum + begin, 0, r->group * sizeof(float));
		for (uint32_t block = 0; block < blocks; block++) {
			const float *max = partial_at(r, t->item + head * blocks + block);

			for (uint32_t i = begin; i < end; i++)
				merge_query(r, i, &w, max, max + r->queries,
					max + 2 * (size_t)r->queries);
		}
		results_store(r, t, head, begin, end, &w);
	}
}

static uint32_t tile_rows(const struct attention_run *r, uint32_t queries)
{
	return r->group >= queries ? 1 : queries / r->group;
}

/* Cuts the batch into tiles of at most so many queries, of one sequence each; *ret_shared tells
 * whether the threads can share them evenly. Returns the number of items when computed apart. */
static uint32_t tiles_cut(struct attention_run *r, uint32_t queries, bool *ret_shared)
{
	const struct batch *batch = r->batch;
	const uint32_t n_rows = tile_rows(r, queries);
	uint64_t most = 0;
	uint32_t item = 0;

	r->n_tiles = 0;
	r->work = 0;
	for (uint32_t row = 0; row < batch->n_rows; r->n_tiles++) {
		struct tile *t = &r->tiles[r->n_tiles];
		uint32_t end = row + 1;
		uint64_t work;

		while (end < batch->n_rows && end - row < n_rows &&
			batch->slots[end] == batch->slots[row])
			end++;
		t->row = row;
		t->n_rows = end - row;
		t->first = window_start(r->shape, batch->positions[row]) / ATTENTION_BLOCK;
		t->last = batch->positions[end - 1] / ATTENTION_BLOCK;
		t->item = item;
		item += (t->last - t->first + 1) * r->shape->n_kv_heads;
		work = (uint64_t)t->n_rows * (t->last - t->first + 1);
		most = work > most ? work : most;
		r->work += work;
		row = end;
	}
	/* A thread's share is at least three of the largest. */
	*ret_shared = r->cpu->threads == 1 ||
		      r->work * r->shape->n_kv_heads >= 3 * most * r->cpu->threads;
	return item;
}

int cpu_attention(struct backend *b, const struct batch *batch, const struct attention_shape *shape,
	const float *q, struct kv *kv, uint32_t layer, float *y)
{
	struct attention_run run = {.cpu = cpu_of(b),
		.batch = batch,
		.shape = shape,
		.q = q,
		.y = y,
		.kv = kv,
		.layer = layer,
		.group = shape->n_heads / shape->n_kv_heads};
	const size_t tiles_bytes = ((size_t)batch->n_rows * sizeof(struct tile) + 63) / 64 * 64;
	size_t partials_bytes;
	uint32_t items;
	bool shared;
	int r;

	if (batch->n_rows == 0)
		return 0;
	run.queries = tile_rows(&run, TILE_QUERIES) * run.group;
	r = cpu_scratch(run.cpu, workspace_bytes(&run));
	if (r < 0)
		return r;
	r = cpu_arena(run.cpu, tiles_bytes);
	if (r < 0)
		return r;
	run.tiles = (struct tile *)(void *)run.cpu->arena;
	items = tiles_cut(&run, TILE_QUERIES, &shared);
	if (!shared)
		items = tiles_cut(&run, TILE_SMALL, &shared);
	if (!shared)
		items = tiles_cut(&run, TILE_QUERIES, &shared);
	partials_bytes = (size_t)items * run.queries * (2 + kv->padded_dim) * sizeof(float);
	if (shared || items == run.n_tiles * shape->n_kv_heads || partials_bytes > PARTIALS_MAX) {
		pool_run(run.cpu->pool, attend_tiles, &run, run.n_tiles * shape->n_kv_heads, 1);
		return 0;
	}
	r = cpu_arena(run.cpu, tiles_bytes + partials_bytes);
	if (r < 0)
		return r;
	run.tiles = (struct tile *)(void *)run.cpu->arena; /* the arena may have moved */
	tiles_cut(&run, TILE_QUERIES, &shared);
	run.partials = (float *)(void *)(run.cpu->arena + tiles_bytes);
	pool_run(run.cpu->pool, attend_apart, &run, items, 4);
	if (run.work * shape->n_heads <= SERIAL_MERGE)
		merge_apart(&run, (struct pool_range){0, batch->n_rows * shape->n_kv_heads, 0});
	else
		pool_run(run.cpu->pool, merge_apart, &run, batch->n_rows * shape->n_kv_heads, 1);
	return 0;
}
