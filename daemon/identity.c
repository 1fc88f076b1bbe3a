/* The kernel's word about a peer. No name is looked up: in the hardened unit there is nobody to
 * ask. */
#include "daemon/identity.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

int identity_read(int fd, struct identity *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	gid_t *groups = NULL;
	uint32_t *all;
	size_t n;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	len = 0;
	while (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0) {
		gid_t *larger;

		if (errno != ERANGE) {
			int r = -errno;
			free(groups);
			return r;
		}
		larger = realloc(groups, len);
		if (!larger) {
			free(groups);
			return -ENOMEM;
		}
		groups = larger;
	}
	n = len / sizeof(gid_t);
	all = calloc(n + 1, sizeof(*all));
	if (!all) {
		free(groups);
		return -ENOMEM;
	}
	all[0] = cred.gid;
	for (size_t i = 0; i < n; i++)
		all[i + 1] = groups[i];
	free(groups);
	*ret = (struct identity){cred.uid, cred.gid, all, n + 1};
	return 0;
}

void identity_done(struct identity *i)
{
	free(i->groups);
	i->groups = NULL;
	i->n_groups = 0;
}
