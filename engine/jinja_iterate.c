/* Going over values, one item at a time: what Python's iter() and next() do. Generators are lazy as
 * they are there: a loop that ends early does not run the rest. */
#include "engine/jinja.h"

#include <errno.h>

bool jinja_iterable(struct jinja_value v)
{
	switch (v.kind) {
	case JINJA_UNDEFINED:
	case JINJA_STRING:
	case JINJA_LIST:
	case JINJA_DICT:
	case JINJA_RANGE:
	case JINJA_GENERATOR: return true;
	default: return false;
	}
}

struct jinja_iterator jinja_iterate(struct jinja *j, struct jinja_value v)
{
	if (!jinja_iterable(v))
		jinja_fail_at(
			j, -ENOEXEC, j->line, "'%s' object is not iterable", jinja_type_name(v));
	return (struct jinja_iterator){.source = v};
}

bool jinja_next(struct jinja *j, struct jinja_iterator *it, struct jinja_value *ret)
{
	struct jinja_value v = it->source;

	switch (v.kind) {
	case JINJA_STRING: {
		size_t start = it->position;
		uint32_t code;

		if (start >= v.string->len)
			return false;
		it->position += jinja_char(v.string, start, &code);
		*ret = jinja_from(jinja_part(j, v.string, start, it->position));
		return true;
	}
	case JINJA_LIST:
		if (it->position >= v.list->n)
			return false;
		*ret = v.list->items[it->position++];
		return true;
	case JINJA_DICT:
		if (it->position >= v.dict->n)
			return false;
		*ret = v.dict->entries[it->position++].key;
		return true;
	case JINJA_RANGE:
		if (it->position >= v.range->n)
			return false;
		*ret = jinja_int(
			v.range->start + v.range->step * (int64_t)it->position++, v.trusted);
		return true;
	case JINJA_GENERATOR: return jinja_generator_next(j, v.generator, ret);
	default: return false;
	}
}

struct jinja_value jinja_to_list(struct jinja *j, struct jinja_value v, enum jinja_flavor flavor)
{
	struct jinja_iterator it = jinja_iterate(j, v);
	struct jinja_value list = jinja_list_new(j, flavor, 0), item;

	while (jinja_next(j, &it, &item)) {
		jinja_step(j, 1);
		jinja_list_add(j, list, item);
	}
	return list;
}

struct jinja_value jinja_generate(
	struct jinja *j, enum jinja_generation kind, struct jinja_value input)
{
	struct jinja_generator *g = jinja_take(j, 1, sizeof(*g));

	g->kind = kind;
	g->input = input;
	g->attribute = g->fallback = jinja_missing();
	return (struct jinja_value){.kind = JINJA_GENERATOR, .generator = g};
}
