/* When the model is on the device: unloading on request or when idle, loading again for whoever
 * comes next, starting the engine anew after a failure. */
#pragma once

#include <stdbool.h>

#include "daemon/server.h"

/* Jobs may be submitted. */
bool residence_ready(const struct server *s);
/* A request waits for the engine: loads the model if nothing holds it. */
void residence_want(struct server *s);
/* A request came or went. */
void residence_used(struct server *s);
/* Cancels all requests but model.unload and gives the device's memory back. */
void residence_unload(struct server *s, const char *reason);

/* Told by the server: a load ended well; a later load failed; everything is given back; the device
 * failed. */
void residence_loaded(struct server *s);
void residence_load_failed(struct server *s);
void residence_unloaded(struct server *s);
void residence_broken(struct server *s);
