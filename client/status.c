/* Why: `zephctl status` is read by people at a glance; programs take --json. The caller owns the
 * buffer. */
#include "client/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/message.h"

static int say(msgpack_sbuffer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int say(msgpack_sbuffer *out, const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (n >= (int)sizeof(line))
		n = (int)sizeof(line) - 1;
	return msgpack_sbuffer_write(out, line, (size_t)n) == 0 ? 0 : -ENOMEM;
}

static int64_t number(const msgpack_object *map, const char *key)
{
	int64_t v = 0;

	object_int(map_get(map, key), &v);
	return v;
}

/* The text as a terminated copy, or "-". */
struct name {
	char text[128];
};

static struct name name(const msgpack_object *map, const char *key)
{
	struct rpc_text t;
	struct name n = {"-"};

	if (object_text(map_get(map, key), &t) && t.len > 0)
		snprintf(n.text, sizeof(n.text), "%.*s", (int)(t.len < 127 ? t.len : 127), t.text);
	return n;
}

/* 1536 → "1.5 KiB" */
static struct name bytes(int64_t v)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double x = (double)v;
	struct name n;
	size_t unit = 0;

	while (x >= 1024 && unit < 4) {
		x /= 1024;
		unit++;
	}
	snprintf(n.text, sizeof(n.text), unit == 0 ? "%.0f %s" : "%.1f %s", x, units[unit]);
	return n;
}

static struct name duration(int64_t s)
{
	struct name n;

	if (s >= 86400)
		snprintf(n.text, sizeof(n.text), "%" PRId64 " d %" PRId64 " h", s / 86400,
			s / 3600 % 24);
	else if (s >= 3600)
		snprintf(n.text, sizeof(n.text), "%" PRId64 " h %" PRId64 " min", s / 3600,
			s / 60 % 60);
	else if (s >= 60)
		snprintf(n.text, sizeof(n.text), "%" PRId64 " min %" PRId64 " s", s / 60, s % 60);
	else
		snprintf(n.text, sizeof(n.text), "%" PRId64 " s", s);
	return n;
}

static struct name tag(const msgpack_object *row)
{
	const msgpack_object *o = map_get(row, "tag");
	struct name n = name(row, "tag");
	int64_t v;

	if (object_int(o, &v))
		snprintf(n.text, sizeof(n.text), "%" PRId64, v);
	return n;
}

static int write_requests(msgpack_sbuffer *out, const msgpack_object *requests)
{
	const msgpack_object *mine = map_get(requests, "mine");
	int r = say(out,
		"requests  %" PRId64 " running, %" PRId64 " queued, %" PRId64 " done, %" PRId64
		" failed, %" PRId64 " cancelled\n",
		number(requests, "running"), number(requests, "queued"), number(requests, "done"),
		number(requests, "failed"), number(requests, "cancelled"));

	if (!mine || mine->type != MSGPACK_OBJECT_ARRAY)
		return r;
	for (uint32_t i = 0; i < mine->via.array.size && r == 0; i++) {
		const msgpack_object *row = &mine->via.array.ptr[i];

		r = say(out, "          %s %s, %s, %.1f s\n", name(row, "method").text,
			tag(row).text, name(row, "phase").text,
			(double)number(row, "age_ms") / 1000);
	}
	return r;
}

static int write_users(msgpack_sbuffer *out, const msgpack_object *users)
{
	int r = 0;

	if (!users || users->type != MSGPACK_OBJECT_ARRAY)
		return 0;
	for (uint32_t i = 0; i < users->via.array.size && r == 0; i++) {
		const msgpack_object *row = &users->via.array.ptr[i];
		double device_s = 0;

		object_float(map_get(row, "device_s"), &device_s);
		r = say(out,
			"user      %" PRId64 ": %" PRId64 " running, %" PRId64 " queued, %" PRId64
			" prompt and %" PRId64 " new tokens, %.1f s on the device\n",
			number(row, "uid"), number(row, "running"), number(row, "queued"),
			number(row, "prompt_tokens"), number(row, "completion_tokens"), device_s);
	}
	return r;
}

/* A line about the model for what the daemon has a remark on; "" stands for nil. */
static int note(msgpack_sbuffer *out, const msgpack_object *model, const char *head,
	const char *value, const char *remark)
{
	const msgpack_object *text = model ? map_get(model, remark) : NULL;
	struct name shown = model ? name(model, value) : (struct name){""};
	int64_t n;

	if (model && object_int(map_get(model, value), &n))
		snprintf(shown.text, sizeof(shown.text), "%" PRId64, n);
	if (!text || text->type != MSGPACK_OBJECT_STR)
		return 0;
	return say(out, "%-9s %s: %.*s\n", head, shown.text, (int)text->via.str.size,
		text->via.str.ptr);
}

/* What is not as it was asked for, and what makes replies depend on the load. */
static int write_device_notes(msgpack_sbuffer *out, const msgpack_object *device)
{
	const msgpack_object *text = map_get(device, "note"), *exact = map_get(device, "exact");
	int r = 0;

	if (text && text->type == MSGPACK_OBJECT_STR)
		r = say(out, "          %.*s\n", (int)text->via.str.size, text->via.str.ptr);
	if (r == 0 && exact && exact->type == MSGPACK_OBJECT_BOOLEAN && !exact->via.boolean)
		r = say(out, "          cuBLASLt serves large prompts (engine.exact is false)\n");
	return r;
}

int status_write(msgpack_sbuffer *out, const msgpack_object *status)
{
	const msgpack_object *model = map_get(status, "model"), *device = map_get(status, "device");
	const msgpack_object *kv = map_get(status, "kv"), *requests = map_get(status, "requests");
	int r;

	r = say(out, "state     %s\n", name(status, "state").text);
	if (r == 0)
		r = say(out, "daemon    zephd %s, pid %" PRId64 ", up %s\n",
			name(status, "version").text, number(status, "pid"),
			duration(number(status, "uptime_s")).text);
	if (r == 0 && model && model->type == MSGPACK_OBJECT_MAP)
		r = say(out, "model     %s: %s, %s, %.1f M parameters, %s, context %" PRId64 "\n",
			name(model, "name").text, name(model, "architecture").text,
			name(model, "type").text, (double)number(model, "parameters") / 1e6,
			bytes(number(model, "bytes")).text, number(model, "context"));
	if (r == 0)
		r = note(out, model, "quantized", "quantize", "quantize_note");
	if (r == 0)
		r = note(out, model, "window", "sliding_window", "sliding_window_note");
	if (r == 0 && device && device->type == MSGPACK_OBJECT_MAP)
		r = say(out, "device    %s: %s, %s of %s used, layers %" PRId64 " of %" PRId64 "\n",
			name(device, "kind").text, name(device, "name").text,
			bytes(number(device, "used_bytes")).text,
			bytes(number(device, "memory_bytes")).text,
			number(device, "layers_on_device"), number(device, "layers"));
	if (r == 0 && device && device->type == MSGPACK_OBJECT_MAP)
		r = write_device_notes(out, device);
	if (r == 0 && kv && kv->type == MSGPACK_OBJECT_MAP)
		r = say(out,
			"cache     %" PRId64 " pages of %" PRId64 " tokens, %" PRId64
			" used, %" PRId64 " cached\n",
			number(kv, "pages"), number(kv, "page_tokens"), number(kv, "used"),
			number(kv, "cached"));
	if (r == 0 && requests && requests->type == MSGPACK_OBJECT_MAP)
		r = write_requests(out, requests);
	if (r == 0 && map_get(status, "connections"))
		r = say(out, "open      %" PRId64 " connections\n", number(status, "connections"));
	return r == 0 ? write_users(out, map_get(status, "users")) : r;
}
