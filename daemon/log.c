/* The one place that writes to stderr after the start. Only the I/O thread logs: what the other
 * threads have to say reaches it as values. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <systemd/sd-daemon.h>

static void write_line(const char *level, const char *format, va_list arguments)
{
	char line[1024];

	vsnprintf(line, sizeof(line), format, arguments);
	/* $JOURNAL_STREAM is set where systemd connected stderr to the journal */
	if (getenv("JOURNAL_STREAM"))
		fprintf(stderr, "%s%s\n", level, line);
	else
		fprintf(stderr, "zephd: %s\n", line);
}

void log_error(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	write_line(SD_ERR, format, arguments);
	va_end(arguments);
}

void log_warning(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	write_line(SD_WARNING, format, arguments);
	va_end(arguments);
}

void log_info(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	write_line(SD_INFO, format, arguments);
	va_end(arguments);
}

void log_journal(const char *format, ...)
{
	va_list arguments;

	if (!getenv("JOURNAL_STREAM"))
		return;
	va_start(arguments, format);
	write_line(SD_INFO, format, arguments);
	va_end(arguments);
}
