/* How the threads that compute are scheduled beside all others. */
#pragma once

/* The calling thread, and those that it starts, ask for long turns: whoever else wakes on their
 * processor goes first. For threads that compute for long. Where the kernel does not know turns of
 * different length, nothing changes. */
void turns_lengthen(void);
