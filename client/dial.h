/* Another machine's socket: ZEPH_HOST=ssh://[user@]box[:port], carried by ssh and zeph
 * --dial-stdio. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Starts ssh to the host and returns a stream socket to its stdin and stdout, non-blocking, with
 * ssh's pid; the far `zeph --dial-stdio` connects to `socket` (or NULL: the usual places there).
 * Negative errno with a sentence. */
int dial_host(const char *url, const char *socket, pid_t *ret_child, char *error, size_t size);

/* Carries bytes between stdin and stdout and the connected socket until the daemon closes or
 * stdout's reader goes. The end of stdin is passed on as a half-close. 0 or a negative errno. */
int dial_stdio(int fd);
