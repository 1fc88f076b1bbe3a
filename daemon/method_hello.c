/* hello: who serves, in which version, and what the caller may do. */
#include <string.h>

#include "daemon/dispatch.h"
#include "daemon/peer.h"

static void pack_number(msgpack_packer *pk, const char *key, int64_t value)
{
	pack_key(pk, key);
	msgpack_pack_int64(pk, value);
}

static void pack_name(msgpack_packer *pk, const char *key, const char *value)
{
	pack_key(pk, key);
	pack_text(pk, value, strlen(value));
}

void method_hello(struct peer *p, const struct call *c)
{
	const struct server *s = p->server;
	const struct config_limits *limits = &s->config.limits;
	const struct config_quota *quota = peer_quota(p);
	uint32_t context = s->report.model ? s->report.stats.context : 0;
	int64_t most = context;
	msgpack_packer pk = peer_packer(p);

	if (quota->max_new_tokens && (!context || quota->max_new_tokens < most))
		most = quota->max_new_tokens;
	message_pack_result(&pk, c->message.id);
	msgpack_pack_map(&pk, 8);
	pack_name(&pk, "server", "zephd");
	pack_name(&pk, "version", ZEPH_VERSION);
	pack_number(&pk, "protocol", PROTOCOL_VERSION);
	pack_key(&pk, "features");
	msgpack_pack_array(&pk, 2);
	pack_key(&pk, "score");
	pack_key(&pk, "session");
	pack_number(&pk, "uid", p->identity.uid);
	pack_name(&pk, "class", class_name(peer_class(p)));
	pack_key(&pk, "model");
	if (s->report.model)
		status_pack_text(&pk, s->report.model->config.name);
	else
		msgpack_pack_nil(&pk);
	pack_key(&pk, "limits");
	msgpack_pack_map(&pk, 11);
	pack_number(&pk, "frame_bytes", limits->frame_bytes);
	pack_number(&pk, "items", FRAME_ITEMS_MAX);
	pack_number(&pk, "depth", FRAME_DEPTH_MAX);
	pack_number(&pk, "reply_bytes", limits->reply_bytes);
	pack_number(&pk, "context_tokens", context);
	pack_number(&pk, "max_new_tokens", most);
	pack_number(&pk, "in_flight", IN_FLIGHT_MAX);
	pack_number(&pk, "connections", quota->connections_per_uid);
	pack_number(&pk, "queue", quota->queue_per_uid);
	pack_number(&pk, "queued_tokens", quota->prompt_tokens_per_uid);
	pack_number(&pk, "sessions", quota->sessions_per_uid);
}
