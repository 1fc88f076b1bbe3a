/* A conversation that goes on: its name, and what a session that is there already means for the
 * system prompt. */
#pragma once

#include "client/options.h"
#include "client/prompt.h"
#include "client/session.h"

/* The name that -c stands for: "tty:PID:START" of the terminal's session leader and its start time,
 * so that each terminal has its own and a reused number is another; "last" without a terminal. */
void conversation_name(char name[SESSION_NAME_BYTES_MAX + 1]);

/* Only a new session takes a system prompt: where the session began with the same one, it is left
 * out of *p. EXIT_DONE, or what zeph exits with after a complaint: the session began with another
 * one or with none. */
enum exit_code conversation_system(
	struct session *s, const struct rpc_text *name, struct prompt *p);
