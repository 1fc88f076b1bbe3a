/* What the evaluator and the loops share. */
#pragma once

#include "engine/jinja_syntax.h"

struct jinja_scope {
	struct jinja_scope *parent;
	struct jinja_named *variables;
	size_t n, capacity;
};

struct jinja_piece {
	struct jinja_piece *next;
	const struct jinja_string *string;
};

/* What is being written: pieces, joined when all is there. */
struct jinja_output {
	struct jinja_piece *first, *last;
};
void jinja_write(struct jinja *j, const struct jinja_string *s);

/* The `loop` of a for. */
struct jinja_loop {
	const struct jinja_node *node;
	struct jinja_scope *scope; /* around the loop */
	struct jinja_value iterable;
	struct jinja_iterator iterator;
	int64_t index0; /* -1 before the first item */
	uint32_t depth0;
	bool has_length;
	size_t length;
	struct jinja_value before, current, after; /* MISSING: none, or not known yet */
	struct jinja_value changed;                /* the last arguments of loop.changed() */
};
void jinja_loop_start(struct jinja *j, struct jinja_loop *loop, const struct jinja_node *node,
	struct jinja_value iterable, struct jinja_scope *scope, uint32_t depth);
bool jinja_loop_next(struct jinja *j, struct jinja_loop *loop, struct jinja_value *ret);
struct jinja_value jinja_method_run(
	struct jinja *j, const struct jinja_method *method, const struct jinja_args *args);
