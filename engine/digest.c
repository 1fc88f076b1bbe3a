/* The one place outside the content hash that asks libcrypto for a digest. */
#include "engine/digest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

int digest_sha256(const void *data, size_t len, char ret_hex[65])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (EVP_Digest(data, len, digest, &n, EVP_sha256(), NULL) != 1 || n != 32)
		return -EIO;
	for (unsigned i = 0; i < n; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
	return 0;
}

struct digest {
	EVP_MD_CTX *sum, *copy; /* asking for the digest consumes the copy */
};

struct digest *digest_new(void)
{
	struct digest *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->sum = EVP_MD_CTX_new();
	d->copy = EVP_MD_CTX_new();
	if (!d->sum || !d->copy || EVP_DigestInit_ex(d->sum, EVP_sha256(), NULL) != 1)
		return digest_free(d);
	return d;
}

struct digest *digest_free(struct digest *d)
{
	if (d) {
		EVP_MD_CTX_free(d->sum);
		EVP_MD_CTX_free(d->copy);
		free(d);
	}
	return NULL;
}

int digest_add(struct digest *d, const void *data, size_t len)
{
	return len == 0 || EVP_DigestUpdate(d->sum, data, len) == 1 ? 0 : -EIO;
}

int digest_now(const struct digest *d, uint8_t ret[DIGEST_BYTES])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	if (EVP_MD_CTX_copy_ex(d->copy, d->sum) != 1 ||
		EVP_DigestFinal_ex(d->copy, digest, &n) != 1 || n != DIGEST_BYTES)
		return -EIO;
	memcpy(ret, digest, DIGEST_BYTES);
	return 0;
}
