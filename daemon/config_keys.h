/* What a configuration file may say. */
#pragma once

#include "daemon/config.h"
#include "daemon/config_text.h"

/* Lays the file's settings over *c. 0, or a negative errno with "FILE:LINE: sentence". */
int config_parse(struct config *c, const struct config_text *text, char *error, size_t error_size);

/* Marks all that a class may say for itself as not said; then, after the file, takes it over from
 * limits where it was not. */
void config_quotas_unset(struct config *c);
void config_quotas_settle(struct config *c);
