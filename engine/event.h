/* Making events, inside the engine. */
#pragma once

#include "engine/engine.h"

/* An empty event with no stop text matched, or NULL. */
struct event *event_new(enum event_kind kind, uint64_t job);

/* Appends a copy of the token's logprob and its likeliest rivals. -1 for want of memory: the event
 * is then still whole. */
int event_add_logprob(struct event *e, const struct sample_result *result);
