/* The daemon's side of Type=notify and WatchdogSec=. The watchdog is fed only while the engine
 * thread gives signs of life: a loop that turns over a hung device is no life. */
#include "daemon/notify.h"

#include <inttypes.h>
#include <stdio.h>

#include <systemd/sd-daemon.h>

#define EXTEND_USEC       60000000ull /* asked for at a time */
#define EXTEND_EVERY_USEC 1000000ull

static int on_watchdog(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct notify *n = userdata;
	uint64_t now, beat = engine_thread_beat(n->engine);

	sd_event_now(sd_event_source_get_event(source), CLOCK_MONOTONIC, &now);
	if (now < beat || now - beat < n->watchdog_usec / 2)
		sd_notify(0, "WATCHDOG=1");
	engine_thread_ping(n->engine); /* an idle thread answers before the next round */
	sd_event_source_set_time(source, now + n->watchdog_usec / 4);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int notify_init(struct notify *n, sd_event *event, struct engine_thread *engine)
{
	uint64_t now;
	int r;

	*n = (struct notify){.engine = engine};
	if (sd_watchdog_enabled(0, &n->watchdog_usec) <= 0) {
		n->watchdog_usec = 0;
		return 0;
	}
	sd_event_now(event, CLOCK_MONOTONIC, &now);
	r = sd_event_add_time(
		event, &n->watchdog, CLOCK_MONOTONIC, now, n->watchdog_usec / 20, on_watchdog, n);
	return r < 0 ? r : 0;
}

void notify_done(struct notify *n)
{
	n->watchdog = sd_event_source_disable_unref(n->watchdog);
}

void notify_loading(struct notify *n, const char *name, uint64_t done, uint64_t total)
{
	struct timespec t;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
	if (n->extended_usec && now - n->extended_usec < EXTEND_EVERY_USEC)
		return;
	n->extended_usec = now;
	sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu\nSTATUS=loading %s: %u%%", EXTEND_USEC, name,
		total ? (unsigned)((double)done / (double)total * 100) : 0);
}

void notify_ready(const char *status)
{
	sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void notify_status(const char *status)
{
	sd_notifyf(0, "STATUS=%s", status);
}

void notify_stopping(const char *status)
{
	sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}
