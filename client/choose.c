/* Why: a question with known answers needs no text that is drawn and read again: the model says how
 * likely each answer is, and that is the same every time. Owns nothing beyond the call. */
#include "client/choose.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/ask.h"

/* e to the power of x <= 0, to the last digits: zeph links no libm. */
static double exponential(double x)
{
	const double ln2 = 0.69314718055994530942;
	double term = 1, total = 1;
	int k;

	if (!(x > -700))
		return 0;
	k = (int)(x / ln2);
	x -= k * ln2;
	for (int i = 1; i < 24; i++) {
		term *= x / i;
		total += term;
	}
	return ldexp(total, k);
}

/* The choice's probability; 0 where the daemon gave none. */
static double probability(const msgpack_object *choices, uint32_t i)
{
	double logprob;

	return object_float(map_get(&choices->via.array.ptr[i], "logprob"), &logprob)
		       ? exponential(logprob)
		       : 0;
}

static double sum(const msgpack_object *choices, uint32_t from, uint32_t n)
{
	double p = 0;

	for (uint32_t i = from; i < from + n; i++)
		p += probability(choices, i);
	return p;
}

static int print_json(struct session *s, const struct options *o, const struct params *params,
	const msgpack_object *result, double yes, double no)
{
	msgpack_sbuffer out;
	char more[128] = "";
	int r;

	if (o->is)
		snprintf(more, sizeof(more), ",\"is\":%s,\"yes\":%.17g,\"no\":%.17g",
			yes > no ? "true" : "false", yes, no);
	msgpack_sbuffer_init(&out);
	r = ask_json(&out, METHOD_SCORE, params, result, more);
	if (r == 0)
		r = output_text(&s->out, out.data, out.size);
	msgpack_sbuffer_destroy(&out);
	return r;
}

/* Each choice's share of all, likely ones and unlikely ones alike. */
static void show_shares(const struct session *s, const struct options *o,
	const msgpack_object *choices, double yes, double no)
{
	double all = sum(choices, 0, choices->via.array.size);

	for (uint32_t i = 0; i < choices->via.array.size && !o->is; i++)
		session_complain(s, "%5.1f%% %.*s", 100 * probability(choices, i) / all,
			(int)(o->choices[i].len < 200 ? o->choices[i].len : 200),
			o->choices[i].text);
	if (o->is)
		session_complain(s, "yes %.1f%%, no %.1f%%", 100 * yes / all, 100 * no / all);
}

enum exit_code choose_print(struct session *s, const struct options *o, const struct params *params,
	const msgpack_object *result)
{
	const msgpack_object *choices = map_get(result, "choices");
	bool whole = choices && choices->type == MSGPACK_OBJECT_ARRAY &&
		     choices->via.array.size == o->n_choices;
	struct rpc_text finish = {"", 0};
	double yes = 0, no = 0;
	int64_t best = -1;
	int r = 0;

	object_text(map_get(result, "finish"), &finish);
	if (finish.len == 9 && memcmp(finish.text, "cancelled", 9) == 0) {
		session_complain(s, "E_CANCELLED: the request was cancelled from elsewhere");
		return EXIT_AGAIN;
	}
	if (!whole || !object_int(map_get(result, "best"), &best) || best < 0 ||
		best >= o->n_choices) {
		session_complain(s, "E_PROTOCOL: the daemon's result has no best choice");
		return EXIT_BROKEN;
	}
	if (o->is) {
		yes = sum(choices, 0, YES_WAYS);
		no = sum(choices, YES_WAYS, YES_WAYS);
	}
	if (o->json) {
		r = print_json(s, o, params, result, yes, no);
	} else if (!o->is) {
		r = output_text(&s->out, o->choices[best].text, o->choices[best].len);
		if (r == 0)
			r = output_end(&s->out);
	}
	if (r < 0) {
		session_complain(s, "out of memory");
		return EXIT_LOST;
	}
	if (o->stats) {
		show_shares(s, o, choices, yes, no);
		ask_stats(s, result);
	}
	return o->is && !(yes > no) ? EXIT_NO : EXIT_DONE;
}
