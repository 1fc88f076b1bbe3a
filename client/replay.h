/* zephctl replay: is a printed reply what the model says? */
#pragma once

#include "client/control.h"

/* Asks again what the file holds, an object of zeph --json or several, with the seed and the
 * options of its receipt, and prints "same" or "different" and what differs: EXIT_DONE or EXIT_NO.
 * EXIT_USAGE for a file that holds something else. */
enum exit_code replay(struct control *c);
