/* Methods of strings, lists and dicts. Those that would change a list or dict are undefined, as the
 * sandbox that transformers uses makes them. */
#include "engine/jinja_eval.h"
#include "engine/jinja_filter.h"

#include <errno.h>
#include <string.h>

#include "engine/unicode.h"

#define METHOD(name)                                                                               \
	static struct jinja_value name(                                                            \
		struct jinja *j, struct jinja_value self, const struct jinja_args *args)

/* ---- str ---- */

static struct jinja_value method_strip(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *what, bool left, bool right)
{
	struct jinja_value chars;
	const struct jinja_string *set = NULL;

	jinja_bind(j, what, args, "chars?", &chars);
	if (chars.kind != JINJA_MISSING && chars.kind != JINJA_NONE)
		set = jinja_need_string(j, what, chars);
	return jinja_from(jinja_strip(j, self.string, set, left, right));
}

METHOD(str_strip)
{
	return method_strip(j, self, args, "strip()", true, true);
}

METHOD(str_lstrip)
{
	return method_strip(j, self, args, "lstrip()", true, false);
}

METHOD(str_rstrip)
{
	return method_strip(j, self, args, "rstrip()", false, true);
}

static struct jinja_value method_split(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *what, bool from_right)
{
	struct jinja_value slots[2];
	const struct jinja_string *separator = NULL;
	int64_t max = -1;

	jinja_bind(j, what, args, "sep? maxsplit?", slots);
	if (slots[0].kind != JINJA_MISSING && slots[0].kind != JINJA_NONE)
		separator = jinja_need_string(j, what, slots[0]);
	if (slots[1].kind != JINJA_MISSING)
		max = jinja_index(j, what, slots[1]);
	return jinja_split(j, self.string, separator, max < 0 ? -1 : max, from_right);
}

METHOD(str_split)
{
	return method_split(j, self, args, "split()", false);
}

METHOD(str_rsplit)
{
	return method_split(j, self, args, "rsplit()", true);
}

METHOD(str_splitlines)
{
	struct jinja_value keep;

	jinja_bind(j, "splitlines()", args, "keepends?", &keep);
	return jinja_split_lines(j, self.string, jinja_truth(j, keep));
}

METHOD(str_upper)
{
	jinja_bind(j, "upper()", args, "", NULL);
	return jinja_from(jinja_recase(j, self.string, UNICODE_TO_UPPER, UNICODE_TO_UPPER));
}

METHOD(str_lower)
{
	jinja_bind(j, "lower()", args, "", NULL);
	return jinja_from(jinja_recase(j, self.string, UNICODE_TO_LOWER, UNICODE_TO_LOWER));
}

METHOD(str_capitalize)
{
	jinja_bind(j, "capitalize()", args, "", NULL);
	return jinja_from(jinja_recase(j, self.string, UNICODE_TO_TITLE, UNICODE_TO_LOWER));
}

static unsigned method_cased(uint32_t code)
{
	return unicode_class(code) & (UNICODE_IS_UPPER | UNICODE_IS_LOWER | UNICODE_IS_TITLE);
}

/* Letters behind a cased one are lowered, the others titled. */
METHOD(str_title)
{
	const struct jinja_string *s = self.string;
	struct jinja_builder b = {0};
	bool inside = false;
	size_t i, n;
	uint32_t code;

	jinja_bind(j, "title()", args, "", NULL);
	for (i = 0; i < s->len; i += n) {
		n = jinja_char(s, i, &code);
		jinja_step(j, i % 64 == 0);
		if (!method_cased(code)) {
			jinja_put_string(j, &b, jinja_part(j, s, i, i + n));
			inside = false;
		} else {
			jinja_put_recased(
				j, &b, s, i, inside ? UNICODE_TO_LOWER : UNICODE_TO_TITLE);
			inside = true;
		}
	}
	return jinja_from(jinja_built(j, &b));
}

METHOD(str_swapcase)
{
	const struct jinja_string *s = self.string;
	struct jinja_builder b = {0};
	size_t i, n;
	uint32_t code;

	jinja_bind(j, "swapcase()", args, "", NULL);
	for (i = 0; i < s->len; i += n) {
		n = jinja_char(s, i, &code);
		jinja_step(j, i % 64 == 0);
		if (unicode_class(code) & UNICODE_IS_UPPER)
			jinja_put_recased(j, &b, s, i, UNICODE_TO_LOWER);
		else if (unicode_class(code) & UNICODE_IS_LOWER)
			jinja_put_recased(j, &b, s, i, UNICODE_TO_UPPER);
		else
			jinja_put_string(j, &b, jinja_part(j, s, i, i + n));
	}
	return jinja_from(jinja_built(j, &b));
}

METHOD(str_replace)
{
	struct jinja_value slots[3];
	int64_t count = -1;

	jinja_bind(j, "replace()", args, "old new count?", slots);
	if (slots[2].kind != JINJA_MISSING)
		count = jinja_index(j, "replace()", slots[2]);
	return jinja_from(jinja_replace(j, self.string, jinja_need_string(j, "replace()", slots[0]),
		jinja_need_string(j, "replace()", slots[1]), count));
}

METHOD(str_join)
{
	struct jinja_value items, item;
	struct jinja_builder b = {0};
	struct jinja_iterator it;
	bool first = true;

	jinja_bind(j, "join()", args, "iterable", &items);
	it = jinja_iterate(j, items);
	while (jinja_next(j, &it, &item)) {
		jinja_step(j, 1);
		if (!first)
			jinja_put_string(j, &b, self.string);
		first = false;
		jinja_put_string(j, &b, jinja_need_string(j, "join()", item));
	}
	return jinja_from(jinja_built(j, &b));
}

/* The part of self between two optional bounds, as a slice; *ret_start is its first character, -1
 * where the bounds leave nothing, not even the empty string. */
static const struct jinja_string *method_range(struct jinja *j, struct jinja_value self,
	const struct jinja_value *bounds, int64_t *ret_start)
{
	int64_t n, start = 0;

	if (bounds[0].kind == JINJA_MISSING && bounds[1].kind == JINJA_MISSING) {
		*ret_start = 0;
		return self.string;
	}
	n = (int64_t)jinja_chars(j, self.string);
	if (bounds[0].kind != JINJA_MISSING && bounds[0].kind != JINJA_NONE) {
		start = jinja_index(j, "a position", bounds[0]);
		start = start < -n ? 0 : start < 0 ? start + n : start;
	}
	*ret_start = start > n ? -1 : start;
	return jinja_slice(j, self, bounds[0], bounds[1], jinja_missing()).string;
}

static bool method_affix(struct jinja *j, const struct jinja_string *s, struct jinja_value what,
	bool at_end, const char *name)
{
	const struct jinja_string *affix;
	size_t i;

	if (what.kind == JINJA_LIST && what.list->flavor == JINJA_TUPLE) {
		for (i = 0; i < what.list->n; i++) {
			jinja_step(j, 1);
			affix = jinja_need_string(j, name, what.list->items[i]);
			if (method_affix(j, s, what.list->items[i], at_end, name))
				return true;
		}
		return false;
	}
	affix = jinja_need_string(j, name, what);
	jinja_step(j, affix->len / 1024);
	return affix->len <= s->len &&
	       (affix->len == 0 || memcmp(at_end ? s->text + s->len - affix->len : s->text,
					   affix->text, affix->len) == 0);
}

static struct jinja_value method_has_affix(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, bool at_end)
{
	struct jinja_value slots[3];
	const struct jinja_string *s;
	int64_t start;

	jinja_bind(j, name, args, "prefix start? end?", slots);
	s = method_range(j, self, slots + 1, &start);
	return jinja_bool(method_affix(j, s, slots[0], at_end, name) && start >= 0);
}

METHOD(str_startswith)
{
	return method_has_affix(j, self, args, "startswith()", false);
}

METHOD(str_endswith)
{
	return method_has_affix(j, self, args, "endswith()", true);
}

static struct jinja_value method_find(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, bool last, bool must)
{
	struct jinja_value slots[3];
	const struct jinja_string *s, *what;
	int64_t start;
	size_t at;
	bool trusted;

	jinja_bind(j, name, args, "sub start? end?", slots);
	what = jinja_need_string(j, name, slots[0]);
	trusted = jinja_all_trusted(self.string) && jinja_all_trusted(what);
	s = method_range(j, self, slots + 1, &start);
	at = start < 0 ? SIZE_MAX : last ? jinja_find_last(j, s, what) : jinja_find(j, s, what, 0);
	if (at == SIZE_MAX) {
		if (must)
			jinja_fail_at(j, -ENOEXEC, j->line, "%s: substring not found", name);
		return jinja_int(-1, trusted);
	}
	return jinja_int(start + (int64_t)jinja_chars(j, jinja_part(j, s, 0, at)), trusted);
}

METHOD(str_find)
{
	return method_find(j, self, args, "find()", false, false);
}

METHOD(str_rfind)
{
	return method_find(j, self, args, "rfind()", true, false);
}

METHOD(str_index)
{
	return method_find(j, self, args, "index()", false, true);
}

METHOD(str_rindex)
{
	return method_find(j, self, args, "rindex()", true, true);
}

METHOD(str_count)
{
	struct jinja_value slots[3];
	const struct jinja_string *s, *what;
	int64_t start, n = 0;
	size_t at;

	jinja_bind(j, "count()", args, "sub start? end?", slots);
	what = jinja_need_string(j, "count()", slots[0]);
	s = method_range(j, self, slots + 1, &start);
	if (start < 0)
		return jinja_int(0, false);
	if (what->len == 0) {
		n = (int64_t)jinja_chars(j, s) + 1;
	} else {
		jinja_step(j, s->len / 1024);
		for (at = 0; at < s->len; n++) {
			const char *p = memmem(s->text + at, s->len - at, what->text, what->len);

			if (!p)
				break;
			at = (size_t)(p - s->text) + what->len;
		}
	}
	return jinja_int(n, jinja_all_trusted(self.string) && jinja_all_trusted(what));
}

static struct jinja_value method_remove(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, bool at_end)
{
	const struct jinja_string *s = self.string, *affix;
	struct jinja_value what;

	jinja_bind(j, name, args, "prefix", &what);
	affix = jinja_need_string(j, name, what);
	if (!method_affix(j, s, what, at_end, name))
		return self;
	return jinja_from(at_end ? jinja_part(j, s, 0, s->len - affix->len)
				 : jinja_part(j, s, affix->len, s->len));
}

METHOD(str_removeprefix)
{
	return method_remove(j, self, args, "removeprefix()", false);
}

METHOD(str_removesuffix)
{
	return method_remove(j, self, args, "removesuffix()", true);
}

static struct jinja_value method_partition(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, bool last)
{
	const struct jinja_string *s = self.string, *separator;
	struct jinja_value what, parts = jinja_list_new(j, JINJA_TUPLE, 3);
	size_t at;

	jinja_bind(j, name, args, "sep", &what);
	separator = jinja_need_string(j, name, what);
	if (separator->len == 0)
		jinja_fail_at(j, -ENOEXEC, j->line, "%s: empty separator", name);
	at = last ? jinja_find_last(j, s, separator) : jinja_find(j, s, separator, 0);
	if (at == SIZE_MAX) {
		if (last) {
			jinja_list_add(j, parts, jinja_literal(j, ""));
			jinja_list_add(j, parts, jinja_literal(j, ""));
			jinja_list_add(j, parts, self);
		} else {
			jinja_list_add(j, parts, self);
			jinja_list_add(j, parts, jinja_literal(j, ""));
			jinja_list_add(j, parts, jinja_literal(j, ""));
		}
		return parts;
	}
	jinja_list_add(j, parts, jinja_from(jinja_part(j, s, 0, at)));
	jinja_list_add(j, parts, jinja_from(jinja_part(j, s, at, at + separator->len)));
	jinja_list_add(j, parts, jinja_from(jinja_part(j, s, at + separator->len, s->len)));
	return parts;
}

METHOD(str_partition)
{
	return method_partition(j, self, args, "partition()", false);
}

METHOD(str_rpartition)
{
	return method_partition(j, self, args, "rpartition()", true);
}

static struct jinja_value method_justify(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, int side)
{
	struct jinja_value slots[2];
	const struct jinja_string *fill = NULL;

	jinja_bind(j, name, args, "width fillchar?", slots);
	if (slots[1].kind != JINJA_MISSING) {
		fill = jinja_need_string(j, name, slots[1]);
		if (jinja_chars(j, fill) != 1)
			jinja_fail_at(j, -ENOEXEC, j->line,
				"%s: the fill must be exactly one character", name);
	}
	return jinja_from(
		jinja_justify(j, self.string, jinja_index(j, name, slots[0]), fill, side));
}

METHOD(str_ljust)
{
	return method_justify(j, self, args, "ljust()", 1);
}

METHOD(str_rjust)
{
	return method_justify(j, self, args, "rjust()", -1);
}

METHOD(str_center)
{
	return method_justify(j, self, args, "center()", 0);
}

METHOD(str_zfill)
{
	const struct jinja_string *s = self.string, *rest;
	struct jinja_value width;
	size_t sign = s->len > 0 && (s->text[0] == '-' || s->text[0] == '+');

	jinja_bind(j, "zfill()", args, "width", &width);
	rest = jinja_justify(j, jinja_part(j, s, sign, s->len),
		jinja_index(j, "zfill()", width) - (int64_t)sign, jinja_literal(j, "0").string, -1);
	return jinja_from(jinja_concat(j, jinja_part(j, s, 0, sign), rest));
}

/* True where the string is not empty and all its characters are of one of the classes. */
static struct jinja_value method_all(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, unsigned classes)
{
	const struct jinja_string *s = self.string;
	size_t i;
	uint32_t code;

	jinja_bind(j, name, args, "", NULL);
	jinja_step(j, s->len / 256);
	for (i = 0; i < s->len;) {
		i += jinja_char(s, i, &code);
		if (!(unicode_class(code) & classes))
			return jinja_bool(false);
	}
	return jinja_bool(s->len > 0 || classes == UNICODE_PRINTABLE);
}

METHOD(str_isalpha)
{
	return method_all(j, self, args, "isalpha()", UNICODE_ALPHA);
}

METHOD(str_isdigit)
{
	return method_all(j, self, args, "isdigit()", UNICODE_DIGIT);
}

METHOD(str_isdecimal)
{
	return method_all(j, self, args, "isdecimal()", UNICODE_DECIMAL);
}

METHOD(str_isnumeric)
{
	return method_all(j, self, args, "isnumeric()", UNICODE_NUMERIC);
}

METHOD(str_isalnum)
{
	return method_all(j, self, args, "isalnum()",
		UNICODE_ALPHA | UNICODE_DECIMAL | UNICODE_DIGIT | UNICODE_NUMERIC);
}

METHOD(str_isprintable)
{
	return method_all(j, self, args, "isprintable()", UNICODE_PRINTABLE);
}

METHOD(str_isspace)
{
	jinja_bind(j, "isspace()", args, "", NULL);
	return jinja_bool(
		self.string->len > 0 && jinja_strip(j, self.string, NULL, true, false)->len == 0);
}

METHOD(str_isupper)
{
	return jinja_bool(jinja_test_find("upper", 5)->run(j, self, args));
}

METHOD(str_islower)
{
	return jinja_bool(jinja_test_find("lower", 5)->run(j, self, args));
}

METHOD(str_istitle)
{
	const struct jinja_string *s = self.string;
	bool inside = false, any = false;
	size_t i;
	uint32_t code;

	jinja_bind(j, "istitle()", args, "", NULL);
	jinja_step(j, s->len / 256);
	for (i = 0; i < s->len;) {
		unsigned class;

		i += jinja_char(s, i, &code);
		class = unicode_class(code);
		if (class & (UNICODE_IS_UPPER | UNICODE_IS_TITLE)) {
			if (inside)
				return jinja_bool(false);
			inside = any = true;
		} else if (class & UNICODE_IS_LOWER) {
			if (!inside)
				return jinja_bool(false);
			any = true;
		} else {
			inside = false;
		}
	}
	return jinja_bool(any);
}

METHOD(str_isascii)
{
	size_t i;

	jinja_bind(j, "isascii()", args, "", NULL);
	jinja_step(j, self.string->len / 1024);
	for (i = 0; i < self.string->len; i++)
		if ((unsigned char)self.string->text[i] >= 0x80)
			return jinja_bool(false);
	return jinja_bool(true);
}

/* "{}", "{0}" and "{name}" alone: without attributes, conversions and formats. */
METHOD(str_format)
{
	const struct jinja_string *s = self.string;
	struct jinja_builder b = {0};
	size_t at, next = 0, i;

	for (at = 0; at < s->len; at++) {
		const char *end;
		struct jinja_string name;
		struct jinja_value v = jinja_missing(), number;
		char c = s->text[at];

		jinja_step(j, at % 64 == 0);
		if ((c == '{' || c == '}') && at + 1 < s->len && s->text[at + 1] == c)
			at++;
		else if (c == '}')
			jinja_fail_at(j, -ENOEXEC, j->line, "format(): single '}' in the format");
		else if (c == '{')
			goto field;
		jinja_put(j, &b, &c, 1, jinja_trusted_at(s, at));
		continue;
	field:
		end = memchr(s->text + at, '}', s->len - at);
		if (!end)
			jinja_fail_at(j, -ENOEXEC, j->line, "format(): '}' is missing");
		name = *jinja_part(j, s, at + 1, (size_t)(end - s->text));
		for (i = 0; i < name.len; i++)
			if (strchr(".[!:{", name.text[i]))
				jinja_fail_at(j, -ENOTSUP, j->line,
					"format(): only {}, {0} and {name} are implemented");
		number = jinja_parse_int(j, &name, 10);
		if (name.len == 0)
			number = jinja_int((int64_t)next++, true);
		if (number.kind == JINJA_INT && number.integer >= 0 &&
			(uint64_t)number.integer < args->n)
			v = args->values[number.integer];
		for (i = 0; name.len > 0 && i < args->n_named; i++)
			if (args->named[i].name->len == name.len &&
				memcmp(args->named[i].name->text, name.text, name.len) == 0)
				v = args->named[i].value;
		if (v.kind == JINJA_MISSING)
			jinja_fail_at(j, -ENOEXEC, j->line,
				"format(): there is no argument for '{%.*s}'",
				(int)(name.len < 64 ? name.len : 64), name.text);
		jinja_put_string(j, &b, jinja_str(j, v));
		at = (size_t)(end - s->text);
	}
	return jinja_from(jinja_built(j, &b));
}

static const struct jinja_method_entry str_methods[] = {
	{"capitalize", str_capitalize},
	{"center", str_center},
	{"count", str_count},
	{"endswith", str_endswith},
	{"find", str_find},
	{"format", str_format},
	{"index", str_index},
	{"isalnum", str_isalnum},
	{"isalpha", str_isalpha},
	{"isascii", str_isascii},
	{"isdecimal", str_isdecimal},
	{"isdigit", str_isdigit},
	{"islower", str_islower},
	{"isnumeric", str_isnumeric},
	{"isprintable", str_isprintable},
	{"isspace", str_isspace},
	{"istitle", str_istitle},
	{"isupper", str_isupper},
	{"join", str_join},
	{"ljust", str_ljust},
	{"lower", str_lower},
	{"lstrip", str_lstrip},
	{"partition", str_partition},
	{"removeprefix", str_removeprefix},
	{"removesuffix", str_removesuffix},
	{"replace", str_replace},
	{"rfind", str_rfind},
	{"rindex", str_rindex},
	{"rjust", str_rjust},
	{"rpartition", str_rpartition},
	{"rsplit", str_rsplit},
	{"rstrip", str_rstrip},
	{"split", str_split},
	{"splitlines", str_splitlines},
	{"startswith", str_startswith},
	{"strip", str_strip},
	{"swapcase", str_swapcase},
	{"title", str_title},
	{"upper", str_upper},
	{"zfill", str_zfill},
};

/* ---- list, tuple, dict ---- */

METHOD(list_index)
{
	struct jinja_value item;
	size_t i;

	jinja_bind(j, "index()", args, "value", &item);
	for (i = 0; i < self.list->n; i++) {
		jinja_step(j, 1);
		if (jinja_equal(j, self.list->items[i], item))
			return jinja_int(
				(int64_t)i, jinja_trusted(j, self) && jinja_trusted(j, item));
	}
	jinja_fail_at(j, -ENOEXEC, j->line, "index(): the value is not in the list");
}

METHOD(list_count)
{
	struct jinja_value item;
	int64_t n = 0;
	size_t i;

	jinja_bind(j, "count()", args, "value", &item);
	for (i = 0; i < self.list->n; i++) {
		jinja_step(j, 1);
		n += jinja_equal(j, self.list->items[i], item);
	}
	return jinja_int(n, jinja_trusted(j, self) && jinja_trusted(j, item));
}

METHOD(any_copy)
{
	jinja_bind(j, "copy()", args, "", NULL);
	return self; /* nothing can change it */
}

METHOD(dict_get)
{
	struct jinja_value slots[2];
	const struct jinja_value *found;

	jinja_bind(j, "get()", args, "key default?", slots);
	if (!jinja_hashable(slots[0]))
		jinja_fail_at(
			j, -ENOEXEC, j->line, "unhashable type: '%s'", jinja_type_name(slots[0]));
	found = jinja_dict_get(j, self.dict, slots[0]);
	if (found)
		return *found;
	return slots[1].kind == JINJA_MISSING ? jinja_none() : slots[1];
}

static struct jinja_value dict_view(struct jinja *j, struct jinja_value self,
	const struct jinja_args *args, const char *name, enum jinja_flavor flavor)
{
	struct jinja_value list = jinja_list_new(j, flavor, self.dict->n);
	size_t i;

	jinja_bind(j, name, args, "", NULL);
	jinja_step(j, self.dict->n);
	for (i = 0; i < self.dict->n; i++) {
		const struct jinja_entry *e = &self.dict->entries[i];
		struct jinja_value pair;

		if (flavor == JINJA_KEYS) {
			jinja_list_add(j, list, e->key);
		} else if (flavor == JINJA_VALUES) {
			jinja_list_add(j, list, e->value);
		} else {
			pair = jinja_list_new(j, JINJA_TUPLE, 2);
			jinja_list_add(j, pair, e->key);
			jinja_list_add(j, pair, e->value);
			jinja_list_add(j, list, pair);
		}
	}
	return list;
}

METHOD(dict_items)
{
	return dict_view(j, self, args, "items()", JINJA_ITEMS);
}

METHOD(dict_keys)
{
	return dict_view(j, self, args, "keys()", JINJA_KEYS);
}

METHOD(dict_values)
{
	return dict_view(j, self, args, "values()", JINJA_VALUES);
}

static const struct jinja_method_entry list_methods[] = {
	{"copy", any_copy},
	{"count", list_count},
	{"index", list_index},
};

static const struct jinja_method_entry dict_methods[] = {
	{"copy", any_copy},
	{"get", dict_get},
	{"items", dict_items},
	{"keys", dict_keys},
	{"values", dict_values},
};

static const char *const list_forbidden[] = {
	"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", NULL};
static const char *const dict_forbidden[] = {
	"clear", "pop", "popitem", "setdefault", "update", NULL};

static struct jinja_value method_lookup(struct jinja *j, struct jinja_value self,
	const struct jinja_string *name, const struct jinja_method_entry *entries, size_t n)
{
	struct jinja_method *m;
	size_t i;

	for (i = 0; i < n; i++)
		if (jinja_string_is(name, entries[i].name)) {
			m = jinja_take(j, 1, sizeof(*m));
			m->self = self;
			m->entry = &entries[i];
			return (struct jinja_value){.kind = JINJA_METHOD, .method = m};
		}
	return jinja_missing();
}

#define N(a) (sizeof(a) / sizeof((a)[0]))

struct jinja_value jinja_method_of(
	struct jinja *j, struct jinja_value self, const struct jinja_string *name)
{
	const char *const *forbidden = NULL;
	struct jinja_value found = jinja_missing();

	if (self.kind == JINJA_LIST && self.list->is_group && jinja_string_is(name, "grouper"))
		return self.list->items[0];
	if (self.kind == JINJA_LIST && self.list->is_group && jinja_string_is(name, "list"))
		return self.list->items[1];
	if (self.kind == JINJA_STRING) {
		found = method_lookup(j, self, name, str_methods, N(str_methods));
	} else if (self.kind == JINJA_DICT) {
		found = method_lookup(j, self, name, dict_methods, N(dict_methods));
		forbidden = dict_forbidden;
	} else if (self.kind == JINJA_LIST && self.list->flavor == JINJA_PLAIN) {
		found = method_lookup(j, self, name, list_methods, N(list_methods));
		forbidden = list_forbidden;
	} else if (self.kind == JINJA_LIST && self.list->flavor == JINJA_TUPLE) {
		found = method_lookup(j, self, name, list_methods + 1, N(list_methods) - 1);
	}
	for (; forbidden && *forbidden; forbidden++)
		if (jinja_string_is(name, *forbidden))
			return jinja_undefined(j,
				"access to attribute '%s' of '%s' object is unsafe", *forbidden,
				jinja_type_name(self));
	return found;
}

struct jinja_value jinja_method_run(
	struct jinja *j, const struct jinja_method *method, const struct jinja_args *args)
{
	return method->entry->run(j, method->self, args);
}
