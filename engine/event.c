/* Jobs and events: the values that cross the engine's border. Each owns all that it points to. */
#include "engine/event.h"

#include <stdlib.h>
#include <string.h>

struct job *job_new(void)
{
	struct job *job;

	job = calloc(1, sizeof(*job));
	if (!job)
		return NULL;
	/* The last word about a job must never fail for want of memory. */
	job->done = event_new(EVENT_DONE, 0);
	if (!job->done) {
		free(job);
		return NULL;
	}
	return job;
}

struct job *job_free(struct job *job)
{
	if (!job)
		return NULL;
	for (uint32_t i = 0; i < job->n_stops; i++)
		free(job->stops[i].text);
	free(job->stops);
	for (uint32_t i = 0; i < job->n_choices; i++)
		free(job->choices[i].tokens);
	free(job->choices);
	free(job->bias);
	free(job->prompt);
	event_free(job->done);
	free(job);
	return NULL;
}

struct event *event_new(enum event_kind kind, uint64_t job)
{
	struct event *e;

	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->kind = kind;
	e->job = job;
	e->stop = -1;
	return e;
}

int event_add_logprob(struct event *e, const struct sample_result *result)
{
	struct token_logprob *grown, *l;

	grown = realloc(e->logprobs, (e->n_logprobs + 1) * sizeof(*grown));
	if (!grown)
		return -1;
	e->logprobs = grown;
	l = &grown[e->n_logprobs];
	*l = (struct token_logprob){.token = result->token, .logprob = result->logprob};
	if (result->n_top > 0) {
		l->top = malloc(result->n_top * sizeof(*l->top));
		if (!l->top)
			return -1;
		memcpy(l->top, result->top, result->n_top * sizeof(*l->top));
		l->n_top = result->n_top;
	}
	e->n_logprobs++;
	return 0;
}

struct event *event_free(struct event *e)
{
	if (!e)
		return NULL;
	for (uint32_t i = 0; i < e->n_logprobs; i++)
		free(e->logprobs[i].top);
	free(e->logprobs);
	free(e->tokens);
	free(e->text);
	free(e);
	return NULL;
}
