/* Score jobs: one prompt, many continuations, each told its probability.
 *
 * The job's own sequence computes the whole pages of the prompt and gives its slot up. Then there
 * is a child for each choice: an echo of prompt and choice that is told nobody, which shows the
 * prompt's pages and runs the rest, as many side by side as there are slots. A choice's rows are
 * the same whatever runs beside them, so a score is, too. The parent stands in a list of its own
 * until all are done. */
#include "engine/engine_state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Children of one job that exist at a time, for each slot: more would only wait. */
#define CHILDREN_PER_SLOT 2

void engine_score_init(struct sequence *s)
{
	struct generation *g = &s->job->generation;

	*g = (struct generation){.temperature = 0, .top_p = 1, .typical_p = 1};
	g->repetition_penalty = 1;
	/* the last token's logits are the children's */
	s->n_tokens = (s->job->n_prompt - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
}

/* The choice as a job of its own: -ENOMEM. */
static int child_new(struct engine *e, struct sequence *parent, uint32_t index)
{
	const struct choice *c = &parent->job->choices[index];
	uint32_t n = parent->job->n_prompt;
	struct job *job = job_new();
	struct sequence *s = NULL;

	if (!job)
		return -ENOMEM;
	job->id = ENGINE_OWN_JOB;
	job->uid = parent->job->uid;
	job->batch_priority = parent->job->batch_priority;
	job->arrived_usec = parent->job->arrived_usec;
	job->generation = parent->job->generation;
	job->generation.logprobs = job->generation.echo = true;
	job->n_prompt = n + c->n_tokens;
	job->prompt = malloc(job->n_prompt * sizeof(*job->prompt));
	if (job->prompt) {
		memcpy(job->prompt, parent->job->prompt, n * sizeof(*job->prompt));
		memcpy(job->prompt + n, c->tokens, c->n_tokens * sizeof(*job->prompt));
		s = sequence_new(job, NULL);
	}
	if (!s) {
		job_free(job);
		return -ENOMEM;
	}
	s->parent = parent;
	s->choice = index;
	s->n_tokens--;   /* after the last token nothing is asked */
	s->n_echoed = n; /* what stands before the choice is not asked */
	s->n_seen = n;
	s->arrival = parent->arrival;
	s->turn = parent->turn;
	s->started_usec = parent->started_usec;
	s->place.root = parent->place.root;
	s->place.root->n_holds++;
	parent->n_children++;
	engine_enqueue(e, s);
	return 0;
}

static void feed(struct engine *e, struct sequence *parent)
{
	uint32_t most = e->options.max_sequences * CHILDREN_PER_SLOT;

	while (parent->next_choice < parent->job->n_choices && parent->n_children < most &&
		parent->child_failure == FAILURE_NONE) {
		if (child_new(e, parent, parent->next_choice) == 0)
			parent->next_choice++;
		else if (parent->n_children > 0)
			return; /* when one is done there is room */
		else
			parent->child_failure = FAILURE_MEMORY;
	}
}

/* The prompt's pages are there: the parent gives way to its children. */
static void begin(struct engine *e, struct sequence *s)
{
	engine_tell_prefill(e, s, s->job->n_prompt);
	s->prefilled_usec = engine_now_usec();
	engine_withdraw(e, s);
	s->scoring = true;
	s->next = e->scoring;
	e->scoring = s;
	feed(e, s);
}

bool engine_score(struct engine *e)
{
	struct sequence *s, *next;
	bool any = false;

	for (s = e->scoring; s; s = next) {
		next = s->next;
		if (s->child_failure != FAILURE_NONE)
			engine_finish(
				e, s, s->child_failure, "no memory for a choice", FINISH_STOP);
	}
	for (s = e->running; s; s = next) {
		next = s->next;
		if (s->job->n_choices == 0 || s->paused_usec)
			continue;
		engine_attach(e, s, true);
		if (sequence_pending(s) == 0) {
			begin(e, s);
			any = true;
		}
	}
	return any;
}

void engine_score_row(struct sequence *s, const struct sample_result *result)
{
	s->score += (double)result->logprob;
}

void engine_score_child_done(struct engine *e, struct sequence *s, enum failure failure)
{
	struct sequence *parent = s->parent;
	struct event *event = NULL;

	if (failure == FAILURE_NONE) {
		event = event_new(EVENT_SCORE, parent->job->id);
		failure = event ? FAILURE_NONE : FAILURE_MEMORY;
	}
	if (event) {
		event->index = s->choice;
		event->score = s->score;
		engine_emit(e, event);
	} else if (parent->child_failure == FAILURE_NONE) {
		parent->child_failure = failure; /* seen before the next step */
	}
	engine_drop(e, s);
	feed(e, parent);
	if (parent->n_children == 0 && parent->child_failure == FAILURE_NONE)
		engine_finish(e, parent, FAILURE_NONE, NULL, FINISH_LENGTH);
}

static void drop_children(struct engine *e, struct sequence *list, const struct sequence *parent)
{
	struct sequence *next;

	for (struct sequence *s = list; s; s = next) {
		next = s->next;
		if (s->parent == parent)
			engine_drop(e, s);
	}
}

void engine_score_drop(struct engine *e, struct sequence *parent)
{
	if (!parent->scoring)
		return;
	drop_children(e, e->running, parent);
	drop_children(e, e->queue, parent);
	assert(parent->n_children == 0);
}
