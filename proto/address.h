/* Where the socket is, for both sides. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SOCKET_PATHS_MAX 3

/* The paths to try in order: `given` (or NULL) alone, else $ZEPH_SOCKET alone, else
 * ${XDG_RUNTIME_DIR:-/run/user/$UID}/zeph/zeph.sock and /run/zeph/zeph.sock. Each is malloc'ed.
 * Returns how many, or -ENOMEM. */
int socket_paths(const char *given, char *ret_paths[SOCKET_PATHS_MAX]);

/* Connects without ever blocking longer than timeout_usec: a listener whose queue is full (EAGAIN)
 * is tried again. ENOENT and ECONNREFUSED on a default path fall through to the next. Returns the
 * non-blocking, close-on-exec fd, or a negative errno with the path that failed in ret_path (size
 * bytes). */
int socket_connect(const char *given, uint64_t timeout_usec, char *ret_path, size_t size);

/* The failure of either in words: "the socket path has 120 bytes, at most 107 fit: …". Returns
 * buffer. */
const char *socket_error(int error, const char *path, char *buffer, size_t size);

/* Binds and listens at `path`, one daemon per path: takes the lock on "PATH.lock" (*ret_lock_fd, to
 * be kept open), unlinks a dead socket, never a live one, creates the missing last folder with 0700
 * and the socket with `mode`. -EADDRINUSE: another daemon serves it. */
int socket_listen(const char *path, unsigned mode, int *ret_lock_fd);
