/* What engine.c (jobs come and go), schedule.c (who runs) and step.c (what runs now) share. */
#pragma once

#include "engine/cost.h"
#include "engine/engine.h"
#include "engine/event.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/sequence.h"

#define ECHO_ROWS 64 /* prompt rows of one step whose logits are kept */

/* Layered prefill: prompt rows that go through the layers over several steps, a few layers in each
 * beside streams. Where a step has time for a few rows only, the keys and values before them would
 * else be read again for every few. A step goes through at least one layer; how many more, its
 * clock decides. */
struct layered {
	struct sequence *sequence; /* whose next rows they are; NULL: none are on their way */
	struct forward_part part;
	uint32_t from;                               /* part.layer as the step begins */
	double usec;                                 /* that they may add to the step */
	uint64_t with_usec, without_usec, mark_usec; /* of the step's layers with them, and without;
							since when the next of either counts */
	uint64_t output_usec; /* what follows the layers took in the last such step */
	uint64_t n_begun;     /* times that rows became layered ones */
};

struct engine {
	const struct weights *weights;
	struct engine_options options;
	struct engine_sink sink;
	bool (*stop_asked)(void *userdata); /* NULL: nobody asks */
	void *stop_userdata;
	uint64_t (*clock)(void); /* microseconds: what a step's parts take is read off it */
	struct kv_pool *kv;
	struct prefix_cache *cache;
	struct workspace *workspace;
	struct sequence *queue;   /* waiting, by rank */
	struct sequence *running; /* in slots, by rank */
	struct sequence *scoring; /* score jobs whose children are in the queue or in slots */
	uint32_t n_queued, n_running;
	uint64_t arrivals, steps;
	double turns[2]; /* of the last one admitted, interactive and batch */
	struct cost cost;
	bool *slot_used;  /* [max_sequences] */
	bool queue_moved; /* places have changed since they were told */
	bool failed;
	struct cost_work work; /* this step's, layered rows apart */
	struct layered layered;
	const struct flow *base; /* that this step is built around */
	bool batch_only;         /* it has no interactive rows */
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

/* Pages that a sequence of n_tokens can hold at once. */
uint32_t engine_pages_for(
	const struct model_config *c, const struct engine_options *o, uint64_t n_tokens);

/* Puts a sequence in the queue, or takes it out of the queue or its slot: in neither it has no
 * pages. */
void engine_enqueue(struct engine *e, struct sequence *s);
void engine_withdraw(struct engine *e, struct sequence *s);

/* Back to the queue: somebody else lacks its slot or its pages. */
void engine_preempt(struct engine *e, struct sequence *s);
/* Has the sequence's uid more slots, or pages, than its share of those who run? */
bool engine_over(const struct engine *e, const struct sequence *s, bool slots);
bool engine_paused_long(const struct sequence *s);

/* Moves waiting sequences into free slots, by rank; the first that does not fit holds the rest.
 * Tells those who still wait their place. */
void engine_admit(struct engine *e);

/* Who takes part in this step with how many rows, and at what cost (n_rows, cost). */
void engine_share(struct engine *e);

/* After the step: how late it makes the prompts that had rows in it. */
void engine_note_late(struct engine *e, uint64_t step_usec);

/* layered.c: the sequence's next rows become the layered ones; the layers that these go through in
 * this step, as planned, then as it was; what so many add to a step that does `work`; plans as many
 * as cost about usec, one at least; told before each layer, 0 or a negative errno: the device
 * failed; learns from the step what it cost. */
void layered_begin(struct engine *e, struct sequence *s, uint32_t n_rows);
uint32_t layered_now(const struct engine *e);
double layered_cost(const struct engine *e, struct cost_work work, uint32_t n_layers);
void layered_plan(struct engine *e, struct cost_work work, double usec);
int layered_watch(struct engine *e, uint32_t layer);
void layered_note(struct engine *e, uint64_t step_usec);
uint32_t engine_layers(const struct engine *e);

/* Decides who takes part in this step with how many rows (n_rows), and makes the pages for them:
 * where the pool is short, the last by rank must wait again. Returns whether there are any, or a
 * negative errno: the device failed. */
int engine_plan(struct engine *e);

/* Shows the pages that the cache has behind what the sequence, which has a slot, has; with
 * `restore` those in the host's memory too. */
void engine_attach(struct engine *e, struct sequence *s, bool restore);

/* score.c: a score job's sequence as it comes; the choices of those whose prompt is there get into
 * the queue (true: some did); a row of a child; a child's end; the parent's end. */
void engine_score_init(struct sequence *s);
bool engine_score(struct engine *e);
void engine_score_row(struct sequence *s, const struct sample_result *result);
void engine_score_child_done(struct engine *e, struct sequence *s, enum failure failure);
void engine_score_drop(struct engine *e, struct sequence *parent);

/* Tells that so many tokens of the prompt are there, unless that was told. */
void engine_tell_prefill(struct engine *e, struct sequence *s, uint32_t done);

/* Frees a sequence with its place, untold. */
void engine_drop(struct engine *e, struct sequence *s);

void engine_emit(struct engine *e, struct event *event); /* takes it over */

/* Ends a sequence: what is held goes out (unless it failed), then the last word; its place is freed
 * and the sequence with it. */
void engine_finish(struct engine *e, struct sequence *s, enum failure failure, const char *reason,
	enum finish how);
