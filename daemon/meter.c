/* Counters that only grow. Owns nothing. */
#include "daemon/meter.h"

#include <assert.h>

static const struct {
	uint64_t usec;
	const char *text;
} bounds[METER_BUCKETS] = {
	{1000, "0.001"},
	{2500, "0.0025"},
	{5000, "0.005"},
	{10000, "0.01"},
	{25000, "0.025"},
	{50000, "0.05"},
	{100000, "0.1"},
	{250000, "0.25"},
	{500000, "0.5"},
	{1000000, "1.0"},
	{2500000, "2.5"},
	{5000000, "5.0"},
	{10000000, "10.0"},
	{30000000, "30.0"},
	{120000000, "120.0"},
	{UINT64_MAX, "+Inf"},
};

const char *histogram_bound(uint32_t bucket)
{
	assert(bucket < METER_BUCKETS);
	return bounds[bucket].text;
}

const char *outcome_name(enum outcome o)
{
	static const char *const names[] = {"done", "stop", "length", "cancelled"};

	return o < OUTCOME_ERRORS ? names[o] : rpc_error_name(o - OUTCOME_ERRORS);
}

void meter_outcome(struct meter *m, uint32_t class, enum outcome o)
{
	assert(class < METER_CLASSES && o < OUTCOME_COUNT);
	m->outcomes[class][o]++;
}

void meter_time(struct meter *m, enum meter_time which, uint64_t usec, uint32_t n)
{
	struct histogram *h = &m->times[which];
	uint32_t bucket = 0;

	while (usec > bounds[bucket].usec)
		bucket++;
	h->counts[bucket] += n;
	h->sum_usec += usec * n;
}
