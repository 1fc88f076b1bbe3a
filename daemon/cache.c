/* systemd names the folder of a service; a user's daemon has the user's. */
#include "daemon/cache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *cache_folder(const char *name)
{
	const char *directory = getenv("CACHE_DIRECTORY"), *xdg = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");
	char *path = NULL, *slash;
	size_t given = 0; /* bytes of what is there, or is not ours to make */
	int r;

	if (directory && directory[0] == '/') {
		given = strcspn(directory, ":") + 1;
		r = asprintf(&path, "%.*s/%s", (int)given - 1, directory, name);
	} else if (xdg && xdg[0] == '/') {
		given = strlen(xdg);
		r = asprintf(&path, "%s/zeph/%s", xdg, name);
	} else if (home && home[0] == '/') {
		given = strlen(home) + 1;
		r = asprintf(&path, "%s/.cache/zeph/%s", home, name);
	} else {
		return NULL;
	}
	if (r < 0)
		return NULL;
	for (slash = path + given; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		(void)mkdir(path, 0700);
		*slash = '/';
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		free(path);
		path = NULL;
	}
	return path;
}
