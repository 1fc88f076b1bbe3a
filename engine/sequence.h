/* One job on its way: its tokens, its place in the KV pool, its reply. It waits in the queue, runs
 * in a slot, and may have to wait again where pages or slots are short: then it has none of either,
 * and computes again what is not cached any more. */
#pragma once

#include "engine/engine.h"
#include "engine/prefix.h"
#include "engine/reply.h"

#define SLOT_NONE UINT32_MAX

struct sequence {
	struct sequence *next; /* in the queue or among the running, by rank */
	struct job *job;
	uint64_t arrival;        /* counts up: who came first */
	double turn;             /* uids take turns */
	uint64_t queued_usec;    /* CLOCK_MONOTONIC: when it began to wait, the last time */
	bool held;               /* others were held back for it: its share is the whole pool */
	struct sequence *parent; /* of a choice's: the score job's; NULL */
	uint32_t choice;
	uint32_t slot; /* SLOT_NONE while queued */
	struct prefix_place place;
	uint64_t paused_usec; /* CLOCK_MONOTONIC: since when; 0: it is not */
	int32_t *tokens;      /* [n_tokens] prompt, then reply */
	uint32_t n_tokens, size;
	uint32_t n_cached;      /* positions 0 … n_cached - 1 have their keys and values */
	uint32_t n_seen;        /* positions that it has ever had */
	uint32_t n_reused;      /* of them: that the cache had */
	uint32_t n_echoed;      /* prompt tokens whose logprobs were told */
	uint32_t n_told;        /* prompt tokens that EVENT_PREFILL has told done */
	uint32_t n_generated;   /* end token included */
	uint32_t told_position; /* last queue place told; UINT32_MAX: none */
	uint64_t started_usec, prefilled_usec, first_token_usec; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t device_usec; /* its share of the steps so far, by rows */
	double late_usec;     /* of its prompt so far, beyond what it may take (share.c) */
	struct reply reply;

	/* A score job's. */
	bool scoring; /* its children run, it is in e->scoring */
	uint32_t next_choice, n_children;
	enum failure child_failure;
	double score; /* a child's, so far */

	/* This step's part in the batch. */
	uint32_t n_rows;      /* rows of this step */
	double cost;          /* its part of the cost of the step, in any unit */
	uint64_t served;      /* the last step that had rows of it */
	uint64_t secured;     /* the last step that it had the pages for */
	uint32_t settled;     /* n_cached when it last generated beside no prompt of its flow */
	uint32_t first_logit; /* index of its first logit row */
	uint32_t n_logits;
};

/* Takes the job over on success. NULL for want of memory. */
struct sequence *sequence_new(struct job *job, const struct tokenizer *t);
struct sequence *sequence_free(struct sequence *s); /* with its job; accepts NULL, returns NULL */

static inline struct tenant *sequence_tenant(const struct sequence *s)
{
	return s->place.root->tenant;
}

static inline struct flow *sequence_flow(const struct sequence *s)
{
	return &sequence_tenant(s)->flows[s->job->batch_priority];
}

/* Before the other: interactive ones before batch, then by turn. */
static inline bool sequence_before(const struct sequence *a, const struct sequence *b)
{
	if (a->job->batch_priority != b->job->batch_priority)
		return b->job->batch_priority;
	if (a->turn != b->turn)
		return a->turn < b->turn;
	if (a->arrival != b->arrival)
		return a->arrival < b->arrival;
	return a->choice < b->choice; /* of one job */
}

/* Rows that the sequence wants to run next: the rest of its prompt, or its last token; after it had
 * to wait, all that is not cached any more. */
static inline uint32_t sequence_pending(const struct sequence *s)
{
	return s->n_tokens - s->n_cached;
}

/* True while there are more rows to run than the one that draws the next token. */
static inline bool sequence_in_prefill(const struct sequence *s)
{
	return s->n_cached < s->job->n_prompt || sequence_pending(s) > 1;
}

static inline bool sequence_echoes(const struct sequence *s)
{
	const struct generation *g = &s->job->generation;

	return g->echo && g->logprobs && s->n_echoed < s->job->n_prompt;
}

int sequence_append(struct sequence *s, int32_t token); /* -ENOMEM */

/* The counts that the penalties need, over the last penalty_window tokens: distinct tokens in order
 * of first appearance. counts [at least the number of tokens looked at]; mark [vocab] is scratch,
 * all zero before and after. Returns how many; 0 where all penalties are off. */
uint32_t sequence_counts(const struct sequence *s, struct sample_count *counts, uint32_t *mark);
