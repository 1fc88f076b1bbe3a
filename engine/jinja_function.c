/* The functions that a template finds in its environment: jinja2's and those of transformers. */
#include "engine/jinja.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* jinja2's sandbox refuses longer ranges. */
#define RANGE_MAX 100000

static struct jinja_value function_range(struct jinja *j, const struct jinja_args *args)
{
	struct jinja_value slots[3];
	struct jinja_range *r = jinja_take(j, 1, sizeof(*r));
	int64_t end, over;
	uint64_t distance, step;

	if (args->n_named > 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "range() takes no keyword arguments");
	jinja_bind(j, "range()", args, "start stop? step?", slots);
	r->start = jinja_index(j, "range()", slots[0]);
	r->step = 1;
	if (slots[1].kind == JINJA_MISSING) {
		r->stop = r->start;
		r->start = 0;
	} else {
		r->stop = jinja_index(j, "range()", slots[1]);
	}
	if (slots[2].kind != JINJA_MISSING)
		r->step = jinja_index(j, "range()", slots[2]);
	if (r->step == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "range(): the step must not be zero");
	if (r->step > 0 ? r->stop > r->start : r->stop < r->start) {
		distance = r->step > 0 ? (uint64_t)r->stop - (uint64_t)r->start
				       : (uint64_t)r->start - (uint64_t)r->stop;
		step = r->step > 0 ? (uint64_t)r->step : -(uint64_t)r->step;
		distance = (distance - 1) / step + 1;
		if (distance > RANGE_MAX)
			jinja_fail_at(j, -ENOEXEC, j->line,
				"range(): more than %d items are refused", RANGE_MAX);
		r->n = (size_t)distance;
		if (__builtin_mul_overflow(r->step, (int64_t)r->n, &over) ||
			__builtin_add_overflow(r->start, over, &end))
			jinja_fail_at(j, -ENOEXEC, j->line, "an integer leaves its 64 bits");
	}
	return (struct jinja_value){.kind = JINJA_RANGE,
		.trusted = jinja_trusted(j, slots[0]) && jinja_trusted(j, slots[1]) &&
			   jinja_trusted(j, slots[2]),
		.range = r};
}

/* dict() and namespace(): a mapping or pairs, then keywords. */
static struct jinja_value function_mapping(
	struct jinja *j, const struct jinja_args *args, enum jinja_kind kind, const char *name)
{
	struct jinja_value mapping = jinja_dict_new(j, kind), item;
	struct jinja_iterator it;
	size_t i;

	if (args->n > 1)
		jinja_fail_at(j, -ENOEXEC, j->line, "%s takes at most 1 positional argument", name);
	if (args->n == 1 && args->values[0].kind == JINJA_DICT) {
		const struct jinja_dict *d = args->values[0].dict;

		for (i = 0; i < d->n; i++)
			jinja_dict_put(j, mapping.dict, d->entries[i].key, d->entries[i].value);
	} else if (args->n == 1) {
		it = jinja_iterate(j, args->values[0]);
		while (jinja_next(j, &it, &item)) {
			struct jinja_value pair = jinja_to_list(j, item, JINJA_PLAIN);

			if (pair.list->n != 2)
				jinja_fail_at(j, -ENOEXEC, j->line,
					"%s: a sequence of pairs is needed", name);
			jinja_dict_put(j, mapping.dict, pair.list->items[0], pair.list->items[1]);
		}
	}
	for (i = 0; i < args->n_named; i++)
		jinja_dict_put(
			j, mapping.dict, jinja_from(args->named[i].name), args->named[i].value);
	return mapping;
}

static struct jinja_value function_dict(struct jinja *j, const struct jinja_args *args)
{
	return function_mapping(j, args, JINJA_DICT, "dict()");
}

static struct jinja_value function_namespace(struct jinja *j, const struct jinja_args *args)
{
	return function_mapping(j, args, JINJA_NAMESPACE, "namespace()");
}

static struct jinja_value function_raise(struct jinja *j, const struct jinja_args *args)
{
	struct jinja_value message;
	const struct jinja_string *s;

	jinja_bind(j, "raise_exception()", args, "message", &message);
	s = jinja_str(j, message);
	jinja_fail(j, -EINVAL, "%.*s", (int)(s->len < 4096 ? s->len : 4096), s->text);
}

static struct jinja_value function_strftime(struct jinja *j, const struct jinja_args *args)
{
	struct jinja_value format;
	const struct jinja_string *s;
	char text[512], pattern[256];
	time_t now = time(NULL);
	struct tm tm;
	size_t n;

	jinja_bind(j, "strftime_now()", args, "format", &format);
	s = jinja_need_string(j, "strftime_now()", format);
	if (s->len + 2 > sizeof(pattern) || memchr(s->text, 0, s->len) || !localtime_r(&now, &tm))
		jinja_fail_at(j, -ENOEXEC, j->line,
			"strftime_now(): a format of at most %zu bytes "
			"is needed",
			sizeof(pattern) - 2);
	memcpy(pattern, s->text, s->len);
	pattern[s->len] = ' '; /* so that an empty result is told from a long one */
	pattern[s->len + 1] = 0;
	n = strftime(text, sizeof(text), pattern, &tm);
	if (n == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "strftime_now(): the result is too long");
	return jinja_text(j, text, n - 1, jinja_all_trusted(s));
}

static struct jinja_value function_missing(struct jinja *j, const struct jinja_args *args)
{
	jinja_fail_at(j, -ENOEXEC, j->line, "cycler, joiner and lipsum are not implemented");
}

void jinja_define_functions(struct jinja *j, struct jinja_scope *scope)
{
	static const struct jinja_function functions[] = {
		{"cycler", function_missing},
		{"dict", function_dict},
		{"joiner", function_missing},
		{"lipsum", function_missing},
		{"namespace", function_namespace},
		{"raise_exception", function_raise},
		{"range", function_range},
		{"strftime_now", function_strftime},
	};
	size_t i;

	for (i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		jinja_set(j, scope, jinja_literal(j, functions[i].name).string,
			(struct jinja_value){.kind = JINJA_FUNCTION, .function = &functions[i]});
}
