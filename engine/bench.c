/* zeph-bench: how fast a model runs here, beside what the machine could do at best.
 *
 * Memory bandwidth, over the weights themselves, and dot-product peaks are measured before and
 * after each test, so that figure and yardstick come from the same moment of a noisy machine.
 * Decode rates count only the steps in which all sequences generate. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/device.h"
#include "engine/engine.h"
#include "engine/kv.h"
#include "engine/yardstick.h"

#define REPEAT_MAX 100
#define LIST_MAX   8
#define TESTS_MAX  (3 * LIST_MAX)
#define PROBES_MAX (TESTS_MAX * REPEAT_MAX + 1)

/* Numbers of one option, in order. */
struct list {
	uint32_t values[LIST_MAX];
	uint32_t n;
};

struct arguments {
	const char *model, *quantize;
	struct device_options device;
	struct list prompt, depth, batch;
	uint32_t generate, repeat;
	int kv_type; /* enum dtype; -1: by device and activations */
	bool json, step;
};

/* What the sink saw since it was last reset. */
struct counter {
	uint32_t tokens, prefills, done;
	enum failure failure;
	char reason[256];
};

struct test {
	char name[32];
	uint32_t prompt; /* tokens whose prefill is measured; 0: decode is */
	uint32_t generate, depth, batch;
	double rates[REPEAT_MAX];  /* tokens/s */
	double bytes_per_token;    /* weights and KV read */
	double blas_rate;          /* tokens/s of cuBLASLt's products alone; 0: not known */
	double shares[REPEAT_MAX]; /* of the bandwidth (decode) or of the int8/bf16/f32 peak
				      (prompt), or of blas_rate where it is known */
};

static const char usage_text[] =
	"usage: zeph-bench --model PATH [options]\n"
	"  --device DEV       auto, cpu, reference, cuda, cuda:N (default auto)\n"
	"  --threads N        0: all processors (default 0)\n"
	"  --activations A    fast or exact (default fast)\n"
	"  --inexact          on a card, cuBLASLt may serve large prompts, as engine.exact = false\n"
	"  --kv-type TYPE     of keys and values: f32, f16, bf16 or q8_0\n"
	"  --quantize TYPE    what f32, f16 and bf16 weights become: q8_0, q4_k_m, …\n"
	"  --prompt N,...     tokens of the prompt tests, 0: none (default 512)\n"
	"  --generate N       tokens of the generation test, 0: none (default 128)\n"
	"  --depth N,...      tokens before those that are measured (default 0)\n"
	"  --batch N,...      sequences that generate at once (default 1): every depth with the\n"
	"                     first, the others with the first depth\n"
	"  --repeat N         rounds; minimum, median and maximum are told (default 5)\n"
	"  --json             one JSON object instead of the table\n"
	"  --step             all of it once for each line on stdin, the model loaded once\n"
	"  --version, --help\n";

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A whole number from min to max, or an error that names the option. */
static int parse_count(
	const char *option, const char *text, uint32_t min, uint32_t max, uint32_t *ret)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-' || n < min || n > max) {
		fprintf(stderr, "zeph-bench: --%s: found \"%s\", wanted a number from %u to %u\n",
			option, text, min, max);
		return -EINVAL;
	}
	*ret = (uint32_t)n;
	return 0;
}

/* The same, several of them with commas between. */
static int parse_list(
	const char *option, const char *text, uint32_t min, uint32_t max, struct list *ret)
{
	char *copy = strdup(text), *rest = copy, *word;
	int r = copy ? 0 : -ENOMEM;

	ret->n = 0;
	while (r == 0 && (word = strsep(&rest, ","))) {
		if (ret->n == LIST_MAX) {
			fprintf(stderr,
				"zeph-bench: --%s: found \"%s\", wanted at most %d numbers\n",
				option, text, LIST_MAX);
			r = -EINVAL;
		} else {
			r = parse_count(option, word, min, max, &ret->values[ret->n]);
			ret->n++;
		}
	}
	free(copy);
	return r;
}

static int parse_kv_type(const char *text, int *ret)
{
	const int type = dtype_from_name(text);

	if (type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_BF16 && type != DTYPE_Q8_0) {
		fprintf(stderr,
			"zeph-bench: --kv-type: found \"%s\", wanted f32, f16, bf16 or q8_0\n",
			text);
		return -EINVAL;
	}
	*ret = type;
	return 0;
}

/* 0: run; 1: all is said; negative: usage error. */
static int parse(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{"model", required_argument, NULL, 'm'},
		{"device", required_argument, NULL, 'd'},
		{"threads", required_argument, NULL, 't'},
		{"activations", required_argument, NULL, 'a'},
		{"inexact", no_argument, NULL, 'i'},
		{"kv-type", required_argument, NULL, 'k'},
		{"quantize", required_argument, NULL, 'q'},
		{"prompt", required_argument, NULL, 'p'},
		{"generate", required_argument, NULL, 'g'},
		{"depth", required_argument, NULL, 'D'},
		{"batch", required_argument, NULL, 'b'},
		{"repeat", required_argument, NULL, 'r'},
		{"json", no_argument, NULL, 'j'},
		{"step", no_argument, NULL, 's'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, r = 0;

	*a = (struct arguments){
		.device = {.device = "auto"},
		.kv_type = -1,
		.prompt = {{512}, 1},
		.depth = {{0}, 1},
		.batch = {{1}, 1},
		.generate = 128,
		.repeat = 5,
	};
	while (r == 0 && (c = getopt_long(argc, argv, "m:h", options, NULL)) != -1) {
		switch (c) {
		case 'm': a->model = optarg; break;
		case 'd': a->device.device = optarg; break;
		case 't': r = parse_count("threads", optarg, 0, 1024, &a->device.threads); break;
		case 'p': r = parse_list("prompt", optarg, 0, 1000000, &a->prompt); break;
		case 'g': r = parse_count("generate", optarg, 0, 1000000, &a->generate); break;
		case 'D': r = parse_list("depth", optarg, 0, 1000000, &a->depth); break;
		case 'b': r = parse_list("batch", optarg, 1, 1024, &a->batch); break;
		case 'r': r = parse_count("repeat", optarg, 1, REPEAT_MAX, &a->repeat); break;
		case 'q': a->quantize = optarg; break;
		case 'i': a->device.inexact = true; break;
		case 'k': r = parse_kv_type(optarg, &a->kv_type); break;
		case 'j': a->json = true; break;
		case 's': a->step = true; break;
		case 'a':
			if (strcmp(optarg, "exact") == 0) {
				a->device.activations = ACTIVATIONS_EXACT;
			} else if (strcmp(optarg, "fast") != 0) {
				fprintf(stderr,
					"zeph-bench: --activations: found \"%s\", wanted fast or exact\n",
					optarg);
				r = -EINVAL;
			}
			break;
		case 'V': printf("zeph-bench %s\n", ZEPH_VERSION); return 1;
		case 'h': fputs(usage_text, stdout); return 1;
		default: r = -EINVAL;
		}
	}
	if (r == 0 && optind < argc) {
		fprintf(stderr, "zeph-bench: unexpected argument \"%s\"\n", argv[optind]);
		r = -EINVAL;
	} else if (r == 0 && !a->model) {
		fprintf(stderr, "zeph-bench: --model is missing\n");
		r = -EINVAL;
	}
	if (r < 0)
		fputs(usage_text, stderr);
	return r;
}

static void count(void *userdata, struct event *event)
{
	struct counter *c = userdata;

	switch (event->kind) {
	case EVENT_TOKENS: c->tokens += event->n_tokens; break;
	case EVENT_PREFILL: c->prefills++; break;
	case EVENT_DONE:
		c->done++;
		if (event->failure) {
			c->failure = event->failure;
			memcpy(c->reason, event->reason, sizeof(c->reason));
		}
		break;
	default: break;
	}
	event_free(event);
}

/* A job of n random tokens (the same at each call) that generates `generate`, whatever they are. */
static int submit(struct engine *e, uint32_t vocab, uint64_t id, uint32_t n, uint32_t generate)
{
	struct job *job = job_new();

	if (job)
		job->prompt = malloc(n * sizeof(*job->prompt));
	if (!job || !job->prompt) {
		job_free(job);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t random[4];

		philox4x32((uint32_t[4]){i, (uint32_t)id}, (uint32_t[2]){7, 0}, random);
		job->prompt[i] = (int32_t)(random[0] % vocab);
	}
	job->id = id;
	job->n_prompt = n;
	job->generation = (struct generation){
		.max_new_tokens = generate,
		.top_p = 1,
		.typical_p = 1,
		.repetition_penalty = 1,
		.ignore_end = true,
	};
	engine_submit(e, job);
	return 0;
}

/* The jobs of one round of a test. */
static int submit_all(struct engine *e, uint32_t vocab, const struct test *t, uint32_t generate)
{
	int r = 0;

	for (uint32_t i = 0; i < t->batch && r == 0; i++)
		r = submit(e, vocab, i, t->prompt ? t->prompt : t->depth + 1, generate);
	return r;
}

/* Runs until the counter shows `done` jobs. With decode_seconds, adds up the steps in which `batch`
 * tokens and nothing else came. */
static int run(struct engine *e, struct counter *c, uint32_t done, uint32_t batch,
	double *decode_seconds, uint32_t *decode_tokens)
{
	while (c->done < done) {
		uint32_t tokens = c->tokens, prefills = c->prefills;
		double begin = now();
		int r = engine_step(e);

		if (r < 0 || c->failure) {
			fprintf(stderr, "zeph-bench: %s\n", c->reason);
			return r < 0 ? r : -EIO;
		}
		if (decode_seconds && c->prefills == prefills && c->tokens - tokens == batch) {
			*decode_seconds += now() - begin;
			*decode_tokens += batch;
		}
	}
	return 0;
}

/* The KV cache holds 16 contexts at most: more sequences than that share longer ones. */
static uint32_t context_of(const struct test *t)
{
	uint32_t n = t->depth + t->prompt + t->generate + 2 + KV_PAGE_TOKENS - 1;

	return n / KV_PAGE_TOKENS * KV_PAGE_TOKENS * ((t->batch + 15) / 16);
}

static enum dtype kv_type_of(const struct weights *w, const struct arguments *a)
{
	return a->kv_type >= 0 ? (enum dtype)a->kv_type
			       : device_kv_dtype(w->output_backend, a->device.activations);
}

/* One round of one test; *ret_rate in tokens/s. */
static int measure(
	const struct weights *w, const struct arguments *a, const struct test *t, double *ret_rate)
{
	uint32_t vocab = w->model->config.vocab;
	struct counter c = {0};
	struct engine_sink sink = {count, &c};
	struct engine_options o;
	struct engine *e = NULL;
	double seconds = 0, begin;
	uint32_t tokens = 0;
	char error[256];
	int r;

	engine_options_default(&o);
	o.max_sequences = t->batch;
	o.prefill_tokens = 2 * device_prefill_tokens(w->output_backend);
	o.context = context_of(t);
	o.kv_dtype = kv_type_of(w, a);
	o.kv_bytes = 16ull << 30;
	r = engine_new(w, &o, &sink, &e, error, sizeof(error));
	if (r < 0) {
		fprintf(stderr, "zeph-bench: %s\n", error);
		return r;
	}
	/* Sequences whose prompts are cached generate side by side from the first step on. */
	if (t->batch > 1 && t->depth > 0) {
		r = submit_all(e, vocab, t, 1);
		if (r == 0)
			r = run(e, &c, t->batch, t->batch, NULL, NULL);
	}
	if (r == 0)
		r = submit_all(e, vocab, t, t->prompt ? 1 : t->generate);
	begin = now();
	if (r == 0)
		r = run(e, &c, c.done + t->batch, t->batch, t->prompt ? NULL : &seconds, &tokens);
	if (r == 0)
		*ret_rate = t->prompt ? t->prompt / (now() - begin) : tokens / seconds;
	engine_free(e);
	return r;
}

/* Bytes that one token's step reads, shared by the batch: weights once, each sequence's keys and
 * values. */
static double bytes_per_token(const struct weights *w, const struct test *t, enum dtype kv)
{
	const struct model_config *c = &w->model->config;
	uint64_t weights = w->bytes;
	double positions = t->depth + t->generate / 2.0;

	if (w->output != w->embed)
		weights -= w->embed_backend->ops->weight_bytes(w->embed);
	if (c->attention.window > 0 && positions > c->attention.window)
		positions = c->attention.window;
	return (double)weights / t->batch +
	       positions * (double)kv_page_bytes(c, kv) / KV_PAGE_TOKENS;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
	qsort(values, n, sizeof(*values), ascending);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The peak that a prompt's multiplications run against with this type of weights. */
static double peak_tops(const struct probe *p, enum dtype dtype, enum activations activations)
{
	if (activations == ACTIVATIONS_EXACT || dtype == DTYPE_F32 || dtype == DTYPE_F16)
		return p->f32_tflops;
	return dtype == DTYPE_BF16 ? p->bf16_tflops : p->int8_tops;
}

static void print_json(const struct weights *w, const struct arguments *a, struct test *tests,
	uint32_t n_tests, const struct probe *probe)
{
	const struct backend_device *d = &w->output_backend->device;
	json_t *root, *list = json_array();

	for (uint32_t i = 0; i < n_tests; i++) {
		struct test *t = &tests[i];
		double m = median(t->rates, a->repeat), share = median(t->shares, a->repeat);

		json_array_append_new(
			list, json_pack("{s:s, s:{s:f, s:f, s:f}, s:f, s:f, s:f, s:f}", "name",
				      t->name, "tokens_per_s", "min", t->rates[0], "median", m,
				      "max", t->rates[a->repeat - 1], "bytes_per_token",
				      t->bytes_per_token, "gbps", t->bytes_per_token * m * 1e-9,
				      "fraction", share, "blas_tokens_per_s", t->blas_rate));
	}
	root = json_pack("{s:s, s:{s:s, s:s, s:s, s:b, s:s}, s:i, s:f, s:f, s:f, s:f, s:o}",
		"model", w->model->config.name, "device", "kind", d->kind, "name", d->name, "isa",
		d->isa, "exact", !d->inexact, "note", d->note, "threads", (int)d->threads,
		"bandwidth_gbps", probe->read_gbps, "int8_tops", probe->int8_tops, "bf16_tflops",
		probe->bf16_tflops, "f32_tflops", probe->f32_tflops, "tests", list);
	json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(root);
}

static void print_table(const struct weights *w, const struct arguments *a, struct test *tests,
	uint32_t n_tests, const struct probe *probe)
{
	const struct model_config *c = &w->model->config;
	const struct backend_device *d = &w->output_backend->device;

	printf("%s, %s, %.2f GB in memory\n", c->name, dtype_info(c->dtype)->name,
		(double)w->bytes * 1e-9);
	printf("%s: %s, %s, %u threads\n", d->kind, d->name, d->isa, d->threads);
	printf("measured here: read %.1f GB/s, int8 %.2f TOPS, bf16 %.2f TFLOPS, f32 %.2f TFLOPS\n\n",
		probe->read_gbps, probe->int8_tops, probe->bf16_tflops, probe->f32_tflops);
	printf("%-14s %10s %10s %10s %9s  share of the limit\n", "test", "tokens/s", "min", "max",
		"GB/s");
	for (uint32_t i = 0; i < n_tests; i++) {
		struct test *t = &tests[i];
		double m = median(t->rates, a->repeat), share = median(t->shares, a->repeat);

		printf("%-14s %10.2f %10.2f %10.2f ", t->name, m, t->rates[0],
			t->rates[a->repeat - 1]);
		if (t->blas_rate > 0)
			printf("%9s  %.0f%% of cuBLASLt's products\n", "", share * 100);
		else if (t->prompt)
			printf("%9s  %.0f%% of the dot-product peak\n", "", share * 100);
		else
			printf("%9.1f  %.0f%% of the bandwidth\n", t->bytes_per_token * m * 1e-9,
				share * 100);
	}
}

static void name_test(struct test *t)
{
	char depth[16] = "";

	if (t->depth)
		snprintf(depth, sizeof(depth), "@d%u", t->depth);
	if (t->prompt)
		snprintf(t->name, sizeof(t->name), "pp%u", t->prompt);
	else if (t->batch > 1)
		snprintf(t->name, sizeof(t->name), "b%u%s", t->batch, depth);
	else
		snprintf(t->name, sizeof(t->name), "tg%u%s", t->generate - 1, depth);
}

/* The prompts, every depth with the first batch, every further batch with the first depth. */
static uint32_t list_tests(const struct arguments *a, struct test *tests)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < a->prompt.n; i++)
		if (a->prompt.values[i])
			tests[n++] = (struct test){
				.prompt = a->prompt.values[i], .batch = 1, .generate = 1};
	for (uint32_t i = 0; a->generate && i < a->depth.n + a->batch.n - 1; i++)
		tests[n++] = (struct test){
			.generate = a->generate + 1,
			.depth = a->depth.values[i < a->depth.n ? i : 0],
			.batch = a->batch.values[i < a->depth.n ? 0 : i - a->depth.n + 1],
		};
	for (uint32_t i = 0; i < n; i++)
		name_test(&tests[i]);
	return n;
}

/* What the test's rate is of what was possible in the same round. */
static double share_of(const struct test *t, double rate, const struct weights *w,
	const struct arguments *a, const struct probe *probe)
{
	const struct model_config *c = &w->model->config;
	double peak = peak_tops(probe, c->dtype, a->device.activations);
	uint64_t table = (uint64_t)c->vocab * c->dim; /* is looked up */

	if (!t->prompt)
		return rate * t->bytes_per_token * 1e-9 / probe->read_gbps;
	if (t->blas_rate > 0)
		return rate / t->blas_rate;
	if (!(peak > 0))
		return 0;
	/* a multiply and an add for each weight */
	return rate * 2e-12 * (double)(c->parameters - table * (c->tied ? 1 : 2)) / peak;
}

/* What a test had on average, between two probes. */
static struct probe probe_between(const struct probe *a, const struct probe *b)
{
	return (struct probe){
		.read_gbps = (a->read_gbps + b->read_gbps) / 2,
		.int8_tops = (a->int8_tops + b->int8_tops) / 2,
		.bf16_tflops = (a->bf16_tflops + b->bf16_tflops) / 2,
		.f32_tflops = (a->f32_tflops + b->f32_tflops) / 2,
	};
}

/* The probes of all rounds, each figure's median. */
static struct probe probe_median(const struct probe *all, uint32_t n)
{
	double figures[4][PROBES_MAX];

	for (uint32_t i = 0; i < n; i++) {
		figures[0][i] = all[i].read_gbps;
		figures[1][i] = all[i].int8_tops;
		figures[2][i] = all[i].bf16_tflops;
		figures[3][i] = all[i].f32_tflops;
	}
	return (struct probe){median(figures[0], n), median(figures[1], n), median(figures[2], n),
		median(figures[3], n)};
}

/* All tests, round by round, each test between two probes; tells the outcome. */
static int bench(
	const struct weights *w, const struct arguments *a, const struct device_found *found)
{
	const struct model_config *c = &w->model->config;
	enum dtype kv = kv_type_of(w, a);
	struct test tests[TESTS_MAX] = {0};
	struct yardstick *yardstick = NULL;
	struct probe all[PROBES_MAX], probe;
	uint32_t n = list_tests(a, tests), n_probes = 0;
	char error[256] = "";
	int r = 0;

	if (yardstick_new(w, found, &yardstick) < 0) {
		fprintf(stderr, "zeph-bench: no memory for the bandwidth probe\n");
		return -ENOMEM;
	}
	for (uint32_t k = 0; k < n; k++) {
		tests[k].bytes_per_token = tests[k].prompt ? 0 : bytes_per_token(w, &tests[k], kv);
		if (tests[k].prompt)
			tests[k].blas_rate = yardstick_prompt(
				yardstick, c, tests[k].prompt, error, sizeof(error));
	}
	if (error[0])
		fprintf(stderr, "zeph-bench: no yardstick for prompts: %s\n", error);
	error[0] = '\0';
	r = yardstick_run(yardstick, &all[n_probes++], error, sizeof(error));
	for (uint32_t i = 0; i < n * a->repeat && r == 0; i++) {
		struct test *t = &tests[i % n];
		double *rate = &t->rates[i / n];

		r = measure(w, a, t, rate);
		if (r < 0)
			break;
		r = yardstick_run(yardstick, &all[n_probes], error, sizeof(error));
		probe = probe_between(&all[n_probes - 1], &all[n_probes]);
		t->shares[i / n] = share_of(t, *rate, w, a, &probe);
		n_probes++;
	}
	yardstick_free(yardstick);
	if (r < 0) {
		if (error[0])
			fprintf(stderr, "zeph-bench: %s\n", error);
		return r;
	}
	probe = probe_median(all, n_probes);
	if (a->json)
		print_json(w, a, tests, n, &probe);
	else
		print_table(w, a, tests, n, &probe);
	fflush(stdout);
	return 0;
}

/* The same as often as somebody asks, so that another program's turns can lie between. */
static int bench_steps(
	const struct weights *w, const struct arguments *a, const struct device_found *found)
{
	char *line = NULL;
	size_t size = 0;
	int r = 0;

	while (r == 0 && getline(&line, &size, stdin) >= 0)
		r = bench(w, a, found);
	free(line);
	return r;
}

int main(int argc, char **argv)
{
	struct model_options options = {.sliding_window = -1};
	struct weights *w = NULL;
	struct backend *b = NULL;
	struct model *m = NULL;
	struct device_found found;
	struct arguments a;
	char error[512] = "no memory";
	struct test tests[TESTS_MAX];
	uint32_t context = 0, n;
	int r;

	r = parse(argc, argv, &a);
	if (r != 0)
		return r < 0 ? 2 : 0;
	options.quantize = a.quantize;
	r = model_open(a.model, &options, &m, error, sizeof(error));
	if (r == 0 && a.kv_type >= 0 &&
		!kv_type_check(&m->config, (enum dtype)a.kv_type, error, sizeof(error)))
		r = -EINVAL;
	if (r == 0)
		r = device_open(&a.device, &b, &found, error, sizeof(error));
	if (r == 0) {
		n = list_tests(&a, tests);
		for (uint32_t i = 0; i < n; i++)
			context = context_of(&tests[i]) > context ? context_of(&tests[i]) : context;
		r = weights_load(m, &b, 1, &(struct weights_options){.context = context}, &w, error,
			sizeof(error));
	}
	if (r < 0)
		fprintf(stderr, "zeph-bench: %s\n", error);
	else
		r = a.step ? bench_steps(w, &a, &found) : bench(w, &a, &found);
	weights_free(w);
	backend_free(b);
	model_free(m);
	return r < 0;
}
