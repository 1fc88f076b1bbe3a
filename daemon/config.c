/* The configuration: defaults, then the file, then the command line. What a file may say stands in
 * config_keys.c; here is how the pieces are laid over one another and who is in which class. */
#include "daemon/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "daemon/config_text.h"

const char *class_name(enum class class)
{
	static const char *const names[] = {"none", "use", "priority", "manage"};

	return names[class];
}

static void config_default(struct config *c)
{
	*c = (struct config){
		.socket.mode = 0600,
		.model.sliding_window = -1,
		.model.gpu_layers = -1,
		.model.keep_packed = true,
		.engine.activations = ACTIVATIONS_FAST,
		.engine.exact = true,
		.engine.kv_type = -1,
		.engine.swap_bytes = 1ll << 30,
		.limits =
			{
				.frame_bytes = FRAME_BYTES_MAX,
				.reply_bytes = REPLY_BYTES_MAX,
				.frame_seconds = FRAME_USEC_MAX / 1000000,
				.stall_seconds = STALL_SECONDS,
				.connections = CONNECTIONS_MAX,
				.session_bytes = SESSION_BYTES_MAX,
				.session_days = SESSION_DAYS,
				.quota =
					{
						.connections_per_uid = CONNECTIONS_PER_UID_MAX,
						.queue_per_uid = QUEUE_PER_UID_MAX,
						.bytes_per_uid = 512ll << 20,
						.prompt_tokens_per_uid = PROMPT_TOKENS_PER_UID_MAX,
						.sessions_per_uid = SESSIONS_PER_UID_MAX,
						.session_bytes_per_uid = SESSIONS_UID_BYTES_MAX,
						.weight = 1,
					},
			},
	};
	config_quotas_unset(c);
	c->classes.quota[CLASS_PRIORITY].weight = c->classes.quota[CLASS_MANAGE].weight = 2;
}

static void classes_done(struct config_classes *c)
{
	free(c->use.items);
	free(c->priority.items);
	free(c->manage.items);
	*c = (struct config_classes){};
}

void config_done(struct config *c)
{
	free(c->file);
	free(c->socket.path);
	free(c->socket.use_path);
	free(c->model.path);
	free(c->model.template_name);
	free(c->model.quantize);
	free(c->model.shared_prefix);
	free(c->engine.device);
	classes_done(&c->classes);
	*c = (struct config){};
}

/* Where the configuration is unless --config says it: systemd's ConfigurationDirectory=, root's
 * place or the user's own. NULL: no memory, or a user without a home. */
static char *default_file(void)
{
	const char *directory = getenv("CONFIGURATION_DIRECTORY"), *home = getenv("HOME");
	const char *xdg = getenv("XDG_CONFIG_HOME");
	char *path = NULL;
	int r;

	if (directory && directory[0] == '/')
		r = asprintf(&path, "%.*s/zephd.conf", (int)strcspn(directory, ":"), directory);
	else if (geteuid() == 0)
		r = asprintf(&path, "/etc/zeph/zephd.conf");
	else if (xdg && xdg[0] == '/')
		r = asprintf(&path, "%s/zeph/zephd.conf", xdg);
	else if (home)
		r = asprintf(&path, "%s/.config/zeph/zephd.conf", home);
	else
		return NULL;
	return r < 0 ? NULL : path;
}

static int replace(char **field, const char *value)
{
	char *copy;

	if (!value)
		return 0;
	copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int apply_options(struct config *c, const struct options *o)
{
	if (replace(&c->model.path, o->model) < 0 || replace(&c->socket.path, o->socket) < 0 ||
		replace(&c->model.quantize, o->quantize) < 0 ||
		replace(&c->engine.device, o->device) < 0)
		return -ENOMEM;
	if (o->threads >= 0)
		c->engine.threads = o->threads;
	if (o->context >= 0)
		c->model.context = o->context;
	return 0;
}

int config_load(const struct options *o, struct config *ret, char *error, size_t error_size)
{
	struct config c;
	struct config_text text = {};
	int r = 0;

	config_default(&c);
	c.file = o->config ? strdup(o->config) : default_file();
	if (!c.file && o->config) {
		r = -ENOMEM;
	} else if (c.file && !o->config && access(c.file, F_OK) < 0 &&
		   (errno == ENOENT || errno == ENOTDIR)) {
		free(c.file); /* there need not be one */
		c.file = NULL;
	}
	if (!r && c.file) {
		r = config_text_read(c.file, &text, error, error_size);
		if (!r)
			r = config_parse(&c, &text, error, error_size);
		config_text_done(&text);
	}
	config_quotas_settle(&c);
	if (!r)
		r = apply_options(&c, o);
	if (r == -ENOMEM)
		snprintf(error, error_size, "out of memory");
	if (r < 0) {
		config_done(&c);
		*ret = (struct config){};
		return r;
	}
	*ret = c;
	return 0;
}

static bool matches(
	const struct principals *p, uint32_t uid, const uint32_t *groups, size_t n_groups)
{
	for (size_t i = 0; i < p->n; i++) {
		if (!p->items[i].group && p->items[i].id == uid)
			return true;
		for (size_t g = 0; p->items[i].group && g < n_groups; g++)
			if (p->items[i].id == groups[g])
				return true;
	}
	return false;
}

enum class config_class(
	const struct config *c, uint32_t uid, const uint32_t *groups, size_t n_groups) {
	if (uid == 0 || uid == geteuid() ||
		matches(&c->classes.manage, uid, groups, n_groups)) return CLASS_MANAGE;
	if (matches(&c->classes.priority, uid, groups, n_groups)) return CLASS_PRIORITY;
	if (!c->classes.use.set ||
		matches(&c->classes.use, uid, groups, n_groups)) return CLASS_USE;
	return CLASS_NONE;
}

static bool differ(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") != 0;
}

bool config_reload(struct config *c, struct config *from)
{
	bool restart = differ(c->socket.path, from->socket.path) ||
		       differ(c->socket.use_path, from->socket.use_path) ||
		       c->socket.mode != from->socket.mode ||
		       differ(c->model.path, from->model.path) ||
		       differ(c->model.template_name, from->model.template_name) ||
		       differ(c->model.quantize, from->model.quantize) ||
		       differ(c->model.shared_prefix, from->model.shared_prefix) ||
		       c->model.sliding_window != from->model.sliding_window ||
		       c->model.context != from->model.context ||
		       c->model.gpu_layers != from->model.gpu_layers ||
		       c->model.idle_seconds != from->model.idle_seconds ||
		       c->model.keep_packed != from->model.keep_packed ||
		       differ(c->engine.device, from->engine.device) ||
		       c->engine.activations != from->engine.activations ||
		       c->engine.exact != from->engine.exact ||
		       c->engine.kv_type != from->engine.kv_type ||
		       c->engine.threads != from->engine.threads ||
		       c->engine.kv_bytes != from->engine.kv_bytes ||
		       c->engine.prefill_tokens != from->engine.prefill_tokens ||
		       c->engine.max_sequences != from->engine.max_sequences ||
		       c->engine.max_sequences_per_uid != from->engine.max_sequences_per_uid ||
		       c->engine.swap_bytes != from->engine.swap_bytes;

	c->limits = from->limits;
	c->defaults = from->defaults;
	classes_done(&c->classes);
	c->classes = from->classes;
	from->classes = (struct config_classes){};
	config_done(from);
	return restart;
}
