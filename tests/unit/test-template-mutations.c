/* Claims: broken, cut and spliced chat templates crash nothing, stop within their budget, and
 * either render or say what is wrong. The inputs are the same in every run; ZEPH_MUTATIONS=100000
 * makes more of them, ZEPH_SLOWEST=1 shows which took longest. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/limits.h"
#include "engine/template.h"

#define ROUNDS     5000
#define SEEDS_MAX  64
#define SOURCE_MAX 65536

struct seed {
	char *text;
	size_t len;
};

static uint64_t draw(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* All published templates, in the order of their names. */
static size_t read_seeds(struct seed *seeds)
{
	struct dirent **entries;
	int n = scandir(GOLDEN_DIR "/../data/templates", &entries, NULL, alphasort);
	size_t count = 0;

	assert_true(n > 2);
	for (int i = 0; i < n; i++) {
		char path[1024];
		FILE *f;

		snprintf(
			path, sizeof(path), GOLDEN_DIR "/../data/templates/%s", entries[i]->d_name);
		free(entries[i]);
		if (!strstr(path, ".jinja"))
			continue;
		f = fopen(path, "rb");
		assert_non_null(f);
		assert_true(count < SEEDS_MAX);
		seeds[count].text = malloc(SOURCE_MAX);
		seeds[count].len = fread(seeds[count].text, 1, SOURCE_MAX, f);
		assert_in_range(seeds[count].len, 1, SOURCE_MAX - 1);
		count++;
		fclose(f);
	}
	free(entries);
	assert_true(count >= 20);
	return count;
}

static const char *const words[] = {"{{", "}}", "{%", "%}", "{#", "#}", "-%}", "{%-", "{%+", "(",
	")", "[", "]", "{", "}", "|", ".", ",", ":", "=", "==", "**", "//", "%", "~", "*", "-", "'",
	"\"", "\\", "\n", " ", "0", "-1", "9223372036854775807", "1e308", "0x", "1_", " if ",
	" else ", " for ", " in ", " is ", " not ", " and ", " or ", "{% if ", "{% elif ",
	"{% else %}", "{% endif %}", "{% for x in ", "{% endfor %}",
	"{% set x = ", "{% set ns.x = ", "{% endset %}", "{% macro f(a, b=1) %}", "{% endmacro %}",
	"{{ f(", "{% call f() %}", "{% endcall %}", "{% filter upper %}", "{% endfilter %}",
	"{% raw %}", "{% endraw %}", "{% break %}", "{% continue %}", "{% generation %}",
	"recursive", "loop", "loop.index", "loop.nextitem", "loop(", "loop.cycle(", "namespace(",
	"range(", "range(100000)", "dict(", "messages", "messages[0]", "messages * 100000",
	".content", "['content']", "none", "true", "nosuch", "'a' * 100000", "| list", "| join(",
	"| tojson", "| tojson(indent=4)", "| sort", "| map('", "| map(attribute='", "| select('",
	"| selectattr('", "| groupby('", "| unique", "| batch(", "| slice(", "| reverse",
	"| replace('a', ", "| indent", "| length", "| items", "| dictsort", "| default(", "| trim",
	"| int", "| float", "| round(", "| sum", "| first", ".split(", ".replace('', ", ".strip()",
	".join(", ".items()", ".format(", "[::-1]", "[1:]", "[:", "raise_exception(",
	"strftime_now(", "caller()", "varargs", "kwargs", "\xc3\xa9", "\xff", "\xf0\x9f"};

#define N_WORDS (sizeof(words) / sizeof(words[0]))

/* Puts len bytes in at a place; what is too long falls off the end. */
static size_t put(char *out, size_t n, size_t at, const char *bytes, size_t len)
{
	char *behind = malloc(n - at + 1);

	memcpy(behind, out + at, n - at);
	len = len < SOURCE_MAX - at ? len : SOURCE_MAX - at;
	memmove(out + at, bytes, len);
	at += len;
	n = n - (at - len);
	n = n < SOURCE_MAX - at ? n : SOURCE_MAX - at;
	memcpy(out + at, behind, n);
	free(behind);
	return at + n;
}

/* The word around a place: where it begins and ends. */
static void word_at(const char *text, size_t n, size_t at, size_t *ret_start, size_t *ret_end)
{
	size_t start = at, end = at;

	while (start > 0 && (isalnum((unsigned char)text[start - 1]) || text[start - 1] == '_'))
		start--;
	while (end < n && (isalnum((unsigned char)text[end]) || text[end] == '_'))
		end++;
	*ret_start = start;
	*ret_end = end;
}

static size_t mutate(char *out, size_t n, const struct seed *other, uint64_t *s)
{
	size_t at = draw(s) % (n + 1), len = draw(s) % 64, from = draw(s) % other->len, end;

	switch (draw(s) % 12) {
	case 0: /* a byte */
		if (at < n)
			out[at] = (char)draw(s);
		return n;
	case 1: /* a cut */
		len = len < n - at ? len : n - at;
		memmove(out + at, out + at + len, n - at - len);
		return n - len;
	case 2: /* a stretch, doubled */
		len = len < n - at ? len : n - at;
		return put(out, n, at, out + at, len);
	case 3: /* a stretch of another */
		len = 4 * len < other->len - from ? 4 * len : other->len - from;
		return put(out, n, at, other->text + from, len);
	case 4: /* another's end */
		n = at;
		return put(out, n, at, other->text + from, other->len - from);
	case 5:
	case 6:
	case 7:
	case 8: /* a word for another */
		word_at(out, n, at, &at, &len);
		len -= at;
		memmove(out + at, out + at + len, n - at - len);
		word_at(other->text, other->len, from, &from, &end);
		return put(out, n - len, at, other->text + from, end - from);
	default: {
		const char *word = words[draw(s) % N_WORDS];

		return put(out, n, at, word, strlen(word));
	}
	}
}

static const struct chat_message messages[] = {{"system", 6, " Be brief.\n", 11},
	{"user", 4, "Is it 42? {{ x }} </s>\xc3\xa9\xff", 25}, {"assistant", 9, "", 0},
	{"user", 4, "a,b;c\n\n1 2", 10}, {"tool", 4, "[]", 2}};

static bool check(const char *source, size_t len, size_t n_messages)
{
	struct rendering out = {0};
	struct template *t = NULL;
	char error[256] = "";
	size_t i, sum = 0;
	int r;

	r = template_new(source, len, "<s>", "</s>", NULL, 0, &t, error, sizeof(error));
	if (r < 0) {
		assert_true(r == -EINVAL || r == -ENOTSUP);
		assert_true(error[0] && !t);
		return false;
	}
	r = template_render(t, messages, n_messages, true, &out, error, sizeof(error));
	template_free(t);
	if (r < 0) {
		assert_true(r == -EINVAL || r == -ENOEXEC || r == -E2BIG || r == -ENOTSUP);
		assert_true(r == -EINVAL || error[0]);
		assert_null(out.text);
		return true;
	}
	assert_true(out.len <= TEMPLATE_OUTPUT_BYTES_MAX);
	for (i = 0; i < out.n_spans; i++) {
		assert_ptr_equal(out.spans[i].text, out.text + sum);
		assert_true(out.spans[i].len > 0);
		assert_true(i == 0 || out.spans[i].trusted != out.spans[i - 1].trusted);
		sum += out.spans[i].len;
	}
	assert_int_equal(sum, out.len);
	rendering_done(&out);
	return true;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void mutated_templates_break_nothing(void **state)
{
	struct seed seeds[SEEDS_MAX];
	const char *wanted = getenv("ZEPH_MUTATIONS"), *show = getenv("ZEPH_SLOWEST");
	unsigned long rounds = wanted ? strtoul(wanted, NULL, 10) : ROUNDS, round, compiled = 0;
	size_t n_seeds = read_seeds(seeds), i;
	char *source = malloc(SOURCE_MAX + 1);
	uint64_t s = 88172645463325252u;
	double slowest = 0;

	for (i = 0; i < n_seeds; i++)
		assert_true(check(seeds[i].text, seeds[i].len, 4));
	for (round = 0; round < rounds; round++) {
		const struct seed *seed = &seeds[draw(&s) % n_seeds];
		size_t n = seed->len;
		double start = show ? seconds() : 0;

		memcpy(source, seed->text, n);
		for (uint64_t changes = 1 + draw(&s) % 4; changes-- > 0;)
			n = mutate(source, n, &seeds[draw(&s) % n_seeds], &s);
		compiled += check(source, n, draw(&s) % 6);
		if (show && seconds() - start > slowest) {
			slowest = seconds() - start;
			print_message("# round %lu: %.3f s\n", round, slowest);
		}
	}
	if (show)
		print_message("# %lu of %lu compiled\n", compiled, rounds);
	/* Most of the point is in those that run. */
	assert_true(compiled > rounds / 10);
	for (i = 0; i < n_seeds; i++)
		free(seeds[i].text);
	free(source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mutated_templates_break_nothing),
	};

	return cmocka_run_group_tests_name("template-mutations", tests, NULL, NULL);
}
