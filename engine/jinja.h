/* The machine that runs Jinja: its memory, its values and its budget. Internal to the template
 * module (jinja_*.c and template*.c).
 *
 * All memory of one compilation or rendering lies in one arena, so an error leaves by longjmp from
 * wherever it is found and leaks nothing: functions that take a struct jinja return only on
 * success. */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jinja_arena_block;
struct jinja_arena {
	struct jinja_arena_block *blocks;
	size_t used_bytes, max_bytes;
};
/* Zeroed memory, or NULL: none left, or over max_bytes. */
void *jinja_arena_take(struct jinja_arena *a, size_t bytes);
void jinja_arena_done(struct jinja_arena *a);

enum jinja_kind {
	JINJA_UNDEFINED,
	JINJA_NONE,
	JINJA_BOOL,
	JINJA_INT,
	JINJA_FLOAT,
	JINJA_STRING,
	JINJA_LIST, /* and tuples, and the views of a dict */
	JINJA_DICT,
	JINJA_RANGE,
	JINJA_GENERATOR,
	JINJA_NAMESPACE,
	JINJA_MACRO,
	JINJA_METHOD,
	JINJA_FUNCTION,
	JINJA_LOOP,
	JINJA_MISSING, /* no value at all: an argument that was not given */
};

/* Text is UTF-8 with every invalid byte standing for itself. Provenance: trust[i] tells of
 * text[i]; where trust is NULL, `trusted` tells of all. */
struct jinja_string {
	const char *text;
	const uint8_t *trust;
	size_t len;
	bool trusted;
};

struct jinja_value {
	enum jinja_kind kind;
	bool trusted; /* numbers and ranges: not computed from a message */
	union {
		bool boolean;
		int64_t integer;
		double real;
		const struct jinja_string *string;
		struct jinja_list *list;
		struct jinja_dict *dict; /* of a namespace, too */
		struct jinja_range *range;
		struct jinja_generator *generator;
		struct jinja_macro *macro;
		struct jinja_method *method;
		const struct jinja_function *function;
		struct jinja_loop *loop;
		const struct jinja_undefined *undefined; /* NULL: nothing more is known */
	};
};

enum jinja_flavor { JINJA_PLAIN, JINJA_TUPLE, JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS };

struct jinja_list {
	enum jinja_flavor flavor;
	bool is_group; /* (grouper, list), as groupby gives them: a tuple whose items have names */
	size_t n, capacity;
	struct jinja_value *items;
};

struct jinja_entry {
	struct jinja_value key, value;
};

struct jinja_dict {
	size_t n, capacity;
	struct jinja_entry *entries; /* in order of insertion */
};

struct jinja_range {
	int64_t start, stop, step;
	size_t n;
};

/* Why a value is undefined, for the message when it is used. */
struct jinja_undefined {
	const char *message;
};

struct jinja_named {
	const struct jinja_string *name;
	struct jinja_value value;
};

struct jinja_args {
	size_t n, n_named;
	struct jinja_value *values;
	struct jinja_named *named;
};

struct jinja_method {
	struct jinja_value self;
	const struct jinja_method_entry *entry;
};

struct jinja_scope;
struct jinja_node;

struct jinja_macro {
	const struct jinja_node *node;
	struct jinja_scope *scope; /* where it was defined */
};

struct jinja {
	struct jinja_arena arena;
	jmp_buf escape;
	int code; /* negative errno, once failed */
	char *error;
	size_t error_size;
	unsigned line;     /* of what is being read or run */
	unsigned depth;    /* of what is being read or run */
	uint64_t steps;    /* done so far */
	size_t text_bytes; /* of all strings made so far */
	struct jinja_scope *scope;
	struct jinja_scope *globals;
	struct jinja_output *output; /* what is being written to */
	unsigned loops;              /* parsing: loops around, inside the innermost macro */
	unsigned soft;               /* parsing: inside a condition */
};

/* Leaves with a sentence. jinja_fail_at puts the line in front. */
_Noreturn void jinja_fail(struct jinja *j, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void jinja_fail_at(struct jinja *j, int code, unsigned line, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

void jinja_step(struct jinja *j, size_t n); /* charges n steps */
void jinja_enter(struct jinja *j);          /* one level deeper */
void jinja_leave(struct jinja *j);
void *jinja_take(struct jinja *j, size_t n, size_t size); /* zeroed [n] of size bytes */

/* ---- jinja_value.c: making values ---- */
struct jinja_value jinja_none(void);
struct jinja_value jinja_missing(void);
struct jinja_value jinja_bool(bool b);
struct jinja_value jinja_int(int64_t i, bool trusted);
struct jinja_value jinja_float(double f, bool trusted);
struct jinja_value jinja_undefined(struct jinja *j, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
struct jinja_value jinja_from(const struct jinja_string *s);
struct jinja_value jinja_text(struct jinja *j, const char *text, size_t len, bool trusted);
struct jinja_value jinja_literal(struct jinja *j, const char *text); /* trusted; not copied */
struct jinja_value jinja_list_new(struct jinja *j, enum jinja_flavor flavor, size_t capacity);
void jinja_list_add(struct jinja *j, struct jinja_value list, struct jinja_value item);
struct jinja_value jinja_dict_new(struct jinja *j, enum jinja_kind kind);
void jinja_dict_put(struct jinja *j, struct jinja_dict *d, struct jinja_value key,
	struct jinja_value value); /* fails for a key that cannot be hashed */
/* NULL where there is none. */
const struct jinja_value *jinja_dict_get(
	struct jinja *j, const struct jinja_dict *d, struct jinja_value key);
const struct jinja_value *jinja_dict_find(
	struct jinja *j, const struct jinja_dict *d, const char *name, size_t len);

/* ---- jinja_value.c: asking and comparing ---- */
const char *jinja_type_name(struct jinja_value v); /* as Python calls it */
bool jinja_truth(struct jinja *j, struct jinja_value v);
bool jinja_equal(struct jinja *j, struct jinja_value a, struct jinja_value b);
/* -1, 0, 1, or 2 where a NaN has no order; fails where Python has none. `sign` is the operator, for
 * the message. */
int jinja_compare(struct jinja *j, struct jinja_value a, struct jinja_value b, const char *sign);
bool jinja_contains(struct jinja *j, struct jinja_value container, struct jinja_value item);
bool jinja_has_length(struct jinja_value v);
size_t jinja_length(struct jinja *j, struct jinja_value v);
bool jinja_hashable(struct jinja_value v);
bool jinja_all_trusted(const struct jinja_string *s);
/* Whether a number made from v is the template's own: of a list, its strings and numbers count. */
bool jinja_trusted(struct jinja *j, struct jinja_value v);
/* Fails with the undefined value's own message. */
_Noreturn void jinja_fail_undefined(struct jinja *j, struct jinja_value v);
/* Fails with "expected WANTED, not TYPE" in front of which stands `what`. */
_Noreturn void jinja_fail_type(
	struct jinja *j, const char *what, const char *wanted, struct jinja_value v);

/* ---- jinja_string.c: text with provenance ---- */
struct jinja_builder {
	char *text;
	uint8_t *trust;
	size_t len, capacity;
};
void jinja_put(
	struct jinja *j, struct jinja_builder *b, const char *text, size_t len, bool trusted);
void jinja_put_string(struct jinja *j, struct jinja_builder *b, const struct jinja_string *s);
void jinja_put_code(struct jinja *j, struct jinja_builder *b, uint32_t code, bool trusted);
const struct jinja_string *jinja_built(struct jinja *j, struct jinja_builder *b);
const struct jinja_string *jinja_concat(
	struct jinja *j, const struct jinja_string *a, const struct jinja_string *b);
/* Bytes [start, end) as they are: nothing is copied. */
const struct jinja_string *jinja_part(
	struct jinja *j, const struct jinja_string *s, size_t start, size_t end);
bool jinja_trusted_at(const struct jinja_string *s, size_t i);
/* The character at byte i and its length; an invalid byte gives UINT32_MAX and 1. */
size_t jinja_char(const struct jinja_string *s, size_t i, uint32_t *ret_code);
/* The byte where the character before byte i (> 0) begins. */
size_t jinja_char_before(const struct jinja_string *s, size_t i);
size_t jinja_chars(struct jinja *j, const struct jinja_string *s);
size_t jinja_char_offset(struct jinja *j, const struct jinja_string *s, size_t chars);
bool jinja_string_is(const struct jinja_string *s, const char *text);
/* Byte offset of `what` in [from, s->len), or SIZE_MAX. */
size_t jinja_find(struct jinja *j, const struct jinja_string *s, const struct jinja_string *what,
	size_t from);
size_t jinja_find_last(
	struct jinja *j, const struct jinja_string *s, const struct jinja_string *what);
const struct jinja_string *jinja_strip(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *chars, bool left, bool right); /* chars NULL: white space */
const struct jinja_string *jinja_recase(
	struct jinja *j, const struct jinja_string *s, int first, int rest); /* enum unicode_case */
/* The character at byte i in another case (enum unicode_case), as it is there in s; returns its
 * bytes in s. */
size_t jinja_put_recased(
	struct jinja *j, struct jinja_builder *b, const struct jinja_string *s, size_t i, int to);
const struct jinja_string *jinja_replace(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *old, const struct jinja_string *with, int64_t count);
struct jinja_value jinja_split(struct jinja *j, const struct jinja_string *s,
	const struct jinja_string *separator, int64_t max, bool from_right);
struct jinja_value jinja_split_lines(struct jinja *j, const struct jinja_string *s, bool keep_ends);

/* ---- jinja_print.c: values as text ---- */
const struct jinja_string *jinja_str(struct jinja *j, struct jinja_value v);
const struct jinja_string *jinja_repr(struct jinja *j, struct jinja_value v);
struct jinja_json {
	bool ascii, sort_keys;
	const struct jinja_string *indent; /* NULL: on one line */
	const struct jinja_string *item_separator, *key_separator;
};
const struct jinja_string *jinja_to_json(
	struct jinja *j, struct jinja_value v, const struct jinja_json *how);
/* The shortest digits that read back as f, as Python's repr writes them. */
size_t jinja_format_float(double f, char out[40]);

/* ---- jinja_iterate.c ---- */
struct jinja_iterator {
	struct jinja_value source;
	size_t position;
};
bool jinja_iterable(struct jinja_value v);
struct jinja_iterator jinja_iterate(struct jinja *j, struct jinja_value v); /* or fails */
bool jinja_next(struct jinja *j, struct jinja_iterator *it, struct jinja_value *ret);
struct jinja_value jinja_to_list(struct jinja *j, struct jinja_value v, enum jinja_flavor flavor);

enum jinja_generation {
	JINJA_EACH,   /* the source's items as they are */
	JINJA_MAP,    /* a filter or an attribute of each */
	JINJA_SELECT, /* those that pass a test */
	JINJA_REJECT,
	JINJA_UNIQUE,
	JINJA_LOOP_TEST, /* the `if` of a for */
};
struct jinja_generator {
	enum jinja_generation kind;
	bool started, of_attribute;
	struct jinja_value input;
	struct jinja_iterator source;
	struct jinja_args args;
	struct jinja_value attribute, fallback; /* parsed path; MISSING where there is none */
	const struct jinja_filter *filter;
	const struct jinja_test *test;
	bool case_sensitive;
	struct jinja_value seen;
	const struct jinja_node *node; /* LOOP_TEST: the for */
	struct jinja_scope *scope;
};
struct jinja_value jinja_generate(
	struct jinja *j, enum jinja_generation kind, struct jinja_value input);
bool jinja_generator_next(
	struct jinja *j, struct jinja_generator *g, struct jinja_value *ret); /* jinja_filter.c */

/* ---- jinja_operator.c ---- */
struct jinja_value jinja_arithmetic(
	struct jinja *j, int op, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_negate(struct jinja *j, struct jinja_value v, bool negative);
struct jinja_value jinja_attribute(
	struct jinja *j, struct jinja_value v, const struct jinja_string *name);
struct jinja_value jinja_item(struct jinja *j, struct jinja_value v, struct jinja_value key);
struct jinja_value jinja_slice(struct jinja *j, struct jinja_value v, struct jinja_value start,
	struct jinja_value stop, struct jinja_value step);
/* printf-like, as Python's %. may_remain: that arguments are left over is no error. */
struct jinja_value jinja_format(struct jinja *j, const struct jinja_string *format,
	const struct jinja_args *args, bool may_remain);

/* ---- arguments ---- */
/* Fills slots by position and name. spec names them, optional ones with '?' behind: "old new
 * count?". Slots that are not given are MISSING. Fails with what Python would complain of. */
void jinja_bind(struct jinja *j, const char *what, const struct jinja_args *args, const char *spec,
	struct jinja_value *slots);
int64_t jinja_index(struct jinja *j, const char *what, struct jinja_value v); /* an int or bool */
const struct jinja_string *jinja_need_string(
	struct jinja *j, const char *what, struct jinja_value v);

/* ---- jinja_filter.c, jinja_test.c, jinja_method.c, jinja_function.c ---- */
struct jinja_filter {
	const char *name;
	struct jinja_value (*run)(
		struct jinja *j, struct jinja_value v, const struct jinja_args *args);
};
const struct jinja_filter *jinja_filter_find(const char *name, size_t len);
bool jinja_filter_missing(const char *name, size_t len); /* jinja2 has it, this does not */

struct jinja_test {
	const char *name;
	bool (*run)(struct jinja *j, struct jinja_value v, const struct jinja_args *args);
};
const struct jinja_test *jinja_test_find(const char *name, size_t len);

struct jinja_method_entry {
	const char *name;
	struct jinja_value (*run)(
		struct jinja *j, struct jinja_value self, const struct jinja_args *args);
};
/* The method of that name, or UNDEFINED for one that a sandbox forbids, or MISSING. */
struct jinja_value jinja_method_of(
	struct jinja *j, struct jinja_value self, const struct jinja_string *name);

struct jinja_function {
	const char *name;
	struct jinja_value (*run)(struct jinja *j, const struct jinja_args *args);
};
void jinja_define_functions(struct jinja *j, struct jinja_scope *scope);

/* ---- jinja_eval.c ---- */
void jinja_set(struct jinja *j, struct jinja_scope *scope, const struct jinja_string *name,
	struct jinja_value value);
struct jinja_scope *jinja_scope_new(struct jinja *j, struct jinja_scope *parent);
struct jinja_value jinja_call(
	struct jinja *j, struct jinja_value callee, const struct jinja_args *args);
struct jinja_value jinja_eval(struct jinja *j, const struct jinja_node *node);
/* The item of a for under its `if`, in a scope of its own. */
bool jinja_loop_passes(struct jinja *j, const struct jinja_generator *g, struct jinja_value item);
struct jinja_value jinja_loop_attribute(
	struct jinja *j, struct jinja_loop *loop, const struct jinja_string *name);
size_t jinja_loop_length(struct jinja *j, struct jinja_loop *loop);
/* Runs a template in a new scope whose parent is the globals; returns all it wrote. */
const struct jinja_string *jinja_run(struct jinja *j, const struct jinja_node *body);
