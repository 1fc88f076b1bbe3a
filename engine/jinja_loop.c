/* The `loop` variable: where a loop stands, and what lies before and behind. It looks no further
 * ahead than it is asked to, as jinja2's. */
#include "engine/jinja_eval.h"

#include <errno.h>

void jinja_loop_start(struct jinja *j, struct jinja_loop *loop, const struct jinja_node *node,
	struct jinja_value iterable, struct jinja_scope *scope, uint32_t depth)
{
	*loop = (struct jinja_loop){
		.node = node,
		.scope = scope,
		.iterable = iterable,
		.iterator = jinja_iterate(j, iterable),
		.index0 = -1,
		.depth0 = depth,
		.before = jinja_missing(),
		.current = jinja_missing(),
		.after = jinja_missing(),
		.changed = jinja_missing(),
	};
}

bool jinja_loop_next(struct jinja *j, struct jinja_loop *loop, struct jinja_value *ret)
{
	struct jinja_value item;

	if (loop->after.kind != JINJA_MISSING) {
		item = loop->after;
		loop->after = jinja_missing();
	} else if (!jinja_next(j, &loop->iterator, &item)) {
		return false;
	}
	loop->index0++;
	loop->before = loop->current;
	loop->current = item;
	*ret = item;
	return true;
}

static bool loop_peek(struct jinja *j, struct jinja_loop *loop)
{
	if (loop->after.kind == JINJA_MISSING && !jinja_next(j, &loop->iterator, &loop->after))
		loop->after = jinja_missing();
	return loop->after.kind != JINJA_MISSING;
}

size_t jinja_loop_length(struct jinja *j, struct jinja_loop *loop)
{
	struct jinja_value rest = jinja_list_new(j, JINJA_PLAIN, 0), item;

	if (loop->has_length)
		return loop->length;
	if (jinja_has_length(loop->iterable)) {
		loop->length = jinja_length(j, loop->iterable);
	} else {
		while (jinja_next(j, &loop->iterator, &item)) {
			jinja_step(j, 1);
			jinja_list_add(j, rest, item);
		}
		loop->iterator = jinja_iterate(j, rest);
		loop->length = rest.list->n + (size_t)(loop->index0 + 1) +
			       (loop->after.kind != JINJA_MISSING);
	}
	loop->has_length = true;
	return loop->length;
}

static struct jinja_value loop_cycle(
	struct jinja *j, struct jinja_value self, const struct jinja_args *args)
{
	if (args->n == 0 || args->n_named > 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "loop.cycle() needs items to cycle through");
	return args->values[self.loop->index0 % (int64_t)args->n];
}

static struct jinja_value loop_changed(
	struct jinja *j, struct jinja_value self, const struct jinja_args *args)
{
	struct jinja_value now = jinja_list_new(j, JINJA_TUPLE, args->n);
	struct jinja_loop *loop = self.loop;
	size_t i;

	for (i = 0; i < args->n; i++)
		jinja_list_add(j, now, args->values[i]);
	if (loop->changed.kind == JINJA_LIST && jinja_equal(j, loop->changed, now))
		return jinja_bool(false);
	loop->changed = now;
	return jinja_bool(true);
}

static const struct jinja_method_entry loop_methods[] = {
	{"cycle", loop_cycle},
	{"changed", loop_changed},
};

struct jinja_value jinja_loop_attribute(
	struct jinja *j, struct jinja_loop *loop, const struct jinja_string *name)
{
	struct jinja_value self = {.kind = JINJA_LOOP, .loop = loop};
	size_t i;

	if (jinja_string_is(name, "index"))
		return jinja_int(loop->index0 + 1, true);
	if (jinja_string_is(name, "index0"))
		return jinja_int(loop->index0, true);
	if (jinja_string_is(name, "revindex"))
		return jinja_int((int64_t)jinja_loop_length(j, loop) - loop->index0, true);
	if (jinja_string_is(name, "revindex0"))
		return jinja_int((int64_t)jinja_loop_length(j, loop) - loop->index0 - 1, true);
	if (jinja_string_is(name, "first"))
		return jinja_bool(loop->index0 == 0);
	if (jinja_string_is(name, "last"))
		return jinja_bool(!loop_peek(j, loop));
	if (jinja_string_is(name, "length"))
		return jinja_int((int64_t)jinja_loop_length(j, loop), true);
	if (jinja_string_is(name, "depth"))
		return jinja_int((int64_t)loop->depth0 + 1, true);
	if (jinja_string_is(name, "depth0"))
		return jinja_int(loop->depth0, true);
	if (jinja_string_is(name, "previtem"))
		return loop->index0 > 0 ? loop->before
					: jinja_undefined(j, "there is no previous item");
	if (jinja_string_is(name, "nextitem"))
		return loop_peek(j, loop) ? loop->after
					  : jinja_undefined(j, "there is no next item");
	for (i = 0; i < sizeof(loop_methods) / sizeof(loop_methods[0]); i++)
		if (jinja_string_is(name, loop_methods[i].name)) {
			struct jinja_method *m = jinja_take(j, 1, sizeof(*m));

			m->self = self;
			m->entry = &loop_methods[i];
			return (struct jinja_value){.kind = JINJA_METHOD, .method = m};
		}
	return jinja_undefined(j, "'LoopContext object' has no attribute '%.*s'",
		(int)(name->len < 64 ? name->len : 64), name->text);
}
