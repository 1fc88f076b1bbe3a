/* Expressions: tokens to a tree, by precedence as jinja2 has it. Chains of operators become one
 * node with a list of steps, so that their length is no depth. */
#include "engine/jinja_syntax.h"

#include <errno.h>
#include <string.h>

/* Appends to a list of nodes. */
struct jinja_chain {
	struct jinja_node *first, *last;
};

static void chain_add(struct jinja_chain *c, struct jinja_node *n)
{
	if (c->last)
		c->last->next = n;
	else
		c->first = n;
	c->last = n;
}

static struct jinja_node *parse_or(struct jinja_parser *p);
static struct jinja_node *parse_unary(struct jinja_parser *p, bool with_filter);

static struct jinja_node *parse_items(struct jinja_parser *p, int closer)
{
	struct jinja_chain items = {0};

	while (!jinja_at_op(p, closer)) {
		if (items.first) {
			jinja_expect_op(p, ',');
			if (jinja_at_op(p, closer))
				break;
		}
		chain_add(&items, jinja_parse_expression(p, true));
	}
	jinja_expect_op(p, closer);
	return items.first;
}

static struct jinja_node *parse_dict(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_DICT);
	struct jinja_chain items = {0};

	while (!jinja_at_op(p, '}')) {
		struct jinja_node *item;

		if (items.first) {
			jinja_expect_op(p, ',');
			if (jinja_at_op(p, '}'))
				break;
		}
		item = jinja_node_new(p, JINJA_N_ARG);
		item->a = jinja_parse_expression(p, true);
		jinja_expect_op(p, ':');
		item->b = jinja_parse_expression(p, true);
		chain_add(&items, item);
	}
	jinja_expect_op(p, '}');
	n->a = items.first;
	return n;
}

static void parse_note_special(struct jinja_parser *p, const struct jinja_string *name)
{
	unsigned wants = jinja_string_is(name, "caller")    ? JINJA_WANTS_CALLER
			 : jinja_string_is(name, "kwargs")  ? JINJA_WANTS_KWARGS
			 : jinja_string_is(name, "varargs") ? JINJA_WANTS_VARARGS
							    : 0;
	struct jinja_macro_frame *f;

	for (f = wants ? p->frames : NULL; f; f = f->outer)
		f->wants |= wants;
}

struct jinja_node *jinja_parse_primary(struct jinja_parser *p)
{
	const struct jinja_token *t = p->token;
	struct jinja_node *n;

	switch (t->kind) {
	case JINJA_T_NAME:
		p->token++;
		n = jinja_node_new(p, JINJA_N_CONST);
		if (jinja_string_is(t->text, "true") || jinja_string_is(t->text, "True")) {
			n->constant = jinja_bool(true);
		} else if (jinja_string_is(t->text, "false") || jinja_string_is(t->text, "False")) {
			n->constant = jinja_bool(false);
		} else if (jinja_string_is(t->text, "none") || jinja_string_is(t->text, "None")) {
			n->constant = jinja_none();
		} else {
			n->kind = JINJA_N_NAME;
			n->name = t->text;
			parse_note_special(p, n->name);
		}
		return n;
	case JINJA_T_STRING: {
		struct jinja_builder b = {0};

		n = jinja_node_new(p, JINJA_N_CONST);
		for (; p->token->kind == JINJA_T_STRING; p->token++)
			jinja_put_string(p->j, &b, p->token->text);
		n->constant = jinja_from(jinja_built(p->j, &b));
		return n;
	}
	case JINJA_T_INT:
	case JINJA_T_FLOAT:
		n = jinja_node_new(p, JINJA_N_CONST);
		n->constant = t->number;
		p->token++;
		return n;
	default: break;
	}
	if (jinja_skip_op(p, '(')) {
		n = jinja_parse_tuple(p, true, NULL, true);
		jinja_expect_op(p, ')');
		return n;
	}
	if (jinja_skip_op(p, '[')) {
		n = jinja_node_new(p, JINJA_N_LIST);
		n->a = parse_items(p, ']');
		return n;
	}
	if (jinja_skip_op(p, '{'))
		return parse_dict(p);
	jinja_unexpected(p, "an expression");
}

static bool parse_at_tuple_end(struct jinja_parser *p, const char *end)
{
	return p->token->kind == JINJA_T_VARIABLE_END || p->token->kind == JINJA_T_BLOCK_END ||
	       jinja_at_op(p, ')') || (end && jinja_at_name(p, end));
}

struct jinja_node *jinja_parse_tuple(
	struct jinja_parser *p, bool conditional, const char *end, bool parentheses)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_TUPLE);
	struct jinja_chain items = {0};
	bool is_tuple = false;

	for (;;) {
		if (items.first)
			jinja_expect_op(p, ',');
		if (parse_at_tuple_end(p, end))
			break;
		chain_add(&items, jinja_parse_expression(p, conditional));
		if (!jinja_at_op(p, ','))
			break;
		is_tuple = true;
	}
	if (!is_tuple) {
		if (items.first)
			return items.first;
		if (!parentheses)
			jinja_unexpected(p, "an expression");
	}
	n->a = items.first;
	return n;
}

/* Behind "(": arguments and ")". */
static struct jinja_node *parse_arguments(struct jinja_parser *p)
{
	struct jinja_chain args = {0};
	bool named = false, spread = false, spread_named = false;

	while (!jinja_at_op(p, ')')) {
		struct jinja_node *arg;
		bool bad;

		if (args.first) {
			jinja_expect_op(p, ',');
			if (jinja_at_op(p, ')'))
				break;
		}
		arg = jinja_node_new(p, JINJA_N_ARG);
		if (jinja_skip_op(p, '*')) {
			bad = spread || spread_named;
			spread = true;
			arg->op = '*';
		} else if (jinja_skip_op(p, JINJA_OP_POW)) {
			bad = spread_named;
			spread_named = true;
			arg->op = JINJA_OP_POW;
		} else if (p->token->kind == JINJA_T_NAME && p->token[1].kind == JINJA_T_OPERATOR &&
			   p->token[1].op == '=') {
			bad = spread_named;
			named = true;
			arg->name = p->token->text;
			p->token += 2;
		} else {
			bad = spread || spread_named || named;
		}
		if (bad)
			jinja_fail_at(p->j, -EINVAL, p->token->line,
				"the arguments of a call are in a wrong order");
		arg->a = jinja_parse_expression(p, true);
		chain_add(&args, arg);
	}
	jinja_expect_op(p, ')');
	return args.first;
}

/* One subscript: an expression or a slice. */
static struct jinja_node *parse_subscript(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_SLICE);
	struct jinja_node *first = NULL;

	if (!jinja_at_op(p, ':')) {
		first = jinja_parse_expression(p, true);
		if (!jinja_at_op(p, ':'))
			return first;
	}
	jinja_expect_op(p, ':');
	n->a = first;
	if (!jinja_at_op(p, ':') && !jinja_at_op(p, ']') && !jinja_at_op(p, ','))
		n->b = jinja_parse_expression(p, true);
	if (jinja_skip_op(p, ':') && !jinja_at_op(p, ']') && !jinja_at_op(p, ','))
		n->c = jinja_parse_expression(p, true);
	return n;
}

static struct jinja_node *parse_subscripts(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_ITEM), *tuple;
	struct jinja_chain items = {0};
	struct jinja_node *item;

	while (!jinja_at_op(p, ']')) {
		if (items.first)
			jinja_expect_op(p, ',');
		chain_add(&items, parse_subscript(p));
	}
	jinja_expect_op(p, ']');
	if (items.first && !items.first->next) {
		if (items.first->kind == JINJA_N_SLICE)
			return items.first;
		n->a = items.first;
		return n;
	}
	for (item = items.first; item; item = item->next)
		if (item->kind == JINJA_N_SLICE)
			jinja_fail_at(p->j, -EINVAL, item->line,
				"a slice cannot be one of several subscripts");
	tuple = jinja_node_new(p, JINJA_N_TUPLE);
	tuple->a = items.first;
	n->a = tuple;
	return n;
}

static const struct jinja_string *parse_dotted_name(struct jinja_parser *p)
{
	const struct jinja_string *name = jinja_expect_name(p);

	while (jinja_skip_op(p, '.')) {
		name = jinja_concat(p->j, name, jinja_literal(p->j, ".").string);
		name = jinja_concat(p->j, name, jinja_expect_name(p));
	}
	return name;
}

_Noreturn void jinja_fail_unknown(struct jinja *j, int code, const struct jinja_node *n)
{
	jinja_fail_at(j, code, n->line, "no %s is named '%.*s'",
		n->kind == JINJA_N_FILTER ? "filter" : "test",
		(int)(n->name->len < 64 ? n->name->len : 64), n->name->text);
}

static void parse_note_unknown(struct jinja_parser *p, const struct jinja_node *n)
{
	if (!p->j->soft && !p->unknown)
		p->unknown = n;
}

static struct jinja_node *parse_filter(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_FILTER);

	n->name = parse_dotted_name(p);
	n->filter = jinja_filter_find(n->name->text, n->name->len);
	if (!n->filter && jinja_filter_missing(n->name->text, n->name->len))
		jinja_fail_at(p->j, -ENOTSUP, n->line, "the filter '%.*s' is not implemented",
			(int)n->name->len, n->name->text);
	if (!n->filter)
		parse_note_unknown(p, n);
	if (jinja_skip_op(p, '('))
		n->a = parse_arguments(p);
	return n;
}

static bool parse_starts_operand(const struct jinja_parser *p)
{
	switch (p->token->kind) {
	case JINJA_T_STRING:
	case JINJA_T_INT:
	case JINJA_T_FLOAT: return true;
	case JINJA_T_NAME:
		return !jinja_at_name(p, "else") && !jinja_at_name(p, "or") &&
		       !jinja_at_name(p, "and");
	default: return jinja_at_op(p, '[') || jinja_at_op(p, '{');
	}
}

static struct jinja_node *parse_postfix(
	struct jinja_parser *p, struct jinja_node *base, bool access, bool filters);

/* Behind "is". */
static struct jinja_node *parse_test(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_TEST);

	n->op = jinja_skip_name(p, "not");
	n->name = parse_dotted_name(p);
	n->test = jinja_test_find(n->name->text, n->name->len);
	if (!n->test)
		parse_note_unknown(p, n);
	if (jinja_skip_op(p, '(')) {
		n->a = parse_arguments(p);
	} else if (parse_starts_operand(p)) {
		struct jinja_node *arg;

		if (jinja_at_name(p, "is"))
			jinja_fail_at(
				p->j, -EINVAL, p->token->line, "tests cannot be chained with 'is'");
		arg = jinja_node_new(p, JINJA_N_ARG);
		arg->a = parse_postfix(p, jinja_parse_primary(p), true, false);
		n->a = arg;
	}
	return n;
}

/* What follows an operand: attributes and subscripts (access), filters and tests (filters), calls.
 * Filters end the accesses, as in jinja2. */
static struct jinja_node *parse_postfix(
	struct jinja_parser *p, struct jinja_node *base, bool access, bool filters)
{
	struct jinja_chain steps = {0};
	struct jinja_node *n = NULL;

	for (;;) {
		struct jinja_node *step;

		if (access && jinja_skip_op(p, '.')) {
			step = jinja_node_new(p, JINJA_N_ATTRIBUTE);
			if (p->token->kind == JINJA_T_INT) {
				step->kind = JINJA_N_ITEM;
				step->a = jinja_node_new(p, JINJA_N_CONST);
				step->a->constant = p->token->number;
				p->token++;
			} else {
				step->name = jinja_expect_name(p);
			}
		} else if (access && jinja_skip_op(p, '[')) {
			step = parse_subscripts(p);
		} else if (jinja_skip_op(p, '(')) {
			step = jinja_node_new(p, JINJA_N_CALL);
			step->a = parse_arguments(p);
		} else if (filters && jinja_skip_op(p, '|')) {
			step = parse_filter(p);
			access = false;
		} else if (filters && jinja_skip_name(p, "is")) {
			step = parse_test(p);
			access = false;
		} else {
			break;
		}
		chain_add(&steps, step);
	}
	if (!steps.first)
		return base;
	n = jinja_node_new(p, JINJA_N_POSTFIX);
	n->a = base;
	n->b = steps.first;
	return n;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, bool inline_first)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_POSTFIX);
	struct jinja_chain steps = {0};

	while (inline_first || jinja_skip_op(p, '|')) {
		inline_first = false;
		chain_add(&steps, parse_filter(p));
	}
	n->b = steps.first;
	if (p->unknown)
		jinja_fail_unknown(p->j, -EINVAL, p->unknown);
	return steps.first ? n : NULL;
}

static struct jinja_node *parse_unary(struct jinja_parser *p, bool with_filter)
{
	struct jinja_node *n;

	if (jinja_at_op(p, '-') || jinja_at_op(p, '+')) {
		jinja_enter(p->j);
		n = jinja_node_new(p, JINJA_N_SIGN);
		n->op = p->token->op;
		p->token++;
		n->a = parse_unary(p, false);
		jinja_leave(p->j);
	} else {
		n = jinja_parse_primary(p);
	}
	return parse_postfix(p, n, true, with_filter);
}

/* One level of left-associative operators: those in ops, over operands by `parse`. */
static struct jinja_node *parse_level(
	struct jinja_parser *p, const int *ops, struct jinja_node *(*parse)(struct jinja_parser *p))
{
	struct jinja_node *first = parse(p), *n = NULL;
	struct jinja_chain steps = {0};

	for (;;) {
		const int *op = ops;
		struct jinja_node *step;

		while (*op && !jinja_at_op(p, *op))
			op++;
		if (!*op)
			break;
		if (!n)
			n = jinja_node_new(p, JINJA_N_MATH);
		step = jinja_node_new(p, JINJA_N_ARG);
		step->op = *op;
		p->token++;
		step->a = parse(p);
		chain_add(&steps, step);
	}
	if (!n)
		return first;
	n->a = first;
	n->b = steps.first;
	return n;
}

static struct jinja_node *parse_operand(struct jinja_parser *p)
{
	return parse_unary(p, true);
}

static struct jinja_node *parse_power(struct jinja_parser *p)
{
	static const int ops[] = {JINJA_OP_POW, 0};

	return parse_level(p, ops, parse_operand);
}

static struct jinja_node *parse_product(struct jinja_parser *p)
{
	static const int ops[] = {'*', '/', JINJA_OP_FLOORDIV, '%', 0};

	return parse_level(p, ops, parse_power);
}

/* Operands with the same operator or word between them: one node over all. */
static struct jinja_node *parse_many(struct jinja_parser *p, enum jinja_node_kind kind, int op,
	const char *word, struct jinja_node *(*parse)(struct jinja_parser *p))
{
	struct jinja_node *first = parse(p), *n = NULL;
	struct jinja_chain items = {0};

	chain_add(&items, first);
	while (word ? jinja_skip_name(p, word) : jinja_skip_op(p, op)) {
		if (!n)
			n = jinja_node_new(p, kind);
		chain_add(&items, parse(p));
	}
	if (!n)
		return first;
	n->a = items.first;
	return n;
}

static struct jinja_node *parse_concat(struct jinja_parser *p)
{
	return parse_many(p, JINJA_N_CONCAT, '~', NULL, parse_product);
}

static struct jinja_node *parse_sum(struct jinja_parser *p)
{
	static const int ops[] = {'+', '-', 0};

	return parse_level(p, ops, parse_concat);
}

static int parse_comparison_op(struct jinja_parser *p)
{
	static const int ops[] = {JINJA_OP_EQ, JINJA_OP_NE, '<', JINJA_OP_LE, '>', JINJA_OP_GE, 0};
	const int *op;

	for (op = ops; *op; op++)
		if (jinja_skip_op(p, *op))
			return *op;
	if (jinja_skip_name(p, "in"))
		return JINJA_OP_IN;
	if (jinja_at_name(p, "not") && p->token[1].kind == JINJA_T_NAME &&
		jinja_string_is(p->token[1].text, "in")) {
		p->token += 2;
		return JINJA_OP_NOT_IN;
	}
	return 0;
}

static struct jinja_node *parse_comparison(struct jinja_parser *p)
{
	struct jinja_node *first = parse_sum(p), *n = NULL;
	struct jinja_chain steps = {0};
	int op;

	while ((op = parse_comparison_op(p)) != 0) {
		struct jinja_node *step = jinja_node_new(p, JINJA_N_ARG);

		if (!n)
			n = jinja_node_new(p, JINJA_N_COMPARE);
		step->op = op;
		step->a = parse_sum(p);
		chain_add(&steps, step);
	}
	if (!n)
		return first;
	n->a = first;
	n->b = steps.first;
	return n;
}

static struct jinja_node *parse_not(struct jinja_parser *p)
{
	struct jinja_node *n;

	if (!jinja_skip_name(p, "not"))
		return parse_comparison(p);
	jinja_enter(p->j);
	n = jinja_node_new(p, JINJA_N_NOT);
	n->a = parse_not(p);
	jinja_leave(p->j);
	return n;
}

static struct jinja_node *parse_and(struct jinja_parser *p)
{
	return parse_many(p, JINJA_N_AND, 0, "and", parse_not);
}

static struct jinja_node *parse_or(struct jinja_parser *p)
{
	return parse_many(p, JINJA_N_OR, 0, "or", parse_and);
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool conditional)
{
	const struct jinja_node *unknown = p->unknown;
	struct jinja_node *n;
	unsigned levels = 1;

	jinja_enter(p->j);
	p->expressions++;
	n = parse_or(p);
	for (; conditional && jinja_skip_name(p, "if"); levels++) {
		struct jinja_node *condition = jinja_node_new(p, JINJA_N_COND);

		jinja_enter(p->j); /* a chain of them is as deep as it is long */
		p->unknown = unknown;
		p->j->soft++;
		condition->a = n;
		condition->b = parse_or(p);
		if (jinja_skip_name(p, "else"))
			condition->c = jinja_parse_expression(p, true);
		n = condition;
		p->j->soft--;
	}
	if (--p->expressions == 0 && p->unknown)
		jinja_fail_unknown(p->j, -EINVAL, p->unknown);
	while (levels-- > 0)
		jinja_leave(p->j);
	return n;
}
