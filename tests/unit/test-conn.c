/* Claims: a connection gives whole frames whatever pieces arrive, sends everything however little
 * the socket takes, and tells end, loss and a broken frame apart. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/conn.h"
#include "proto/message.h"

static const struct frame_limits limits = {FRAME_BYTES_MAX, FRAME_ITEMS_MAX, FRAME_DEPTH_MAX};

static void pair(struct conn *c, int *ret_peer)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	conn_init(c, fds[0], &limits);
	*ret_peer = fds[1];
}

static void frames_come_whole_at_every_split(void **state)
{
	static const char stream[] = "\x94\x00\x00\xa6status\x90\xc0\x92\x01\x02\xa3"
				     "abc";
	static const size_t lens[] = {11, 1, 3, 4};
	const size_t n = sizeof(stream) - 1;

	for (size_t cut = 0; cut <= n; cut++) {
		struct conn c;
		int peer;
		size_t at = 0, frame = 0;

		pair(&c, &peer);
		for (int part = 0; part < 2; part++) {
			const size_t from = part ? cut : 0, to = part ? n : cut;
			const char *data;
			size_t len;

			if (from == to)
				continue;
			assert_int_equal(write(peer, stream + from, to - from), to - from);
			assert_int_equal(conn_read(&c), 1);
			while (conn_next(&c, &data, &len) == 1) {
				assert_int_equal(len, lens[frame++]);
				assert_memory_equal(data, stream + at, len);
				at += len;
			}
			assert_int_equal(conn_partial(&c), to - at);
		}
		assert_int_equal(frame, 4);
		assert_int_equal(conn_read(&c), 0);
		conn_done(&c);
		close(peer);
	}
}

static void a_large_frame_survives_growth_and_moves(void **state)
{
	const size_t body = 300000;
	char *data = malloc(body + 5), *got = malloc(body + 5);
	struct conn c;
	int peer;

	assert_non_null(data);
	assert_non_null(got);
	memcpy(data, "\xdb\x00\x04\x93\xe0", 5);
	for (size_t i = 0; i < body; i++)
		data[5 + i] = (char)(i * 31 % 251);
	pair(&c, &peer);
	for (int round = 0; round < 3; round++) {
		size_t sent = 0, frames = 0;

		while (sent < body + 5) {
			const size_t want = body + 5 - sent < 7001 ? body + 5 - sent : 7001;
			const char *frame;
			size_t len;

			assert_int_equal(send(peer, data + sent, want, 0), want);
			sent += want;
			while (conn_read(&c) == 1)
				;
			while (conn_next(&c, &frame, &len) == 1) {
				assert_int_equal(len, body + 5);
				memcpy(got, frame, len);
				frames++;
			}
		}
		assert_int_equal(frames, 1);
		assert_memory_equal(got, data, body + 5);
	}
	assert_true(c.in_size <= 2 * (body + 5 + 65536));
	conn_read(&c);
	assert_true(c.in_size <= 65536); /* an empty large buffer is given back */
	conn_done(&c);
	close(peer);
	free(data);
	free(got);
}

static void half_a_frame_and_then_the_end(void **state)
{
	const char *data;
	struct conn c;
	uint32_t id;
	size_t len;
	int peer;

	pair(&c, &peer);
	assert_int_equal(write(peer, "\xc0\x94\x00\x07\xa6st", 7), 7);
	shutdown(peer, SHUT_WR);
	assert_int_equal(conn_read(&c), 1);
	assert_int_equal(conn_read(&c), -EPIPE);
	assert_true(c.eof);
	assert_int_equal(conn_next(&c, &data, &len), 1); /* what came before can be taken */
	assert_int_equal(len, 1);
	assert_int_equal(conn_next(&c, &data, &len), 0);
	assert_int_equal(conn_partial(&c), 6);
	assert_true(conn_partial_id(&c, &id));
	assert_int_equal(id, 7);
	assert_int_equal(conn_put(&c, "\xc0", 1), 0); /* the other half is still open */
	assert_int_equal(conn_flush(&c), 0);
	assert_int_equal(read(peer, &(char[4]){0}, 4), 1);
	conn_done(&c);
	close(peer);
}

static void a_broken_frame_stays_broken(void **state)
{
	const char *data;
	struct conn c;
	uint32_t id = 0;
	size_t len;
	int peer;

	pair(&c, &peer);
	assert_int_equal(write(peer, "\xc0\x94\x00\x05\xc1\xc0\xc0", 7), 7);
	assert_int_equal(conn_read(&c), 1);
	assert_int_equal(conn_next(&c, &data, &len), 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(conn_next(&c, &data, &len), -EPROTO);
	assert_true(conn_partial_id(&c, &id));
	assert_int_equal(id, 5);
	assert_int_equal(conn_read(&c), 0);
	assert_int_equal(conn_next(&c, &data, &len), -EPROTO);
	conn_done(&c);
	close(peer);
}

static void five_bytes_that_promise_gigabytes_cost_nothing(void **state)
{
	static const char *const hostile[] = {"\xdd\x1f\xff\xff\xff", "\xdb\xff\xff\xff\xff"};
	static const int errors[] = {-E2BIG, -EMSGSIZE};

	for (int i = 0; i < 2; i++) {
		const char *data;
		struct conn c;
		uint32_t id;
		size_t len;
		int peer;

		pair(&c, &peer);
		assert_int_equal(write(peer, hostile[i], 5), 5);
		assert_int_equal(conn_read(&c), 1);
		assert_int_equal(conn_next(&c, &data, &len), errors[i]);
		assert_false(conn_partial_id(&c, &id));
		assert_true(c.in_size <= 65536);
		conn_done(&c);
		close(peer);
	}
}

static void everything_is_sent_however_little_the_socket_takes(void **state)
{
	const size_t n = 3000000;
	char *data = malloc(n), *got = malloc(n);
	size_t at = 0, full = 0;
	struct conn c;
	int peer, r;

	assert_non_null(data);
	assert_non_null(got);
	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 7 % 253);
	pair(&c, &peer);
	setsockopt(c.fd, SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int));
	for (size_t i = 0; i < n; i += 1000)
		assert_int_equal(conn_put(&c, data + i, 1000), 0);
	assert_int_equal(conn_unsent(&c), n);
	do {
		ssize_t took;

		r = conn_flush(&c);
		assert_true(r >= 0);
		full += (size_t)r;
		assert_int_equal(c.bytes_written + conn_unsent(&c), n);
		while (at < n && (took = recv(peer, got + at, 1777, MSG_DONTWAIT)) > 0)
			at += (size_t)took;
	} while (at < n);
	assert_int_equal(conn_flush(&c), 0);
	assert_true(full > 10);
	assert_memory_equal(got, data, n);
	assert_int_equal(c.bytes_written, n);
	conn_done(&c);
	close(peer);
	free(data);
	free(got);
}

static void a_closed_peer_is_a_lost_connection(void **state)
{
	struct conn c;
	int peer;

	pair(&c, &peer);
	close(peer);
	assert_int_equal(conn_put(&c, "\xc0", 1), 0);
	assert_int_equal(conn_flush(&c), -EPIPE); /* and no SIGPIPE */
	assert_int_equal(conn_flush(&c), -EPIPE);
	assert_int_equal(conn_put(&c, "\xc0", 1), -EPIPE);
	conn_done(&c);
}

static void unread_bytes_at_the_peer_make_a_reset_not_an_end(void **state)
{
	struct conn c;
	int peer;

	pair(&c, &peer);
	assert_int_equal(conn_put(&c, "\xc0", 1), 0);
	assert_int_equal(conn_flush(&c), 0);
	close(peer); /* with a byte unread: the kernel resets */
	assert_int_equal(conn_read(&c), -ECONNRESET);
	conn_done(&c);
}

static void done_twice_and_on_null(void **state)
{
	struct conn c;
	int peer;

	pair(&c, &peer);
	conn_done(&c);
	conn_done(&c);
	conn_done(NULL);
	assert_int_equal(c.fd, -1);
	assert_int_equal(conn_put(&c, "", 0), -EPIPE);
	close(peer);
}

static void messages_pass_through_a_connection(void **state)
{
	char error[128] = "";
	struct conn a, b;
	struct message m;
	msgpack_packer pk;
	const char *data;
	size_t len;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	conn_init(&a, fds[0], &limits);
	conn_init(&b, fds[1], &limits);
	msgpack_packer_init(&pk, &a, conn_write);
	message_pack_request(&pk, 0, METHOD_STATUS, NULL);
	message_pack_error(&pk, UINT32_MAX, E_BUSY, "the queue is full");
	message_pack_result(&pk, 4);
	msgpack_pack_map(&pk, 1);
	pack_key(&pk, "cancelled");
	msgpack_pack_int(&pk, 2);
	message_pack_notification(&pk, "token");
	msgpack_pack_map(&pk, 0);
	assert_int_equal(conn_flush(&a), 0);
	assert_int_equal(conn_read(&b), 1);

	assert_int_equal(conn_next(&b, &data, &len), 1);
	assert_int_equal(message_decode(data, len, &m, error, sizeof(error)), 0);
	assert_int_equal(m.type, MESSAGE_REQUEST);
	assert_true(m.has_id && m.id == 0);
	assert_int_equal(method_find(m.method.text, m.method.len), METHOD_STATUS);
	message_done(&m);

	assert_int_equal(conn_next(&b, &data, &len), 1);
	assert_int_equal(message_decode(data, len, &m, error, sizeof(error)), 0);
	assert_int_equal(m.type, MESSAGE_RESPONSE);
	assert_int_equal(m.id, UINT32_MAX);
	assert_int_equal(rpc_error_parse(m.error.via.str.ptr, m.error.via.str.size), E_BUSY);
	assert_int_equal(m.error.via.str.size, strlen("E_BUSY: the queue is full"));
	assert_int_equal(m.result.type, MSGPACK_OBJECT_NIL);
	message_done(&m);

	assert_int_equal(conn_next(&b, &data, &len), 1);
	assert_int_equal(message_decode(data, len, &m, error, sizeof(error)), 0);
	assert_int_equal(m.error.type, MSGPACK_OBJECT_NIL);
	assert_int_equal(map_get(&m.result, "cancelled")->via.u64, 2);
	assert_null(map_get(&m.result, "cancel"));
	message_done(&m);

	assert_int_equal(conn_next(&b, &data, &len), 1);
	assert_int_equal(message_decode(data, len, &m, error, sizeof(error)), 0);
	assert_int_equal(m.type, MESSAGE_NOTIFICATION);
	assert_false(m.has_id);
	assert_int_equal(m.params.type, MSGPACK_OBJECT_ARRAY);
	message_done(&m);
	message_done(&m);
	conn_done(&a);
	conn_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_come_whole_at_every_split),
		cmocka_unit_test(a_large_frame_survives_growth_and_moves),
		cmocka_unit_test(half_a_frame_and_then_the_end),
		cmocka_unit_test(a_broken_frame_stays_broken),
		cmocka_unit_test(five_bytes_that_promise_gigabytes_cost_nothing),
		cmocka_unit_test(everything_is_sent_however_little_the_socket_takes),
		cmocka_unit_test(a_closed_peer_is_a_lost_connection),
		cmocka_unit_test(unread_bytes_at_the_peer_make_a_reset_not_an_end),
		cmocka_unit_test(done_twice_and_on_null),
		cmocka_unit_test(messages_pass_through_a_connection),
	};

	return cmocka_run_group_tests_name("conn", tests, NULL, NULL);
}
