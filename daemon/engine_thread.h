/* The engine thread: it loads the model, owns the engine, and meets the I/O thread at two lists.
 *
 * Orders go in under a mutex, events come out under another, an eventfd tells the I/O thread. Only
 * values and job ids cross; the loaded struct model is immutable and read by both. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config.h"
#include "engine/engine.h"
#include "engine/file_key.h"

enum engine_state {
	ENGINE_LOADING,
	ENGINE_READY,
	ENGINE_UNLOADED, /* no device memory is held; error says why a later load failed, or "" */
	ENGINE_REFUSED,  /* the model did not load at the start; error says why */
	ENGINE_BROKEN,   /* the device failed; error says how */
};

/* What the thread has to say, as values. */
struct engine_report {
	enum engine_state state;
	uint64_t load_done_bytes, load_total_bytes;
	uint32_t loads; /* that have ended, well or not */
	char error[512];
	/* since the last collect: so many bytes of packed weights were kept, or why none were */
	uint64_t kept_bytes;
	char kept_error[256];
	/* from here on: since the model was READY for the first time */
	const struct model *model; /* immutable; lives until engine_thread_free() */
	struct backend_device device;
	char device_note[512];     /* what differs from the device's plain use, or "" */
	bool packed;               /* the weights were taken as they had been kept */
	uint32_t layers_on_device; /* the others are on the processor; 0: UNLOADED */
	enum dtype kv_dtype;
	uint64_t weight_bytes, page_bytes; /* on the device */
	uint32_t piece_bytes;              /* the longest text of one token */
	char template_hash[65];            /* of the template's source; "": none */
	struct file_key key;
	struct engine_stats stats;
};

struct engine_thread;

/* Starts the thread, which starts to load. Needs model.path. 0 or a negative errno. */
int engine_thread_new(const struct config *c, struct engine_thread **ret);
/* Asks the thread to stop, between layers, and waits for it; frees model and engine. Accepts NULL,
 * returns NULL. */
struct engine_thread *engine_thread_free(struct engine_thread *t);

int engine_thread_fd(const struct engine_thread *t); /* readable: something to collect */
/* Takes the events since the last call (a list, the caller's) and the report as it is now. */
void engine_thread_collect(
	struct engine_thread *t, struct event **ret_events, struct engine_report *ret);

/* Orders, in sequence. submit takes the job over on success. 0 or -ENOMEM. */
int engine_thread_submit(struct engine_thread *t, struct job *job);
int engine_thread_cancel(
	struct engine_thread *t, uint64_t id, enum failure failure, const char *reason);
int engine_thread_pause(struct engine_thread *t, uint64_t id, bool paused);
/* Forgets what is cached for one uid, or (`all`) for everybody; an EVENT_DROPPED under the id tells
 * the pages. */
int engine_thread_drop_cache(struct engine_thread *t, uint64_t id, uint32_t uid, bool all);

/* Gives back what the device holds, and takes it again; the report's state tells when. Jobs must be
 * done or cancelled before the one and are submitted after the other has led to READY. */
int engine_thread_unload(struct engine_thread *t);
int engine_thread_load(struct engine_thread *t);

/* CLOCK_MONOTONIC of the thread's last sign of life: a layer, a piece of a load, an order taken.
 * An idle thread gives one after engine_thread_ping(). */
uint64_t engine_thread_beat(const struct engine_thread *t);
void engine_thread_ping(struct engine_thread *t);
