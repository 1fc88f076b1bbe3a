/* Claims: sums of the table are those of its sessions; messages leave memory least recently used
 * first, never those that are on no disk or that a request holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/session.h"

static struct session *make(struct session_table *t, uint32_t uid, const char *name)
{
	const struct rpc_text role = {"user", 4}, content = {"hello", 5};
	struct session_owner *o = session_owner_get(t, uid);
	struct session_row row = {};
	struct history h = {};
	struct session *s;

	assert_non_null(o);
	snprintf(row.name, sizeof(row.name), "%s", name);
	s = session_add(t, o, &row);
	assert_non_null(s);
	assert_int_equal(history_add(&h, &role, &content, true, 7, NULL), 0);
	session_fill(t, s, &h);
	session_changed(t, s, 100);
	return s;
}

static void sums_follow_changes(void **state)
{
	struct session_table t = {};
	struct session *a = make(&t, 1, "a"), *b = make(&t, 1, "b"), *c = make(&t, 2, "a");
	const uint64_t one = a->row.bytes;

	assert_true(one > 9);
	assert_int_equal(t.resident_bytes, 3 * one);
	assert_int_equal(a->owner->bytes, 2 * one);
	assert_int_equal(a->owner->n, 2);
	assert_int_equal(a->row.tokens, 7);
	assert_ptr_equal(session_find(c->owner, "a"), c);
	assert_null(session_find(c->owner, "b"));
	assert_ptr_equal(TAILQ_FIRST(&a->owner->list), b); /* used last */
	session_touch(&t, a);
	assert_ptr_equal(TAILQ_FIRST(&a->owner->list), b);
	history_cut(&a->history, 0);
	session_changed(&t, a, 200);
	assert_ptr_equal(TAILQ_FIRST(&a->owner->list), a);
	assert_int_equal(t.resident_bytes, 2 * one);
	assert_int_equal(a->owner->bytes, one);
	session_remove(&t, b);
	assert_int_equal(session_owner_get(&t, 1)->bytes, 0);
	session_table_done(&t);
	assert_int_equal(t.resident_bytes, 0);
}

static void what_is_on_disk_leaves_memory_first_used_first(void **state)
{
	struct session_table t = {};
	struct session *s[4] = {
		make(&t, 1, "a"), make(&t, 2, "b"), make(&t, 1, "c"), make(&t, 3, "d")};
	const uint64_t one = s[0]->row.bytes;

	session_table_shrink(&t, 0, NULL); /* all are dirty */
	assert_int_equal(t.resident_bytes, 4 * one);
	for (int i = 0; i < 4; i++)
		s[i]->dirty = false;
	session_touch(&t, s[0]);
	session_table_shrink(&t, 4 * one, NULL);
	assert_int_equal(t.resident_bytes, 4 * one);
	session_table_shrink(&t, 3 * one, NULL);
	assert_false(s[1]->resident);
	assert_true(s[0]->resident && s[2]->resident && s[3]->resident);
	assert_int_equal(s[1]->row.messages, 1); /* still known */
	assert_int_equal(s[1]->owner->bytes, one);
	s[2]->holder = (struct request *)s;
	session_table_shrink(&t, 0, s[0]);
	assert_true(s[0]->resident && s[2]->resident && !s[3]->resident);
	assert_int_equal(t.resident_bytes, 2 * one);
	session_table_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_follow_changes),
		cmocka_unit_test(what_is_on_disk_leaves_memory_first_used_first),
	};

	return cmocka_run_group_tests_name("session-table", tests, NULL, NULL);
}
