/* Why: what zephctl prints for people is made of the same few words everywhere. Owns nothing. */
#include "client/say.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "proto/message.h"

int say(msgpack_sbuffer *out, const char *format, ...)
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

int64_t say_number(const msgpack_object *map, const char *key)
{
	int64_t v = 0;

	object_int(map_get(map, key), &v);
	return v;
}

struct said say_text(const msgpack_object *map, const char *key)
{
	struct rpc_text t;
	struct said n = {"-"};

	if (object_text(map_get(map, key), &t) && t.len > 0)
		snprintf(n.text, sizeof(n.text), "%.*s", (int)(t.len < 127 ? t.len : 127), t.text);
	return n;
}

struct said say_bytes(int64_t v)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double x = (double)v;
	struct said n;
	size_t unit = 0;

	while (x >= 1024 && unit < 4) {
		x /= 1024;
		unit++;
	}
	snprintf(n.text, sizeof(n.text), unit == 0 ? "%.0f %s" : "%.1f %s", x, units[unit]);
	return n;
}

struct said say_duration(int64_t s)
{
	struct said n;

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

struct said say_tag(const msgpack_object *row)
{
	const msgpack_object *o = map_get(row, "tag");
	struct said n = say_text(row, "tag");
	int64_t v;

	if (object_int(o, &v))
		snprintf(n.text, sizeof(n.text), "%" PRId64, v);
	return n;
}
