/* Filters over sequences. Those that jinja2 writes as generators are generators here. */
#include "engine/jinja_filter.h"

#include <errno.h>
#include <string.h>

#include "engine/unicode.h"

/* ---- "a.0.b": ways to a part of an item ---- */

/* The steps of a path: names, and integers for parts that are digits alone. */
static struct jinja_value sequence_path(struct jinja *j, struct jinja_value attribute)
{
	struct jinja_value parts;
	size_t i;

	if (attribute.kind != JINJA_STRING) {
		parts = jinja_list_new(j, JINJA_PLAIN, 1);
		if (attribute.kind != JINJA_NONE)
			jinja_list_add(j, parts, attribute);
		return parts;
	}
	parts = jinja_split(j, attribute.string, jinja_literal(j, ".").string, -1, false);
	for (i = 0; i < parts.list->n; i++) {
		struct jinja_value *part = &parts.list->items[i], number;
		const struct jinja_string *s = part->string;
		size_t digits = 0;

		while (digits < s->len && s->text[digits] >= '0' && s->text[digits] <= '9')
			digits++;
		if (digits == 0 || digits < s->len)
			continue;
		number = jinja_parse_int(j, s, 10);
		if (number.kind == JINJA_INT)
			*part = number;
	}
	return parts;
}

static struct jinja_value sequence_follow(struct jinja *j, struct jinja_value item,
	struct jinja_value path, struct jinja_value fallback)
{
	size_t i;

	if (path.kind == JINJA_MISSING)
		return item;
	for (i = 0; i < path.list->n; i++) {
		jinja_step(j, 1);
		item = jinja_item(j, item, path.list->items[i]);
		if (item.kind == JINJA_UNDEFINED && fallback.kind != JINJA_MISSING &&
			fallback.kind != JINJA_NONE)
			item = fallback;
	}
	return item;
}

static struct jinja_value sequence_fold_case(
	struct jinja *j, struct jinja_value v, bool case_sensitive)
{
	if (v.kind != JINJA_STRING || case_sensitive)
		return v;
	return jinja_from(jinja_recase(j, v.string, UNICODE_TO_LOWER, UNICODE_TO_LOWER));
}

/* ---- generators ---- */

static void generator_prepare_test(struct jinja *j, struct jinja_generator *g)
{
	size_t at = g->of_attribute;
	const struct jinja_string *name;

	if (g->of_attribute) {
		if (g->args.n == 0)
			jinja_fail_at(j, -ENOEXEC, j->line, "the name of an attribute is missing");
		g->attribute = sequence_path(j, g->args.values[0]);
	}
	if (g->args.n <= at)
		return;
	name = jinja_need_string(j, "the name of a test", g->args.values[at]);
	g->test = jinja_test_find(name->text, name->len);
	if (!g->test)
		jinja_fail_at(j, -ENOEXEC, j->line, "no test is named '%.*s'",
			(int)(name->len < 64 ? name->len : 64), name->text);
	g->args.values += at + 1;
	g->args.n -= at + 1;
}

static void generator_prepare_map(struct jinja *j, struct jinja_generator *g)
{
	const struct jinja_string *name;
	struct jinja_value slots[2];

	if (g->args.n == 0 && g->args.n_named > 0) {
		jinja_bind(j, "map", &g->args, "attribute default?", slots);
		g->attribute = sequence_path(j, slots[0]);
		g->fallback = slots[1];
		return;
	}
	if (g->args.n == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "map needs the name of a filter");
	name = jinja_need_string(j, "the name of a filter", g->args.values[0]);
	g->filter = jinja_filter_find(name->text, name->len);
	if (!g->filter)
		jinja_fail_at(j, -ENOEXEC, j->line, "no filter is named '%.*s'",
			(int)(name->len < 64 ? name->len : 64), name->text);
	g->args.values++;
	g->args.n--;
}

/* Done when the first item is asked for, as in Python. */
static void generator_start(struct jinja *j, struct jinja_generator *g)
{
	bool selects = g->kind == JINJA_SELECT || g->kind == JINJA_REJECT;

	g->started = true;
	if ((g->kind == JINJA_MAP || selects) && !jinja_truth(j, g->input)) {
		g->source = jinja_iterate(j, jinja_list_new(j, JINJA_PLAIN, 0));
		return;
	}
	if (selects)
		generator_prepare_test(j, g);
	if (g->kind == JINJA_MAP)
		generator_prepare_map(j, g);
	if (g->kind == JINJA_UNIQUE)
		g->seen = jinja_dict_new(j, JINJA_DICT);
	g->source = jinja_iterate(j, g->input);
}

/* Whether an item comes out, and as what. */
static bool generator_passes(struct jinja *j, struct jinja_generator *g, struct jinja_value *item)
{
	struct jinja_value v;
	bool yes;

	switch (g->kind) {
	case JINJA_EACH: return true;
	case JINJA_MAP:
		*item = g->filter ? g->filter->run(j, *item, &g->args)
				  : sequence_follow(j, *item, g->attribute, g->fallback);
		return true;
	case JINJA_SELECT:
	case JINJA_REJECT:
		v = sequence_follow(j, *item, g->attribute, jinja_missing());
		yes = g->test ? g->test->run(j, v, &g->args) : jinja_truth(j, v);
		return yes == (g->kind == JINJA_SELECT);
	case JINJA_UNIQUE:
		v = sequence_follow(j, *item, g->attribute, jinja_missing());
		v = sequence_fold_case(j, v, g->case_sensitive);
		if (jinja_hashable(v) && jinja_dict_get(j, g->seen.dict, v))
			return false;
		jinja_dict_put(j, g->seen.dict, v, jinja_none());
		return true;
	case JINJA_LOOP_TEST: return jinja_loop_passes(j, g, *item);
	}
	return false;
}

bool jinja_generator_next(struct jinja *j, struct jinja_generator *g, struct jinja_value *ret)
{
	struct jinja_value item;
	bool found = false;

	jinja_enter(j);
	if (!g->started)
		generator_start(j, g);
	while (!found && jinja_next(j, &g->source, &item)) {
		jinja_step(j, 1);
		found = generator_passes(j, g, &item);
	}
	jinja_leave(j);
	if (found)
		*ret = item;
	return found;
}

static struct jinja_value sequence_generate(struct jinja *j, enum jinja_generation kind,
	struct jinja_value v, const struct jinja_args *args, bool of_attribute)
{
	struct jinja_value g = jinja_generate(j, kind, v);

	g.generator->args = *args;
	g.generator->of_attribute = of_attribute;
	return g;
}

JINJA_FILTER(map)
{
	return sequence_generate(j, JINJA_MAP, v, args, false);
}

JINJA_FILTER(select)
{
	return sequence_generate(j, JINJA_SELECT, v, args, false);
}

JINJA_FILTER(reject)
{
	return sequence_generate(j, JINJA_REJECT, v, args, false);
}

JINJA_FILTER(selectattr)
{
	return sequence_generate(j, JINJA_SELECT, v, args, true);
}

JINJA_FILTER(rejectattr)
{
	return sequence_generate(j, JINJA_REJECT, v, args, true);
}

JINJA_FILTER(unique)
{
	struct jinja_value slots[2], g;

	jinja_bind(j, "unique", args, "case_sensitive? attribute?", slots);
	g = jinja_generate(j, JINJA_UNIQUE, v);
	g.generator->case_sensitive = jinja_truth(j, slots[0]);
	if (slots[1].kind != JINJA_MISSING)
		g.generator->attribute = sequence_path(j, slots[1]);
	return g;
}

JINJA_FILTER(items)
{
	struct jinja_value list = jinja_list_new(j, JINJA_PLAIN, 0);
	size_t i;

	jinja_bind(j, "items", args, "", NULL);
	if (v.kind != JINJA_UNDEFINED && v.kind != JINJA_DICT)
		jinja_fail_at(j, -ENOEXEC, j->line, "can only get item pairs from a mapping");
	for (i = 0; v.kind == JINJA_DICT && i < v.dict->n; i++) {
		struct jinja_value pair = jinja_list_new(j, JINJA_TUPLE, 2);

		jinja_step(j, 1);
		jinja_list_add(j, pair, v.dict->entries[i].key);
		jinja_list_add(j, pair, v.dict->entries[i].value);
		jinja_list_add(j, list, pair);
	}
	return jinja_generate(j, JINJA_EACH, list);
}

/* ---- the others ---- */

JINJA_FILTER(length)
{
	jinja_bind(j, "length", args, "", NULL);
	return jinja_int((int64_t)jinja_length(j, v), jinja_trusted(j, v));
}

JINJA_FILTER(list)
{
	jinja_bind(j, "list", args, "", NULL);
	return jinja_to_list(j, v, JINJA_PLAIN);
}

JINJA_FILTER(first)
{
	struct jinja_iterator it = jinja_iterate(j, v);
	struct jinja_value item;

	jinja_bind(j, "first", args, "", NULL);
	if (jinja_next(j, &it, &item))
		return item;
	return jinja_undefined(j, "no first item, the sequence was empty");
}

JINJA_FILTER(last)
{
	struct jinja_value list;

	jinja_bind(j, "last", args, "", NULL);
	if (!jinja_has_length(v) || v.kind == JINJA_LOOP)
		jinja_fail_type(j, "last", "a sequence that can be reversed", v);
	if (v.kind == JINJA_STRING && v.string->len > 0)
		return jinja_from(jinja_part(
			j, v.string, jinja_char_before(v.string, v.string->len), v.string->len));
	if (v.kind == JINJA_LIST && v.list->n > 0)
		return v.list->items[v.list->n - 1];
	list = jinja_to_list(j, v, JINJA_PLAIN);
	if (list.list->n > 0)
		return list.list->items[list.list->n - 1];
	return jinja_undefined(j, "no last item, the sequence was empty");
}

JINJA_FILTER(join)
{
	struct jinja_value slots[2], path = jinja_missing(), item;
	const struct jinja_string *separator;
	struct jinja_builder b = {0};
	struct jinja_iterator it;
	bool first = true;

	jinja_bind(j, "join", args, "d? attribute?", slots);
	if (slots[1].kind != JINJA_MISSING && slots[1].kind != JINJA_NONE)
		path = sequence_path(j, slots[1]);
	separator = slots[0].kind == JINJA_MISSING ? jinja_literal(j, "").string
						   : jinja_str(j, slots[0]);
	it = jinja_iterate(j, v);
	while (jinja_next(j, &it, &item)) {
		jinja_step(j, 1);
		if (!first)
			jinja_put_string(j, &b, separator);
		first = false;
		item = sequence_follow(j, item, path, jinja_missing());
		jinja_put_string(j, &b, jinja_str(j, item));
	}
	return jinja_from(jinja_built(j, &b));
}

JINJA_FILTER(reverse)
{
	struct jinja_value list;
	size_t i, n;

	jinja_bind(j, "reverse", args, "", NULL);
	if (v.kind == JINJA_STRING) {
		struct jinja_builder b = {0};

		for (n = v.string->len; n > 0; n = i) {
			i = jinja_char_before(v.string, n);
			jinja_step(j, n % 64 == 0);
			jinja_put_string(j, &b, jinja_part(j, v.string, i, n));
		}
		return jinja_from(jinja_built(j, &b));
	}
	list = jinja_to_list(j, v, JINJA_PLAIN);
	for (i = 0, n = list.list->n; i < n / 2; i++) {
		struct jinja_value item = list.list->items[i];

		list.list->items[i] = list.list->items[n - 1 - i];
		list.list->items[n - 1 - i] = item;
	}
	/* Python's reversed() is an iterator; of a generator it is a list. */
	return v.kind == JINJA_GENERATOR ? list : jinja_generate(j, JINJA_EACH, list);
}

/* Stable; keys and items move together. scratch: [2 n]. */
static void sequence_merge_sort(struct jinja *j, struct jinja_value *keys,
	struct jinja_value *items, struct jinja_value *scratch, size_t n, bool reverse)
{
	size_t width, start, k;

	for (width = 1; width < n; width *= 2) {
		for (start = 0; start + width < n; start += 2 * width) {
			size_t middle = start + width;
			size_t end = n - middle < width ? n : middle + width;
			size_t a = start, b = middle, out = 0;

			jinja_step(j, end - start);
			while (a < middle || b < end) {
				bool right = a == middle;

				if (!right && b < end)
					right = reverse ? jinja_compare(j, keys[a], keys[b], "<") <
								  0
							: jinja_compare(j, keys[b], keys[a], "<") <
								  0;
				k = right ? b++ : a++;
				scratch[out] = keys[k];
				scratch[n + out++] = items[k];
			}
			memcpy(keys + start, scratch, out * sizeof(*keys));
			memcpy(items + start, scratch + n, out * sizeof(*items));
		}
	}
}

static void sequence_sort(
	struct jinja *j, struct jinja_value keys, struct jinja_value items, bool reverse)
{
	size_t n = items.list->n;

	if (n < 2)
		return;
	sequence_merge_sort(j, keys.list->items, items.list->items,
		jinja_take(j, 2 * n, sizeof(struct jinja_value)), n, reverse);
}

/* The keys of a list's items along one path, folded unless told. */
static struct jinja_value sequence_keys(struct jinja *j, struct jinja_value items,
	struct jinja_value path, struct jinja_value fallback, bool case_sensitive)
{
	struct jinja_value keys = jinja_list_new(j, JINJA_PLAIN, items.list->n + 1);
	size_t i;

	for (i = 0; i < items.list->n; i++) {
		struct jinja_value key = sequence_follow(j, items.list->items[i], path, fallback);

		jinja_list_add(j, keys, sequence_fold_case(j, key, case_sensitive));
	}
	return keys;
}

/* For sort: a list of keys for each item, "a,b" gives two. */
static struct jinja_value sequence_many_keys(struct jinja *j, struct jinja_value items,
	struct jinja_value attribute, bool case_sensitive)
{
	struct jinja_value keys = jinja_list_new(j, JINJA_PLAIN, items.list->n + 1), names, paths;
	size_t i, k;

	if (attribute.kind == JINJA_STRING) {
		names = jinja_split(j, attribute.string, jinja_literal(j, ",").string, -1, false);
	} else {
		names = jinja_list_new(j, JINJA_PLAIN, 1);
		jinja_list_add(
			j, names, attribute.kind == JINJA_MISSING ? jinja_none() : attribute);
	}
	paths = jinja_list_new(j, JINJA_PLAIN, names.list->n);
	for (k = 0; k < names.list->n; k++)
		jinja_list_add(j, paths, sequence_path(j, names.list->items[k]));
	for (i = 0; i < items.list->n; i++) {
		struct jinja_value key = jinja_list_new(j, JINJA_PLAIN, names.list->n);

		for (k = 0; k < names.list->n; k++)
			jinja_list_add(j, key,
				sequence_fold_case(j,
					sequence_follow(j, items.list->items[i],
						paths.list->items[k], jinja_missing()),
					case_sensitive));
		jinja_list_add(j, keys, key);
	}
	return keys;
}

JINJA_FILTER(sort)
{
	struct jinja_value slots[3], list;

	jinja_bind(j, "sort", args, "reverse? case_sensitive? attribute?", slots);
	list = jinja_to_list(j, v, JINJA_PLAIN);
	sequence_sort(j, sequence_many_keys(j, list, slots[2], jinja_truth(j, slots[1])), list,
		jinja_truth(j, slots[0]));
	return list;
}

JINJA_FILTER(dictsort)
{
	struct jinja_value slots[3], list = jinja_list_new(j, JINJA_PLAIN, 0), path;
	bool by_value = false;
	size_t i;

	jinja_bind(j, "dictsort", args, "case_sensitive? by? reverse?", slots);
	if (slots[1].kind != JINJA_MISSING) {
		const struct jinja_string *by = jinja_need_string(j, "dictsort", slots[1]);

		by_value = jinja_string_is(by, "value");
		if (!by_value && !jinja_string_is(by, "key"))
			jinja_fail_at(j, -ENOEXEC, j->line,
				"dictsort: by is either \"key\" or \"value\"");
	}
	if (v.kind != JINJA_DICT)
		jinja_fail_type(j, "dictsort", "a mapping", v);
	for (i = 0; i < v.dict->n; i++) {
		struct jinja_value pair = jinja_list_new(j, JINJA_TUPLE, 2);

		jinja_list_add(j, pair, v.dict->entries[i].key);
		jinja_list_add(j, pair, v.dict->entries[i].value);
		jinja_list_add(j, list, pair);
	}
	path = sequence_path(j, jinja_int(by_value, true));
	sequence_sort(j, sequence_keys(j, list, path, jinja_missing(), jinja_truth(j, slots[0])),
		list, jinja_truth(j, slots[2]));
	return list;
}

JINJA_FILTER(groupby)
{
	struct jinja_value slots[3], list, path, keys, groups = jinja_list_new(j, JINJA_PLAIN, 0);
	bool case_sensitive;
	size_t i, k;

	jinja_bind(j, "groupby", args, "attribute default? case_sensitive?", slots);
	case_sensitive = jinja_truth(j, slots[2]);
	path = sequence_path(j, slots[0]);
	list = jinja_to_list(j, v, JINJA_PLAIN);
	keys = sequence_keys(j, list, path, slots[1], case_sensitive);
	sequence_sort(j, keys, list, false);
	for (i = 0; i < list.list->n; i = k) {
		struct jinja_value group = jinja_list_new(j, JINJA_TUPLE, 2);
		struct jinja_value members = jinja_list_new(j, JINJA_PLAIN, 0);

		for (k = i; k < list.list->n &&
			    jinja_equal(j, keys.list->items[i], keys.list->items[k]);
			k++)
			jinja_list_add(j, members, list.list->items[k]);
		if (k == i) /* not equal to itself: a NaN */
			jinja_list_add(j, members, list.list->items[k++]);
		jinja_list_add(j, group,
			case_sensitive ? keys.list->items[i]
				       : sequence_follow(j, list.list->items[i], path, slots[1]));
		jinja_list_add(j, group, members);
		group.list->is_group = true;
		jinja_list_add(j, groups, group);
	}
	return groups;
}

static struct jinja_value sequence_extreme(struct jinja *j, struct jinja_value v,
	const struct jinja_args *args, const char *what, int sign)
{
	struct jinja_value slots[2], list, keys;
	size_t i, best = 0;

	jinja_bind(j, what, args, "case_sensitive? attribute?", slots);
	list = jinja_to_list(j, v, JINJA_PLAIN);
	if (list.list->n == 0)
		return jinja_undefined(j, "no aggregated item, the sequence was empty");
	keys = sequence_keys(j, list,
		slots[1].kind == JINJA_MISSING ? slots[1] : sequence_path(j, slots[1]),
		jinja_missing(), jinja_truth(j, slots[0]));
	for (i = 1; i < list.list->n; i++) {
		int c = jinja_compare(
			j, keys.list->items[i], keys.list->items[best], sign < 0 ? "<" : ">");

		if (c != 2 && (c > 0) - (c < 0) == sign)
			best = i;
	}
	return list.list->items[best];
}

JINJA_FILTER(min)
{
	return sequence_extreme(j, v, args, "min", -1);
}

JINJA_FILTER(max)
{
	return sequence_extreme(j, v, args, "max", 1);
}

JINJA_FILTER(sum)
{
	struct jinja_value slots[2], path = jinja_missing(), total, item;
	struct jinja_iterator it;

	jinja_bind(j, "sum", args, "attribute? start?", slots);
	if (slots[0].kind != JINJA_MISSING && slots[0].kind != JINJA_NONE)
		path = sequence_path(j, slots[0]);
	total = slots[1].kind == JINJA_MISSING ? jinja_int(0, true) : slots[1];
	if (total.kind == JINJA_STRING)
		jinja_fail_at(j, -ENOEXEC, j->line, "sum() cannot add strings");
	it = jinja_iterate(j, v);
	while (jinja_next(j, &it, &item)) {
		jinja_step(j, 1);
		total = jinja_arithmetic(
			j, '+', total, sequence_follow(j, item, path, jinja_missing()));
	}
	return total;
}

JINJA_FILTER(batch)
{
	struct jinja_value slots[2], out = jinja_list_new(j, JINJA_PLAIN, 0), item;
	struct jinja_value row = jinja_missing();
	struct jinja_iterator it;
	int64_t size;

	jinja_bind(j, "batch", args, "linecount fill_with?", slots);
	size = jinja_index(j, "batch", slots[0]);
	it = jinja_iterate(j, v);
	while (jinja_next(j, &it, &item)) {
		jinja_step(j, 1);
		if (row.kind == JINJA_MISSING || (int64_t)row.list->n == size) {
			row = jinja_list_new(j, JINJA_PLAIN, 0);
			jinja_list_add(j, out, row);
		}
		jinja_list_add(j, row, item);
	}
	if (slots[1].kind != JINJA_MISSING && slots[1].kind != JINJA_NONE && row.kind == JINJA_LIST)
		while ((int64_t)row.list->n < size) {
			jinja_step(j, 1);
			jinja_list_add(j, row, slots[1]);
		}
	return jinja_generate(j, JINJA_EACH, out);
}

JINJA_FILTER(slice)
{
	struct jinja_value slots[2], out = jinja_list_new(j, JINJA_PLAIN, 0), list;
	int64_t n, slices, i, at = 0, k;

	jinja_bind(j, "slice", args, "slices fill_with?", slots);
	slices = jinja_index(j, "slice", slots[0]);
	list = jinja_to_list(j, v, JINJA_PLAIN);
	n = (int64_t)list.list->n;
	if (slices == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "division by zero");
	for (i = 0; i < slices; i++) {
		struct jinja_value row = jinja_list_new(j, JINJA_PLAIN, 0);
		int64_t size = n / slices + (i < n % slices);

		jinja_step(j, 1);
		for (k = 0; k < size; k++)
			jinja_list_add(j, row, list.list->items[at++]);
		if (slots[1].kind != JINJA_MISSING && slots[1].kind != JINJA_NONE &&
			i >= n % slices)
			jinja_list_add(j, row, slots[1]);
		jinja_list_add(j, out, row);
	}
	return jinja_generate(j, JINJA_EACH, out);
}
