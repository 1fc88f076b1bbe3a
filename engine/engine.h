/* The engine: jobs in, events out.
 *
 * One thread owns an engine and calls engine_step() while there is work. A step gathers one row
 * from each sequence that is generating and a chunk of the prompt of those that are not there yet,
 * runs them through forward() and the sampler, and reports what happened as events. Nothing here
 * blocks, logs or touches a file descriptor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"
#include "kernels/sample.h"

/* How to generate: everything resolved, no defaults left. */
struct generation {
	uint32_t max_new_tokens; /* 0: only the prompt is run */
	float temperature;       /* 0: greedy */
	uint32_t top_k;
	float top_p, min_p, typical_p;
	float repetition_penalty, presence_penalty, frequency_penalty;
	uint32_t penalty_window; /* tokens that the penalties look back on; 0: all */
	uint64_t seed;
	bool logprobs;
	uint32_t n_top;  /* likeliest tokens with each logprob, at most SAMPLE_TOP_MAX */
	bool echo;       /* logprobs of the prompt too */
	bool ignore_end; /* benchmarks: end tokens do not end the reply */
};

struct stop_text {
	char *text;
	size_t len;
};

/* One of the continuations that a score job weighs. */
struct choice {
	int32_t *tokens; /* [n_tokens] */
	uint32_t n_tokens;
};

struct job {
	uint64_t id; /* unique among the live ones, never ENGINE_OWN_JOB */
	uint32_t uid;
	/* Cached prefixes are shared by jobs of one uid and one key: 0, unless the uid may be many
	 * people: then a number for each of them. */
	uint64_t cache_key;
	bool batch_priority; /* waits for interactive jobs */
	uint32_t weight;     /* its uid's share of the device beside others'; 0 is 1 */
	int32_t *prompt;     /* [n_prompt], at least 1 and less than the context */
	uint32_t n_prompt;
	struct generation generation;
	/* A score job: nothing is drawn, `generation` counts for nothing; each choice is told by an
	 * EVENT_SCORE. [n_choices], each of at least one token, prompt and choice within the
	 * context. 0: it is not one. */
	struct choice *choices;
	uint32_t n_choices;
	struct stop_text *stops; /* [n_stops] */
	uint32_t n_stops;
	struct sample_bias *bias; /* [n_bias] */
	uint32_t n_bias;
	uint64_t arrived_usec; /* CLOCK_MONOTONIC */
	struct event *done;    /* the job's last event, made ahead */
};
#define ENGINE_OWN_JOB UINT64_MAX
struct job *job_new(void);             /* zeroed, or NULL */
struct job *job_free(struct job *job); /* with all that it points to; accepts NULL, returns NULL */

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED };

/* How a job failed; 0 is success. The daemon gives each its E_ name. */
enum failure {
	FAILURE_NONE,
	FAILURE_CANCELLED, /* by somebody else than its client, with the reason */
	FAILURE_TIMEOUT,
	FAILURE_TOO_LARGE,
	FAILURE_ENGINE, /* the device failed */
	FAILURE_MEMORY,
};

struct token_logprob {
	int32_t token;
	float logprob; /* NAN: none (the first token of a prompt) */
	uint32_t n_top;
	struct sample_top *top; /* [n_top] */
};

enum event_kind {
	EVENT_QUEUED,  /* position */
	EVENT_PREFILL, /* done, total */
	EVENT_ECHO,    /* logprobs of prompt tokens, in order, in one or more events */
	EVENT_TOKENS,  /* index, tokens, text, logprobs */
	EVENT_SCORE,   /* index, score: of one choice, in any order of choices */
	EVENT_DONE,    /* the last one of a job */
	EVENT_DROPPED, /* done: pages; the daemon's own, of engine_drop_cache() */
};

struct event {
	struct event *next; /* for the receiver's list */
	uint64_t job;
	enum event_kind kind;

	uint32_t position;    /* QUEUED: jobs before this one; 0 is next */
	uint32_t done, total; /* PREFILL: tokens */

	uint32_t index; /* TOKENS: of the first token in the reply */
	uint32_t n_tokens;
	int32_t *tokens; /* [n_tokens]; end tokens are never among them */
	char *text;      /* valid UTF-8, terminated; its length is text_len (it may hold NUL) */
	size_t text_len;
	uint32_t n_logprobs;
	struct token_logprob *logprobs; /* [n_logprobs] */

	/* SCORE: the sum over the choice's tokens of the natural logarithms of their probabilities
	 * after the prompt and the tokens before them, by the model's own softmax; index is the
	 * choice. */
	double score;

	enum failure failure; /* DONE, and all below */
	char reason[256];
	enum finish finish;
	int32_t stop; /* index of the stop text that matched, or -1 */
	uint32_t prompt_tokens, completion_tokens;
	uint32_t cached_tokens;    /* of the prompt: found in the cache, not computed for it */
	uint64_t queue_usec;       /* arrival to admission */
	uint64_t prefill_usec;     /* admission to the prompt's last row */
	uint64_t first_token_usec; /* arrival to the first token; 0: there was none */
	uint64_t total_usec;       /* arrival to this event */
	uint64_t device_usec;      /* its share of the steps that it took part in */
};
struct event *event_free(struct event *e); /* accepts NULL, returns NULL */

struct engine_sink {
	void (*emit)(void *userdata,
		struct event *event); /* takes the event over; called in engine_step */
	void *userdata;
};

struct engine_options {
	uint32_t context;        /* positions of one sequence; 0: the model's */
	uint64_t kv_bytes;       /* 0: 2 GiB; never more than 16 contexts */
	enum dtype kv_dtype;     /* F16 unless told */
	uint32_t max_sequences;  /* generating at once */
	uint32_t prefill_tokens; /* prompt rows of one step, at most */
	uint64_t swap_bytes;     /* host memory for pages of sequences that wait again; 0: none */
	uint32_t max_per_uid;    /* sequences of one uid running at once; 0: no limit of its own */
};
void engine_options_default(struct engine_options *o);

/* What an engine with these options (context set) will ask of its device: KV pages of one sequence
 * at its longest, and bytes of activations and logits. */
uint32_t engine_context_pages(const struct model_config *c, const struct engine_options *o);
uint64_t engine_workspace_bytes(const struct model_config *c, const struct engine_options *o);

/* Steps by how many sequences had a part in them: up to 1, 2, 4 … 64, and more. */
#define ENGINE_BATCH_BUCKETS 8

struct engine_stats {
	uint32_t running, queued;
	uint64_t done, failed, cancelled;          /* jobs since the start */
	uint64_t prompt_tokens, completion_tokens; /* computed; cached ones are not among them */
	uint64_t cached_tokens;                    /* found in the cache instead */
	uint64_t preempted;                        /* times that a sequence had to wait again */
	uint32_t pages, pages_used, pages_cached;  /* used: shown by sequences, or the shared
						      prompt's; cached: by none, until room is needed
						    */
	uint64_t pages_swapped;                    /* to the host's memory, since the start */
	uint64_t pages_restored;                   /* and back */
	uint64_t recomputed_tokens;                /* of sequences that had to wait again */
	uint64_t swap_bytes;                       /* there now */
	uint64_t pages_evicted;                    /* from the cache, for want of room */
	uint64_t step_sequences;                   /* of all steps together */
	uint64_t batches[ENGINE_BATCH_BUCKETS];    /* steps, by sequences */
	uint32_t shared_tokens;                    /* of the shared prompt, whole pages */
	uint32_t context;
};

struct engine;
int engine_new(const struct weights *w, const struct engine_options *o,
	const struct engine_sink *sink, struct engine **ret, char *error, size_t error_size);
struct engine *engine_free(
	struct engine *e); /* accepts NULL, returns NULL; live jobs are dropped */

/* Names the administrator's shared prompt: tokens [n] that many prompts begin with, whoever sends
 * them. Its whole pages are computed at the first steps, stay for good, and are all that one uid
 * shares with another. At most half of the pool and less than the context: more is left out. Before
 * the first job, once. -ENOMEM. */
int engine_share_prefix(struct engine *e, const int32_t *tokens, uint32_t n);

/* Forgets what is cached for one uid, or (`all`) for everybody but the shared prompt, and zeroes
 * it. Returns pages; a negative errno: the device failed. */
int64_t engine_drop_cache(struct engine *e, uint32_t uid, bool all);

/* Takes the job over, also on failure, which it reports as an event. */
void engine_submit(struct engine *e, struct job *job);

/* Ends a job. FAILURE_NONE: its own client asked: it is done with FINISH_CANCELLED and what it has;
 * another failure is reported with the reason. Unknown ids are ignored: the job was done already.
 */
void engine_cancel(struct engine *e, uint64_t id, enum failure failure, const char *reason);

/* A paused sequence keeps its pages and leaves the batch (its reader is slow). Unknown ids are
 * ignored. */
void engine_pause(struct engine *e, uint64_t id, bool paused);

/* Is the step that runs now made of batch jobs alone? Whoever is asked between layers may let an
 * interactive job that has just come go first. */
bool engine_runs_batch(const struct engine *e);

/* Asked between layers; true makes engine_step() return early, to be called again. */
void engine_set_stop(struct engine *e, bool (*asked)(void *userdata), void *userdata);

/* One step. 1: there is more to do; 0: nothing to do until a job comes or one is resumed; negative:
 * the device failed, every job was told, and the engine takes no more. */
int engine_step(struct engine *e);

/* With nothing to do, some milliseconds of what later jobs would wait for: the memory of KV pages
 * is found, for one whole context beyond what was ever in use or as much again as was, but for no
 * more than a quarter of the pool. False: all is done. */
bool engine_prepare(struct engine *e);

void engine_stats(const struct engine *e, struct engine_stats *ret);
