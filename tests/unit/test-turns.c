/* Claims: who takes long turns keeps policy and niceness, and the threads that it starts take them,
 * too; where a policy was chosen for zephd, it stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/turns.h"

/* sched_setattr(2), as it was at first; the kernel's own header and <pthread.h> exclude each other.
 */
struct attr {
	uint32_t size, sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime, sched_deadline, sched_period;
};

static void read_own(struct attr *ret)
{
	*ret = (struct attr){.size = 48};
	assert_int_equal(syscall(SYS_sched_getattr, 0, ret, sizeof(*ret), 0), 0);
}

static void *read_in_thread(void *userdata)
{
	read_own(userdata);
	return NULL;
}

static void *take(void *userdata)
{
	struct attr before, after, heir = {};
	pthread_t thread;

	assert_int_equal(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 5), 0);
	read_own(&before);
	turns_lengthen();
	read_own(&after);
	assert_int_equal(pthread_create(&thread, NULL, read_in_thread, &heir), 0);
	pthread_join(thread, NULL);
	assert_int_equal(after.sched_policy, before.sched_policy);
	assert_int_equal(after.sched_nice, 5);
	if (before.sched_runtime > 0) /* the kernel knows turns */
		assert_true(after.sched_runtime > 2 * before.sched_runtime);
	assert_int_equal(heir.sched_runtime, after.sched_runtime);
	assert_int_equal(heir.sched_nice, 5);
	return NULL;
}

static void *keep(void *userdata)
{
	struct attr attr = {.size = sizeof(attr), .sched_policy = SCHED_IDLE};

	assert_int_equal(syscall(SYS_sched_setattr, 0, &attr, 0), 0);
	turns_lengthen();
	read_own(&attr);
	assert_int_equal(attr.sched_policy, SCHED_IDLE);
	return NULL;
}

/* On a thread of its own: niceness cannot be taken back. */
static void on_thread(void *(*run)(void *))
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
	pthread_join(thread, NULL);
}

static void long_turns_change_nothing_else_and_are_inherited(void **state)
{
	on_thread(take);
}

static void another_policy_stays(void **state)
{
	on_thread(keep);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(long_turns_change_nothing_else_and_are_inherited),
		cmocka_unit_test(another_policy_stays),
	};

	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
