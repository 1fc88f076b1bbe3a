/* One params array, packed by a test and decoded by proto. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <msgpack.h>

#include "proto/message.h"
#include "proto/params.h"

struct fixture {
	msgpack_sbuffer buffer;
	msgpack_packer pk;
	msgpack_unpacked unpacked;
	msgpack_zone zone;
	struct params params;
	char error[256];
};

static inline void fixture_begin(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	msgpack_sbuffer_init(&f->buffer);
	msgpack_packer_init(&f->pk, &f->buffer, msgpack_sbuffer_write);
	msgpack_unpacked_init(&f->unpacked);
	assert_true(msgpack_zone_init(&f->zone, 1024));
}

static inline void fixture_end(struct fixture *f)
{
	msgpack_unpacked_destroy(&f->unpacked);
	msgpack_zone_destroy(&f->zone);
	msgpack_sbuffer_destroy(&f->buffer);
}

static inline int decode(struct fixture *f, enum method m)
{
	size_t used = 0;

	assert_int_equal(msgpack_unpack_next(&f->unpacked, f->buffer.data, f->buffer.size, &used),
		MSGPACK_UNPACK_SUCCESS);
	assert_int_equal(used, f->buffer.size);
	return params_decode(
		m, &f->unpacked.data, &f->zone, &f->params, f->error, sizeof(f->error));
}
