/* Why: `zephctl status` is read by people at a glance; programs take --json. The caller owns the
 * buffer. */
#include "client/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client/say.h"
#include "proto/message.h"

static int write_requests(msgpack_sbuffer *out, const msgpack_object *requests)
{
	const msgpack_object *mine = map_get(requests, "mine");
	int r = say(out,
		"requests  %" PRId64 " running, %" PRId64 " queued, %" PRId64 " done, %" PRId64
		" failed, %" PRId64 " cancelled\n",
		say_number(requests, "running"), say_number(requests, "queued"),
		say_number(requests, "done"), say_number(requests, "failed"),
		say_number(requests, "cancelled"));

	if (!mine || mine->type != MSGPACK_OBJECT_ARRAY)
		return r;
	for (uint32_t i = 0; i < mine->via.array.size && r == 0; i++) {
		const msgpack_object *row = &mine->via.array.ptr[i];

		r = say(out, "          %s %s, %s, %.1f s\n", say_text(row, "method").text,
			say_tag(row).text, say_text(row, "phase").text,
			(double)say_number(row, "age_ms") / 1000);
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
			say_number(row, "uid"), say_number(row, "running"),
			say_number(row, "queued"), say_number(row, "prompt_tokens"),
			say_number(row, "completion_tokens"), device_s);
	}
	return r;
}

/* A line about the model for what the daemon has a remark on; "" stands for nil. */
static int note(msgpack_sbuffer *out, const msgpack_object *model, const char *head,
	const char *value, const char *remark)
{
	const msgpack_object *text = model ? map_get(model, remark) : NULL;
	struct said shown = model ? say_text(model, value) : (struct said){""};
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

	r = say(out, "state     %s\n", say_text(status, "state").text);
	if (r == 0)
		r = say(out, "daemon    zephd %s, pid %" PRId64 ", up %s\n",
			say_text(status, "version").text, say_number(status, "pid"),
			say_duration(say_number(status, "uptime_s")).text);
	if (r == 0 && model && model->type == MSGPACK_OBJECT_MAP)
		r = say(out, "model     %s: %s, %s, %.1f M parameters, %s, context %" PRId64 "\n",
			say_text(model, "name").text, say_text(model, "architecture").text,
			say_text(model, "type").text, (double)say_number(model, "parameters") / 1e6,
			say_bytes(say_number(model, "bytes")).text, say_number(model, "context"));
	if (r == 0)
		r = note(out, model, "quantized", "quantize", "quantize_note");
	if (r == 0)
		r = note(out, model, "window", "sliding_window", "sliding_window_note");
	if (r == 0 && device && device->type == MSGPACK_OBJECT_MAP)
		r = say(out, "device    %s: %s, %s of %s used, layers %" PRId64 " of %" PRId64 "\n",
			say_text(device, "kind").text, say_text(device, "name").text,
			say_bytes(say_number(device, "used_bytes")).text,
			say_bytes(say_number(device, "memory_bytes")).text,
			say_number(device, "layers_on_device"), say_number(device, "layers"));
	if (r == 0 && device && device->type == MSGPACK_OBJECT_MAP)
		r = write_device_notes(out, device);
	if (r == 0 && kv && kv->type == MSGPACK_OBJECT_MAP)
		r = say(out,
			"cache     %" PRId64 " pages of %" PRId64 " tokens, %" PRId64
			" used, %" PRId64 " cached\n",
			say_number(kv, "pages"), say_number(kv, "page_tokens"),
			say_number(kv, "used"), say_number(kv, "cached"));
	if (r == 0 && requests && requests->type == MSGPACK_OBJECT_MAP)
		r = write_requests(out, requests);
	if (r == 0 && map_get(status, "connections"))
		r = say(out, "open      %" PRId64 " connections\n",
			say_number(status, "connections"));
	return r == 0 ? write_users(out, map_get(status, "users")) : r;
}
