/* Sessions on disk, by a thread of their own: a disk may take its time, the loop may not. Tasks are
 * done one after the other in the order given.
 *
 * STATE/sessions/UID/NAME.session, folders 0700, files 0600, where STATE is $STATE_DIRECTORY (which
 * systemd sets), else ${XDG_STATE_HOME:-~/.local/state}/zeph. A file is written whole under another
 * name and renamed: whoever reads finds the old or the new one. */
#pragma once

#include "daemon/session_file.h"

enum store_kind {
	STORE_SCAN,  /* → rows: the heads of a uid's files */
	STORE_LOAD,  /* → row, history; -ENOENT; -EBADMSG: it was damaged and is set aside */
	STORE_SAVE,  /* row, history: written, synced */
	STORE_DROP,  /* removed; no error where there is none */
	STORE_SWEEP, /* removes what is older than `before`, of all uids → n */
};

struct store_task {
	struct store_task *next;
	enum store_kind kind;
	uint32_t uid;
	uint64_t request; /* whose it is, or 0; the store does not look at it */
	struct session_row row;
	struct history history;
	struct session_row *rows; /* [n] */
	uint32_t n;
	uint64_t version; /* of what is saved; the store does not look at it */
	int64_t before;   /* seconds since 1970 */
	uint32_t damaged; /* files that were set aside */
	int error;        /* 0 or a negative errno */
};
struct store_task *store_task_new(enum store_kind kind, uint32_t uid); /* NULL: no memory */
struct store_task *store_task_free(struct store_task *t); /* accepts NULL, returns NULL */

struct session_store;
int session_store_new(struct session_store **ret); /* 0 or a negative errno */
/* Does all that was submitted, then ends. Accepts NULL, returns NULL. */
struct session_store *session_store_free(struct session_store *s);
int session_store_fd(const struct session_store *s);                      /* readable: results */
void session_store_submit(struct session_store *s, struct store_task *t); /* takes it over */
struct store_task *session_store_collect(struct session_store *s);        /* a list */

/* What the thread does with a task, for tests: `state` is the state directory, NULL: there is none.
 * Fills the task's result. */
void session_store_run(const char *state, struct store_task *t);
