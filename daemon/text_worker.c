/* One thread and two lists. A task is its worker's alone from submit to collect. */
#include "daemon/text_worker.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/text.h"

struct text_worker {
	pthread_t thread;
	struct text_tools tools;
	int wake_fd; /* eventfd: results came */
	pthread_mutex_t lock;
	pthread_cond_t came;
	struct text_task *todo, **todo_end;
	struct text_task *done, **done_end;
	bool quit;
};

struct text_task *text_task_free(struct text_task *t)
{
	if (!t)
		return NULL;
	call_free(t->call);
	history_done(&t->history);
	token_list_done(&t->tokens);
	score_free(t->score);
	free(t->text);
	free(t);
	return NULL;
}

static void *worker_main(void *userdata)
{
	struct text_worker *w = userdata;
	uint64_t one = 1;

	/* without one, what other runs have stored fits nothing */
	if (text_identity(w->tools.model, w->tools.identity) < 0)
		(void)getrandom(w->tools.identity, sizeof(w->tools.identity), GRND_NONBLOCK);
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct text_task *t;

		while (!w->todo && !w->quit)
			pthread_cond_wait(&w->came, &w->lock);
		if (w->quit)
			break;
		t = w->todo;
		w->todo = t->next;
		if (!w->todo)
			w->todo_end = &w->todo;
		pthread_mutex_unlock(&w->lock);

		text_run(&w->tools, t);

		pthread_mutex_lock(&w->lock);
		t->next = NULL;
		*w->done_end = t;
		w->done_end = &t->next;
		pthread_mutex_unlock(&w->lock);

		/* unlocked: who wakes takes the result at once */
		ssize_t n = write(w->wake_fd, &one, sizeof(one));
		assert(n == sizeof(one) || errno == EAGAIN);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int text_worker_new(const struct model *m, struct reply_memory *memory, struct text_worker **ret)
{
	struct text_worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->tools.model = m;
	w->tools.memory = memory;
	w->todo_end = &w->todo;
	w->done_end = &w->done;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->came, NULL);
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = w->wake_fd < 0 ? -errno : -pthread_create(&w->thread, NULL, worker_main, w);
	if (r < 0) {
		if (w->wake_fd >= 0)
			close(w->wake_fd);
		free(w);
		return r;
	}
	pthread_setname_np(w->thread, "zephd-text");
	*ret = w;
	return 0;
}

static void free_list(struct text_task *t)
{
	while (t) {
		struct text_task *next = t->next;

		text_task_free(t);
		t = next;
	}
}

struct text_worker *text_worker_free(struct text_worker *w)
{
	if (!w)
		return NULL;
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_signal(&w->came);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	free_list(w->todo);
	free_list(w->done);
	pthread_cond_destroy(&w->came);
	pthread_mutex_destroy(&w->lock);
	close(w->wake_fd);
	free(w);
	return NULL;
}

int text_worker_fd(const struct text_worker *w)
{
	return w->wake_fd;
}

void text_worker_submit(struct text_worker *w, struct text_task *t)
{
	t->next = NULL;
	pthread_mutex_lock(&w->lock);
	*w->todo_end = t;
	w->todo_end = &t->next;
	pthread_mutex_unlock(&w->lock);
	pthread_cond_signal(&w->came);
}

struct text_task *text_worker_collect(struct text_worker *w)
{
	struct text_task *list;
	uint64_t count;

	if (read(w->wake_fd, &count, sizeof(count)) < 0)
		assert(errno == EAGAIN);
	pthread_mutex_lock(&w->lock);
	list = w->done;
	w->done = NULL;
	w->done_end = &w->done;
	pthread_mutex_unlock(&w->lock);
	return list;
}
