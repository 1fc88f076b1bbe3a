/* Jinja source to tokens to a tree. The grammar and the rules of white space are those of jinja2
 * 3.1 (lexer.py, parser.py) with trim_blocks and lstrip_blocks on. */
#pragma once

#include "engine/jinja.h"

enum jinja_token_kind {
	JINJA_T_END,
	JINJA_T_DATA,
	JINJA_T_BLOCK_BEGIN,
	JINJA_T_BLOCK_END,
	JINJA_T_VARIABLE_BEGIN,
	JINJA_T_VARIABLE_END,
	JINJA_T_NAME,
	JINJA_T_STRING,
	JINJA_T_INT,
	JINJA_T_FLOAT,
	JINJA_T_OPERATOR,
};

/* Operators are told by their character, those of two characters by these. */
enum {
	JINJA_OP_POW = 256,
	JINJA_OP_FLOORDIV,
	JINJA_OP_EQ,
	JINJA_OP_NE,
	JINJA_OP_LE,
	JINJA_OP_GE,
	JINJA_OP_IN,
	JINJA_OP_NOT_IN,
};

struct jinja_token {
	enum jinja_token_kind kind;
	unsigned line;
	int op;
	const struct jinja_string *text; /* DATA, NAME, STRING */
	struct jinja_value number;
};

/* All tokens of a source, JINJA_T_END last. The source is copied where it is needed. */
struct jinja_token *jinja_lex(struct jinja *j, const char *source, size_t len);

enum jinja_node_kind {
	/* expressions */
	JINJA_N_CONST,   /* constant */
	JINJA_N_NAME,    /* name */
	JINJA_N_LIST,    /* a: items */
	JINJA_N_TUPLE,   /* a: items */
	JINJA_N_DICT,    /* a: items, of each a: key, b: value */
	JINJA_N_MATH,    /* a: first operand, b: steps (op, a), from left to right */
	JINJA_N_CONCAT,  /* a: operands */
	JINJA_N_AND,     /* a: operands */
	JINJA_N_OR,      /* a: operands */
	JINJA_N_COMPARE, /* a: first operand, b: steps (op, a) */
	JINJA_N_NOT,     /* a */
	JINJA_N_SIGN,    /* op, a */
	JINJA_N_COND,    /* a if b else c (or NULL) */
	JINJA_N_POSTFIX, /* a: base, b: steps of these kinds: */
	JINJA_N_ATTRIBUTE,
	JINJA_N_ITEM,   /* a: key */
	JINJA_N_SLICE,  /* a, b, c: start, stop, step, each or NULL */
	JINJA_N_CALL,   /* a: arguments */
	JINJA_N_FILTER, /* name, a: arguments */
	JINJA_N_TEST,   /* name, a: arguments, op: negated */
	JINJA_N_ARG,    /* a; name of a keyword argument; op: '*' and JINJA_OP_POW spread a */
	JINJA_N_NSREF,  /* name, a: the attribute's name as a constant; targets only */
	/* statements */
	JINJA_N_DATA,         /* constant */
	JINJA_N_OUTPUT,       /* a: expression */
	JINJA_N_IF,           /* a: test, b: body, c: else (elif is an IF in it, flagged by op) */
	JINJA_N_FOR,          /* a: target, b: body, c: iterable, d: else, e: test, op: recursive */
	JINJA_N_SET,          /* a: target, b: value */
	JINJA_N_SET_BLOCK,    /* a: target, b: body, c: filters (POSTFIX without base) or NULL */
	JINJA_N_MACRO,        /* name, a: parameters (name, a: default or NULL), b: body */
	JINJA_N_CALL_BLOCK,   /* a: the call (POSTFIX), b: body, c: the MACRO that is its caller */
	JINJA_N_FILTER_BLOCK, /* c: filters, b: body */
	JINJA_N_WITH,         /* a: bindings, of each a: target, b: value; b: body */
	JINJA_N_SCOPE,        /* b: body */
	JINJA_N_BREAK,
	JINJA_N_CONTINUE,
};

/* What a macro's body asks for beyond its parameters. */
enum { JINJA_WANTS_CALLER = 1, JINJA_WANTS_KWARGS = 2, JINJA_WANTS_VARARGS = 4 };

struct jinja_node {
	enum jinja_node_kind kind;
	int op;
	unsigned line;
	unsigned wants;          /* MACRO */
	struct jinja_node *next; /* in a list */
	struct jinja_node *a, *b, *c, *d, *e;
	const struct jinja_string *name;
	struct jinja_value constant;
	const struct jinja_filter *filter;
	const struct jinja_test *test;
};

/* The statements of a source, a list. */
struct jinja_node *jinja_parse(struct jinja *j, const char *source, size_t len);

/* ---- between jinja_parse.c (statements) and jinja_expression.c ---- */
struct jinja_parser {
	struct jinja *j;
	const struct jinja_token *token; /* the current one */
	struct jinja_macro_frame *frames;
	/* The first filter or test of the expression around that nobody knows: an error, but where
	 * an inline `if` may keep it from being asked for. */
	const struct jinja_node *unknown;
	unsigned expressions; /* around this place */
};
/* Macros around the place that is being read, innermost first. */
struct jinja_macro_frame {
	struct jinja_macro_frame *outer;
	unsigned wants;
};
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_kind kind);
bool jinja_at_op(const struct jinja_parser *p, int op);
bool jinja_at_name(const struct jinja_parser *p, const char *name);
bool jinja_skip_op(struct jinja_parser *p, int op);
bool jinja_skip_name(struct jinja_parser *p, const char *name);
void jinja_expect_op(struct jinja_parser *p, int op);
const struct jinja_string *jinja_expect_name(struct jinja_parser *p);
_Noreturn void jinja_unexpected(struct jinja_parser *p, const char *wanted);
_Noreturn void jinja_fail_unknown(struct jinja *j, int code, const struct jinja_node *n);
struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool conditional);
/* An expression, or a tuple where commas follow. `end` names the word that ends it, or NULL. */
struct jinja_node *jinja_parse_tuple(
	struct jinja_parser *p, bool conditional, const char *end, bool parentheses);
struct jinja_node *jinja_parse_primary(struct jinja_parser *p);
/* Filters after a base (NULL for a block's): POSTFIX. `inline_first`: the first has no '|'. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, bool inline_first);
