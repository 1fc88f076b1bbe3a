/* Whole messages: the three shapes of MessagePack-RPC, taken apart and put together. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

#include "proto/params.h"
#include "proto/protocol.h"

/* A received message; objects live in the unpacked zone. */
struct message {
	enum message_type type;
	bool has_id;
	uint32_t id;                  /* requests and responses */
	struct rpc_text method;       /* requests and notifications */
	msgpack_object params;        /* requests and notifications: the array */
	msgpack_object error, result; /* responses */
	msgpack_unpacked unpacked;    /* owns everything above */
};
void message_done(struct message *m);

/* Takes one whole frame apart. The frame must outlive the message. 0, -EPROTO with a sentence
 * (has_id and id are set when the id could be read) or -ENOMEM. */
int message_decode(
	const char *data, size_t len, struct message *ret, char *error, size_t error_size);

/* [0, id, method, [params]]; NULL params: []. */
void message_pack_request(
	msgpack_packer *pk, uint32_t id, enum method m, const struct params *params);
/* [1, id, "E_X: sentence", nil]. */
void message_pack_error(msgpack_packer *pk, uint32_t id, enum rpc_error e, const char *sentence);
/* [1, id, nil, …: the caller packs the result next. */
void message_pack_result(msgpack_packer *pk, uint32_t id);
/* [2, method, […: the caller packs one map next. */
void message_pack_notification(msgpack_packer *pk, const char *method);

/* Packing and finding by key. */
void pack_text(msgpack_packer *pk, const char *text, size_t len);
void pack_key(msgpack_packer *pk, const char *key);
void pack_tag(msgpack_packer *pk, const struct rpc_tag *tag);
const msgpack_object *map_get(
	const msgpack_object *map, const char *key);     /* NULL: no map, no key */
bool object_int(const msgpack_object *o, int64_t *ret);  /* accepts NULL; integral floats too */
bool object_float(const msgpack_object *o, double *ret); /* accepts NULL; integers too */
bool object_text(const msgpack_object *o, struct rpc_text *ret); /* accepts NULL; bin too */
