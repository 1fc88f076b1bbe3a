/* Every key of the configuration is one row of one table: group, name, type, range, field. A new
 * key is a row. libconfig's own lookups are not used: they hide a wrong type or a cut integer
 * behind a default. */
#include "daemon/config_keys.h"

#include <errno.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libconfig.h>

#include "engine/limits.h"
#include "engine/quantize_mix.h"
#include "kernels/dtype.h"

enum type {
	TYPE_TEXT,
	TYPE_MODE, /* octal digits as text */
	TYPE_DEVICE,
	TYPE_ACTIVATIONS,
	TYPE_KV_TYPE,
	TYPE_QUANTIZE,
	TYPE_FILE, /* the text of the file that is named, less a final newline */
	TYPE_INT,
	TYPE_FLOAT,
	TYPE_BOOL,
	TYPE_CLASS,
};

struct key {
	const char *group, *name;
	enum type type;
	size_t offset;   /* in struct config */
	double min, max; /* numbers; a negative param below means: no bit */
	int param;       /* enum param whose bit in defaults.set it sets, or -1 */
	bool quota;      /* a class may have it, too; with group "" only a class may */
};

#define KEY(group, name, type, ...)                                                                \
	{                                                                                          \
#group, #name, TYPE_##type, offsetof(struct config, group.name), __VA_ARGS__       \
	}
#define DEFAULT(name, type, bit, min, max)                                                         \
	{                                                                                          \
		"defaults", #name, TYPE_##type, offsetof(struct config, defaults.name), min, max,  \
			PARAM_##bit                                                                \
	}
#define QUOTA(group, name, min, max)                                                               \
	{                                                                                          \
		group, #name, TYPE_INT, offsetof(struct config, limits.quota.name), min, max, -1,  \
			true                                                                       \
	}
#define GIB 1073741824.0

static const struct key keys[] = {
	KEY(socket, path, TEXT, .param = -1),
	KEY(socket, use_path, TEXT, .param = -1),
	KEY(socket, mode, MODE, .param = -1),
	KEY(model, path, TEXT, .param = -1),
	{"model", "template", TYPE_TEXT, offsetof(struct config, model.template_name), .param = -1},
	KEY(model, sliding_window, INT, 0, MODEL_CONTEXT_MAX, -1),
	KEY(model, context, INT, 0, MODEL_CONTEXT_MAX, -1),
	KEY(model, gpu_layers, INT, 0, MODEL_LAYERS_MAX, -1),
	KEY(model, idle_seconds, INT, 0, 31536000, -1),
	KEY(model, quantize, QUANTIZE, .param = -1),
	KEY(model, keep_packed, BOOL, 0, 0, -1),
	KEY(model, shared_prefix, TEXT, .param = -1),
	{"model", "shared_prefix_file", TYPE_FILE, offsetof(struct config, model.shared_prefix),
		.param = -1},
	KEY(engine, device, DEVICE, .param = -1),
	KEY(engine, activations, ACTIVATIONS, .param = -1),
	KEY(engine, exact, BOOL, 0, 0, -1),
	KEY(engine, kv_type, KV_TYPE, .param = -1),
	KEY(engine, threads, INT, 0, 1024, -1),
	KEY(engine, kv_bytes, INT, 0, 1024 * GIB, -1),
	KEY(engine, prefill_tokens, INT, 0, 8192, -1),
	KEY(engine, max_sequences, INT, 0, 256, -1),
	KEY(engine, max_sequences_per_uid, INT, 0, 256, -1),
	KEY(engine, swap_bytes, INT, 0, 1024 * GIB, -1),
	KEY(limits, frame_bytes, INT, 4096, GIB, -1),
	KEY(limits, reply_bytes, INT, 4096, GIB, -1),
	KEY(limits, frame_seconds, INT, 1, 3600, -1),
	KEY(limits, stall_seconds, INT, 1, 86400, -1),
	KEY(limits, connections, INT, 1, 65536, -1),
	QUOTA("limits", connections_per_uid, 1, 65536),
	QUOTA("limits", queue_per_uid, 1, 65536),
	QUOTA("limits", bytes_per_uid, 1048576, 1024 * GIB),
	QUOTA("limits", prompt_tokens_per_uid, 1, 1e9),
	QUOTA("", weight, 1, 100),
	QUOTA("limits", max_new_tokens, 0, MODEL_CONTEXT_MAX),
	KEY(limits, session_bytes, INT, 1024, 32 * 1048576.0, -1),
	QUOTA("limits", sessions_per_uid, 0, 65536),
	QUOTA("limits", session_bytes_per_uid, 1024, 1024 * GIB),
	KEY(limits, session_days, INT, 0, 36500, -1),
	DEFAULT(max_new_tokens, INT, MAX_NEW_TOKENS, 0, MODEL_CONTEXT_MAX),
	DEFAULT(do_sample, BOOL, DO_SAMPLE, 0, 0),
	DEFAULT(temperature, FLOAT, TEMPERATURE, 0, 100),
	DEFAULT(top_k, INT, TOP_K, 0, INT32_MAX),
	DEFAULT(top_p, FLOAT, TOP_P, 1e-6, 1),
	DEFAULT(min_p, FLOAT, MIN_P, 0, 1),
	DEFAULT(typical_p, FLOAT, TYPICAL_P, 1e-6, 1),
	DEFAULT(repetition_penalty, FLOAT, REPETITION_PENALTY, 1e-6, 100),
	DEFAULT(presence_penalty, FLOAT, PRESENCE_PENALTY, -100, 100),
	DEFAULT(frequency_penalty, FLOAT, FREQUENCY_PENALTY, -100, 100),
	DEFAULT(penalty_window, INT, PENALTY_WINDOW, 0, INT32_MAX),
	KEY(classes, use, CLASS, .param = -1),
	KEY(classes, priority, CLASS, .param = -1),
	KEY(classes, manage, CLASS, .param = -1),
};

/* Where a setting's failure goes. */
struct parse {
	struct config *config;
	const struct config_text *text;
	char *error;
	size_t error_size;
	const char *group; /* that is read: "limits", "classes.use" */
	bool class;        /* of a class: its quota is meant */
	ptrdiff_t shift;   /* and lies so far from limits.quota */
};

static int __attribute__((format(printf, 4, 5)))
refuse(const struct parse *p, const config_setting_t *at, int code, const char *format, ...)
{
	unsigned line;
	const char *file = config_text_file(p->text, config_setting_source_line(at), &line);
	int n = snprintf(p->error, p->error_size, "%s:%u: ", file, line);
	va_list arguments;

	va_start(arguments, format);
	if (n >= 0 && (size_t)n < p->error_size)
		vsnprintf(p->error + n, p->error_size - n, format, arguments);
	va_end(arguments);
	return code;
}

static const char *type_name(const config_setting_t *s)
{
	switch (config_setting_type(s)) {
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64: return "an integer";
	case CONFIG_TYPE_FLOAT: return "a number with a fraction";
	case CONFIG_TYPE_STRING: return "text";
	case CONFIG_TYPE_BOOL: return "true or false";
	case CONFIG_TYPE_ARRAY: return "an array";
	case CONFIG_TYPE_LIST: return "a list";
	default: return "a group";
	}
}

static int wrong_type(
	const struct parse *p, const struct key *key, const config_setting_t *s, const char *wanted)
{
	return refuse(
		p, s, -EINVAL, "%s.%s is %s, wanted %s", p->group, key->name, type_name(s), wanted);
}

static bool setting_int(const config_setting_t *s, int64_t *ret)
{
	if (config_setting_type(s) == CONFIG_TYPE_INT)
		*ret = config_setting_get_int(s);
	else if (config_setting_type(s) == CONFIG_TYPE_INT64)
		*ret = config_setting_get_int64(s);
	else
		return false;
	return true;
}

static int parse_number(const struct parse *p, const struct key *key, const config_setting_t *s)
{
	void *field = (char *)p->config + key->offset + p->shift;
	int64_t integer = 0;
	double number;
	bool is_int = setting_int(s, &integer);

	if (is_int)
		number = (double)integer;
	else if (key->type == TYPE_FLOAT && config_setting_type(s) == CONFIG_TYPE_FLOAT)
		number = config_setting_get_float(s);
	else
		return wrong_type(p, key, s, key->type == TYPE_INT ? "an integer" : "a number");
	if (!(number >= key->min && number <= key->max)) {
		if (is_int)
			return refuse(p, s, -ERANGE, "%s.%s is %lld, wanted %.0f to %.0f", p->group,
				key->name, (long long)integer, key->min, key->max);
		return refuse(p, s, -ERANGE, "%s.%s is %g, wanted %g to %g", p->group, key->name,
			number, key->min, key->max);
	}
	if (key->type == TYPE_INT)
		*(int64_t *)field = integer;
	else
		*(double *)field = number;
	return 0;
}

/* The file's text in place of its name. malloc'ed into *ret. */
static int read_named(const struct parse *p, const struct key *key, const config_setting_t *s,
	const char *name, char **ret)
{
	unsigned line;
	const char *file = config_text_file(p->text, config_setting_source_line(s), &line);
	char *path = config_path(file, name, strlen(name)), *text = NULL, why[512];
	size_t len = 0;
	int r;

	if (!path)
		return -ENOMEM;
	r = config_file_read(path, CONFIG_BYTES_MAX, &text, &len, why, sizeof(why));
	free(path);
	if (r < 0)
		return refuse(p, s, r, "%s.%s: %s", key->group, key->name, why);
	len -= len > 0 && text[len - 1] == '\n';
	text[len] = 0;
	if (len == 0 || strlen(text) != len) {
		free(text);
		return refuse(p, s, -EINVAL, "%s.%s: %s is empty or has a zero byte", key->group,
			key->name, name);
	}
	*ret = text;
	return 0;
}

static int parse_text(const struct parse *p, const struct key *key, const config_setting_t *s)
{
	void *field = (char *)p->config + key->offset;
	const char *text;
	char *end;

	if (config_setting_type(s) != CONFIG_TYPE_STRING)
		return wrong_type(
			p, key, s, key->type == TYPE_MODE ? "text such as \"0660\"" : "text");
	text = config_setting_get_string(s);
	switch (key->type) {
	case TYPE_MODE: {
		unsigned long mode = strtoul(text, &end, 8);
		if (end == text || *end || text[0] < '0' || text[0] > '7' || mode > 0777)
			return refuse(p, s, -EINVAL,
				"socket.mode is \"%s\", wanted octal digits up to \"0777\"", text);
		p->config->socket.mode = mode;
		return 0;
	}
	case TYPE_ACTIVATIONS:
		if (strcmp(text, "fast") != 0 && strcmp(text, "exact") != 0)
			return refuse(p, s, -EINVAL,
				"engine.activations is \"%s\", wanted \"fast\" or \"exact\"", text);
		*(enum activations *)field = text[0] == 'f' ? ACTIVATIONS_FAST : ACTIVATIONS_EXACT;
		return 0;
	case TYPE_KV_TYPE: {
		int dtype = dtype_from_name(text);
		if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16 &&
			dtype != DTYPE_Q8_0)
			return refuse(p, s, -EINVAL,
				"engine.kv_type is \"%s\", wanted \"f32\", \"f16\", \"bf16\" or "
				"\"q8_0\"",
				text);
		*(int *)field = dtype;
		return 0;
	}
	case TYPE_QUANTIZE:
		if (!quantize_mix_find(text))
			return refuse(p, s, -EINVAL, "model.quantize is \"%s\", wanted one of %s",
				text, quantize_mix_names());
		break;
	case TYPE_DEVICE:
		if (!options_device_valid(text))
			return refuse(p, s, -EINVAL,
				"engine.device is \"%s\", wanted \"auto\", \"cpu\", \"reference\", "
				"\"cuda\" or \"cuda:N\"",
				text);
		break;
	default:
		if (!text[0])
			return refuse(p, s, -EINVAL, "%s.%s is empty", p->group, key->name);
	}
	if (*(char **)field)
		return refuse(p, s, -EINVAL, "%s.%s: it is given in another way, too", key->group,
			key->name);
	if (key->type == TYPE_FILE)
		return read_named(p, key, s, text, field);
	*(char **)field = strdup(text);
	return *(char **)field ? 0 : -ENOMEM;
}

/* 1000: a uid; "zeph": a group; "gid:1000": a group by number. */
static int parse_principal(const struct parse *p, const struct key *key, const config_setting_t *s,
	struct principal *ret)
{
	int64_t number;
	const char *text;
	char *end;

	if (setting_int(s, &number)) {
		if (number < 0 || number >= UINT32_MAX)
			return refuse(p, s, -ERANGE, "classes.%s: %lld is no uid", key->name,
				(long long)number);
		*ret = (struct principal){.id = number};
		return 0;
	}
	if (config_setting_type(s) != CONFIG_TYPE_STRING)
		return refuse(p, s, -EINVAL,
			"classes.%s holds %s, wanted uids (1000) and groups (\"zeph\", "
			"\"gid:1000\")",
			key->name, type_name(s));
	text = config_setting_get_string(s);
	if (strncmp(text, "gid:", 4) == 0) {
		errno = 0;
		unsigned long long gid = strtoull(text + 4, &end, 10);
		if (errno || end == text + 4 || *end || text[4] < '0' || text[4] > '9' ||
			gid >= UINT32_MAX)
			return refuse(
				p, s, -EINVAL, "classes.%s: \"%s\" is no gid", key->name, text);
		*ret = (struct principal){.group = true, .id = gid};
		return 0;
	}
	const struct group *group = getgrnam(text);
	if (!group)
		return refuse(
			p, s, -ENOENT, "classes.%s: there is no group \"%s\"", key->name, text);
	*ret = (struct principal){.group = true, .id = group->gr_gid};
	return 0;
}

static int parse_members(const struct parse *p, const struct key *key, const config_setting_t *s)
{
	struct principals *field = (void *)((char *)p->config + key->offset);
	int type = config_setting_type(s), n, r;

	if (type != CONFIG_TYPE_LIST && type != CONFIG_TYPE_ARRAY)
		return refuse(p, s, -EINVAL, "%s.%s is %s, wanted a list of uids and groups%s",
			p->group, config_setting_name(s), type_name(s),
			p->class ? "" : ", or a group of members and limits");
	n = config_setting_length(s);
	field->items = calloc(n ? n : 1, sizeof(*field->items));
	if (!field->items)
		return -ENOMEM;
	field->set = true;
	for (int i = 0; i < n; i++) {
		r = parse_principal(p, key, config_setting_get_elem(s, i), &field->items[i]);
		if (r < 0)
			return r;
		field->n++;
	}
	return 0;
}

static int parse_setting(const struct parse *p, const config_setting_t *s);

/* A class: its members, or a group of these and of what each of them may have. */
static int parse_class(const struct parse *p, const struct key *key, const config_setting_t *s)
{
	struct parse within = *p;
	enum class class = CLASS_USE;
	char group[32];
	int r = 0;

	if (config_setting_type(s) != CONFIG_TYPE_GROUP)
		return parse_members(p, key, s);
	while (strcmp(class_name(class), key->name) != 0)
		class ++;
	snprintf(group, sizeof(group), "classes.%s", key->name);
	within.group = group;
	within.class = true;
	within.shift = (ptrdiff_t)offsetof(struct config, classes.quota) +
		       (ptrdiff_t) class * (ptrdiff_t)sizeof(struct config_quota) -
		       (ptrdiff_t)offsetof(struct config, limits.quota);
	for (int i = 0; r == 0 && i < config_setting_length(s); i++) {
		const config_setting_t *member = config_setting_get_elem(s, i);

		if (strcmp(config_setting_name(member), "members") == 0)
			r = parse_members(&within, key, member);
		else
			r = parse_setting(&within, member);
	}
	return r;
}

static int parse_setting(const struct parse *p, const config_setting_t *s)
{
	const char *name = config_setting_name(s);
	const struct key *key = NULL;
	int r;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if ((p->class ? keys[i].quota : strcmp(keys[i].group, p->group) == 0) &&
			strcmp(keys[i].name, name) == 0)
			key = &keys[i];
	if (!key)
		return refuse(p, s, -EINVAL, "unknown key %s.%s", p->group, name);
	switch (key->type) {
	case TYPE_INT:
	case TYPE_FLOAT: r = parse_number(p, key, s); break;
	case TYPE_BOOL:
		if (config_setting_type(s) != CONFIG_TYPE_BOOL)
			return wrong_type(p, key, s, "true or false");
		*(bool *)((char *)p->config + key->offset) = config_setting_get_bool(s);
		r = 0;
		break;
	case TYPE_CLASS: r = parse_class(p, key, s); break;
	default: r = parse_text(p, key, s);
	}
	if (r == 0 && key->param >= 0)
		p->config->defaults.set |= UINT64_C(1) << key->param;
	return r;
}

static int parse_group(const struct parse *p, const config_setting_t *group)
{
	const char *name = config_setting_name(group);
	bool known = false;
	int r = 0;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		known |= strcmp(keys[i].group, name) == 0;
	if (!known)
		return refuse(p, group, -EINVAL,
			"unknown group %s, wanted socket, model, engine, limits, defaults or "
			"classes",
			name);
	if (config_setting_type(group) != CONFIG_TYPE_GROUP)
		return refuse(
			p, group, -EINVAL, "%s is %s, wanted a group", name, type_name(group));
	struct parse within = *p;
	within.group = name;
	for (int i = 0; r == 0 && i < config_setting_length(group); i++)
		r = parse_setting(&within, config_setting_get_elem(group, i));
	return r;
}

static int64_t *quota_of(struct config_quota *quota, const struct key *key)
{
	return (int64_t *)((char *)quota + key->offset - offsetof(struct config, limits.quota));
}

void config_quotas_unset(struct config *c)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		for (int class = 0; keys[i].quota && class < CLASS_COUNT; class ++)
			*quota_of(&c->classes.quota[class], &keys[i]) = -1;
}

void config_quotas_settle(struct config *c)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		for (int class = 0; keys[i].quota && class < CLASS_COUNT; class ++) {
			int64_t *said = quota_of(&c->classes.quota[class], &keys[i]);

			if (*said < 0)
				*said = *quota_of(&c->limits.quota, &keys[i]);
		}
}

int config_parse(struct config *c, const struct config_text *text, char *error, size_t error_size)
{
	const struct parse p = {c, text, error, error_size, .group = ""};
	config_t file;
	int r = 0;

	config_init(&file);
	if (config_read_string(&file, text->text) != CONFIG_TRUE) {
		unsigned line;
		const char *name = config_text_file(text, config_error_line(&file), &line);
		snprintf(error, error_size, "%s:%u: %s", name, line, config_error_text(&file));
		r = -EINVAL;
	}
	const config_setting_t *root = config_root_setting(&file);
	for (int i = 0; r == 0 && i < config_setting_length(root); i++)
		r = parse_group(&p, config_setting_get_elem(root, i));
	config_destroy(&file);
	return r;
}
