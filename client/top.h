/* zephctl top: the daemon, live. */
#pragma once

#include "client/control.h"

/* Until q or a signal on a terminal; elsewhere, and with --json, once after a second's look. */
enum exit_code top(struct control *c);
