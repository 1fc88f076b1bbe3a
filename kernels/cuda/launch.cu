/* Launches, graphs, and the batch on the card.
 *
 * While a small batch is announced (decoding), launches are gathered and not launched; what reads
 * results flushes them. A list of launches that comes a second time, byte for byte, becomes a CUDA
 * graph, and from then on a step costs the host one launch. That works because nothing in a
 * launch's arguments depends on tokens or positions: those lie on the card at addresses that do not
 * change, and are written by one copy at batch_begin. Larger batches (prompts) launch at once, a
 * layer ahead of the card at most: the product that ends a layer is launched, then the one before
 * it waited for. */
#include "kernels/cuda/cuda.cuh"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PINNED_BYTES ((size_t)1 << 20)

static int launch_now(struct cuda *c, const struct launch *l)
{
	cudaLaunchAttribute overlap = {};
	cudaLaunchConfig_t config = {};
	void *args[] = {(void *)l->args};
	int r;

	/* More than 48 KB, the kernel's own arrays included, are to be asked for. */
	if (l->shared_bytes > 40 * 1024) {
		r = cuda_check(c,
			cudaFuncSetAttribute(l->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
				(int)l->shared_bytes),
			"shared memory for a kernel");
		if (r < 0)
			return r;
	}
	overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	overlap.val.programmaticStreamSerializationAllowed = 1;
	config.gridDim = l->grid;
	config.blockDim = dim3(l->threads);
	config.dynamicSmemBytes = l->shared_bytes;
	config.stream = c->stream;
	config.attrs = &overlap;
	config.numAttrs = c->overlap ? 1 : 0;
	return cuda_check(c, cudaLaunchKernelExC(&config, l->kernel, args), "launching a kernel");
}

int cuda_launch_bytes(struct cuda *c, const void *kernel, dim3 grid, uint32_t threads,
	size_t shared_bytes, const void *args, size_t args_bytes)
{
	struct launch *l, one;
	int r = cuda_enter(c);

	if (r < 0)
		return r;
	if (c->gathering && c->n_launches == c->launches_size) {
		const uint32_t size = c->launches_size > 0 ? 2 * c->launches_size : 64;
		struct launch *more = (struct launch *)realloc(
			c->launches, size * sizeof(*c->launches));

		if (!more)
			return cuda_fail(c, -ENOMEM, "no memory for a list of %u launches", size);
		c->launches = more;
		c->launches_size = size;
	}
	l = c->gathering ? &c->launches[c->n_launches++] : &one;
	memset((void *)l, 0, sizeof(*l));
	l->kernel = kernel;
	l->grid = grid;
	l->threads = threads;
	l->shared_bytes = (uint32_t)shared_bytes;
	l->args_bytes = (uint32_t)args_bytes;
	memcpy(l->args, args, args_bytes);
	return c->gathering ? 0 : launch_now(c, l);
}

/* FNV-1a over words */
static uint64_t hash_of(const struct launch *launches, uint32_t n)
{
	const size_t words = n * sizeof(*launches) / sizeof(uint64_t);
	uint64_t hash = 0xcbf29ce484222325u, word;

	static_assert(sizeof(struct launch) % sizeof(uint64_t) == 0, "hashed by words");
	for (size_t i = 0; i < words; i++) {
		memcpy(&word, (const uint8_t *)launches + i * sizeof(word), sizeof(word));
		hash = (hash ^ word) * 0x100000001b3u;
	}
	return hash;
}

static void graph_free(struct graph *g)
{
	if (g->exec)
		cudaGraphExecDestroy(g->exec);
	free(g->launches);
	memset(g, 0, sizeof(*g));
}

void cuda_graphs_free(struct cuda *c)
{
	for (uint32_t i = 0; i < GRAPHS; i++)
		graph_free(&c->graphs[i]);
}

/* The entry of the gathered list, found or made in the place that was not used for longest; NULL
 * without memory: then there is no graph. */
static struct graph *graph_find(struct cuda *c, bool *ret_new)
{
	const uint64_t hash = hash_of(c->launches, c->n_launches);
	const size_t bytes = c->n_launches * sizeof(*c->launches);
	struct graph *oldest = &c->graphs[0];

	*ret_new = false;
	for (uint32_t i = 0; i < GRAPHS; i++) {
		struct graph *g = &c->graphs[i];

		if (g->used > 0 && g->hash == hash && g->n_launches == c->n_launches &&
			memcmp((const void *)g->launches, (const void *)c->launches, bytes) == 0)
			return g;
		oldest = g->used < oldest->used ? g : oldest;
	}
	graph_free(oldest);
	oldest->launches = (struct launch *)malloc(bytes);
	if (!oldest->launches)
		return NULL;
	memcpy((void *)oldest->launches, (const void *)c->launches, bytes);
	oldest->n_launches = c->n_launches;
	oldest->hash = hash;
	*ret_new = true;
	return oldest;
}

static int launch_all(struct cuda *c)
{
	for (uint32_t i = 0; i < c->n_launches; i++) {
		int r = launch_now(c, &c->launches[i]);

		if (r < 0)
			return r;
	}
	return 0;
}

static int graph_capture(struct cuda *c, struct graph *g)
{
	cudaGraph_t graph = NULL;
	int r, ended;

	r = cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
		"starting a capture");
	if (r < 0)
		return r;
	r = launch_all(c);
	ended = cuda_check(c, cudaStreamEndCapture(c->stream, &graph), "ending a capture");
	r = r < 0 ? r : ended;
	if (r == 0)
		r = cuda_check(
			c, cudaGraphInstantiateWithFlags(&g->exec, graph, 0), "making a graph");
	if (graph)
		cudaGraphDestroy(graph);
	return r;
}

int cuda_flush(struct cuda *c)
{
	struct graph *g;
	bool fresh;
	int r = cuda_enter(c);

	c->gathered_index = false;
	if (r < 0 || c->n_launches == 0) {
		c->n_launches = 0;
		return r;
	}
	g = graph_find(c, &fresh);
	if (!g || fresh) {
		r = launch_all(c);
	} else {
		if (!g->exec)
			r = graph_capture(c, g);
		if (r == 0)
			r = cuda_check(c, cudaGraphLaunch(g->exec, c->stream), "launching a graph");
	}
	if (g)
		g->used = ++c->flushes;
	c->n_launches = 0;
	return r;
}

int cuda_finish(struct cuda *c)
{
	int r = cuda_flush(c);

	if (r < 0)
		return r;
	r = cuda_check(c, cudaStreamSynchronize(c->stream), "waiting for the card");
	c->pinned_used = 0;
	return r;
}

int cuda_pace_mark(struct cuda *c)
{
	if (c->gathering || c->batch.n_rows <= GRAPH_ROWS)
		return 0;
	c->pacing = true;
	return cuda_check(c, cudaEventRecord(c->paced, c->stream), "an event");
}

int cuda_pace(struct cuda *c)
{
	if (!c->pacing)
		return 0;
	c->pacing = false;
	return cuda_check(c, cudaEventSynchronize(c->paced), "waiting for a layer");
}

/* Copies small things by way of pinned memory; `host` may be reused at once. */
int cuda_upload(struct cuda *c, void *to, const void *host, size_t bytes)
{
	int r;

	if (bytes > c->pinned_bytes - c->pinned_used) {
		const size_t size = bytes > PINNED_BYTES / 2 ? 2 * bytes : PINNED_BYTES;

		r = cuda_check(c, cudaStreamSynchronize(c->stream), "waiting for the card");
		if (r < 0)
			return r;
		c->pinned_used = 0;
		if (bytes > c->pinned_bytes) {
			if (c->pinned)
				cudaFreeHost(c->pinned);
			c->pinned = NULL;
			c->pinned_bytes = 0;
			r = cuda_check(c, cudaHostAlloc(&c->pinned, size, cudaHostAllocDefault),
				"pinned memory for uploads");
			if (r < 0)
				return r;
			c->pinned_bytes = size;
		}
	}
	memcpy(c->pinned + c->pinned_used, host, bytes);
	r = cuda_check(c,
		cudaMemcpyAsync(
			to, c->pinned + c->pinned_used, bytes, cudaMemcpyHostToDevice, c->stream),
		"an upload");
	c->pinned_used += (bytes + 15) / 16 * 16;
	c->pinned_used = c->pinned_used < c->pinned_bytes ? c->pinned_used : c->pinned_bytes;
	return r;
}

int cuda_index(struct cuda *c, uint32_t n, const uint32_t *index, const uint32_t **ret)
{
	const size_t bytes = (size_t)n * sizeof(*index);
	int r = 0;

	/* What was gathered reads the index of its own gather. */
	if (c->gathered_index || bytes > c->index_arena.bytes)
		r = cuda_flush(c);
	if (r == 0)
		r = arena_grow(c, &c->index_arena, bytes, false, "an index");
	if (r == 0)
		r = cuda_upload(c, c->index_arena.data, index, bytes);
	c->gathered_index = c->gathering;
	*ret = (const uint32_t *)c->index_arena.data;
	return r;
}

/* The batch's arrays in one piece, at the same addresses for any batch that fits. */
struct batch_layout {
	size_t tokens, slots, positions, tiles, table, bytes;
};

static struct batch_layout layout_of(size_t rows, size_t table)
{
	struct batch_layout l;

	l.tokens = 0;
	l.slots = l.tokens + rows * sizeof(int32_t);
	l.positions = l.slots + rows * sizeof(uint32_t);
	l.tiles = l.positions + rows * sizeof(uint32_t);
	l.table = l.tiles + rows * sizeof(struct attention_tile);
	l.bytes = l.table + table * sizeof(uint32_t);
	return l;
}

static uint32_t tiles_make(
	const struct batch *batch, struct attention_tile *tiles, uint32_t *ret_longest)
{
	uint32_t n = 0;

	*ret_longest = 0;
	for (uint32_t i = 0; i < batch->n_rows; i++) {
		if (n > 0 && tiles[n - 1].n_rows < TILE_ROWS_MAX &&
			batch->slots[i] == batch->slots[i - 1] &&
			batch->positions[i] == batch->positions[i - 1] + 1)
			tiles[n - 1].n_rows++;
		else
			tiles[n++] = {i, 1};
		if (tiles[n - 1].n_rows > *ret_longest)
			*ret_longest = tiles[n - 1].n_rows;
	}
	return n;
}

int cuda_batch_begin(struct backend *b, const struct batch *batch)
{
	struct cuda *c = cuda_of(b);
	const size_t entries = (size_t)batch->n_slots * batch->page_table_stride;
	/* Rows in steps of 64, so that the same step with a row more has the same addresses. */
	const struct batch_layout l = layout_of((batch->n_rows + 63u) / 64 * 64, entries);
	uint8_t *host;
	int r = cuda_flush(c);

	if (r < 0)
		return r;
	cuda_upload_free(c);
	r = arena_grow(c, &c->batch_arena, l.bytes, false, "a batch");
	if (r < 0)
		return r;
	host = (uint8_t *)calloc(1, l.bytes);
	if (!host)
		return cuda_fail(c, -ENOMEM, "no memory for a batch of %zu bytes", l.bytes);
	if (batch->tokens)
		memcpy(host + l.tokens, batch->tokens, batch->n_rows * sizeof(int32_t));
	memcpy(host + l.slots, batch->slots, batch->n_rows * sizeof(uint32_t));
	memcpy(host + l.positions, batch->positions, batch->n_rows * sizeof(uint32_t));
	memcpy(host + l.table, batch->page_table, entries * sizeof(uint32_t));
	c->last_position = 0;
	for (uint32_t i = 0; i < batch->n_rows; i++)
		if (batch->positions[i] > c->last_position)
			c->last_position = batch->positions[i];
	c->batch.n_tiles = tiles_make(
		batch, (struct attention_tile *)(host + l.tiles), &c->longest_tile);
	c->batch.tokens = (const int32_t *)(c->batch_arena.data + l.tokens);
	c->batch.slots = (const uint32_t *)(c->batch_arena.data + l.slots);
	c->batch.positions = (const uint32_t *)(c->batch_arena.data + l.positions);
	c->batch.tiles = (const struct attention_tile *)(c->batch_arena.data + l.tiles);
	c->batch.table = (const uint32_t *)(c->batch_arena.data + l.table);
	c->batch.n_rows = batch->n_rows;
	c->batch.stride = batch->page_table_stride;
	r = cuda_upload(c, c->batch_arena.data, host, l.bytes);
	free(host);
	c->gathering = batch->n_rows <= GRAPH_ROWS;
	return r;
}
