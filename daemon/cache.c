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
	char *zeph = NULL, *path = NULL;
	int r;

	if (directory && directory[0] == '/')
		r = asprintf(&zeph, "%.*s", (int)strcspn(directory, ":"), directory);
	else if (xdg && xdg[0] == '/')
		r = asprintf(&zeph, "%s/zeph", xdg);
	else if (home && home[0] == '/')
		r = asprintf(&zeph, "%s/.cache/zeph", home);
	else
		return NULL;
	if (r < 0)
		return NULL;
	if (asprintf(&path, "%s/%s", zeph, name) < 0)
		path = NULL;
	(void)mkdir(zeph, 0700);
	if (path && mkdir(path, 0700) < 0 && errno != EEXIST) {
		free(path);
		path = NULL;
	}
	free(zeph);
	return path;
}
