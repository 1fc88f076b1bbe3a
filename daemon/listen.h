/* Sockets to be connected to, and the connections that come. */
#pragma once

#include "daemon/server.h"

/* Takes systemd's sockets over, or listens at the configured or default path. 0, or a negative
 * errno after logging why. */
int listen_open(struct server *s);
void listen_close(struct server *s); /* no more connections; removes what was bound here */
