/* The order in which a message is checked: its shape, its id, its method, its parameters, then who
 * may and whether there is room. Only then does it become a request. */
#include "daemon/dispatch.h"

#include <errno.h>
#include <stdio.h>

#include "daemon/request.h"
#include "proto/text.h"

static struct request *in_flight(const struct peer *p, uint32_t id)
{
	struct request *r;

	TAILQ_FOREACH(r, &p->requests, peer_link)
	if (r->rpc_id == id)
		return r;
	return NULL;
}

/* Room for one more request that waits? Answers if there is none. */
static bool admit(struct peer *p, const struct call *c)
{
	const struct config_quota *quota = peer_quota(p);
	uint32_t id = c->message.id;

	if (p->n_requests >= IN_FLIGHT_MAX) {
		peer_answer_error(p, id, E_BUSY,
			"this connection has %u requests in flight, the most it may have",
			p->n_requests);
		return false;
	}
	if (p->user->requests >= quota->queue_per_uid) {
		peer_answer_error(p, id, E_BUSY, "the queue for uid %u is full (%u of %lld)",
			p->identity.uid, p->user->requests, (long long)quota->queue_per_uid);
		return false;
	}
	if (p->user->bytes + c->frame_len > (uint64_t)quota->bytes_per_uid) {
		peer_answer_error(p, id, E_BUSY,
			"uid %u holds %llu bytes of the %lld that it may have", p->identity.uid,
			(unsigned long long)p->user->bytes, (long long)quota->bytes_per_uid);
		return false;
	}
	return true;
}

/* What waits for something becomes a request. Takes the call over. */
static void dispatch_waiting(struct peer *p, struct call *c)
{
	struct server *s = p->server;

	if (s->stopping)
		peer_answer_error(p, c->message.id, s->stop_error, "%s", s->stop_reason);
	else if (admit(p, c) && request_new(p, c) == 0)
		return; /* consumed */
	call_free(c);
}

/* A request of known method. Takes the call over. */
static void dispatch_request(struct peer *p, struct call *c)
{
	uint32_t id = c->message.id;

	switch (c->method) {
	case METHOD_HELLO: method_hello(p, c); break;
	case METHOD_STATUS: method_status(p, c); break;
	case METHOD_METRICS: method_metrics(p, c); break;
	case METHOD_CANCEL: method_cancel(p, c); break;
	case METHOD_SESSION_LIST:
	case METHOD_SESSION_GET:
	case METHOD_SESSION_FORK:
	case METHOD_SESSION_REWIND:
	case METHOD_SESSION_DROP:
	case METHOD_CHAT:
		if (p->identity.uid == UID_OVERFLOW &&
			(c->method != METHOD_CHAT || params_has(&c->params, PARAM_SESSION))) {
			peer_answer_error(p, id, E_PERMISSION,
				"uid %u may be many people: it has no sessions", p->identity.uid);
			break;
		}
		dispatch_waiting(p, c);
		return; /* consumed */
	case METHOD_MODEL_LOAD:
	case METHOD_MODEL_UNLOAD:
	case METHOD_CACHE_DROP:
		if (peer_class(p) != CLASS_MANAGE) {
			peer_answer_error(p, id, E_PERMISSION, "uid %u is not in class manage",
				p->identity.uid);
			break;
		}
		/* fallthrough */
	default: dispatch_waiting(p, c); return; /* consumed */
	}
	call_free(c);
}

/* Decodes the parameters; answers and returns false where they are wrong. */
static bool decode(struct peer *p, struct call *c)
{
	char sentence[512], quoted[80];
	const struct message *m = &c->message;
	int method, r;

	method = method_find(m->method.text, m->method.len);
	if (method < 0) {
		peer_answer_error(p, m->id, E_METHOD, "there is no method %s",
			text_quote(m->method.text, m->method.len, quoted, sizeof(quoted)));
		return false;
	}
	c->method = method;
	r = params_decode(c->method, &m->params, c->message.unpacked.zone, &c->params, sentence,
		sizeof(sentence));
	if (r == -ENOMEM)
		peer_answer_error(p, m->id, E_BUSY, "out of memory for the parameters");
	else if (r < 0)
		peer_answer_error(p, m->id, E_PARAMS, "%s", sentence);
	return r == 0;
}

void dispatch_frame(struct peer *p, const char *data, size_t len)
{
	char sentence[256];
	struct call *c;
	int r;

	r = call_new(data, len, &c, sentence, sizeof(sentence));
	if (r == -ENOMEM) {
		p->state = PEER_LOST; /* its request cannot even be named */
		return;
	}
	if (r < 0) {
		peer_violation(p, c->message.has_id && c->message.type == MESSAGE_REQUEST,
			c->message.id, sentence);
		call_free(c);
		return;
	}
	if (c->message.type == MESSAGE_NOTIFICATION) {
		/* never answered: cancel acts, all others are dropped */
		if (method_find(c->message.method.text, c->message.method.len) == METHOD_CANCEL &&
			params_decode(METHOD_CANCEL, &c->message.params, c->message.unpacked.zone,
				&c->params, sentence, sizeof(sentence)) == 0)
			method_cancel(p, c);
	} else if (c->message.type == MESSAGE_REQUEST) {
		if (in_flight(p, c->message.id)) {
			snprintf(sentence, sizeof(sentence),
				"the id %u is that of a request still in flight", c->message.id);
			peer_violation(p, true, c->message.id, sentence);
		} else if (decode(p, c)) {
			if (peer_class(p) == CLASS_NONE && c->method != METHOD_HELLO) {
				peer_answer_error(p, c->message.id, E_PERMISSION,
					"uid %u is in none of the classes use, priority and manage",
					p->identity.uid);
			} else {
				dispatch_request(p, c);
				return; /* consumed */
			}
		}
	}
	/* responses answer nothing here: zephd asks nobody */
	call_free(c);
}
