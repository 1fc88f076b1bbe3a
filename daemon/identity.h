/* Who is at the other end of a socket: read once, at accept. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UID_OVERFLOW 65534 /* of a user namespace: may be many people */

struct identity {
	uint32_t uid, gid;
	uint32_t *groups; /* [n_groups] the primary group and the supplementary ones */
	size_t n_groups;
};

/* SO_PEERCRED (the uid and the primary group) and SO_PEERGROUPS (the others). 0 or a negative
 * errno.
 */
int identity_read(int fd, struct identity *ret);
void identity_done(struct identity *i); /* safe to call twice */
