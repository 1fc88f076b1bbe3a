/* zeph-logits: the logits of a token sequence, as the engine computes them: the instrument of the
 * fidelity tests. Writes f32 [n, vocab], little endian, row i being the logits after token i. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device.h"
#include "engine/forward.h"

struct arguments {
	const char *model, *device, *quantize, *tokens, *out;
	enum activations activations;
	bool inexact;
	enum dtype kv_dtype;
	uint32_t threads, chunk;
};

static int usage(void)
{
	fprintf(stderr,
		"usage: zeph-logits --model F --device reference|cpu|cuda [--activations fast|exact]\n"
		"                   [--kv f32|f16|bf16|q8_0] [--threads N] [--chunk ROWS] [--quantize TYPE]\n"
		"                   [--inexact]\n"
		"                   --tokens FILE (u32 ids) --out FILE (f32 [n, vocab])\n");
	return 2;
}

static int parse(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{"model", required_argument, NULL, 'm'},
		{"device", required_argument, NULL, 'd'},
		{"activations", required_argument, NULL, 'a'},
		{"inexact", no_argument, NULL, 'x'},
		{"quantize", required_argument, NULL, 'q'},
		{"kv", required_argument, NULL, 'k'},
		{"threads", required_argument, NULL, 't'},
		{"chunk", required_argument, NULL, 'c'},
		{"tokens", required_argument, NULL, 'i'},
		{"out", required_argument, NULL, 'o'},
		{0},
	};
	int c, type = -1;

	*a = (struct arguments){.device = "reference", .chunk = 64};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'm': a->model = optarg; break;
		case 'd': a->device = optarg; break;
		case 'a':
			if (strcmp(optarg, "fast") != 0 && strcmp(optarg, "exact") != 0)
				return -1;
			a->activations = strcmp(optarg, "exact") == 0 ? ACTIVATIONS_EXACT
								      : ACTIVATIONS_FAST;
			break;
		case 'q': a->quantize = optarg; break;
		case 'x': a->inexact = true; break;
		case 'k':
			type = dtype_from_name(optarg);
			if (type < 0)
				return -1;
			break;
		case 't': a->threads = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'c': a->chunk = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'i': a->tokens = optarg; break;
		case 'o': a->out = optarg; break;
		default: return -1;
		}
	}
	if (!a->model || !a->tokens || !a->out || a->chunk == 0)
		return -1;
	a->kv_dtype = DTYPE_F16;
	if (strcmp(a->device, "reference") == 0 || a->activations == ACTIVATIONS_EXACT)
		a->kv_dtype = DTYPE_F32;
	if (type >= 0)
		a->kv_dtype = (enum dtype)type;
	return 0;
}

/* Reads the whole file of ids. */
static int32_t *read_tokens(const char *path, uint32_t *ret_n)
{
	FILE *f = fopen(path, "rb");
	int32_t *ids = NULL;
	size_t n = 0, size = 0;
	int32_t id;

	if (!f) {
		perror(path);
		return NULL;
	}
	while (fread(&id, sizeof(id), 1, f) == 1) {
		if (n == size) {
			size = size ? size * 2 : 1024;
			ids = realloc(ids, size * sizeof(*ids));
			if (!ids)
				abort();
		}
		ids[n++] = id;
	}
	fclose(f);
	*ret_n = (uint32_t)n;
	return ids;
}

/* Runs the tokens through one slot, chunk by chunk. */
static int run(const struct weights *w, const struct arguments *a, const int32_t *ids, uint32_t n,
	FILE *out)
{
	uint32_t vocab = w->model->config.vocab;
	uint32_t *slots = calloc(a->chunk, sizeof(*slots)), *rows = calloc(a->chunk, sizeof(*rows)),
		 *positions = calloc(a->chunk, sizeof(*positions));
	float *host = malloc((size_t)a->chunk * vocab * sizeof(*host));
	struct workspace *ws = NULL;
	struct kv_pool *kv = NULL;
	struct backend *b = w->output_backend;
	char error[256] = "no memory";
	int r = -ENOMEM;

	if (slots && rows && positions && host)
		r = kv_pool_new(
			w, a->kv_dtype, n / KV_PAGE_TOKENS + 1, 1, n, &kv, error, sizeof(error));
	if (r == 0)
		r = workspace_new(w, a->chunk, a->chunk, &ws, error, sizeof(error));
	for (uint32_t at = 0; at < n && r == 0; at += a->chunk) {
		uint32_t len = n - at < a->chunk ? n - at : a->chunk;
		struct batch batch = {
			.n_rows = len,
			.tokens = ids + at,
			.slots = slots,
			.positions = positions,
			.page_table = kv->page_table,
			.n_slots = 1,
			.page_table_stride = kv->table_stride,
		};

		for (uint32_t i = 0; i < len; i++) {
			rows[i] = i;
			positions[i] = at + i;
		}
		r = kv_pool_extend(kv, 0, 1, at + len);
		if (r == 0)
			r = forward(w, kv, ws, &batch, NULL, rows, len, NULL, &b);
		if (r == 0)
			r = b->ops->sync(b);
		if (r == 0)
			r = b->ops->buffer_read(b, ws->logits, host, (size_t)len * vocab);
		if (r < 0)
			snprintf(error, sizeof(error), "%s", b->error);
		else if (fwrite(host, (size_t)vocab * sizeof(*host), len, out) != len)
			r = -EIO;
	}
	if (r < 0)
		fprintf(stderr, "zeph-logits: %s\n", error);
	if (kv)
		kv_pool_clear(kv, 0);
	workspace_free(w, ws);
	kv_pool_free(kv);
	free(slots);
	free(rows);
	free(positions);
	free(host);
	return r;
}

int main(int argc, char **argv)
{
	struct model_options options = {.sliding_window = -1};
	struct weights *w = NULL;
	struct backend *b = NULL;
	struct model *m = NULL;
	struct device_found found;
	struct arguments a;
	char error[512];
	int32_t *ids;
	uint32_t n = 0;
	FILE *out;
	int r;

	if (parse(argc, argv, &a) < 0)
		return usage();
	ids = read_tokens(a.tokens, &n);
	if (!ids)
		return 1;
	options.quantize = a.quantize;
	r = model_open(a.model, &options, &m, error, sizeof(error));
	if (r == 0)
		r = device_open(
			&(struct device_options){a.device, a.threads, a.activations, a.inexact}, &b,
			&found, error, sizeof(error));
	if (r == 0)
		r = weights_load(m, &b, 1, &(struct weights_options){.context = n}, &w, error,
			sizeof(error));
	if (r < 0) {
		fprintf(stderr, "zeph-logits: %s\n", error);
		return 1;
	}
	out = fopen(a.out, "wb");
	if (!out) {
		perror(a.out);
		return 1;
	}
	r = run(w, &a, ids, n, out);
	if (fclose(out) != 0)
		r = -EIO;
	weights_free(w);
	backend_free(b);
	model_free(m);
	free(ids);
	return r < 0;
}
