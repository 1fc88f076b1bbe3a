/* From the configuration to a running engine: model file, device, weights, KV. */
#pragma once

#include "daemon/config.h"
#include "daemon/engine_thread.h"
#include "daemon/packer.h"
#include "engine/model.h"
#include "engine/placement.h"

/* What the load needs of the configuration: its own copy. */
struct engine_setup {
	char *path, *template_name, *quantize, *device, *shared_prefix;
	char *packed_folder, *packed_model; /* struct packed_place's; NULL: nothing is kept */
	int64_t sliding_window, gpu_layers;
	uint32_t context, threads, prefill_tokens, max_sequences, max_per_uid;
	uint64_t kv_bytes, swap_bytes;
	int kv_type; /* -1: by device and activations */
	enum activations activations;
	bool inexact;
};
int engine_setup_init(struct engine_setup *s, const struct config *c); /* -ENOMEM */
void engine_setup_done(struct engine_setup *s);

/* Everything that is loaded. The model, which others read, stays when the rest goes. */
struct engine_load {
	struct model *model;
	struct file_key key; /* of the file when the model was opened */
	struct placement placement;
	struct weights *weights;
	struct engine *engine; /* NULL: not resident */
	struct packer *packer; /* that reads the weights, or NULL */
};

/* Where the weights of what is loaded are kept. */
struct packed_place engine_load_place(const struct engine_setup *s, const struct engine_load *l);

/* Makes the engine resident, from a zeroed *l or one that engine_load_drop() has left. Fills the
 * report's constant part. A negative errno with the sentence, in which the path stands as the
 * file's name alone: clients read it too. */
int engine_load(const struct engine_setup *s, const struct weights_progress *progress,
	const struct engine_sink *sink, struct engine_load *l, struct engine_report *report);
void engine_load_drop(struct engine_load *l); /* engine, weights and backends; all device memory */
void engine_load_done(struct engine_load *l); /* and the model; accepts what is half there */
