/* JSON out of files that nobody vouches for. jansson recurses with the nesting and takes about 100
 * bytes for a value, so both are counted before it sees the text. */
#include "engine/json.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/limits.h"

/* Values at most (commas and brackets, which is never too few) and levels of nesting. */
static void measure(const char *text, size_t len, size_t *ret_values, size_t *ret_depth)
{
	size_t values = 1, depth = 0, deepest = 0, i;
	bool string = false;

	for (i = 0; i < len; i++) {
		const char ch = text[i];

		if (string) {
			if (ch == '\\')
				i++;
			else if (ch == '"')
				string = false;
		} else if (ch == '"') {
			string = true;
		} else if (ch == ',' || ch == ':') {
			values++;
		} else if (ch == '[' || ch == '{') {
			values++;
			if (++depth > deepest)
				deepest = depth;
		} else if ((ch == ']' || ch == '}') && depth > 0) {
			depth--;
		}
	}
	*ret_values = values;
	*ret_depth = deepest;
}

int json_read(const char *text, size_t len, const char *file, json_t **ret,
	const struct model_refusal *why)
{
	json_error_t error;
	size_t values, depth;
	json_t *root;

	measure(text, len, &values, &depth);
	if (values > JSON_VALUES_MAX || depth > JSON_DEPTH_MAX)
		return model_refuse(why, -EINVAL,
			"%s: at most %d values and %d levels expected, found about %zu and %zu",
			file, JSON_VALUES_MAX, JSON_DEPTH_MAX, values, depth);
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	/* tokenizer_config.json's model_max_length is 10^30 where there is no limit: then its
	 * integers are read as reals, and who wants an integer of it says so. */
	if (!root && json_error_code(&error) == json_error_numeric_overflow)
		root = json_loadb(
			text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
	if (!root && json_error_code(&error) == json_error_out_of_memory)
		return model_refuse(why, -ENOMEM, "%s: no memory", file);
	if (!root)
		return model_refuse(why, -EINVAL, "%s: line %d is no JSON: %.120s", file,
			error.line, error.text);
	*ret = root;
	return 0;
}

json_t *json_member(const json_t *object, const char *key)
{
	json_t *v = json_object_get(object, key);

	return json_is_null(v) ? NULL : v;
}

int json_get_u32(const json_t *object, const char *file, const char *key, const uint32_t *otherwise,
	uint32_t low, uint32_t high, uint32_t *ret, const struct model_refusal *why)
{
	const json_t *v = json_member(object, key);

	if (!v && otherwise) {
		*ret = *otherwise;
		return 0;
	}
	if (!json_is_integer(v))
		return model_refuse(why, -EINVAL,
			"%s: %s: an integer of %u to %u expected, found %s", file, key, low, high,
			v ? "another type" : "no such key");
	if (json_integer_value(v) < low || json_integer_value(v) > high)
		return model_refuse(why, -EINVAL,
			"%s: %s: an integer of %u to %u expected, found %lld", file, key, low, high,
			(long long)json_integer_value(v));
	*ret = (uint32_t)json_integer_value(v);
	return 0;
}

int json_get_number(const json_t *object, const char *file, const char *key,
	const double *otherwise, double low, double high, double *ret,
	const struct model_refusal *why)
{
	const json_t *v = json_member(object, key);

	if (!v && otherwise) {
		*ret = *otherwise;
		return 0;
	}
	if (!json_is_number(v))
		return model_refuse(why, -EINVAL, "%s: %s: a number of %g to %g expected, found %s",
			file, key, low, high, v ? "another type" : "no such key");
	if (!(json_number_value(v) >= low && json_number_value(v) <= high))
		return model_refuse(why, -EINVAL, "%s: %s: a number of %g to %g expected, found %g",
			file, key, low, high, json_number_value(v));
	*ret = json_number_value(v);
	return 0;
}

int json_get_bool(const json_t *object, const char *file, const char *key, bool otherwise,
	bool *ret, const struct model_refusal *why)
{
	const json_t *v = json_member(object, key);

	if (v && !json_is_boolean(v))
		return model_refuse(why, -EINVAL,
			"%s: %s: true or false expected, found another type", file, key);
	*ret = v ? json_is_true(v) : otherwise;
	return 0;
}

int json_get_string(const json_t *object, const char *file, const char *key, const char **ret,
	const struct model_refusal *why)
{
	const json_t *v = json_member(object, key);

	if (v && !json_is_string(v))
		return model_refuse(
			why, -EINVAL, "%s: %s: a string expected, found another type", file, key);
	*ret = v ? json_string_value(v) : NULL;
	return 0;
}

int json_only(const json_t *object, const char *file, const char *what, const char *const *names,
	const struct model_refusal *why)
{
	json_t *members = (json_t *)object; /* jansson's iterator takes no const */
	const char *key;
	json_t *value;
	size_t i;

	json_object_foreach(members, key, value)
	{
		for (i = 0; names[i] && strcmp(names[i], key) != 0; i++)
			;
		if (!names[i])
			return model_refuse(why, -ENOTSUP,
				"%s: %s: %.80s is not implemented, and ignoring it could change every "
				"answer",
				file, what, key);
	}
	return 0;
}
