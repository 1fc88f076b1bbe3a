/* Running the tree. Scopes, loops, macros and the output that is being written. Each evaluation and
 * each statement is a step of the budget. */
#include "engine/jinja_eval.h"

#include <errno.h>
#include <string.h>

struct jinja_scope *jinja_scope_new(struct jinja *j, struct jinja_scope *parent)
{
	struct jinja_scope *s = jinja_take(j, 1, sizeof(*s));

	s->parent = parent;
	return s;
}

static struct jinja_named *scope_find(
	struct jinja *j, struct jinja_scope *s, const struct jinja_string *name)
{
	size_t i;

	jinja_step(j, s->n / 16);
	for (i = 0; i < s->n; i++)
		if (s->variables[i].name->len == name->len &&
			memcmp(s->variables[i].name->text, name->text, name->len) == 0)
			return &s->variables[i];
	return NULL;
}

void jinja_set(struct jinja *j, struct jinja_scope *s, const struct jinja_string *name,
	struct jinja_value value)
{
	struct jinja_named *v = scope_find(j, s, name);

	if (!v) {
		if (s->n == s->capacity) {
			size_t capacity = s->capacity ? 2 * s->capacity : 4;
			struct jinja_named *grown = jinja_take(j, capacity, sizeof(*grown));

			if (s->n > 0)
				memcpy(grown, s->variables, s->n * sizeof(*grown));
			s->variables = grown;
			s->capacity = capacity;
		}
		v = &s->variables[s->n++];
		v->name = name;
	}
	v->value = value;
}

static struct jinja_value eval_name(struct jinja *j, const struct jinja_string *name)
{
	struct jinja_scope *s;

	for (s = j->scope; s; s = s->parent) {
		struct jinja_named *v = scope_find(j, s, name);

		if (v && v->value.kind != JINJA_MISSING)
			return v->value;
	}
	return jinja_undefined(
		j, "'%.*s' is undefined", (int)(name->len < 64 ? name->len : 64), name->text);
}

void jinja_write(struct jinja *j, const struct jinja_string *s)
{
	struct jinja_output *out = j->output;
	struct jinja_piece *piece;

	if (s->len == 0)
		return;
	piece = jinja_take(j, 1, sizeof(*piece));
	piece->string = s;
	if (out->last)
		out->last->next = piece;
	else
		out->first = piece;
	out->last = piece;
}

/* All that was written, in one string. */
static const struct jinja_string *output_text(struct jinja *j, const struct jinja_output *out)
{
	struct jinja_builder b = {0};
	const struct jinja_piece *p;

	if (out->first && !out->first->next)
		return out->first->string;
	for (p = out->first; p; p = p->next)
		jinja_put_string(j, &b, p->string);
	return jinja_built(j, &b);
}

/* ---- expressions ---- */

static struct jinja_value eval_items(
	struct jinja *j, const struct jinja_node *first, enum jinja_flavor flavor)
{
	struct jinja_value list = jinja_list_new(j, flavor, 0);

	for (; first; first = first->next)
		jinja_list_add(j, list, jinja_eval(j, first));
	return list;
}

static struct jinja_value eval_dict(struct jinja *j, const struct jinja_node *item)
{
	struct jinja_value dict = jinja_dict_new(j, JINJA_DICT);

	for (; item; item = item->next) {
		struct jinja_value key = jinja_eval(j, item->a);

		jinja_dict_put(j, dict.dict, key, jinja_eval(j, item->b));
	}
	return dict;
}

static void args_add(struct jinja *j, struct jinja_value *list, struct jinja_value v)
{
	if (list->kind == JINJA_MISSING)
		*list = jinja_list_new(j, JINJA_TUPLE, 4);
	jinja_list_add(j, *list, v);
}

struct jinja_args_builder {
	struct jinja_value positional; /* a list, or MISSING */
	struct jinja_named *named;
	size_t n_named, capacity;
};

static void args_add_named(struct jinja *j, struct jinja_args_builder *b,
	const struct jinja_string *name, struct jinja_value v)
{
	size_t i;

	jinja_step(j, b->n_named / 16);
	for (i = 0; i < b->n_named; i++)
		if (b->named[i].name->len == name->len &&
			memcmp(b->named[i].name->text, name->text, name->len) == 0)
			jinja_fail_at(j, -ENOEXEC, j->line, "repeated keyword argument '%.*s'",
				(int)(name->len < 64 ? name->len : 64), name->text);
	if (b->n_named == b->capacity) {
		size_t capacity = b->capacity ? 2 * b->capacity : 4;
		struct jinja_named *grown = jinja_take(j, capacity, sizeof(*grown));

		if (b->n_named > 0)
			memcpy(grown, b->named, b->n_named * sizeof(*grown));
		b->named = grown;
		b->capacity = capacity;
	}
	b->named[b->n_named++] = (struct jinja_named){.name = name, .value = v};
}

static struct jinja_args eval_args(
	struct jinja *j, const struct jinja_node *arg, const struct jinja_value *caller)
{
	struct jinja_args_builder b = {.positional = jinja_missing()};
	struct jinja_args args = {0};

	for (; arg; arg = arg->next) {
		struct jinja_value v = jinja_eval(j, arg->a), item;
		size_t i;

		if (arg->op == '*') {
			struct jinja_iterator it = jinja_iterate(j, v);

			while (jinja_next(j, &it, &item)) {
				jinja_step(j, 1);
				args_add(j, &b.positional, item);
			}
		} else if (arg->op == JINJA_OP_POW) {
			if (v.kind != JINJA_DICT)
				jinja_fail_type(j, "the argument after **", "a mapping", v);
			for (i = 0; i < v.dict->n; i++)
				args_add_named(j, &b,
					jinja_need_string(
						j, "a keyword's name", v.dict->entries[i].key),
					v.dict->entries[i].value);
		} else if (arg->name) {
			args_add_named(j, &b, arg->name, v);
		} else {
			args_add(j, &b.positional, v);
		}
	}
	if (caller)
		args_add_named(j, &b, jinja_literal(j, "caller").string, *caller);
	if (b.positional.kind == JINJA_LIST) {
		args.n = b.positional.list->n;
		args.values = b.positional.list->items;
	}
	args.named = b.named;
	args.n_named = b.n_named;
	return args;
}

static struct jinja_value eval_slice(
	struct jinja *j, struct jinja_value v, const struct jinja_node *n)
{
	struct jinja_value start = n->a ? jinja_eval(j, n->a) : jinja_missing();
	struct jinja_value stop = n->b ? jinja_eval(j, n->b) : jinja_missing();
	struct jinja_value step = n->c ? jinja_eval(j, n->c) : jinja_missing();

	return jinja_slice(j, v, start, stop, step);
}

static struct jinja_value eval_step(struct jinja *j, struct jinja_value v,
	const struct jinja_node *step, const struct jinja_value *caller)
{
	struct jinja_args args;

	j->line = step->line;
	switch (step->kind) {
	case JINJA_N_ATTRIBUTE: return jinja_attribute(j, v, step->name);
	case JINJA_N_ITEM: return jinja_item(j, v, jinja_eval(j, step->a));
	case JINJA_N_SLICE: return eval_slice(j, v, step);
	case JINJA_N_CALL:
		args = eval_args(j, step->a, step->next ? NULL : caller);
		j->line = step->line;
		return jinja_call(j, v, &args);
	case JINJA_N_FILTER:
		if (!step->filter)
			jinja_fail_unknown(j, -ENOEXEC, step);
		args = eval_args(j, step->a, NULL);
		j->line = step->line;
		return step->filter->run(j, v, &args);
	default:
		if (!step->test)
			jinja_fail_unknown(j, -ENOEXEC, step);
		args = eval_args(j, step->a, NULL);
		j->line = step->line;
		return jinja_bool(step->test->run(j, v, &args) != (bool)step->op);
	}
}

static struct jinja_value eval_steps(struct jinja *j, struct jinja_value v,
	const struct jinja_node *steps, const struct jinja_value *caller)
{
	for (; steps; steps = steps->next) {
		jinja_step(j, 1);
		v = eval_step(j, v, steps, caller);
	}
	return v;
}

static bool eval_comparison(struct jinja *j, int op, struct jinja_value a, struct jinja_value b)
{
	int c;

	switch (op) {
	case JINJA_OP_EQ: return jinja_equal(j, a, b);
	case JINJA_OP_NE: return !jinja_equal(j, a, b);
	case JINJA_OP_IN: return jinja_contains(j, b, a);
	case JINJA_OP_NOT_IN: return !jinja_contains(j, b, a);
	case '<': return jinja_compare(j, a, b, "<") < 0;
	case JINJA_OP_LE: return jinja_compare(j, a, b, "<=") <= 0;
	case '>': c = jinja_compare(j, a, b, ">"); return c > 0 && c != 2;
	default: c = jinja_compare(j, a, b, ">="); return c >= 0 && c != 2;
	}
}

static struct jinja_value eval_compare(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_value left = jinja_eval(j, n->a);
	const struct jinja_node *step;

	for (step = n->b; step; step = step->next) {
		struct jinja_value right = jinja_eval(j, step->a);

		j->line = step->line;
		if (!eval_comparison(j, step->op, left, right))
			return jinja_bool(false);
		left = right;
	}
	return jinja_bool(true);
}

static struct jinja_value eval_concat(struct jinja *j, const struct jinja_node *item)
{
	struct jinja_builder b = {0};

	for (; item; item = item->next)
		jinja_put_string(j, &b, jinja_str(j, jinja_eval(j, item)));
	return jinja_from(jinja_built(j, &b));
}

static struct jinja_value eval_logic(struct jinja *j, const struct jinja_node *n)
{
	const struct jinja_node *item = n->a;
	struct jinja_value v;

	for (;;) {
		v = jinja_eval(j, item);
		item = item->next;
		if (!item || jinja_truth(j, v) == (n->kind == JINJA_N_OR))
			return v;
	}
}

static struct jinja_value eval_math(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_value v = jinja_eval(j, n->a);
	const struct jinja_node *step;

	for (step = n->b; step; step = step->next) {
		struct jinja_value right = jinja_eval(j, step->a);

		j->line = step->line;
		v = jinja_arithmetic(j, step->op, v, right);
	}
	return v;
}

static struct jinja_value eval_inner(struct jinja *j, const struct jinja_node *n)
{
	switch (n->kind) {
	case JINJA_N_LIST: return eval_items(j, n->a, JINJA_PLAIN);
	case JINJA_N_TUPLE: return eval_items(j, n->a, JINJA_TUPLE);
	case JINJA_N_DICT: return eval_dict(j, n->a);
	case JINJA_N_MATH: return eval_math(j, n);
	case JINJA_N_CONCAT: return eval_concat(j, n->a);
	case JINJA_N_AND:
	case JINJA_N_OR: return eval_logic(j, n);
	case JINJA_N_COMPARE: return eval_compare(j, n);
	case JINJA_N_NOT: return jinja_bool(!jinja_truth(j, jinja_eval(j, n->a)));
	case JINJA_N_SIGN: return jinja_negate(j, jinja_eval(j, n->a), n->op == '-');
	case JINJA_N_COND:
		if (jinja_truth(j, jinja_eval(j, n->b)))
			return jinja_eval(j, n->a);
		if (n->c)
			return jinja_eval(j, n->c);
		return jinja_undefined(j,
			"the inline if-expression on line %u was false and has no else", n->line);
	case JINJA_N_POSTFIX: return eval_steps(j, jinja_eval(j, n->a), n->b, NULL);
	default: jinja_fail_at(j, -ENOEXEC, n->line, "this is no expression");
	}
}

struct jinja_value jinja_eval(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_value v;

	jinja_step(j, 1);
	j->line = n->line;
	if (n->kind == JINJA_N_CONST)
		return n->constant;
	if (n->kind == JINJA_N_NAME)
		return eval_name(j, n->name);
	jinja_enter(j);
	v = eval_inner(j, n);
	jinja_leave(j);
	return v;
}

/* ---- statements ---- */

enum jinja_flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum jinja_flow exec_list(struct jinja *j, const struct jinja_node *n);

/* Runs a body in its own scope and gives what it wrote. */
static const struct jinja_string *exec_captured(struct jinja *j, const struct jinja_node *body,
	struct jinja_scope *scope, enum jinja_flow *ret_flow)
{
	struct jinja_output out = {0}, *outer_output = j->output;
	struct jinja_scope *outer_scope = j->scope;

	j->output = &out;
	j->scope = scope;
	*ret_flow = exec_list(j, body);
	j->scope = outer_scope;
	j->output = outer_output;
	return output_text(j, &out);
}

static void assign(struct jinja *j, const struct jinja_node *target, struct jinja_value value)
{
	const struct jinja_node *item;

	if (target->kind == JINJA_N_NAME) {
		jinja_set(j, j->scope, target->name, value);
	} else if (target->kind == JINJA_N_NSREF) {
		struct jinja_value space = eval_name(j, target->name);

		if (space.kind != JINJA_NAMESPACE)
			jinja_fail_at(j, -ENOEXEC, target->line,
				"cannot assign attribute on non-namespace object");
		jinja_dict_put(j, space.dict, target->a->constant, value);
	} else {
		struct jinja_value list;
		size_t i = 0, n = 0;

		jinja_enter(j);
		list = jinja_to_list(j, value, JINJA_PLAIN);
		for (item = target->a; item; item = item->next)
			n++;
		if (list.list->n != n)
			jinja_fail_at(j, -ENOEXEC, target->line,
				"%zu values cannot be unpacked into %zu names", list.list->n, n);
		for (item = target->a; item; item = item->next)
			assign(j, item, list.list->items[i++]);
		jinja_leave(j);
	}
}

bool jinja_loop_passes(struct jinja *j, const struct jinja_generator *g, struct jinja_value item)
{
	struct jinja_scope *outer = j->scope;
	bool passes;

	j->scope = jinja_scope_new(j, g->scope);
	assign(j, g->node->a, item);
	passes = jinja_truth(j, jinja_eval(j, g->node->e));
	j->scope = outer;
	return passes;
}

static enum jinja_flow exec_loop(struct jinja *j, const struct jinja_node *n,
	struct jinja_value iterable, struct jinja_scope *outer, uint32_t depth)
{
	struct jinja_scope *before = j->scope;
	struct jinja_loop *loop = jinja_take(j, 1, sizeof(*loop));
	const struct jinja_string *name = jinja_literal(j, "loop").string;
	enum jinja_flow flow = FLOW_NEXT;
	struct jinja_value item;
	bool ran = false;

	if (n->e) {
		struct jinja_value tested = jinja_generate(j, JINJA_LOOP_TEST, iterable);

		tested.generator->node = n;
		tested.generator->scope = outer;
		iterable = tested;
	}
	jinja_loop_start(j, loop, n, iterable, outer, depth);
	while (jinja_loop_next(j, loop, &item)) {
		jinja_step(j, 1);
		j->scope = jinja_scope_new(j, outer);
		jinja_set(
			j, j->scope, name, (struct jinja_value){.kind = JINJA_LOOP, .loop = loop});
		assign(j, n->a, item);
		flow = exec_list(j, n->b);
		if (flow == FLOW_BREAK)
			break;
		/* As in jinja2, what a break or continue left does not count for the else. */
		if (flow == FLOW_NEXT)
			ran = true;
	}
	j->scope = before;
	flow = FLOW_NEXT;
	if (!ran && n->d) {
		j->scope = jinja_scope_new(j, outer);
		flow = exec_list(j, n->d);
		j->scope = before;
	}
	return flow;
}

/* loop(items) in a recursive loop: its body once more, over items. */
static struct jinja_value call_loop(
	struct jinja *j, struct jinja_loop *loop, const struct jinja_args *args)
{
	struct jinja_output out = {0}, *outer = j->output;
	struct jinja_value items;

	if (!loop->node->op)
		jinja_fail_at(
			j, -ENOEXEC, j->line, "a loop must be marked 'recursive' to be called");
	jinja_bind(j, "loop()", args, "iterable", &items);
	jinja_enter(j);
	j->output = &out;
	exec_loop(j, loop->node, items, loop->scope, loop->depth0 + 1);
	j->output = outer;
	jinja_leave(j);
	return jinja_from(output_text(j, &out));
}

/* Takes a named argument out, or gives MISSING. */
static struct jinja_value take_named(
	struct jinja *j, struct jinja_args *args, const struct jinja_string *name)
{
	size_t i;

	jinja_step(j, args->n_named / 16);
	for (i = 0; i < args->n_named; i++)
		if (args->named[i].value.kind != JINJA_MISSING &&
			args->named[i].name->len == name->len &&
			memcmp(args->named[i].name->text, name->text, name->len) == 0) {
			struct jinja_value v = args->named[i].value;

			args->named[i].value = jinja_missing();
			return v;
		}
	return jinja_missing();
}

/* Binds what is left of the arguments to kwargs and varargs, where the body asks for them. */
static void bind_rest(struct jinja *j, const struct jinja_node *n, struct jinja_scope *scope,
	const struct jinja_args *args, size_t n_taken)
{
	struct jinja_value rest = jinja_dict_new(j, JINJA_DICT), more;
	size_t i;

	for (i = 0; i < args->n_named; i++) {
		if (args->named[i].value.kind == JINJA_MISSING)
			continue;
		if (!(n->wants & JINJA_WANTS_KWARGS))
			jinja_fail_at(j, -ENOEXEC, j->line,
				"the macro takes no keyword argument '%.*s'",
				(int)(args->named[i].name->len < 64 ? args->named[i].name->len
								    : 64),
				args->named[i].name->text);
		jinja_dict_put(j, rest.dict, jinja_from(args->named[i].name), args->named[i].value);
	}
	if (n->wants & JINJA_WANTS_KWARGS)
		jinja_set(j, scope, jinja_literal(j, "kwargs").string, rest);
	if (n->wants & JINJA_WANTS_VARARGS) {
		more = jinja_list_new(j, JINJA_TUPLE, 0);
		for (i = n_taken; i < args->n; i++)
			jinja_list_add(j, more, args->values[i]);
		jinja_set(j, scope, jinja_literal(j, "varargs").string, more);
	} else if (args->n > n_taken) {
		jinja_fail_at(j, -ENOEXEC, j->line, "the macro takes not more than %zu arguments",
			n_taken);
	}
}

static struct jinja_value call_macro(
	struct jinja *j, const struct jinja_macro *macro, const struct jinja_args *given)
{
	const struct jinja_node *n = macro->node, *p;
	struct jinja_scope *scope = jinja_scope_new(j, macro->scope), *outer = j->scope;
	struct jinja_args args = *given;
	const struct jinja_string *text;
	enum jinja_flow flow;
	size_t i = 0;

	args.named = args.n_named ? jinja_take(j, args.n_named, sizeof(*args.named)) : NULL;
	if (args.n_named > 0)
		memcpy(args.named, given->named, args.n_named * sizeof(*args.named));
	jinja_enter(j);
	for (p = n->a; p; p = p->next, i++) {
		struct jinja_value v = i < args.n ? args.values[i] : take_named(j, &args, p->name);

		jinja_step(j, 1);
		jinja_set(j, scope, p->name, v);
	}
	if (n->wants & JINJA_WANTS_CALLER) {
		const struct jinja_string *name = jinja_literal(j, "caller").string;
		struct jinja_value v = take_named(j, &args, name);

		if (v.kind == JINJA_MISSING || v.kind == JINJA_NONE)
			v = jinja_undefined(j, "No caller defined");
		jinja_set(j, scope, name, v);
	}
	bind_rest(j, n, scope, &args, i);
	j->scope = scope;
	for (p = n->a, i = 0; p; p = p->next, i++) {
		struct jinja_named *v = scope_find(j, scope, p->name);

		if (v->value.kind != JINJA_MISSING)
			continue;
		v->value = jinja_undefined(j, "parameter '%.*s' was not provided",
			(int)(p->name->len < 64 ? p->name->len : 64), p->name->text);
		if (p->a) {
			struct jinja_value otherwise = jinja_eval(j, p->a);

			scope_find(j, scope, p->name)->value = otherwise;
		}
	}
	j->scope = outer;
	text = exec_captured(j, n->b, scope, &flow);
	jinja_leave(j);
	return jinja_from(text);
}

struct jinja_value jinja_call(
	struct jinja *j, struct jinja_value callee, const struct jinja_args *args)
{
	jinja_step(j, 1);
	switch (callee.kind) {
	case JINJA_UNDEFINED: jinja_fail_undefined(j, callee);
	case JINJA_MACRO: return call_macro(j, callee.macro, args);
	case JINJA_METHOD: return jinja_method_run(j, callee.method, args);
	case JINJA_FUNCTION: return callee.function->run(j, args);
	case JINJA_LOOP: return call_loop(j, callee.loop, args);
	default:
		jinja_fail_at(j, -ENOEXEC, j->line, "'%s' object is not callable",
			jinja_type_name(callee));
	}
}

static struct jinja_value macro_value(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_macro *m = jinja_take(j, 1, sizeof(*m));

	m->node = n;
	m->scope = j->scope;
	return (struct jinja_value){.kind = JINJA_MACRO, .macro = m};
}

static enum jinja_flow exec_set_block(struct jinja *j, const struct jinja_node *n)
{
	enum jinja_flow flow;
	struct jinja_scope *scope = jinja_scope_new(j, j->scope), *outer = j->scope;
	struct jinja_value v = jinja_from(exec_captured(j, n->b, scope, &flow));

	if (flow != FLOW_NEXT)
		return flow;
	if (n->c) {
		j->scope = scope;
		v = eval_steps(j, v, n->c->b, NULL);
		j->scope = outer;
	}
	assign(j, n->a, v);
	return flow;
}

static enum jinja_flow exec_filter_block(struct jinja *j, const struct jinja_node *n)
{
	enum jinja_flow flow;
	struct jinja_scope *scope = jinja_scope_new(j, j->scope), *outer = j->scope;
	struct jinja_value v = jinja_from(exec_captured(j, n->b, scope, &flow));

	if (flow != FLOW_NEXT)
		return flow;
	j->scope = scope;
	jinja_write(j, jinja_str(j, eval_steps(j, v, n->c->b, NULL)));
	j->scope = outer;
	return flow;
}

static enum jinja_flow exec_with(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_scope *scope = jinja_scope_new(j, j->scope), *outer = j->scope;
	const struct jinja_node *binding;
	enum jinja_flow flow;

	for (binding = n->kind == JINJA_N_WITH ? n->a : NULL; binding; binding = binding->next) {
		struct jinja_value v = jinja_eval(j, binding->b);

		j->scope = scope;
		assign(j, binding->a, v);
		j->scope = outer;
	}
	j->scope = scope;
	flow = exec_list(j, n->b);
	j->scope = outer;
	return flow;
}

static enum jinja_flow exec_if(struct jinja *j, const struct jinja_node *n)
{
	for (;;) {
		if (jinja_truth(j, jinja_eval(j, n->a)))
			return exec_list(j, n->b);
		if (!n->c || n->c->kind != JINJA_N_IF || !n->c->op)
			return exec_list(j, n->c);
		n = n->c;
	}
}

static enum jinja_flow exec(struct jinja *j, const struct jinja_node *n)
{
	struct jinja_value v;

	switch (n->kind) {
	case JINJA_N_DATA: jinja_write(j, n->constant.string); break;
	case JINJA_N_OUTPUT: jinja_write(j, jinja_str(j, jinja_eval(j, n->a))); break;
	case JINJA_N_IF: return exec_if(j, n);
	case JINJA_N_FOR: return exec_loop(j, n, jinja_eval(j, n->c), j->scope, 0);
	case JINJA_N_SET: assign(j, n->a, jinja_eval(j, n->b)); break;
	case JINJA_N_SET_BLOCK: return exec_set_block(j, n);
	case JINJA_N_MACRO: jinja_set(j, j->scope, n->name, macro_value(j, n)); break;
	case JINJA_N_CALL_BLOCK:
		v = macro_value(j, n->c);
		v = eval_steps(j, jinja_eval(j, n->a->a), n->a->b, &v);
		jinja_write(j, jinja_str(j, v));
		break;
	case JINJA_N_FILTER_BLOCK: return exec_filter_block(j, n);
	case JINJA_N_WITH:
	case JINJA_N_SCOPE: return exec_with(j, n);
	case JINJA_N_BREAK: return FLOW_BREAK;
	default: return FLOW_CONTINUE;
	}
	return FLOW_NEXT;
}

static enum jinja_flow exec_list(struct jinja *j, const struct jinja_node *n)
{
	enum jinja_flow flow = FLOW_NEXT;

	jinja_enter(j);
	for (; n && flow == FLOW_NEXT; n = n->next) {
		jinja_step(j, 1);
		j->line = n->line;
		flow = exec(j, n);
	}
	jinja_leave(j);
	return flow;
}

const struct jinja_string *jinja_run(struct jinja *j, const struct jinja_node *body)
{
	enum jinja_flow flow;

	return exec_captured(j, body, jinja_scope_new(j, j->globals), &flow);
}
