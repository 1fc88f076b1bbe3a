/* What systemd is told: readiness, status, time, life. Does nothing where nobody listens. */
#pragma once

#include <stdint.h>

#include <systemd/sd-event.h>

#include "daemon/engine_thread.h"

struct notify {
	struct engine_thread *engine; /* whose heartbeat feeds the watchdog */
	sd_event_source *watchdog;
	uint64_t watchdog_usec; /* 0: none asked for */
	uint64_t extended_usec; /* when the start's time was last extended */
};

int notify_init(struct notify *n, sd_event *event, struct engine_thread *engine);
void notify_done(struct notify *n);

void notify_loading(struct notify *n, const char *name, uint64_t done, uint64_t total);
void notify_ready(const char *status);
void notify_status(const char *status);
void notify_stopping(const char *status);
