/* cancel: by the id of a request of this connection, or by tag: on this connection, then on the
 * same uid's others, then, for class manage, on everybody's. */
#include <stdio.h>

#include "daemon/dispatch.h"
#include "daemon/peer.h"
#include "daemon/request.h"

enum scope { SCOPE_CONNECTION, SCOPE_UID, SCOPE_ALL };

static bool in_scope(const struct request *r, const struct peer *p, enum scope scope)
{
	switch (scope) {
	case SCOPE_CONNECTION: return r->peer == p;
	case SCOPE_UID:
		/* the overflow uid may be many people */
		return r->peer && r->user->uid == p->identity.uid &&
		       p->identity.uid != UID_OVERFLOW;
	default: return r->peer != NULL;
	}
}

static uint32_t cancel_tag(struct peer *p, const struct rpc_tag *tag, enum scope scope)
{
	struct request *r, *next;
	uint32_t n = 0;
	char reason[96];

	snprintf(
		reason, sizeof(reason), "cancelled by the administrator (uid %u)", p->identity.uid);
	for (r = TAILQ_FIRST(&p->server->requests); r; r = next) {
		next = TAILQ_NEXT(r, link);
		if (!in_scope(r, p, scope) || r->tag.kind == TAG_NONE ||
			!rpc_tag_equal(&r->tag, tag))
			continue;
		n++;
		if (r->user->uid == p->identity.uid)
			request_stop(r, FAILURE_NONE, NULL);
		else
			request_stop(r, FAILURE_CANCELLED, reason);
	}
	return n;
}

void method_cancel(struct peer *p, const struct call *c)
{
	const struct params *params = &c->params;
	struct request *r;
	uint32_t n = 0;

	if (params_has(params, PARAM_ID)) {
		TAILQ_FOREACH(r, &p->requests, peer_link)
		if (r->rpc_id == (uint64_t)params->id) {
			request_stop(r, FAILURE_NONE, NULL);
			n++;
			break;
		}
	}
	if (params_has(params, PARAM_TAG)) {
		enum scope last = peer_class(p) == CLASS_MANAGE ? SCOPE_ALL : SCOPE_UID;

		for (enum scope scope = SCOPE_CONNECTION; n == 0 && scope <= last; scope++)
			n = cancel_tag(p, &params->tag, scope);
	}
	if (c->message.type != MESSAGE_REQUEST)
		return;
	msgpack_packer pk = peer_packer(p);
	message_pack_result(&pk, c->message.id);
	msgpack_pack_map(&pk, 1);
	pack_key(&pk, "cancelled");
	msgpack_pack_uint32(&pk, n);
}
