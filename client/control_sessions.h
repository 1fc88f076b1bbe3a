/* zephctl sessions: list, show, fork, rewind, drop. */
#pragma once

#include "client/control.h"

enum exit_code run_sessions(struct control *c);
