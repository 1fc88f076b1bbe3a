/* Bytes from a stranger through all of proto: scan, decode, validate, encode again.
 *
 * A libFuzzer target (libclang-rt-14-dev); tests/unit/test-message-mutations.c runs it, too, on
 * inputs of its own.
 *   clang-14 -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. \
 *       tests/fuzz/message.c proto/[!ac]*.c -lmsgpackc -o fuzz-message && ./fuzz-message
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/message.h"
#include "proto/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLAIM(true_thing)                                                                          \
	do {                                                                                       \
		if (!(true_thing)) {                                                               \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #true_thing);   \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* What a method takes, it takes again after encoding, with the same parameters set. */
static void validate(const struct message *m)
{
	for (int method = 0; method < METHOD_COUNT; method++) {
		char error[256] = "";
		struct params params, again;
		msgpack_sbuffer packed;
		msgpack_unpacked unpacked;
		msgpack_packer pk;
		int r = params_decode(
			method, &m->params, m->unpacked.zone, &params, error, sizeof(error));

		CLAIM(r == 0 || (r == -EINVAL && error[0]));
		if (r < 0)
			continue;
		msgpack_sbuffer_init(&packed);
		msgpack_packer_init(&pk, &packed, msgpack_sbuffer_write);
		params_encode(&params, &pk);
		msgpack_unpacked_init(&unpacked);
		CLAIM(msgpack_unpack_next(&unpacked, packed.data, packed.size, NULL) ==
			MSGPACK_UNPACK_SUCCESS);
		CLAIM(params_decode(method, &unpacked.data, unpacked.zone, &again, error,
			      sizeof(error)) == 0);
		CLAIM(params.set == again.set);
		CLAIM(rpc_tag_equal(&params.tag, &again.tag));
		CLAIM(params.n_messages == again.n_messages && params.n_stop == again.n_stop);
		msgpack_unpacked_destroy(&unpacked);
		msgpack_sbuffer_destroy(&packed);
	}
}

static int scan(const struct frame_limits *limits, const uint8_t *data, size_t size, size_t step,
	size_t *ret_len)
{
	struct frame_scanner s;
	size_t used = 0;

	frame_scanner_init(&s, limits);
	for (size_t at = 0; at < size; at += step) {
		const int r = frame_scan(&s, data + at, size - at < step ? size - at : step, &used);

		if (r != 0) {
			*ret_len = at + used;
			return r;
		}
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct frame_limits limits = {4096, 512, FRAME_DEPTH_MAX};
	size_t whole = 0, dribbled = 0;
	char error[256] = "";
	uint32_t id = 0;
	struct message m;
	msgpack_unpacked unpacked;
	const int r = scan(&limits, data, size, size + 1, &whole);

	CLAIM(scan(&limits, data, size, 1, &dribbled) == r);
	CLAIM(scan(&limits, data, size, 3, &dribbled) == r);
	frame_request_id(data, size, &id);
	if (r != 1)
		return 0;
	CLAIM(whole == dribbled && whole <= limits.bytes);

	/* msgpack-c agrees about the end */
	msgpack_unpacked_init(&unpacked);
	CLAIM(msgpack_unpack_next(&unpacked, (const char *)data, size, &(size_t){0}) !=
		MSGPACK_UNPACK_PARSE_ERROR);
	msgpack_unpacked_destroy(&unpacked);

	if (message_decode((const char *)data, whole, &m, error, sizeof(error)) == 0) {
		if (m.type == MESSAGE_REQUEST && frame_request_id(data, whole, &id))
			CLAIM(id == m.id);
		if (m.type != MESSAGE_RESPONSE)
			validate(&m);
	} else {
		CLAIM(error[0] || errno == ENOMEM);
	}
	message_done(&m);
	return 0;
}
