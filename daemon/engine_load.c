/* The way from a file to a running engine, on the engine thread. Owns nothing: what is loaded
 * belongs to the caller. */
#include "daemon/engine_load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cache.h"
#include "daemon/shared_prefix.h"
#include "engine/digest.h"
#include "engine/kv.h"
#include "engine/utf8.h"

int engine_setup_init(struct engine_setup *s, const struct config *c)
{
	*s = (struct engine_setup){
		.path = strdup(c->model.path),
		.template_name = c->model.template_name ? strdup(c->model.template_name) : NULL,
		.quantize = c->model.quantize ? strdup(c->model.quantize) : NULL,
		.shared_prefix = c->model.shared_prefix ? strdup(c->model.shared_prefix) : NULL,
		.device = strdup(c->engine.device ? c->engine.device : "auto"),
		.sliding_window = c->model.sliding_window,
		.gpu_layers = c->model.gpu_layers,
		.context = c->model.context,
		.threads = c->engine.threads,
		.prefill_tokens = c->engine.prefill_tokens,
		.max_sequences = c->engine.max_sequences,
		.max_per_uid = c->engine.max_sequences_per_uid,
		.kv_bytes = c->engine.kv_bytes,
		.swap_bytes = c->engine.swap_bytes,
		.kv_type = c->engine.kv_type,
		.activations = c->engine.activations,
		.inexact = !c->engine.exact,
	};
	if (!s->path || !s->device || (c->model.template_name && !s->template_name) ||
		(c->model.quantize && !s->quantize) ||
		(c->model.shared_prefix && !s->shared_prefix)) {
		engine_setup_done(s);
		return -ENOMEM;
	}
	if (c->model.keep_packed) {
		s->packed_folder = cache_folder("packed");
		s->packed_model = realpath(s->path, NULL);
	}
	return 0;
}

void engine_setup_done(struct engine_setup *s)
{
	free(s->path);
	free(s->template_name);
	free(s->quantize);
	free(s->shared_prefix);
	free(s->device);
	free(s->packed_folder);
	free(s->packed_model);
	*s = (struct engine_setup){};
}

/* A sentence about the file, its folders left out. */
static void hide_folders(char *sentence, const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t folders = slash ? (size_t)(slash - path) + 1 : 0;
	char *at;

	if (folders == 0)
		return;
	while ((at = strstr(sentence, path)))
		memmove(at, at + folders, strlen(at + folders) + 1);
}

/* The most bytes that one token adds to a text, repaired to UTF-8. */
static uint32_t longest_piece(const struct tokenizer *t)
{
	size_t most = 3; /* U+FFFD */

	for (uint32_t id = 0; t && id < tokenizer_vocab(t); id++) {
		struct slice piece = tokenizer_piece(t, (int32_t)id);
		size_t n = utf8_repair(piece.text, piece.len, NULL);
		most = n > most ? n : most;
	}
	return (uint32_t)most;
}

/* Opens the file, or sees that it is still the one that was opened. */
static int load_model(const struct engine_setup *s, struct engine_load *l, char *error, size_t size)
{
	const struct model_options options = {s->template_name, s->sliding_window, s->quantize};
	struct file_key now = file_key_of(s->path);
	int r;

	if (l->model) {
		if (file_key_same(&now, &l->key))
			return 0;
		snprintf(error, size,
			"%s has changed since the daemon opened it: zephd must be started anew",
			s->path);
		return -ESTALE;
	}
	r = model_open(s->path, &options, &l->model, error, size);
	if (r < 0)
		return r;
	l->key = file_key_of(s->path);
	if (!file_key_same(&l->key, &now)) /* exchanged meanwhile: who knows which one it is */
		l->key = (struct file_key){};
	return 0;
}

/* The tokens of model.shared_prefix to the engine. */
static int share_prefix(
	const struct engine_setup *s, const struct engine_load *l, char *error, size_t size)
{
	struct token_list tokens = {};
	int r = shared_prefix_tokens(l->model, s->shared_prefix, &tokens, error, size);

	if (r == 0)
		r = engine_share_prefix(l->engine, tokens.ids, (uint32_t)tokens.n);
	token_list_done(&tokens);
	return r;
}

struct packed_place engine_load_place(const struct engine_setup *s, const struct engine_load *l)
{
	bool both = s->packed_folder && s->packed_model;

	return (struct packed_place){both ? s->packed_folder : NULL, s->packed_model, l->key};
}

static int load(const struct engine_setup *s, const struct weights_progress *progress,
	const struct engine_sink *sink, struct engine_load *l, struct engine_report *report)
{
	struct packed_place packed;
	const struct placement_options where = {
		.device = {s->device, s->threads, s->activations, s->inexact},
		.gpu_layers = s->gpu_layers,
		.packed = &packed,
	};
	struct engine_options options;
	struct file_key after;
	const struct backend *device;
	size_t len;
	int r;

	r = load_model(s, l, report->error, sizeof(report->error));
	if (r < 0)
		return r;
	packed = engine_load_place(s, l);
	engine_options_default(&options);
	options.context = s->context;
	options.kv_bytes = s->kv_bytes;
	if (s->max_sequences)
		options.max_sequences = s->max_sequences;
	options.max_per_uid = s->max_per_uid;
	options.swap_bytes = s->swap_bytes;
	options.prefill_tokens = s->prefill_tokens;
	r = placement_load(l->model, &where, s->kv_type, &options, sink, progress, &l->placement,
		&l->weights, &l->engine, report->error, sizeof(report->error));
	if (r < 0)
		return r;

	if (s->shared_prefix)
		r = share_prefix(s, l, report->error, sizeof(report->error));
	if (r < 0)
		return r;
	after = file_key_of(s->path);
	if (file_key_same(&l->key, &after))
		report->key = l->key; /* not exchanged while it was read */
	device = l->placement.backends[0];
	report->device = device->device;
	snprintf(report->device_note, sizeof(report->device_note), "%s", l->placement.note);
	report->packed = l->weights->packed;
	report->layers_on_device = l->placement.layers_on_device;
	report->kv_dtype = options.kv_dtype;
	report->weight_bytes = weights_bytes_on(l->weights, device);
	report->page_bytes = kv_page_bytes(&l->model->config, options.kv_dtype) /
			     l->model->config.n_layers * l->placement.layers_on_device;
	report->piece_bytes = longest_piece(l->model->tokenizer);
	if (l->model->template) {
		const char *source = template_source(l->model->template, &len);
		r = digest_sha256(source, len, report->template_hash);
		if (r < 0)
			return r;
	}
	engine_stats(l->engine, &report->stats);
	report->model = l->model;
	return 0;
}

int engine_load(const struct engine_setup *s, const struct weights_progress *progress,
	const struct engine_sink *sink, struct engine_load *l, struct engine_report *report)
{
	int r;

	report->error[0] = 0;
	r = load(s, progress, sink, l, report);
	if (r < 0) {
		if (!report->error[0])
			snprintf(report->error, sizeof(report->error), "%s", strerror(-r));
		hide_folders(report->error, s->path);
		engine_load_drop(l);
		return r;
	}
	report->error[0] = 0; /* a try with more layers may have left a word */
	return 0;
}

void engine_load_drop(struct engine_load *l)
{
	l->packer = packer_free(l->packer);
	l->engine = engine_free(l->engine);
	l->weights = weights_free(l->weights);
	placement_done(&l->placement);
}

void engine_load_done(struct engine_load *l)
{
	engine_load_drop(l);
	model_free(l->model);
	*l = (struct engine_load){};
}
