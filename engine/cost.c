/* A step's cost has a part that every step pays (the weights are read once), one that grows with
 * its rows, and one that grows with what they see: attention reads all that stands before a row.
 * How they stand to each other differs a hundredfold between a processor and a card. So nothing is
 * assumed but that more costs more.
 *
 * Steps are remembered by size, and a step is told from those of its size: seen_usec is asked only
 * for what it sees more or less than they did. So an error in it does little harm: the steps of a
 * long prompt resemble those just before them.
 */
#include "engine/cost.h"

#define MEAN_STEPS 16 /* steps that a running mean looks back on, at most */

/* Until two sizes were seen: what a further row adds, of the first. */
#define GUESSED_SLOPE (1.0 / 3)

/* So many times the largest step seen is far. */
#define FAR 4

/* Positions more or fewer for each row that tell nothing beside the noise of a step's time. */
#define NOISE_POSITIONS 256

/* In so many steps what is known about seen_usec fades to a third. */
#define FADE_STEPS 4096

/* A step that took so many times what was expected was disturbed: it tells no more than that. */
#define DISTURBED 1.1

static unsigned point_of(uint32_t n_rows)
{
	unsigned k = n_rows > 1 ? 32 - (unsigned)__builtin_clz(n_rows - 1) : 0;

	return k < COST_POINTS ? k : COST_POINTS - 1;
}

struct cost_work cost_add(const struct cost *c, struct cost_work w, uint32_t first, uint32_t n)
{
	uint32_t below = n; /* rows before which there is less than the window */

	if (c->window > 0)
		below = first + 1 >= c->window ? 0 : c->window - 1 - first;
	if (below > n)
		below = n;
	w.rows += n;
	w.seen += below * (first + (below + 1) / 2.0) + (double)(n - below) * c->window;
	return w;
}

/* Learns seen_usec from a step that has seen more or less than others of its size, which took
 * p->usec: its error is believed as far as that is more than the steps before it differed. */
static void note_seen(struct cost *c, const struct cost_point *p, struct cost_work w, double usec)
{
	double more = (w.seen - p->seen) / p->usec, noise = NOISE_POSITIONS * w.rows / p->usec;
	double error = (usec - cost_of(c, w)) / p->usec, told;

	error = error > 0.5 ? 0.5 : error < -0.5 ? -0.5 : error;
	told = 4 * (more * more + noise * noise);
	c->told -= c->told / FADE_STEPS;
	if (c->told < told)
		c->told = told;
	c->seen_usec += more * error / c->told;
	if (c->seen_usec < 0)
		c->seen_usec = 0;
}

void cost_note(struct cost *c, struct cost_work w, uint64_t step_usec)
{
	struct cost_point *p = &c->points[point_of(w.rows)];
	double usec = step_usec > 0 ? (double)step_usec : 1;

	if (w.rows == 0)
		return;
	if (p->rows == 0) {
		*p = (struct cost_point){w.rows, w.seen, usec, 1};
		return;
	}
	note_seen(c, p, w, usec);
	if (usec > DISTURBED * cost_of(c, w))
		usec = DISTURBED * cost_of(c, w);
	if (p->n_steps < MEAN_STEPS)
		p->n_steps++;
	p->rows += (w.rows - p->rows) / p->n_steps;
	p->seen += (w.seen - p->seen) / p->n_steps;
	p->usec += (usec - p->usec) / p->n_steps;
}

/* In units of one row's. */
static double guess(double rows)
{
	return 1 + (rows - 1) * GUESSED_SLOPE;
}

/* Of rows that see nothing. */
static double rows_usec(const struct cost *c, uint32_t n_rows)
{
	struct cost_point at = {0}, last = {0};
	double slope;

	for (unsigned k = 0; k < COST_POINTS; k++) {
		struct cost_point p = c->points[k];

		if (p.rows == 0)
			continue;
		p.usec -= c->seen_usec * p.seen;
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

double cost_of(const struct cost *c, struct cost_work w)
{
	return w.rows > 0 ? rows_usec(c, w.rows) + c->seen_usec * w.seen : 0;
}

double cost_part(const struct cost *c, struct cost_work whole, struct cost_work part)
{
	if (part.rows == 0)
		return 0;
	return rows_usec(c, whole.rows) * part.rows / whole.rows + c->seen_usec * part.seen;
}

uint32_t cost_rows(
	const struct cost *c, struct cost_work w, uint32_t first, double usec, uint32_t most)
{
	double limit = cost_of(c, w) + usec;
	uint32_t low = 0, high = most;

	for (unsigned k = point_of(w.rows + 1); k < COST_POINTS - 1; k++) {
		if (c->points[k].rows == 0 && high > (1u << k) - w.rows)
			high = (1u << k) - w.rows;
	}
	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (cost_of(c, cost_add(c, w, first, middle)) <= limit)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}
