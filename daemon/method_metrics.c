/* metrics: OpenMetrics text. Class manage sees all users, by uid as far as there are not too many;
 * everybody else sees what is theirs and what status shows to all. What a counter here is made of
 * only grows until zephd ends; what the engine counts begins anew with each load. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/dispatch.h"
#include "daemon/peer.h"
#include "daemon/receipt.h"
#include "daemon/request.h"

static void family(FILE *f, const char *name, const char *type, const char *unit, const char *help)
{
	fprintf(f, "# TYPE zeph_%s %s\n", name, type);
	if (unit)
		fprintf(f, "# UNIT zeph_%s %s\n", name, unit);
	fprintf(f, "# HELP zeph_%s %s\n", name, help);
}

static void gauge(FILE *f, const char *name, const char *unit, const char *help, uint64_t value)
{
	family(f, name, "gauge", unit, help);
	fprintf(f, "zeph_%s %" PRIu64 "\n", name, value);
}

static void counter(FILE *f, const char *name, const char *unit, const char *help, uint64_t value)
{
	family(f, name, "counter", unit, help);
	fprintf(f, "zeph_%s_total %" PRIu64 "\n", name, value);
}

/* A label's value: no quotes, backslashes or newlines come from outside. */
static void label(FILE *f, const char *name, const char *value)
{
	fprintf(f, "%s=\"", name);
	for (; *value; value++)
		fputc(*value == '"' || *value == '\\' || (unsigned char)*value < 0x20 ? '_'
										      : *value,
			f);
	fputc('"', f);
}

/* These write the rows of one account. who: "", or its uid's label with a comma behind it. */
static void requests_rows(FILE *f, const char *who, const struct user *account)
{
	for (uint32_t class = 0; class < METER_CLASSES; class ++)
		for (uint32_t o = 0; o < OUTCOME_COUNT; o++)
			if (account->meter.outcomes[class][o])
				fprintf(f,
					"zeph_requests_total{%sclass=\"%s\",outcome=\"%s\"} %" PRIu64
					"\n",
					who, class_name(class), outcome_name(o),
					account->meter.outcomes[class][o]);
}

static void token_rows(FILE *f, const char *who, const struct user *account)
{
	fprintf(f,
		"zeph_tokens_total{%skind=\"prompt\"} %" PRIu64 "\n"
		"zeph_tokens_total{%skind=\"cached\"} %" PRIu64 "\n"
		"zeph_tokens_total{%skind=\"completion\"} %" PRIu64 "\n",
		who, account->prompt_tokens, who, account->cached_tokens, who,
		account->completion_tokens);
}

static void device_rows(FILE *f, const char *who, const struct user *account)
{
	int n = (int)strlen(who);

	fprintf(f, "zeph_device_time_seconds_total%s%.*s%s %.6f\n", n ? "{" : "", n ? n - 1 : 0,
		who, n ? "}" : "", (double)account->device_usec / 1e6);
}

static void subtract(struct user *rest, const struct user *user)
{
	rest->prompt_tokens -= user->prompt_tokens;
	rest->cached_tokens -= user->cached_tokens;
	rest->completion_tokens -= user->completion_tokens;
	rest->device_usec -= user->device_usec;
	for (uint32_t class = 0; class < METER_CLASSES; class ++)
		for (uint32_t o = 0; o < OUTCOME_COUNT; o++)
			rest->meter.outcomes[class][o] -= user->meter.outcomes[class][o];
}

/* All users with class manage: those that are named, then what the others and those forgotten come
 * to; the caller alone without. */
static void rows(FILE *f, const struct peer *p, bool all,
	void (*write)(FILE *f, const char *who, const struct user *account))
{
	const struct users *users = &p->server->users;
	const struct user *user;
	struct user rest = {
		.prompt_tokens = users->prompt_tokens,
		.cached_tokens = users->cached_tokens,
		.completion_tokens = users->completion_tokens,
		.device_usec = users->device_usec,
		.meter = users->meter,
	};
	char who[32];

	if (!all) {
		write(f, "", p->user);
		return;
	}
	TAILQ_FOREACH(user, &users->list, link)
	if (user->named) {
		snprintf(who, sizeof(who), "uid=\"%u\",", user->uid);
		write(f, who, user);
		subtract(&rest, user);
	}
	write(f, "uid=\"other\",", &rest);
}

static void histogram(FILE *f, const char *name, const char *help, const struct histogram *h)
{
	uint64_t n = 0;

	family(f, name, "histogram", "seconds", help);
	for (uint32_t i = 0; i < METER_BUCKETS; i++) {
		n += h->counts[i];
		fprintf(f, "zeph_%s_bucket{le=\"%s\"} %" PRIu64 "\n", name, histogram_bound(i), n);
	}
	fprintf(f, "zeph_%s_count %" PRIu64 "\nzeph_%s_sum %.6f\n", name, n, name,
		(double)h->sum_usec / 1e6);
}

static void batches(FILE *f, const struct engine_stats *stats)
{
	uint64_t n = 0;

	family(f, "batch_sequences", "histogram", "sequences",
		"Sequences that took part in a step of the engine.");
	for (uint32_t i = 0; i < ENGINE_BATCH_BUCKETS; i++) {
		n += stats->batches[i];
		if (i + 1 < ENGINE_BATCH_BUCKETS)
			fprintf(f, "zeph_batch_sequences_bucket{le=\"%u.0\"} %" PRIu64 "\n",
				1u << i, n);
	}
	fprintf(f,
		"zeph_batch_sequences_bucket{le=\"+Inf\"} %" PRIu64
		"\nzeph_batch_sequences_count %" PRIu64 "\nzeph_batch_sequences_sum %" PRIu64 "\n",
		n, n, stats->step_sequences);
}

static void about_daemon(FILE *f, const struct server *s)
{
	static const char *const states[] = {"loading", "ready", "unloaded", "failed"};
	const char *state = server_state(s);

	family(f, "build", "info", NULL, "What serves.");
	fputs("zeph_build_info{", f);
	label(f, "version", ZEPH_VERSION);
	fputc(',', f);
	label(f, "build", receipt_build());
	fputs("} 1\n", f);
	family(f, "uptime_seconds", "gauge", "seconds", "Since zephd began.");
	fprintf(f, "zeph_uptime_seconds %.3f\n",
		(double)(server_now_usec(s) - s->started_usec) / 1e6);
	family(f, "model_state", "stateset", NULL, "Where the model is.");
	for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
		fprintf(f, "zeph_model_state{zeph_model_state=\"%s\"} %d\n", states[i],
			strcmp(states[i], state) == 0);
	family(f, "model_load_seconds", "gauge", "seconds",
		"How long the last load of the model took.");
	if (s->load_usec)
		fprintf(f, "zeph_model_load_seconds %.6f\n", (double)s->load_usec / 1e6);
	gauge(f, "connections", NULL, "Open connections.", s->users.connections);
}

static void about_device(FILE *f, const struct server *s)
{
	const struct engine_report *r = &s->report;
	const struct engine_stats *stats = &r->stats;

	gauge(f, "device_memory_bytes", "bytes", "What the device has.", r->device.memory_bytes);
	gauge(f, "device_used_bytes", "bytes", "Weights, and the pages of keys and values.",
		r->weight_bytes + r->page_bytes * stats->pages);
	gauge(f, "pages", NULL, "Pages of keys and values.", stats->pages);
	gauge(f, "pages_used", NULL, "Pages that sequences show.", stats->pages_used);
	gauge(f, "pages_cached", NULL, "Pages kept for prompts to come.", stats->pages_cached);
	counter(f, "pages_evicted", NULL, "Pages taken from the cache for want of room.",
		stats->pages_evicted);
	counter(f, "pages_swapped", NULL, "Pages put into the host's memory.",
		stats->pages_swapped);
	counter(f, "pages_restored", NULL, "Pages brought back from the host's memory.",
		stats->pages_restored);
	gauge(f, "swap_bytes", "bytes", "Pages in the host's memory.", stats->swap_bytes);
	counter(f, "recomputed_tokens", "tokens",
		"Tokens computed again for sequences that had to wait again.",
		stats->recomputed_tokens);
	counter(f, "preemptions", NULL, "Times that a sequence had to wait again.",
		stats->preempted);
	batches(f, stats);
}

static void about_requests(FILE *f, const struct peer *p, bool all)
{
	const struct meter *m = all ? &p->server->users.meter : &p->user->meter;
	const struct request *r;
	uint32_t running = 0, queued = 0;

	TAILQ_FOREACH(r, &p->server->requests, link)
	{
		bool runs = r->phase == PHASE_PREFILL || r->phase == PHASE_GENERATE;

		running += runs;
		queued += !runs;
	}
	gauge(f, "requests_running", NULL, "Requests that the engine runs.", running);
	gauge(f, "requests_queued", NULL, "Requests that wait.", queued);
	gauge(f, "reply_memory_bytes", "bytes", "What is remembered of replies outside sessions.",
		reply_memory_bytes(p->server->replies, p->user->uid, all));
	family(f, "requests", "counter", NULL, "Requests that have ended, by how they did.");
	rows(f, p, all, requests_rows);
	family(f, "tokens", "counter", "tokens",
		"Of prompts, those found in the cache among them, and of replies.");
	rows(f, p, all, token_rows);
	family(f, "device_time_seconds", "counter", "seconds", "Share of the device's time.");
	rows(f, p, all, device_rows);
	histogram(f, "queue_time_seconds", "From a request's arrival to its first step.",
		&m->times[METER_QUEUE]);
	histogram(f, "first_token_seconds", "From a request's arrival to its first token.",
		&m->times[METER_FIRST_TOKEN]);
	histogram(f, "inter_token_seconds", "From a reply's token to its next.",
		&m->times[METER_BETWEEN_TOKENS]);
}

void method_metrics(struct peer *p, const struct call *c)
{
	bool all = peer_class(p) == CLASS_MANAGE;
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (f) {
		about_daemon(f, p->server);
		about_device(f, p->server);
		about_requests(f, p, all);
		fputs("# EOF\n", f);
	}
	if (!f || fclose(f) != 0 || !text) {
		peer_answer_error(p, c->message.id, E_BUSY, "out of memory for the metrics");
	} else {
		msgpack_packer pk = peer_packer(p);

		message_pack_result(&pk, c->message.id);
		msgpack_pack_map(&pk, 1);
		pack_key(&pk, "text");
		pack_text(&pk, text, len);
	}
	free(text);
}
