/* One thread and two lists, as the text worker's. What a task does to the disk is in
 * session_disk.c. */
#include "daemon/session_store.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct session_store {
	pthread_t thread;
	char *state; /* the state directory, or NULL */
	int wake_fd; /* eventfd: results came */
	pthread_mutex_t lock;
	pthread_cond_t came;
	struct store_task *todo, **todo_end;
	struct store_task *done, **done_end;
	bool quit;
};

struct store_task *store_task_new(enum store_kind kind, uint32_t uid)
{
	struct store_task *t = calloc(1, sizeof(*t));

	if (t) {
		t->kind = kind;
		t->uid = uid;
	}
	return t;
}

struct store_task *store_task_free(struct store_task *t)
{
	if (t) {
		history_done(&t->history);
		free(t->rows);
		free(t);
	}
	return NULL;
}

/* malloc'ed; NULL: there is none, or no memory. */
static char *state_directory(void)
{
	const char *given = getenv("STATE_DIRECTORY"), *xdg = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	char *path = NULL;
	int r;

	if (given && given[0] == '/')
		r = asprintf(&path, "%.*s", (int)strcspn(given, ":"), given);
	else if (xdg && xdg[0] == '/')
		r = asprintf(&path, "%s/zeph", xdg);
	else if (home && home[0] == '/')
		r = asprintf(&path, "%s/.local/state/zeph", home);
	else
		return NULL;
	return r < 0 ? NULL : path;
}

static void *store_main(void *userdata)
{
	struct session_store *s = userdata;
	uint64_t one = 1;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct store_task *t;

		while (!s->todo && !s->quit)
			pthread_cond_wait(&s->came, &s->lock);
		t = s->todo;
		if (!t)
			break;
		s->todo = t->next;
		if (!s->todo)
			s->todo_end = &s->todo;
		pthread_mutex_unlock(&s->lock);

		session_store_run(s->state, t);

		pthread_mutex_lock(&s->lock);
		t->next = NULL;
		*s->done_end = t;
		s->done_end = &t->next;
		ssize_t n = write(s->wake_fd, &one, sizeof(one));
		assert(n == sizeof(one) || errno == EAGAIN);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int session_store_new(struct session_store **ret)
{
	struct session_store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->state = state_directory();
	s->todo_end = &s->todo;
	s->done_end = &s->done;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->came, NULL);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = s->wake_fd < 0 ? -errno : -pthread_create(&s->thread, NULL, store_main, s);
	if (r < 0) {
		if (s->wake_fd >= 0)
			close(s->wake_fd);
		free(s->state);
		free(s);
		return r;
	}
	pthread_setname_np(s->thread, "zephd-sessions");
	*ret = s;
	return 0;
}

struct session_store *session_store_free(struct session_store *s)
{
	if (!s)
		return NULL;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_signal(&s->came);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	while (s->done) {
		struct store_task *next = s->done->next;

		store_task_free(s->done);
		s->done = next;
	}
	pthread_cond_destroy(&s->came);
	pthread_mutex_destroy(&s->lock);
	close(s->wake_fd);
	free(s->state);
	free(s);
	return NULL;
}

int session_store_fd(const struct session_store *s)
{
	return s->wake_fd;
}

void session_store_submit(struct session_store *s, struct store_task *t)
{
	t->next = NULL;
	pthread_mutex_lock(&s->lock);
	*s->todo_end = t;
	s->todo_end = &t->next;
	pthread_cond_signal(&s->came);
	pthread_mutex_unlock(&s->lock);
}

struct store_task *session_store_collect(struct session_store *s)
{
	struct store_task *list;
	uint64_t count;

	if (read(s->wake_fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
	pthread_mutex_lock(&s->lock);
	list = s->done;
	s->done = NULL;
	s->done_end = &s->done;
	pthread_mutex_unlock(&s->lock);
	return list;
}
