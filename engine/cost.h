/* What a step costs, learnt from the steps that were: by its rows, and by the positions that they
 * see (attention's part). */
#pragma once

#include <stdint.h>

#define COST_POINTS 16 /* steps of 1, 2, 3 … 4, 5 … 8, … rows */

struct cost_work {
	uint32_t rows;
	double seen; /* positions, of all rows together */
};

struct cost {
	struct cost_point {
		double rows, seen, usec; /* running means; 0: no such step yet */
		uint32_t n_steps;
	} points[COST_POINTS];
	double seen_usec; /* of one row that sees one position */
	double told;      /* how much the steps so far have told about it */
	uint32_t window;  /* positions that a row sees at most; 0: all before it */
};

/* Work and n rows of one sequence more, at positions first … */
struct cost_work cost_add(const struct cost *c, struct cost_work w, uint32_t first, uint32_t n);

void cost_note(struct cost *c, struct cost_work w, uint64_t usec);

/* Microseconds of a step; 0 without rows. Between what was measured it is a line, above it the last
 * line goes on; before the first measurement it is in units of a row's. Never less for more. */
double cost_of(const struct cost *c, struct cost_work w);

/* What of a step's cost is that of some of its rows. */
double cost_part(const struct cost *c, struct cost_work whole, struct cost_work part);

/* The most rows at positions first … that can be added to a step for at most `usec` more; no
 * further than to the next size of step that was not measured. */
uint32_t cost_rows(
	const struct cost *c, struct cost_work w, uint32_t first, double usec, uint32_t most);
