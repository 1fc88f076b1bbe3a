/* SHA-256. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Hex and terminated. 0, or -EIO where the library fails. */
int digest_sha256(const void *data, size_t len, char ret_hex[65]);

#define DIGEST_BYTES 32

/* A digest that grows: what was added so far can be asked for at any time. */
struct digest;
struct digest *digest_new(void);                                /* of nothing; NULL: no memory */
struct digest *digest_free(struct digest *d);                   /* accepts NULL, returns NULL */
int digest_add(struct digest *d, const void *data, size_t len); /* 0 or -EIO */
int digest_now(const struct digest *d, uint8_t ret[DIGEST_BYTES]);
