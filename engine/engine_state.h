/* What engine.c (who runs) and step.c (what runs now) share. */
#pragma once

#include "engine/engine.h"
#include "engine/event.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/sequence.h"

#define ECHO_ROWS 64 /* prompt rows of one step whose logits are kept */

struct engine {
	const struct weights *weights;
	struct engine_options options;
	struct engine_sink sink;
	struct forward_stop stop;
	struct kv_pool *kv;
	struct workspace *workspace;
	struct sequence *queue;   /* waiting, in order */
	struct sequence *running; /* in slots, in order of admission */
	uint32_t n_queued, n_running;
	uint32_t promised_pages;
	bool *slot_used;  /* [max_sequences] */
	bool queue_moved; /* places have changed since they were told */
	bool failed;
	struct engine_stats stats;

	/* One step's batch. */
	uint32_t max_rows, max_logits;
	int32_t *tokens;               /* [max_rows] */
	uint32_t *slots;               /* [max_rows] */
	uint32_t *positions;           /* [max_rows] */
	uint32_t *logit_rows;          /* [max_logits] */
	struct sample_row *rows;       /* [max_logits] */
	struct sample_result *results; /* [max_logits] */
	struct sample_top *tops;       /* [max_logits, SAMPLE_TOP_MAX] */
	uint32_t *mark;                /* [vocab], zero between uses */
	struct sample_count *counts;   /* [n_counts_size], of all rows of the step */
	size_t counts_size;
};

uint64_t engine_now_usec(void); /* CLOCK_MONOTONIC */

/* Moves waiting sequences into free slots, in order; the first that does not fit holds the rest.
 * Tells those who still wait their place. */
void engine_admit(struct engine *e);

void engine_emit(struct engine *e, struct event *event); /* takes it over */

/* Ends a sequence: what is held goes out (unless it failed), then the last word; its place is freed
 * and the sequence with it. */
void engine_finish(struct engine *e, struct sequence *s, enum failure failure, const char *reason,
	enum finish how);
