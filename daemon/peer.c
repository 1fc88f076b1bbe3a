/* One connection's life. Handlers only change state and fill buffers; peer_settle(), called once a
 * round for every peer that changed, draws the consequences, so that a peer is freed in one place
 * and tokens of a round leave in one write. */
#include "daemon/peer.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/dispatch.h"
#include "daemon/request.h"
#include "engine/utf8.h"

#define DRAIN_BYTES_MAX                                                                            \
	(4u << 20) /* read and dropped before a close, so that the last word arrives */

enum class peer_class(const struct peer *p) {
	enum class class = config_class(
		&p->server->config, p->identity.uid, p->identity.groups, p->identity.n_groups);

	/* the overflow uid may be many people; the limited socket is for those from elsewhere */
	if ((p->use_only || p->identity.uid == UID_OVERFLOW) && class > CLASS_USE) return CLASS_USE;
	return class;
}

const struct config_quota *peer_quota(const struct peer *p)
{
	return &p->server->config.classes.quota[peer_class(p)];
}

void peer_touch(struct peer *p)
{
	if (p->dirty)
		return;
	p->dirty = true;
	TAILQ_INSERT_TAIL(&p->server->dirty, p, dirty_link);
}

msgpack_packer peer_packer(struct peer *p)
{
	msgpack_packer pk;

	msgpack_packer_init(&pk, &p->conn, conn_write);
	peer_touch(p);
	return pk;
}

void peer_answer_error(struct peer *p, uint32_t id, enum rpc_error e, const char *format, ...)
{
	msgpack_packer pk = peer_packer(p);
	char sentence[600], repaired[3 * sizeof(sentence)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	/* a sentence may quote a file or be cut inside a character */
	repaired[utf8_repair(sentence, strlen(sentence), repaired)] = 0;
	message_pack_error(&pk, id, e, repaired);
	if (p->user) {
		enum class class = peer_class(p);

		meter_outcome(&p->user->meter, class, OUTCOME_ERRORS + e);
		meter_outcome(&p->server->users.meter, class, OUTCOME_ERRORS + e);
	}
}

static void pack_error_notification(msgpack_packer *pk, enum rpc_error e, const char *sentence)
{
	char text[700];
	int n = snprintf(text, sizeof(text), "%s: %s", rpc_error_name(e), sentence);

	message_pack_notification(pk, "error");
	msgpack_pack_map(pk, 1);
	pack_key(pk, "text");
	pack_text(pk, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

static void drop_requests(struct peer *p)
{
	struct request *r;

	while ((r = TAILQ_FIRST(&p->requests)))
		request_orphan(r);
}

void peer_violation(struct peer *p, bool has_id, uint32_t id, const char *sentence)
{
	if (p->state >= PEER_CLOSING)
		return;
	if (has_id) {
		peer_answer_error(p, id, E_PROTOCOL, "%s", sentence);
	} else {
		msgpack_packer pk = peer_packer(p);
		pack_error_notification(&pk, E_PROTOCOL, sentence);
	}
	p->state = PEER_CLOSING;
	drop_requests(p);
	peer_touch(p);
}

static void lose(struct peer *p)
{
	p->state = PEER_LOST;
	peer_touch(p);
}

static void frame_violation(struct peer *p, int error)
{
	char sentence[256];
	uint32_t id = 0;
	bool has_id = conn_partial_id(&p->conn, &id);

	frame_error(error, &p->conn.scanner.limits, sentence, sizeof(sentence));
	peer_violation(p, has_id, id, sentence);
}

static void read_frames(struct peer *p)
{
	const char *data;
	size_t len;
	int r;

	r = conn_read(&p->conn);
	if (r < 0 && r != -EPIPE) {
		lose(p);
		return;
	}
	bool ended = r == -EPIPE;
	bool whole = false;
	while (p->state == PEER_OPEN && (r = conn_next(&p->conn, &data, &len)) == 1) {
		whole = true;
		dispatch_frame(p, data, len);
	}
	if (p->state != PEER_OPEN)
		return;
	if (r < 0) {
		frame_violation(p, r);
		return;
	}
	if (conn_partial(&p->conn) == 0)
		p->frame_usec = 0;
	else if (whole || p->frame_usec == 0)
		p->frame_usec = server_now_usec(p->server);
	if (ended) {
		p->state = PEER_HALF;
		if (conn_partial(&p->conn) > 0) {
			msgpack_packer pk = peer_packer(p);
			pack_error_notification(
				&pk, E_PROTOCOL, "the connection ended inside a frame");
		}
	}
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct peer *p = userdata;

	peer_touch(p);
	if (events & (EPOLLHUP | EPOLLERR))
		lose(p); /* nobody would read an answer */
	else if (events & EPOLLIN && p->state == PEER_OPEN)
		read_frames(p);
	return 0;
}

/* The reader took nothing for too long: what streams or waits for it ends. */
static void stall(struct peer *p, uint64_t now)
{
	struct request *r, *next;
	char reason[128];

	if (p->stalled || p->state >= PEER_CLOSING) {
		lose(p);
		return;
	}
	p->stalled = true;
	p->stall_usec = now;
	snprintf(reason, sizeof(reason), "the reader took no byte for %lld s",
		(long long)p->server->config.limits.stall_seconds);
	for (r = TAILQ_FIRST(&p->requests); r; r = next) {
		next = TAILQ_NEXT(r, peer_link);
		request_stop(r, FAILURE_TIMEOUT, reason);
	}
}

static uint64_t frame_deadline(const struct peer *p)
{
	return p->frame_usec && p->state == PEER_OPEN
		       ? p->frame_usec + (uint64_t)p->server->config.limits.frame_seconds * 1000000
		       : UINT64_MAX;
}

static uint64_t stall_deadline(const struct peer *p)
{
	return p->stall_usec
		       ? p->stall_usec + (uint64_t)p->server->config.limits.stall_seconds * 1000000
		       : UINT64_MAX;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct peer *p = userdata;
	uint64_t now = server_now_usec(p->server);

	peer_touch(p);
	if (now >= frame_deadline(p)) {
		frame_violation(p, -ETIMEDOUT);
		return 0;
	}
	if (now >= stall_deadline(p))
		stall(p, now);
	return 0;
}

/* Refuses a connection in one small message. Takes the fd over. */
static void turn_away(int fd, const char *sentence)
{
	msgpack_sbuffer buffer;
	msgpack_packer pk;

	msgpack_sbuffer_init(&buffer);
	msgpack_packer_init(&pk, &buffer, msgpack_sbuffer_write);
	pack_error_notification(&pk, E_BUSY, sentence);
	if (send(fd, buffer.data, buffer.size, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		shutdown(fd, SHUT_WR);
	msgpack_sbuffer_destroy(&buffer);
	close(fd);
}

void peer_new(struct server *s, int fd, bool use_only)
{
	const struct config_limits *limits = &s->config.limits;
	const struct frame_limits frame = {
		(size_t)limits->frame_bytes, FRAME_ITEMS_MAX, FRAME_DEPTH_MAX};
	struct identity identity;
	struct user *user;
	struct peer *p;
	char sentence[128];

	if (identity_read(fd, &identity) < 0) {
		close(fd);
		return;
	}
	user = users_get(&s->users, identity.uid);
	p = user ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		turn_away(fd, "out of memory for another connection");
		identity_done(&identity);
		return;
	}
	p->server = s;
	p->identity = identity;
	p->user = user;
	p->use_only = use_only;
	if (!users_admit(
		    &s->users, user, limits->connections, peer_quota(p)->connections_per_uid)) {
		snprintf(sentence, sizeof(sentence),
			"uid %u has %u connections, all that it may have now", identity.uid,
			user->connections);
		turn_away(fd, sentence);
		identity_done(&identity);
		free(p);
		return;
	}
	p->number = ++s->last_peer;
	TAILQ_INIT(&p->requests);
	conn_init(&p->conn, fd, &frame);
	users_connected(&s->users, user);
	TAILQ_INSERT_TAIL(&s->peers, p, link);
	p->events = EPOLLIN;
	if (sd_event_add_io(s->event, &p->io, fd, p->events, on_io, p) < 0 ||
		sd_event_add_time(s->event, &p->timer, CLOCK_MONOTONIC, 0, 10000, on_timer, p) <
			0 ||
		sd_event_source_set_enabled(p->timer, SD_EVENT_OFF) < 0)
		peer_free(p);
}

void peer_free(struct peer *p)
{
	struct server *s = p->server;

	drop_requests(p);
	assert(p->n_requests == 0);
	sd_event_source_disable_unref(p->io);
	sd_event_source_disable_unref(p->timer);
	if (p->dirty)
		TAILQ_REMOVE(&s->dirty, p, dirty_link);
	TAILQ_REMOVE(&s->peers, p, link);
	p->user->bytes -= p->charged_bytes;
	users_disconnected(&s->users, p->user);
	identity_done(&p->identity);
	conn_done(&p->conn);
	free(p);
}

/* A close with bytes unread would take the last answer from the other side. */
static void drain(struct peer *p)
{
	char scrap[65536];
	size_t total = 0;
	ssize_t n;

	while (total < DRAIN_BYTES_MAX &&
		(n = recv(p->conn.fd, scrap, sizeof(scrap), MSG_DONTWAIT)) > 0)
		total += (size_t)n;
}

/* Over 64 KiB of unsent stream the sequences leave the batch, below 32 KiB they return. */
static void pause_streams(struct peer *p, size_t unsent)
{
	bool paused = p->paused ? unsent >= STREAM_LOW_BYTES : unsent > STREAM_HIGH_BYTES;
	struct request *r;

	if (paused == p->paused)
		return;
	p->paused = paused;
	TAILQ_FOREACH(r, &p->requests, peer_link)
	request_pause(r, paused);
}

static void charge(struct peer *p)
{
	uint64_t bytes = p->conn.in_size + p->conn.out_size;
	int64_t most = peer_quota(p)->bytes_per_uid;
	char sentence[160];

	p->user->bytes += bytes - p->charged_bytes;
	p->charged_bytes = bytes;
	/* a full buffer's worth is everybody's */
	if (p->state < PEER_CLOSING && p->user->bytes > (uint64_t)most &&
		bytes > STREAM_HIGH_BYTES * 4) {
		snprintf(sentence, sizeof(sentence),
			"uid %u holds %llu bytes of the %lld that it may have", p->identity.uid,
			(unsigned long long)p->user->bytes, (long long)most);
		peer_violation(p, false, 0, sentence);
	}
}

static void arm(struct peer *p, size_t unsent)
{
	uint32_t events = (p->state == PEER_OPEN ? EPOLLIN : 0) | (unsent ? EPOLLOUT : 0);
	uint64_t deadline, other;

	if (events != p->events) {
		p->events = events;
		sd_event_source_set_io_events(p->io, events);
	}
	if (unsent == 0) {
		p->stall_usec = 0;
		p->stalled = false;
	} else if (p->stall_usec == 0 || p->stall_bytes != p->conn.bytes_written) {
		p->stall_usec = server_now_usec(p->server);
		p->stall_bytes = p->conn.bytes_written;
		p->stalled = false;
	}
	deadline = frame_deadline(p);
	other = stall_deadline(p);
	if (other < deadline)
		deadline = other;
	if (deadline == UINT64_MAX) {
		sd_event_source_set_enabled(p->timer, SD_EVENT_OFF);
	} else {
		sd_event_source_set_time(p->timer, deadline);
		sd_event_source_set_enabled(p->timer, SD_EVENT_ONESHOT);
	}
}

void peer_settle(struct peer *p)
{
	size_t unsent;

	if (p->state != PEER_LOST && conn_flush(&p->conn) < 0)
		p->state = PEER_LOST;
	if (p->state != PEER_LOST)
		charge(p);
	if (p->state == PEER_LOST) {
		peer_free(p);
		return;
	}
	unsent = conn_unsent(&p->conn);
	if (unsent == 0 &&
		(p->state == PEER_CLOSING || (p->state == PEER_HALF && p->n_requests == 0))) {
		drain(p);
		peer_free(p);
		return;
	}
	pause_streams(p, unsent);
	arm(p, unsent);
}
