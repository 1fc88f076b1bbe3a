/* Words for people out of what a daemon answered. */
#pragma once

#include <stdint.h>

#include <msgpack.h>

/* Appends in printf's words, at most 511 bytes. 0 or -ENOMEM. */
int say(msgpack_sbuffer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

int64_t say_number(const msgpack_object *map, const char *key); /* 0 where there is none */

struct said {
	char text[128]; /* terminated */
};
struct said say_text(const msgpack_object *map, const char *key); /* "-" where there is none */
struct said say_tag(const msgpack_object *row);                   /* a request's */
struct said say_bytes(int64_t v);                                 /* 1536: "1.5 KiB" */
struct said say_duration(int64_t s);                              /* 3725: "1 h 2 min" */
