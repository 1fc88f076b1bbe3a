/* The method score: how likely each of several continuations is. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct event;
struct job;
struct model;
struct request;
struct text_task;

/* What is weighed, and what it weighs. */
struct score {
	struct score_choice {
		int32_t *tokens; /* [n_tokens], the turn's end not among them */
		uint32_t n_tokens;
		bool known;
		double logprob; /* natural, the turn's end included */
	} * choices;            /* [n] in the order of the request */
	uint32_t n;
	uint64_t n_tokens; /* of all */
	int32_t end;       /* the token that ends the turn; -1: none is asked for */
};
struct score *score_free(struct score *s); /* accepts NULL, returns NULL */

/* On the text worker, behind the prompt's tokens: those of the choices, as t->score, or the task's
 * error. */
void score_text(const struct model *m, struct text_task *t);

/* The choices into a job that has its prompt. -ENOMEM. */
int score_job(const struct score *s, struct job *job);
/* Bytes of the result at most. */
uint64_t score_bytes(const struct score *s, const struct text_task *t);

void score_event(struct score *s, const struct event *e);
/* The response. done: the engine's last word; NULL: it never reached the engine and was cancelled
 * by its own client. */
void score_answer(struct request *r, const struct event *done);
