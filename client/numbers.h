/* Numbers on the command line. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The whole text is one decimal number within ±(2^53 - 1), or a finite one. */
bool number_int(const char *text, int64_t *ret);
bool number_float(const char *text, double *ret);
