/* What a configuration file may say. */
#pragma once

#include "daemon/config.h"
#include "daemon/config_text.h"

/* Lays the file's settings over *c. 0, or a negative errno with "FILE:LINE: sentence". */
int config_parse(struct config *c, const struct config_text *text, char *error, size_t error_size);
