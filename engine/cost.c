/* A step's cost has a part that every step pays (the weights are read once) and one that grows with
 * its rows, and how they stand to each other differs a hundredfold between a processor and a card.
 * So nothing is assumed but that more rows cost more. */
#include "engine/cost.h"

#define MEAN_STEPS 8 /* steps that a running mean looks back on */

/* Until two sizes were seen: what a further row adds, of the first. */
#define GUESSED_SLOPE (1.0 / 3)

/* So many times the largest step seen is far. */
#define FAR 4

static unsigned point_of(uint32_t n_rows)
{
	unsigned k = n_rows > 1 ? 32 - (unsigned)__builtin_clz(n_rows - 1) : 0;

	return k < COST_POINTS ? k : COST_POINTS - 1;
}

void cost_note(struct cost *c, uint32_t n_rows, uint64_t usec)
{
	struct cost_point *p = &c->points[point_of(n_rows)];

	if (n_rows == 0)
		return;
	if (p->rows == 0) {
		*p = (struct cost_point){n_rows, usec};
		return;
	}
	/* one step that was disturbed must not count for more than it tells */
	if ((double)usec > 4 * p->usec)
		usec = (uint64_t)(4 * p->usec);
	p->rows += (n_rows - p->rows) / MEAN_STEPS;
	p->usec += ((double)usec - p->usec) / MEAN_STEPS;
}

/* In units of one row's. */
static double guess(double rows)
{
	return 1 + (rows - 1) * GUESSED_SLOPE;
}

double cost_of(const struct cost *c, uint32_t n_rows)
{
	struct cost_point at = {0, 0}, last = {0, 0};
	double slope;

	if (n_rows == 0)
		return 0;
	for (unsigned k = 0; k < COST_POINTS; k++) {
		struct cost_point p = c->points[k];

		if (p.rows == 0)
			continue;
		if (p.usec < at.usec)
			p.usec = at.usec;
		if (n_rows <= p.rows) {
			/* too little rather than too much: a small step is then made, and known */
			if (at.rows == 0)
				return p.usec * guess(n_rows) / guess(p.rows);
			return at.usec +
			       (p.usec - at.usec) * (n_rows - at.rows) / (p.rows - at.rows);
		}
		last = at;
		at = p;
	}
	if (at.rows == 0)
		return guess(n_rows);
	slope = at.usec / at.rows * GUESSED_SLOPE;
	if (last.rows > 0 && at.rows > last.rows)
		slope = (at.usec - last.usec) / (at.rows - last.rows);
	if (slope < at.usec / at.rows / 64)
		slope = at.usec / at.rows / 64;
	slope = at.usec + slope * (n_rows - at.rows);
	/* far above what was seen: go there in leaps that can be taken back */
	if (n_rows > FAR * at.rows && slope < at.usec * n_rows / (FAR * at.rows))
		slope = at.usec * n_rows / (FAR * at.rows);
	return slope;
}

uint32_t cost_rows(const struct cost *c, uint32_t n_rows, double usec, uint32_t most)
{
	double limit = cost_of(c, n_rows) + usec;
	uint32_t low = 0, high = most;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (cost_of(c, n_rows + middle) <= limit)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}
