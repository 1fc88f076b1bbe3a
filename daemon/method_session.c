/* session.list, get, fork, rewind and drop. They run when what they ask about is in memory; what
 * they change is on disk before they answer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/peer.h"
#include "daemon/request.h"

static void pack_number(msgpack_packer *pk, const char *key, uint64_t value)
{
	pack_key(pk, key);
	msgpack_pack_uint64(pk, value);
}

static void pack_row(msgpack_packer *pk, const struct session_row *row, const bool *saved)
{
	msgpack_pack_map(pk, 5 + (saved != NULL));
	pack_key(pk, "name");
	pack_key(pk, row->name);
	pack_number(pk, "messages", row->messages);
	pack_number(pk, "tokens", row->tokens);
	pack_number(pk, "bytes", row->bytes);
	pack_number(pk, "used_at", (uint64_t)row->used_at);
	if (!saved)
		return;
	pack_key(pk, "saved");
	if (*saved)
		msgpack_pack_true(pk);
	else
		msgpack_pack_false(pk);
}

static void done(struct request *r)
{
	request_count(r, OUTCOME_DONE);
	request_free(r);
}

static msgpack_packer result(struct request *r)
{
	msgpack_packer pk = peer_packer(r->peer);

	message_pack_result(&pk, r->rpc_id);
	return pk;
}

/* Those that were used last first. */
static void list(struct request *r, const struct session_owner *o)
{
	const struct session *session;
	msgpack_packer pk = result(r);
	uint32_t n = 0;

	TAILQ_FOREACH(session, &o->list, link)
	n += !session->fresh;
	msgpack_pack_array(&pk, n);
	TAILQ_FOREACH(session, &o->list, link)
	if (!session->fresh)
		pack_row(&pk, &session->row, NULL);
	done(r);
}

static void get(struct request *r, const struct session *session)
{
	const struct history *h = &session->history;
	uint64_t most = (uint64_t)r->server->config.limits.reply_bytes;
	msgpack_packer pk;

	if (h->bytes + (uint64_t)h->n * 32 > most) {
		request_fail(r, E_TOO_LARGE, "the session's messages are over limits.reply_bytes");
		return;
	}
	pk = result(r);
	msgpack_pack_map(&pk, 1);
	pack_key(&pk, "messages");
	msgpack_pack_array(&pk, h->n);
	for (uint32_t i = 0; i < h->n; i++) {
		const struct history_message *m = h->messages[i];

		msgpack_pack_map(&pk, 2);
		pack_key(&pk, "role");
		pack_text(&pk, m->role.text, m->role.len);
		pack_key(&pk, "content");
		pack_text(&pk, m->content.text, m->content.len);
	}
	done(r);
}

static void fork_session(struct request *r, struct session_owner *o, struct session *from)
{
	const struct config_quota *quota = request_quota(r);
	struct session_table *t = &r->server->sessions.table;
	const struct rpc_text *to = &r->call->params.to;
	struct session_row row = {};
	struct history copy = {};
	struct session *session;

	memcpy(row.name, to->text, to->len); /* the parameters' check keeps it short */
	if (session_find(o, row.name)) {
		request_fail(r, E_PARAMS, "to: there is a session \"%s\" already", row.name);
		return;
	}
	if (o->n >= quota->sessions_per_uid ||
		o->bytes + from->history.bytes > (uint64_t)quota->session_bytes_per_uid) {
		request_fail(r, E_BUSY,
			"uid %u has %u sessions of %llu bytes and may have %lld of %lld (zephctl "
			"sessions drop)",
			o->uid, o->n, (unsigned long long)o->bytes,
			(long long)quota->sessions_per_uid,
			(long long)quota->session_bytes_per_uid);
		return;
	}
	session = history_copy(&from->history, &copy) == 0 ? session_add(t, o, &row) : NULL;
	if (!session) {
		history_done(&copy);
		request_fail(r, E_ENGINE, "out of memory for a session");
		return;
	}
	session_fill(t, session, &copy);
	session_changed(t, session, time(NULL));
	r->row = session->row;
	session_save(r, session);
}

static void rewind_session(struct request *r, struct session *session)
{
	uint32_t turns = (uint32_t)r->call->params.turns, has = history_turns(&session->history);

	if (turns > has) {
		request_fail(r, E_PARAMS, "turns: found %u, the session has %u", turns, has);
		return;
	}
	history_cut(&session->history, history_turn_start(&session->history, turns));
	session_changed(&r->server->sessions.table, session, time(NULL));
	r->row = session->row;
	session_save(r, session);
	session_leave(r);
}

/* The session is held until its file is gone. */
static void drop(struct request *r, struct session *session)
{
	struct store_task *t = store_task_new(STORE_DROP, session->owner->uid);

	if (!t) {
		request_fail(r, E_ENGINE, "out of memory for the request");
		return;
	}
	t->row = r->row = session->row;
	t->request = r->id;
	t->version = session->version;
	session_await_disk(r);
	session_store_submit(r->server->sessions.store, t);
}

void method_session(struct request *r, struct session_owner *o, struct session *session)
{
	switch (r->method) {
	case METHOD_SESSION_LIST: list(r, o); break;
	case METHOD_SESSION_GET: get(r, session); break;
	case METHOD_SESSION_FORK: fork_session(r, o, session); break;
	case METHOD_SESSION_REWIND: rewind_session(r, session); break;
	default: drop(r, session); break;
	}
}

void method_session_answer(struct request *r, int error)
{
	struct session *session = r->session;

	if (r->method == METHOD_SESSION_DROP) {
		if (error) {
			request_fail(r, E_ENGINE, "the session's file could not be removed: %s",
				strerror(-error));
			return;
		}
		session->fresh = true; /* again: it goes when it is left */
		session_leave(r);
	}
	if (r->peer) {
		msgpack_packer pk = result(r);

		pack_row(&pk, &r->row, r->method == METHOD_SESSION_DROP ? NULL : &r->saved);
	}
	done(r);
}
