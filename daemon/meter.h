/* What is counted for each user and for all: how requests ended and how long they took. Only the
 * I/O thread counts. */
#pragma once

#include <stdint.h>

#include "proto/protocol.h"

/* How a request ended: an answer, or its error. */
enum outcome {
	OUTCOME_DONE, /* of a method that draws nothing */
	OUTCOME_STOP,
	OUTCOME_LENGTH,
	OUTCOME_CANCELLED, /* by its own client */
	OUTCOME_ERRORS,    /* + enum rpc_error */
	OUTCOME_COUNT = OUTCOME_ERRORS + RPC_ERROR_COUNT,
};
const char *outcome_name(enum outcome o); /* "stop", "E_BUSY" */

#define METER_CLASSES 4  /* enum class */
#define METER_BUCKETS 16 /* the last one has no bound */

struct histogram {
	uint64_t counts[METER_BUCKETS]; /* each observation once */
	uint64_t sum_usec;
};
/* The upper bound of a bucket in seconds, as OpenMetrics writes it; "+Inf" for the last. */
const char *histogram_bound(uint32_t bucket);

enum meter_time { METER_QUEUE, METER_FIRST_TOKEN, METER_BETWEEN_TOKENS, METER_TIMES };

struct meter {
	uint64_t outcomes[METER_CLASSES][OUTCOME_COUNT];
	struct histogram times[METER_TIMES];
};

void meter_outcome(struct meter *m, uint32_t class, enum outcome o);
/* n observations of usec each. */
void meter_time(struct meter *m, enum meter_time which, uint64_t usec, uint32_t n);
