/* What a text task does: pure functions over the model. */
#pragma once

#include "daemon/text_worker.h"

/* Fills the task's result or its error. */
void text_run(const struct model *m, struct text_task *t);
