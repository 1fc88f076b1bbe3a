/* The engine's threads keep the processors busy for as long as anybody's tokens are made, and a
 * thread that wakes there does not run before the turn of one of them is over: some milliseconds,
 * as long as a token of a small model takes. So the first token of a reply reached its reader with
 * the second. The kernel (6.12 and later) lets who asks for shorter turns go first, so those who
 * compute ask for longer ones than everybody has: that needs no privilege, leaves the shares of
 * time as they are, and serves the readers, too, which are other programs. */
#include "daemon/turns.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TURN_NSEC 12000000 /* others have 0.7 to 3 ms, by the number of processors */

void turns_lengthen(void)
{
	struct sched_attr attr = {.size = SCHED_ATTR_SIZE_VER0};

	/* the niceness stays, and so does a policy that somebody chose for zephd */
	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0 ||
		attr.sched_policy != SCHED_NORMAL)
		return;
	attr.size = SCHED_ATTR_SIZE_VER0;
	attr.sched_runtime = TURN_NSEC;
	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
}
