/* Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw ("Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011). Stateless: a draw depends on its key and counter alone.
 */
#include "kernels/sample.h"

#include <string.h>

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4])
{
	uint32_t c[4], k[2] = {key[0], key[1]};

	memcpy(c, counter, sizeof(c));
	for (int round = 0; round < 10; round++) {
		uint64_t a = (uint64_t)0xD2511F53 * c[0], b = (uint64_t)0xCD9E8D57 * c[2];

		c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k[0];
		c[1] = (uint32_t)b;
		c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k[1];
		c[3] = (uint32_t)a;
		k[0] += 0x9E3779B9;
		k[1] += 0xBB67AE85;
	}
	memcpy(ret, c, sizeof(c));
}

float philox_uniform(uint64_t seed, uint64_t step)
{
	uint32_t counter[4] = {(uint32_t)step, (uint32_t)(step >> 32), 0, 0};
	uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t random[4];

	philox4x32(counter, key, random);
	return (float)(random[0] >> 8) * 0x1p-24f;
}
