/* SHA-256 in hex, for receipts. */
#pragma once

#include <stddef.h>

/* Hex and terminated. 0, or -EIO where the library fails. */
int digest_sha256(const void *data, size_t len, char ret_hex[65]);
