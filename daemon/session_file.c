/* Why: sessions outlive the daemon, their format is one page. Pure functions; the caller owns
 * buffers and history. The body's digest tells damage from content, the checks behind it hold for
 * files that somebody made. */
#include "daemon/session_file.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/utf8.h"
#include "proto/frame.h"
#include "proto/message.h"

#define MAGIC         "zeph session"
#define VERSION       1
#define HEAD_ITEMS    9
#define MESSAGE_ITEMS 5
#define ITEMS_MAX     (MESSAGES_MAX * (MESSAGE_ITEMS + 1 + 3) + 1) /* objects of a body */
#define TOKENS_MAX    (1u << 30)

static void pack_bytes(msgpack_packer *pk, const void *data, size_t len)
{
	msgpack_pack_bin(pk, len);
	msgpack_pack_bin_body(pk, data, len);
}

static int pack_ids(msgpack_packer *pk, const struct reply_ids *r)
{
	uint32_t *le;

	if (!r) {
		msgpack_pack_nil(pk);
		return 0;
	}
	le = malloc((size_t)r->n * sizeof(*le));
	if (!le)
		return -ENOMEM;
	for (uint32_t i = 0; i < r->n; i++)
		le[i] = htole32((uint32_t)r->ids[i]);
	msgpack_pack_array(pk, 3);
	pack_bytes(pk, r->key, DIGEST_BYTES);
	pack_bytes(pk, r->prompt, DIGEST_BYTES);
	pack_bytes(pk, le, (size_t)r->n * sizeof(*le));
	free(le);
	return 0;
}

/* A buffer that remembers that it once lacked memory: the packer does not. */
struct sink {
	msgpack_sbuffer *out;
	bool failed;
};

static int sink_write(void *userdata, const char *data, size_t len)
{
	struct sink *s = userdata;

	if (!s->failed && msgpack_sbuffer_write(s->out, data, len) < 0)
		s->failed = true;
	return s->failed ? -1 : 0;
}

static int pack_body(const struct history *h, msgpack_sbuffer *out)
{
	struct sink sink = {out, false};
	msgpack_packer pk;
	int r = 0;

	msgpack_packer_init(&pk, &sink, sink_write);
	msgpack_pack_array(&pk, h->n);
	for (uint32_t i = 0; r == 0 && i < h->n; i++) {
		const struct history_message *m = h->messages[i];

		msgpack_pack_array(&pk, MESSAGE_ITEMS);
		pack_text(&pk, m->role.text, m->role.len);
		pack_text(&pk, m->content.text, m->content.len);
		if (m->begins)
			msgpack_pack_true(&pk);
		else
			msgpack_pack_false(&pk);
		msgpack_pack_uint32(&pk, m->tokens);
		r = pack_ids(&pk, m->ids);
	}
	return r < 0 || sink.failed ? -ENOMEM : 0;
}

static int digest_of(const void *data, size_t len, uint8_t ret[DIGEST_BYTES])
{
	struct digest *d = digest_new();
	int r = d ? digest_add(d, data, len) : -ENOMEM;

	if (r == 0)
		r = digest_now(d, ret);
	digest_free(d);
	return r;
}

int session_file_write(const struct session_row *row, const struct history *h, msgpack_sbuffer *out)
{
	struct sink sink = {out, false};
	uint8_t digest[DIGEST_BYTES];
	msgpack_sbuffer body;
	msgpack_packer pk;
	int r;

	msgpack_sbuffer_init(&body);
	r = pack_body(h, &body);
	if (r == 0 && body.size > SESSION_FILE_BYTES_MAX - SESSION_HEAD_BYTES_MAX)
		r = -EFBIG;
	if (r == 0)
		r = digest_of(body.data, body.size, digest);
	if (r == 0) {
		msgpack_packer_init(&pk, &sink, sink_write);
		msgpack_pack_array(&pk, HEAD_ITEMS);
		pack_text(&pk, MAGIC, strlen(MAGIC));
		msgpack_pack_uint32(&pk, VERSION);
		pack_text(&pk, row->name, strlen(row->name));
		msgpack_pack_int64(&pk, row->used_at);
		msgpack_pack_uint32(&pk, row->messages);
		msgpack_pack_uint32(&pk, row->tokens);
		msgpack_pack_uint64(&pk, row->bytes);
		msgpack_pack_uint64(&pk, body.size);
		pack_bytes(&pk, digest, DIGEST_BYTES);
		sink_write(&sink, body.data, body.size);
		if (sink.failed)
			r = -ENOMEM;
	}
	msgpack_sbuffer_destroy(&body);
	return r;
}

/* One whole value at the start of data, decoded: its length, or a negative errno. */
static ssize_t take_value(
	const char *data, size_t len, const struct frame_limits *limits, msgpack_unpacked *ret)
{
	struct frame_scanner scanner;
	size_t used = 0, end = 0;

	frame_scanner_init(&scanner, limits);
	if (frame_scan(&scanner, data, len, &used) != 1)
		return -EBADMSG;
	switch (msgpack_unpack_next(ret, data, used, &end)) {
	case MSGPACK_UNPACK_SUCCESS: return end == used ? (ssize_t)used : -EBADMSG;
	case MSGPACK_UNPACK_NOMEM_ERROR: return -ENOMEM;
	default: return -EBADMSG;
	}
}

static bool take_uint(const msgpack_object *o, uint64_t most, uint64_t *ret)
{
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > most)
		return false;
	*ret = o->via.u64;
	return true;
}

static bool take_digest(const msgpack_object *o, uint8_t ret[DIGEST_BYTES])
{
	if (o->type != MSGPACK_OBJECT_BIN || o->via.bin.size != DIGEST_BYTES)
		return false;
	memcpy(ret, o->via.bin.ptr, DIGEST_BYTES);
	return true;
}

/* The head and what it says of the body. Returns the head's length or a negative errno. */
static ssize_t take_head(const char *data, size_t len, struct session_row *ret,
	uint64_t *ret_body_bytes, uint8_t ret_digest[DIGEST_BYTES])
{
	static const struct frame_limits limits = {SESSION_HEAD_BYTES_MAX, HEAD_ITEMS + 1, 1};
	struct session_row row = {};
	uint64_t version, used_at, messages, tokens;
	const msgpack_object *at;
	struct rpc_text magic, name;
	msgpack_unpacked unpacked;
	ssize_t r;

	msgpack_unpacked_init(&unpacked);
	r = take_value(data, len, &limits, &unpacked);
	if (r < 0)
		goto out;
	at = unpacked.data.via.array.ptr;
	if (unpacked.data.type != MSGPACK_OBJECT_ARRAY ||
		unpacked.data.via.array.size != HEAD_ITEMS || !object_text(&at[0], &magic) ||
		magic.len != strlen(MAGIC) || memcmp(magic.text, MAGIC, magic.len) != 0 ||
		!take_uint(&at[1], VERSION, &version) || version != VERSION ||
		!object_text(&at[2], &name) || !session_name_valid(name.text, name.len) ||
		!take_uint(&at[3], INT64_MAX, &used_at) ||
		!take_uint(&at[4], MESSAGES_MAX, &messages) ||
		!take_uint(&at[5], TOKENS_MAX, &tokens) ||
		!take_uint(&at[6], 4ull * SESSION_FILE_BYTES_MAX, &row.bytes) ||
		!take_uint(&at[7], SESSION_FILE_BYTES_MAX, ret_body_bytes) ||
		!take_digest(&at[8], ret_digest)) {
		r = -EBADMSG;
		goto out;
	}
	memcpy(row.name, name.text, name.len);
	row.used_at = (int64_t)used_at;
	row.messages = (uint32_t)messages;
	row.tokens = (uint32_t)tokens;
	*ret = row;
out:
	msgpack_unpacked_destroy(&unpacked);
	return r;
}

int session_file_head(const char *data, size_t len, struct session_row *ret)
{
	uint8_t digest[DIGEST_BYTES];
	uint64_t body;
	ssize_t r = take_head(data, len, ret, &body, digest);

	return r < 0 ? (int)r : 0;
}

/* A reply's ids; NULL in *ret for nil. 0 or a negative errno. */
static int take_ids(const msgpack_object *o, struct reply_ids **ret)
{
	uint8_t key[DIGEST_BYTES], prompt[DIGEST_BYTES];
	const msgpack_object *at = o->via.array.ptr;
	struct reply_ids *ids;
	uint32_t n;

	*ret = NULL;
	if (o->type == MSGPACK_OBJECT_NIL)
		return 0;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != 3 ||
		!take_digest(&at[0], key) || !take_digest(&at[1], prompt) ||
		at[2].type != MSGPACK_OBJECT_BIN || at[2].via.bin.size < sizeof(int32_t) ||
		at[2].via.bin.size % sizeof(int32_t) != 0)
		return -EBADMSG;
	n = at[2].via.bin.size / sizeof(int32_t);
	ids = reply_ids_new(key, prompt, NULL, n);
	if (!ids)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t le;

		memcpy(&le, at[2].via.bin.ptr + i * sizeof(le), sizeof(le));
		ids->ids[i] = (int32_t)le32toh(le);
	}
	*ret = ids;
	return 0;
}

static bool known_role(const struct rpc_text *t)
{
	return (t->len == 4 && memcmp(t->text, "user", 4) == 0) ||
	       (t->len == 6 && memcmp(t->text, "system", 6) == 0) ||
	       (t->len == 9 && memcmp(t->text, "assistant", 9) == 0);
}

static int take_message(const msgpack_object *o, bool first, struct history *h)
{
	const msgpack_object *at = o->via.array.ptr;
	struct rpc_text role, content;
	struct reply_ids *ids;
	uint64_t tokens;
	int r;

	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != MESSAGE_ITEMS ||
		!object_text(&at[0], &role) || !known_role(&role) ||
		!object_text(&at[1], &content) || !utf8_valid(content.text, content.len) ||
		at[2].type != MSGPACK_OBJECT_BOOLEAN || (first && !at[2].via.boolean) ||
		!take_uint(&at[3], TOKENS_MAX, &tokens))
		return -EBADMSG;
	r = take_ids(&at[4], &ids);
	if (r == 0)
		r = history_add(h, &role, &content, at[2].via.boolean, (uint32_t)tokens, ids);
	reply_ids_unref(ids);
	return r;
}

int session_file_read(
	const char *data, size_t len, struct session_row *ret_row, struct history *ret_history)
{
	static const struct frame_limits limits = {SESSION_FILE_BYTES_MAX, ITEMS_MAX, 4};
	uint8_t digest[DIGEST_BYTES], wanted[DIGEST_BYTES];
	struct session_row row = {};
	struct history h = {};
	msgpack_unpacked unpacked;
	uint64_t body_bytes;
	ssize_t head, body;
	int r;

	head = take_head(data, len, &row, &body_bytes, wanted);
	if (head < 0)
		return (int)head;
	if (len - (size_t)head != body_bytes)
		return -EBADMSG;
	r = digest_of(data + head, body_bytes, digest);
	if (r < 0)
		return r;
	if (memcmp(digest, wanted, DIGEST_BYTES) != 0)
		return -EBADMSG;
	msgpack_unpacked_init(&unpacked);
	body = take_value(data + head, body_bytes, &limits, &unpacked);
	if (body < 0)
		r = (int)body;
	else if ((uint64_t)body != body_bytes || unpacked.data.type != MSGPACK_OBJECT_ARRAY ||
		 unpacked.data.via.array.size != row.messages)
		r = -EBADMSG;
	for (uint32_t i = 0; r == 0 && i < row.messages; i++)
		r = take_message(&unpacked.data.via.array.ptr[i], i == 0, &h);
	msgpack_unpacked_destroy(&unpacked);
	if (r < 0) {
		history_done(&h);
		return r;
	}
	row.tokens = history_tokens(&h);
	row.bytes = h.bytes;
	*ret_row = row;
	*ret_history = h;
	return 0;
}
