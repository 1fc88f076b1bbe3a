/* Statements: tokens to a tree. What jinja2 has and chat templates do not use (extends, include,
 * import, block, autoescape) is refused by name. */
#include "engine/jinja_syntax.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_kind kind)
{
	struct jinja_node *n = jinja_take(p->j, 1, sizeof(*n));

	n->kind = kind;
	n->line = p->token->line;
	p->j->line = n->line;
	return n;
}

bool jinja_at_op(const struct jinja_parser *p, int op)
{
	return p->token->kind == JINJA_T_OPERATOR && p->token->op == op;
}

bool jinja_at_name(const struct jinja_parser *p, const char *name)
{
	return p->token->kind == JINJA_T_NAME && jinja_string_is(p->token->text, name);
}

bool jinja_skip_op(struct jinja_parser *p, int op)
{
	bool at = jinja_at_op(p, op);

	p->token += at;
	return at;
}

bool jinja_skip_name(struct jinja_parser *p, const char *name)
{
	bool at = jinja_at_name(p, name);

	p->token += at;
	return at;
}

static void parse_describe(const struct jinja_token *t, char *out, size_t size)
{
	static const char *const names[] = {[JINJA_OP_POW - 256] = "**",
		[JINJA_OP_FLOORDIV - 256] = "//",
		[JINJA_OP_EQ - 256] = "==",
		[JINJA_OP_NE - 256] = "!=",
		[JINJA_OP_LE - 256] = "<=",
		[JINJA_OP_GE - 256] = ">="};

	switch (t->kind) {
	case JINJA_T_END: snprintf(out, size, "the end of the template"); break;
	case JINJA_T_DATA: snprintf(out, size, "text"); break;
	case JINJA_T_BLOCK_BEGIN: snprintf(out, size, "'{%%'"); break;
	case JINJA_T_BLOCK_END: snprintf(out, size, "'%%}'"); break;
	case JINJA_T_VARIABLE_BEGIN: snprintf(out, size, "'{{'"); break;
	case JINJA_T_VARIABLE_END: snprintf(out, size, "'}}'"); break;
	case JINJA_T_NAME:
		snprintf(out, size, "'%.*s'", (int)(t->text->len < 64 ? t->text->len : 64),
			t->text->text);
		break;
	case JINJA_T_STRING: snprintf(out, size, "a string"); break;
	case JINJA_T_INT:
	case JINJA_T_FLOAT: snprintf(out, size, "a number"); break;
	case JINJA_T_OPERATOR:
		if (t->op >= 256)
			snprintf(out, size, "'%s'", names[t->op - 256]);
		else
			snprintf(out, size, "'%c'", t->op);
		break;
	}
}

_Noreturn void jinja_unexpected(struct jinja_parser *p, const char *wanted)
{
	char found[96];

	parse_describe(p->token, found, sizeof(found));
	jinja_fail_at(p->j, -EINVAL, p->token->line, "expected %s, found %s", wanted, found);
}

void jinja_expect_op(struct jinja_parser *p, int op)
{
	char wanted[4] = {'\'', (char)op, '\'', 0};

	if (!jinja_skip_op(p, op))
		jinja_unexpected(p, wanted);
}

const struct jinja_string *jinja_expect_name(struct jinja_parser *p)
{
	if (p->token->kind != JINJA_T_NAME)
		jinja_unexpected(p, "a name");
	return (p->token++)->text;
}

static void parse_block_end(struct jinja_parser *p)
{
	if (p->token->kind != JINJA_T_BLOCK_END)
		jinja_unexpected(p, "'%}'");
	p->token++;
}

static struct jinja_node *parse_list(struct jinja_parser *p, const char *const *ends);

/* "%}", a body and "{%", standing at one of the words `ends` (NULL behind the last). */
static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *ends)
{
	struct jinja_node *body;
	unsigned line = p->token->line;

	jinja_skip_op(p, ':');
	parse_block_end(p);
	jinja_enter(p->j);
	body = parse_list(p, ends);
	jinja_leave(p->j);
	if (p->token->kind == JINJA_T_END)
		jinja_fail_at(p->j, -EINVAL, line,
			"the template ends, but a block is open: '%s' is missing", ends[0]);
	return body;
}

static struct jinja_node *parse_body_to(struct jinja_parser *p, const char *end);

/* The same for what is no part of a condition around it, as jinja2 sees it: an unknown filter in it
 * is an error even if the condition never holds. */
static struct jinja_node *parse_hard_body_to(struct jinja_parser *p, const char *end)
{
	unsigned soft = p->j->soft;
	struct jinja_node *body;

	p->j->soft = 0;
	body = parse_body_to(p, end);
	p->j->soft = soft;
	return body;
}

/* A body up to the one word that ends it, which is skipped. */
static struct jinja_node *parse_body_to(struct jinja_parser *p, const char *end)
{
	const char *const ends[] = {end, NULL};
	struct jinja_node *body = parse_body(p, ends);

	p->token++;
	return body;
}

/* What can be assigned to: names, tuples of them and (spaces) attributes of namespaces. */
static struct jinja_node *parse_target_item(struct jinja_parser *p, bool spaces)
{
	const struct jinja_token *t = p->token;
	struct jinja_node *n;

	if (spaces && t->kind == JINJA_T_NAME && t[1].kind == JINJA_T_OPERATOR && t[1].op == '.') {
		n = jinja_node_new(p, JINJA_N_NSREF);
		n->name = t->text;
		p->token += 2;
		n->a = jinja_node_new(p, JINJA_N_CONST);
		n->a->constant = jinja_from(jinja_expect_name(p));
		return n;
	}
	n = jinja_parse_primary(p);
	if (n->kind == JINJA_N_TUPLE) {
		struct jinja_node *item;

		for (item = n->a; item; item = item->next)
			if (item->kind != JINJA_N_NAME && item->kind != JINJA_N_TUPLE)
				n->kind = JINJA_N_CONST;
	}
	if (n->kind != JINJA_N_NAME && n->kind != JINJA_N_TUPLE)
		jinja_fail_at(p->j, -EINVAL, t->line, "this cannot be assigned to");
	if (n->kind == JINJA_N_NAME && p->j->loops > 0 && jinja_string_is(n->name, "loop"))
		jinja_fail_at(p->j, -EINVAL, t->line, "'loop' cannot be assigned to in a loop");
	return n;
}

static struct jinja_node *parse_target(struct jinja_parser *p, bool spaces, const char *end)
{
	struct jinja_node *first = NULL, *last = NULL, *tuple;

	for (;;) {
		struct jinja_node *n = parse_target_item(p, spaces);

		if (last)
			last->next = n;
		else
			first = n;
		last = n;
		if (!jinja_skip_op(p, ','))
			break;
		if (p->token->kind == JINJA_T_BLOCK_END || jinja_at_op(p, '=') ||
			(end && jinja_at_name(p, end))) {
			last = NULL; /* one name and a comma: a tuple all the same */
			break;
		}
	}
	if (last == first)
		return first;
	tuple = jinja_node_new(p, JINJA_N_TUPLE);
	tuple->a = first;
	return tuple;
}

static struct jinja_node *parse_if(struct jinja_parser *p)
{
	static const char *const ends[] = {"endif", "elif", "else", NULL};
	struct jinja_node *n = jinja_node_new(p, JINJA_N_IF), *last = n;

	p->j->soft++;
	for (;;) {
		last->a = jinja_parse_tuple(p, false, NULL, false);
		last->b = parse_body(p, ends);
		if (!jinja_skip_name(p, "elif"))
			break;
		last->c = jinja_node_new(p, JINJA_N_IF);
		last = last->c;
		last->op = 1;
	}
	if (jinja_skip_name(p, "else"))
		last->c = parse_body_to(p, "endif");
	else
		p->token++;
	p->j->soft--;
	return n;
}

static struct jinja_node *parse_for(struct jinja_parser *p)
{
	static const char *const ends[] = {"endfor", "else", NULL};
	struct jinja_node *n = jinja_node_new(p, JINJA_N_FOR);
	unsigned soft = p->j->soft;

	p->j->loops++;
	n->a = parse_target(p, false, "in");
	if (!jinja_skip_name(p, "in"))
		jinja_unexpected(p, "'in'");
	n->c = jinja_parse_tuple(p, false, "recursive", false);
	p->j->soft = 0;
	if (jinja_skip_name(p, "if"))
		n->e = jinja_parse_expression(p, true);
	n->op = jinja_skip_name(p, "recursive");
	n->b = parse_body(p, ends);
	p->j->loops--;
	if (jinja_skip_name(p, "else"))
		n->d = parse_body_to(p, "endfor");
	else
		p->token++;
	p->j->soft = soft;
	return n;
}

static struct jinja_node *parse_set(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_SET);

	n->a = parse_target(p, true, NULL);
	if (jinja_skip_op(p, '=')) {
		n->b = jinja_parse_tuple(p, true, NULL, false);
		return n;
	}
	n->kind = JINJA_N_SET_BLOCK;
	n->c = jinja_parse_filters(p, false);
	n->b = parse_hard_body_to(p, "endset");
	return n;
}

/* "(" parameters ")" of a macro or a caller. */
static struct jinja_node *parse_signature(struct jinja_parser *p)
{
	struct jinja_node *first = NULL, *last = NULL;
	const struct jinja_node *other;

	jinja_expect_op(p, '(');
	while (!jinja_at_op(p, ')')) {
		struct jinja_node *n;

		if (last)
			jinja_expect_op(p, ',');
		n = jinja_node_new(p, JINJA_N_ARG);
		n->name = jinja_expect_name(p);
		for (other = first; other; other = other->next) {
			jinja_step(p->j, 1);
			if (other->name->len == n->name->len &&
				memcmp(other->name->text, n->name->text, n->name->len) == 0)
				jinja_fail_at(p->j, -EINVAL, n->line, "a parameter twice: '%.*s'",
					(int)(n->name->len < 64 ? n->name->len : 64),
					n->name->text);
		}
		if (jinja_skip_op(p, '='))
			n->a = jinja_parse_expression(p, true);
		else if (last && last->a)
			jinja_fail_at(p->j, -EINVAL, n->line,
				"a parameter without a default follows one with a default");
		if (last)
			last->next = n;
		else
			first = n;
		last = n;
	}
	jinja_expect_op(p, ')');
	return first;
}

/* The body of a macro: what it asks for is noted. */
static void parse_macro_body(struct jinja_parser *p, struct jinja_node *macro, const char *end)
{
	struct jinja_macro_frame frame = {.outer = p->frames};
	struct jinja_node *n;
	unsigned loops = p->j->loops, soft = p->j->soft;

	p->frames = &frame;
	p->j->loops = 0;
	p->j->soft = 0;
	macro->b = parse_body_to(p, end);
	p->frames = frame.outer;
	p->j->loops = loops;
	p->j->soft = soft;
	macro->wants = frame.wants;
	for (n = macro->a; n; n = n->next) {
		if (jinja_string_is(n->name, "kwargs"))
			macro->wants &= ~(unsigned)JINJA_WANTS_KWARGS;
		if (jinja_string_is(n->name, "varargs"))
			macro->wants &= ~(unsigned)JINJA_WANTS_VARARGS;
		if (jinja_string_is(n->name, "caller")) {
			if ((macro->wants & JINJA_WANTS_CALLER) && !n->a)
				jinja_fail_at(p->j, -EINVAL, n->line,
					"the parameter 'caller' needs a default");
			macro->wants &= ~(unsigned)JINJA_WANTS_CALLER;
		}
	}
}

static struct jinja_node *parse_macro(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_MACRO);

	n->name = jinja_expect_name(p);
	n->a = parse_signature(p);
	parse_macro_body(p, n, "endmacro");
	return n;
}

static struct jinja_node *parse_call(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_CALL_BLOCK), *step;

	n->c = jinja_node_new(p, JINJA_N_MACRO);
	if (jinja_at_op(p, '('))
		n->c->a = parse_signature(p);
	n->a = jinja_parse_expression(p, true);
	step = n->a->kind == JINJA_N_POSTFIX ? n->a->b : NULL;
	while (step && step->next)
		step = step->next;
	if (!step || step->kind != JINJA_N_CALL)
		jinja_fail_at(p->j, -EINVAL, n->line, "a call block needs a call");
	parse_macro_body(p, n->c, "endcall");
	return n;
}

static struct jinja_node *parse_with(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_WITH), *last = NULL;

	while (p->token->kind != JINJA_T_BLOCK_END) {
		struct jinja_node *binding;

		if (last)
			jinja_expect_op(p, ',');
		binding = jinja_node_new(p, JINJA_N_ARG);
		binding->a = parse_target_item(p, false);
		jinja_expect_op(p, '=');
		binding->b = jinja_parse_expression(p, true);
		if (last)
			last->next = binding;
		else
			n->a = binding;
		last = binding;
	}
	n->b = parse_hard_body_to(p, "endwith");
	return n;
}

static struct jinja_node *parse_print(struct jinja_parser *p)
{
	struct jinja_node *first = NULL, *last = NULL;

	while (p->token->kind != JINJA_T_BLOCK_END) {
		struct jinja_node *n;

		if (last)
			jinja_expect_op(p, ',');
		n = jinja_node_new(p, JINJA_N_OUTPUT);
		n->a = jinja_parse_expression(p, true);
		if (last)
			last->next = n;
		else
			first = n;
		last = n;
	}
	return first;
}

static struct jinja_node *parse_loop_control(struct jinja_parser *p, enum jinja_node_kind kind)
{
	if (p->j->loops == 0)
		jinja_fail_at(p->j, -EINVAL, p->token->line, "break or continue outside of a loop");
	return jinja_node_new(p, kind);
}

static struct jinja_node *parse_generation(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_SCOPE), macro = {.kind = JINJA_N_MACRO};

	parse_macro_body(p, &macro, "endgeneration");
	n->b = macro.b;
	return n;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *p)
{
	struct jinja_node *n = jinja_node_new(p, JINJA_N_FILTER_BLOCK);

	n->c = jinja_parse_filters(p, true);
	n->b = parse_hard_body_to(p, "endfilter");
	return n;
}

/* Behind "{%", at a word that is no end of a block. */
static struct jinja_node *parse_statement(struct jinja_parser *p)
{
	static const char *const missing[] = {
		"extends", "include", "import", "from", "block", "autoescape", NULL};
	const struct jinja_string *name;
	unsigned line = p->token->line;
	size_t i;

	if (p->token->kind != JINJA_T_NAME)
		jinja_unexpected(p, "the name of a tag");
	name = jinja_expect_name(p);
	if (jinja_string_is(name, "if"))
		return parse_if(p);
	if (jinja_string_is(name, "for"))
		return parse_for(p);
	if (jinja_string_is(name, "set"))
		return parse_set(p);
	if (jinja_string_is(name, "macro"))
		return parse_macro(p);
	if (jinja_string_is(name, "call"))
		return parse_call(p);
	if (jinja_string_is(name, "filter"))
		return parse_filter_block(p);
	if (jinja_string_is(name, "with"))
		return parse_with(p);
	if (jinja_string_is(name, "print"))
		return parse_print(p);
	if (jinja_string_is(name, "generation"))
		return parse_generation(p);
	if (jinja_string_is(name, "break"))
		return parse_loop_control(p, JINJA_N_BREAK);
	if (jinja_string_is(name, "continue"))
		return parse_loop_control(p, JINJA_N_CONTINUE);
	for (i = 0; missing[i]; i++)
		if (jinja_string_is(name, missing[i]))
			jinja_fail_at(p->j, -ENOTSUP, line, "the tag '%s' is not implemented",
				missing[i]);
	jinja_fail_at(p->j, -EINVAL, line, "unexpected tag '%.*s'",
		(int)(name->len < 64 ? name->len : 64), name->text);
}

static bool parse_at_end_of(struct jinja_parser *p, const char *const *ends)
{
	for (; ends && *ends; ends++)
		if (jinja_at_name(p, *ends))
			return true;
	return false;
}

static struct jinja_node *parse_list(struct jinja_parser *p, const char *const *ends)
{
	struct jinja_node *first = NULL, *last = NULL;

	while (p->token->kind != JINJA_T_END) {
		struct jinja_node *n;

		if (p->token->kind == JINJA_T_DATA) {
			n = jinja_node_new(p, JINJA_N_DATA);
			n->constant = jinja_from(p->token->text);
			p->token++;
		} else if (p->token->kind == JINJA_T_VARIABLE_BEGIN) {
			p->token++;
			n = jinja_node_new(p, JINJA_N_OUTPUT);
			n->a = jinja_parse_tuple(p, true, NULL, false);
			if (p->token->kind != JINJA_T_VARIABLE_END)
				jinja_unexpected(p, "'}}'");
			p->token++;
		} else {
			if (p->token->kind != JINJA_T_BLOCK_BEGIN)
				jinja_unexpected(p, "a tag");
			p->token++;
			if (parse_at_end_of(p, ends))
				return first;
			n = parse_statement(p);
			parse_block_end(p);
		}
		if (!n)
			continue;
		if (last)
			last->next = n;
		else
			first = n;
		for (last = n; last->next;)
			last = last->next;
	}
	return first;
}

struct jinja_node *jinja_parse(struct jinja *j, const char *source, size_t len)
{
	struct jinja_parser p = {.j = j};

	p.token = jinja_lex(j, source, len);
	return parse_list(&p, NULL);
}
