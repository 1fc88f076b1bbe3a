/* Why: msgpack-c has no limits of its own, so the end of a frame is found here first, and what the
 * frame declares is charged before a byte is stored or an object allocated. The scanner owns
 * nothing; its caller owns the bytes. */
#include "proto/frame.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What a first byte says: how many bytes of count or length follow it, how many plain bytes follow
 * those, and what the count counts. */
struct head {
	enum { HEAD_BAD, HEAD_VALUE, HEAD_BYTES, HEAD_ARRAY, HEAD_MAP } kind;
	uint32_t wide; /* bytes of the count or length after the first byte */
	uint32_t
		value; /* the count or length (bytes of a number for HEAD_VALUE), where wide is 0 */
};

/* The formats overview of the MessagePack specification, row by row. */
static struct head head_of(uint8_t b)
{
	if (b <= 0x7f || b >= 0xe0) /* fixint */
		return (struct head){HEAD_VALUE, 0, 0};
	if (b <= 0x8f)
		return (struct head){HEAD_MAP, 0, b & 0x0f};
	if (b <= 0x9f)
		return (struct head){HEAD_ARRAY, 0, b & 0x0f};
	if (b <= 0xbf)
		return (struct head){HEAD_BYTES, 0, b & 0x1f};
	switch (b) {
	case 0xc0: /* nil */
	case 0xc2: /* false */
	case 0xc3: /* true */ return (struct head){HEAD_VALUE, 0, 0};
	case 0xc4: /* bin 8, 16, 32 */
	case 0xc5:
	case 0xc6: return (struct head){HEAD_BYTES, 1u << (b - 0xc4), 0};
	case 0xca: return (struct head){HEAD_VALUE, 0, 4}; /* float 32, 64 */
	case 0xcb: return (struct head){HEAD_VALUE, 0, 8};
	case 0xcc: /* uint 8 … 64 */
	case 0xcd:
	case 0xce:
	case 0xcf: return (struct head){HEAD_VALUE, 0, 1u << (b - 0xcc)};
	case 0xd0: /* int 8 … 64 */
	case 0xd1:
	case 0xd2:
	case 0xd3: return (struct head){HEAD_VALUE, 0, 1u << (b - 0xd0)};
	case 0xd9: /* str 8, 16, 32 */
	case 0xda:
	case 0xdb: return (struct head){HEAD_BYTES, 1u << (b - 0xd9), 0};
	case 0xdc: /* array 16, 32 */
	case 0xdd: return (struct head){HEAD_ARRAY, 2u << (b - 0xdc), 0};
	case 0xde: /* map 16, 32 */
	case 0xdf: return (struct head){HEAD_MAP, 2u << (b - 0xde), 0};
	default: return (struct head){HEAD_BAD, 0, 0}; /* never used (c1), ext types */
	}
}

static uint64_t big_endian(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static void frame_restart(struct frame_scanner *s)
{
	s->scanned = 0;
	s->skip = 0;
	s->items = 0;
	s->depth = 0;
	s->n_head = 0;
}

void frame_scanner_init(struct frame_scanner *s, const struct frame_limits *limits)
{
	assert(limits->depth >= 1 && limits->depth <= FRAME_DEPTH_MAX);
	*s = (struct frame_scanner){.limits = *limits};
}

/* An object has ended: so have all containers of which it was the last. True at the frame's end. */
static bool object_ended(struct frame_scanner *s)
{
	while (s->depth > 0) {
		if (--s->open[s->depth - 1] > 0)
			return false;
		s->depth--;
	}
	return true;
}

/* Charges a container's objects. The root itself is charged with the first head. */
static int container_begin(struct frame_scanner *s, uint64_t n)
{
	if (s->depth >= s->limits.depth)
		return -ELOOP;
	if (n > s->limits.items - s->items)
		return -E2BIG;
	s->items += (uint32_t)n;
	if (n > 0)
		s->open[s->depth++] = (uint32_t)n;
	return 0;
}

/* The head is complete. 0: more bytes are needed, 1: the frame ends here, or a negative errno. */
static int head_done(struct frame_scanner *s)
{
	const struct head h = head_of(s->head[0]);
	const uint64_t value = h.wide > 0 ? big_endian(s->head + 1, h.wide) : h.value;
	int r;

	s->n_head = 0;
	if (s->items == 0) { /* the root */
		if (s->limits.items == 0)
			return -E2BIG;
		s->items = 1;
	}
	switch (h.kind) {
	case HEAD_VALUE:
	case HEAD_BYTES:
		if (value > s->limits.bytes - s->scanned)
			return -EMSGSIZE;
		s->skip = (size_t)value;
		return s->skip == 0 ? object_ended(s) : 0;
	case HEAD_ARRAY:
	case HEAD_MAP:
		r = container_begin(s, h.kind == HEAD_MAP ? 2 * value : value);
		if (r < 0)
			return r;
		return value == 0 ? object_ended(s) : 0;
	default: return -EPROTO;
	}
}

int frame_scan(struct frame_scanner *s, const void *data, size_t len, size_t *ret_used)
{
	const uint8_t *p = data;
	size_t i = 0;

	while (i < len) {
		int r;

		if (s->skip > 0) {
			const size_t n = s->skip < len - i ? s->skip : len - i;

			s->skip -= n;
			s->scanned += n;
			i += n;
			r = s->skip == 0 ? object_ended(s) : 0;
		} else {
			if (s->scanned >= s->limits.bytes)
				return -EMSGSIZE;
			s->head[s->n_head++] = p[i++];
			s->scanned++;
			if (head_of(s->head[0]).kind == HEAD_BAD)
				return -EPROTO;
			if (s->n_head < 1 + head_of(s->head[0]).wide)
				continue;
			r = head_done(s);
		}
		if (r < 0)
			return r;
		if (r > 0) {
			frame_restart(s);
			*ret_used = i;
			return 1;
		}
	}
	return 0;
}

/* One unsigned number that begins at *at, as any width and as a non-negative signed one. */
static bool number_at(const uint8_t *p, size_t len, size_t *at, uint64_t *ret)
{
	struct head h;

	if (*at >= len)
		return false;
	if (p[*at] <= 0x7f) {
		*ret = p[(*at)++];
		return true;
	}
	if (p[*at] < 0xcc || p[*at] > 0xd3)
		return false;
	h = head_of(p[*at]);
	if (len - *at - 1 < h.value)
		return false;
	if (p[*at] >= 0xd0 && p[*at + 1] >= 0x80) /* negative */
		return false;
	*ret = big_endian(p + *at + 1, h.value);
	*at += 1 + h.value;
	return true;
}

bool frame_request_id(const void *data, size_t len, uint32_t *ret_id)
{
	const uint8_t *p = data;
	struct head h;
	size_t at;
	uint64_t n, type, id;

	if (len == 0)
		return false;
	h = head_of(p[0]);
	if (h.kind != HEAD_ARRAY || len - 1 < h.wide)
		return false;
	n = h.wide > 0 ? big_endian(p + 1, h.wide) : h.value;
	at = 1 + h.wide;
	if (n < 2 || !number_at(p, len, &at, &type) || type != 0 || !number_at(p, len, &at, &id) ||
		id > UINT32_MAX)
		return false;
	*ret_id = (uint32_t)id;
	return true;
}

const char *frame_error(int error, const struct frame_limits *limits, char *buffer, size_t size)
{
	switch (error) {
	case -EMSGSIZE:
		snprintf(buffer, size, "the frame is longer than %zu bytes", limits->bytes);
		break;
	case -E2BIG:
		snprintf(buffer, size, "the frame has more than %u items", limits->items);
		break;
	case -ELOOP:
		snprintf(buffer, size, "the frame is nested deeper than %u arrays and maps",
			limits->depth);
		break;
	case -EPROTO:
		snprintf(buffer, size,
			"the frame has a byte that starts no value of this protocol "
			"(ext types and c1 are not used)");
		break;
	case -ETIMEDOUT:
		snprintf(buffer, size, "the frame was not complete after %llu s",
			FRAME_USEC_MAX / 1000000ull);
		break;
	default: snprintf(buffer, size, "the frame could not be read: %s", strerror(-error));
	}
	return buffer;
}
