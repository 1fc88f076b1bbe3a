/* The daemon's configuration: a libconfig file, strictly checked, under the command line.
 *
 * What is not understood is an error with file and line, never a default: an unknown key, a wrong
 * type, a value out of range, a file (or one that it includes) that somebody else could write. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/options.h"
#include "engine/engine.h"
#include "proto/frame.h"
#include "proto/params.h"

/* What a uid may do; each includes the ones before it. */
enum class { CLASS_NONE, CLASS_USE, CLASS_PRIORITY, CLASS_MANAGE, CLASS_COUNT };
const char *class_name(enum class class); /* "use"; CLASS_NONE is "none" */

/* A uid or a gid. */
struct principal {
	bool group;
	uint32_t id;
};
struct principals {
	struct principal *items; /* [n] */
	size_t n;
	bool set; /* the configuration has the key, perhaps empty */
};

/* What one uid may have; a class may say it for its own. */
struct config_quota {
	int64_t connections_per_uid, queue_per_uid, bytes_per_uid;
	int64_t prompt_tokens_per_uid; /* of requests that wait or run */
	int64_t max_new_tokens;        /* 0: the context is the bound */
	int64_t sessions_per_uid, session_bytes_per_uid;
	int64_t weight; /* its share of the device beside others' */
};

struct config_limits {
	int64_t frame_bytes, reply_bytes;
	int64_t frame_seconds, stall_seconds;
	int64_t connections;
	int64_t session_bytes;
	int64_t session_days; /* 0: they stay */
	struct config_quota quota;
};

struct config_classes {
	struct principals use; /* unset: everybody whom the socket lets in */
	struct principals priority;
	struct principals manage;               /* root and the daemon's own uid always are */
	struct config_quota quota[CLASS_COUNT]; /* limits.quota where the class says nothing */
};

struct config {
	char *file; /* NULL: there is none */
	struct {
		char *path;     /* NULL: the default place */
		char *use_path; /* a second socket, limited to class use; NULL: none */
		unsigned mode;
	} socket;
	struct {
		char *path;             /* NULL: none */
		char *template_name;    /* NULL: the file's own */
		int64_t sliding_window; /* -1: the file's own */
		int64_t context;        /* 0: the model's */
		int64_t gpu_layers;     /* on the card; -1: as many as fit */
		int64_t idle_seconds;   /* without a request, then it is unloaded; 0: never */
		char *shared_prefix; /* a system message whose prefix all uids share; NULL: none */
		char *quantize;      /* a mix's name; NULL: the weights stay what they are */
		bool keep_packed;    /* a cache of the weights as the processor has them */
	} model;
	struct {
		char *device; /* NULL: auto */
		enum activations activations;
		bool exact;      /* false: cuBLASLt may serve large prompts on a card */
		int kv_type;     /* enum dtype; -1: by device and activations */
		int64_t threads; /* 0: all processors */
		int64_t kv_bytes, prefill_tokens, max_sequences; /* 0: the engine's default */
		int64_t max_sequences_per_uid;                   /* 0: no limit but max_sequences */
		int64_t swap_bytes;
	} engine;
	struct config_limits limits;
	struct params defaults; /* generation parameters; `set` says which */
	struct config_classes classes;
};

/* Reads the file that the options name, or the default one if it exists, and lays the options over
 * it. 0, or a negative errno with "FILE:LINE: sentence" in error; *ret is then empty. */
int config_load(const struct options *o, struct config *ret, char *error, size_t error_size);
void config_done(struct config *c); /* safe to call twice */

/* What one uid with these groups is, the supplementary ones included. */
enum class config_class(
	const struct config *c, uint32_t uid, const uint32_t *groups, size_t n_groups);

/* Takes over from `from` what can change while the daemon runs: limits, defaults, classes. Returns
 * true if the other groups differ, which only a restart applies. `from` is emptied. */
bool config_reload(struct config *c, struct config *from);
