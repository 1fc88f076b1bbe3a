/* The daemon's status for people. */
#pragma once

#include <msgpack.h>

/* Appends the result of `status` as lines; what the daemon did not send is left out. 0 or -ENOMEM.
 */
int status_write(msgpack_sbuffer *out, const msgpack_object *status);
