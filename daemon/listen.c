/* How connections come in: socket activation or a path of our own. The daemon never spins on a full
 * table of descriptors and never leaves a socket behind. */
#include "daemon/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "daemon/log.h"
#include "daemon/peer.h"
#include "proto/address.h"

#define ACCEPT_PAUSE_USEC 100000 /* after the table of descriptors was full */
#define ACCEPTS_MAX       64     /* at a time */

static int on_accept_pause(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct server *s = userdata;

	for (uint32_t i = 0; i < s->n_listeners; i++)
		if (s->listeners[i].source)
			sd_event_source_set_enabled(s->listeners[i].source, SD_EVENT_ON);
	return 0;
}

static void pause_accepting(struct server *s)
{
	for (uint32_t i = 0; i < s->n_listeners; i++)
		if (s->listeners[i].source)
			sd_event_source_set_enabled(s->listeners[i].source, SD_EVENT_OFF);
	if (s->accept_pause) {
		sd_event_source_set_time(s->accept_pause, server_now_usec(s) + ACCEPT_PAUSE_USEC);
		sd_event_source_set_enabled(s->accept_pause, SD_EVENT_ONESHOT);
	}
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct listener *l = userdata;

	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int peer_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (peer_fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
				errno == ENOBUFS) {
				log_warning("no further connections for now: %s", strerror(errno));
				pause_accepting(l->server);
			}
			break;
		}
		peer_new(l->server, peer_fd, l->use_only);
	}
	return 0;
}

static int add_listener(struct server *s, int fd, int lock_fd, const char *path, bool use_only)
{
	struct listener *l = &s->listeners[s->n_listeners];
	int r;

	*l = (struct listener){.server = s, .fd = fd, .lock_fd = lock_fd, .use_only = use_only};
	s->n_listeners++;
	if (path) {
		l->path = strdup(path);
		if (!l->path)
			return -ENOMEM;
	}
	r = sd_event_add_io(s->event, &l->source, fd, EPOLLIN, on_accept, l);
	return r < 0 ? r : 0;
}

static int bind_path(struct server *s, const char *path, bool use_only)
{
	char sentence[512];
	int lock_fd = -1;
	int fd = socket_listen(path, s->config.socket.mode, &lock_fd);

	if (fd < 0) {
		log_error("%s", socket_error(fd, path, sentence, sizeof(sentence)));
		return fd;
	}
	log_info("listening at %s", path);
	return add_listener(s, fd, lock_fd, path, use_only);
}

/* Where to listen unless told: $ZEPH_SOCKET; root's daemon is the machine's, another is its user's.
 */
static int bind_default(struct server *s)
{
	const char *env = getenv("ZEPH_SOCKET");
	char *paths[SOCKET_PATHS_MAX];
	int n, r;

	if (geteuid() == 0 && !(env && env[0]))
		return bind_path(s, "/run/zeph/zeph.sock", false);
	n = socket_paths(NULL, paths);
	if (n < 0)
		return n;
	r = bind_path(s, paths[0], false);
	for (int i = 0; i < n; i++)
		free(paths[i]);
	return r;
}

static int take_over(struct server *s, int n, char **names)
{
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i, r;

		if (s->n_listeners == LISTENERS_MAX) {
			log_error("more than %d sockets were handed over", LISTENERS_MAX);
			return -E2BIG;
		}
		if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) <= 0) {
			log_error("descriptor %d, which was handed over, is no listening Unix "
				  "stream socket",
				fd);
			return -EINVAL;
		}
		int flags = fcntl(fd, F_GETFL);
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
			return -errno;
		r = add_listener(s, fd, -1, NULL, names && names[i] && !strcmp(names[i], "use"));
		if (r < 0)
			return r;
	}
	return 0;
}

int listen_open(struct server *s)
{
	const struct config *c = &s->config;
	char **names = NULL;
	int n, r;

	r = sd_event_add_time(
		s->event, &s->accept_pause, CLOCK_MONOTONIC, 0, 0, on_accept_pause, s);
	if (r < 0)
		return r;
	sd_event_source_set_enabled(s->accept_pause, SD_EVENT_OFF);

	n = sd_listen_fds_with_names(1, &names);
	if (n < 0) {
		log_error("the sockets that were handed over: %s", strerror(-n));
		return n;
	}
	r = take_over(s, n, names);
	for (int i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	if (r < 0)
		return r;

	/* what was handed over is the configured socket; --socket asks for one more */
	if (s->options->socket || (n == 0 && c->socket.path))
		r = bind_path(s, c->socket.path, false);
	else if (n == 0)
		r = bind_default(s);
	if (r == 0 && n == 0 && c->socket.use_path)
		r = bind_path(s, c->socket.use_path, true);
	return r;
}

void listen_close(struct server *s)
{
	for (uint32_t i = 0; i < s->n_listeners; i++) {
		struct listener *l = &s->listeners[i];

		l->source = sd_event_source_disable_unref(l->source);
		if (l->path && l->lock_fd >= 0)
			unlink(l->path); /* ours: the lock is held */
		if (l->fd >= 0)
			close(l->fd);
		if (l->lock_fd >= 0)
			close(l->lock_fd);
		free(l->path);
		*l = (struct listener){.fd = -1, .lock_fd = -1};
	}
	s->n_listeners = 0;
	s->accept_pause = sd_event_source_disable_unref(s->accept_pause);
}
