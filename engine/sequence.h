/* One job on its way: its tokens, its place in the KV pool, its reply. */
#pragma once

#include "engine/engine.h"
#include "engine/reply.h"

#define SLOT_NONE UINT32_MAX

struct sequence {
	struct sequence *next; /* in the queue or among the running, in order of arrival */
	struct job *job;
	uint32_t slot;  /* SLOT_NONE while queued */
	uint32_t pages; /* KV pages promised to it at admission */
	bool paused;
	int32_t *tokens; /* [n_tokens] prompt, then reply */
	uint32_t n_tokens, size;
	uint32_t n_cached;      /* positions 0 … n_cached - 1 have their keys and values */
	uint32_t n_generated;   /* end token included */
	uint32_t told_position; /* last queue place told; UINT32_MAX: none */
	uint64_t started_usec, prefilled_usec, first_token_usec; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t device_usec; /* its share of the steps so far, by rows */
	struct reply reply;

	/* This step's part in the batch. */
	uint32_t n_rows;      /* rows of this step */
	uint32_t first_logit; /* index of its first logit row */
	uint32_t n_logits;
};

/* Takes the job over on success. NULL for want of memory. */
struct sequence *sequence_new(struct job *job, const struct tokenizer *t);
struct sequence *sequence_free(struct sequence *s); /* with its job; accepts NULL, returns NULL */

/* Rows that the sequence wants to run next: the rest of its prompt, or its last token. */
static inline uint32_t sequence_pending(const struct sequence *s)
{
	return s->n_tokens - s->n_cached;
}

/* True while the prompt is not completely in the KV pages. */
static inline bool sequence_in_prefill(const struct sequence *s)
{
	return s->n_cached < s->job->n_prompt;
}

int sequence_append(struct sequence *s, int32_t token); /* -ENOMEM */

/* The counts that the penalties need, over the last penalty_window tokens: distinct tokens in order
 * of first appearance. counts [at least the number of tokens looked at]; mark [vocab] is scratch,
 * all zero before and after. Returns how many; 0 where all penalties are off. */
uint32_t sequence_counts(const struct sequence *s, struct sample_count *counts, uint32_t *mark);
