/* What the daemon says to its administrator: one line on stderr, with the journal's level in front
 * where stderr is the journal. Never a prompt, a completion or anything else of a client's. */
#pragma once

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* For the journal alone: nobody who watches a terminal wants a line for each request. */
void log_journal(const char *format, ...) __attribute__((format(printf, 1, 2)));
