/* A session as bytes: what its file holds.
 *
 * Two MessagePack values, one after the other. The head, a list: "zeph session", version 1, name,
 * used_at (seconds since 1970), messages, tokens, bytes of the session, bytes of the body, SHA-256
 * of the body. The body: a list of messages [role, content, begins a turn, tokens, ids], where ids
 * is nil or [key, prompt, ids as little-endian 32-bit integers] of struct reply_ids. A file is
 * hostile: everything in it is checked. */
#pragma once

#include <stdint.h>

#include <msgpack.h>

#include "daemon/history.h"

#define SESSION_HEAD_BYTES_MAX 512 /* the head's */
#define SESSION_FILE_BYTES_MAX (64u << 20)

/* What is known of a session without its messages. */
struct session_row {
	char name[SESSION_NAME_BYTES_MAX + 1];
	uint32_t messages;
	uint32_t tokens;
	uint64_t bytes;  /* of the session in memory */
	int64_t used_at; /* seconds since 1970 */
};

/* Appends the file's bytes. 0, -ENOMEM, -EFBIG, -EIO where the digest fails. */
int session_file_write(
	const struct session_row *row, const struct history *h, msgpack_sbuffer *out);

/* The head alone, from the file's first bytes. 0, -EBADMSG, -ENOMEM. */
int session_file_head(const char *data, size_t len, struct session_row *ret);
/* The whole file. ret_history must be empty. 0, -EBADMSG, -ENOMEM. */
int session_file_read(
	const char *data, size_t len, struct session_row *ret_row, struct history *ret_history);
