/* What a step of so many rows costs, learnt from the steps that were. */
#pragma once

#include <stdint.h>

#define COST_POINTS 16 /* steps of 1, 2, 3 … 4, 5 … 8, … rows */

struct cost {
	struct cost_point {
		double rows, usec; /* running means; 0: no such step yet */
	} points[COST_POINTS];
};

void cost_note(struct cost *c, uint32_t n_rows, uint64_t usec);

/* Microseconds of a step of n rows; 0 for none. Between what was measured it is a line, above it
 * the last line goes on; before the first measurement it is in units of a row's. Never less for
 * more rows. */
double cost_of(const struct cost *c, uint32_t n_rows);

/* The most rows that can be added to n_rows for at most `usec` more. */
uint32_t cost_rows(const struct cost *c, uint32_t n_rows, double usec, uint32_t most);
