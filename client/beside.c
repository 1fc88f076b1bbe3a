/* From one program of zeph to another that does what this one is too small for. */
#include "client/beside.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int beside_exec(const char *name, const char *build_folder, char **argv)
{
	char self[PATH_MAX], path[3][PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return -errno;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	snprintf(path[0], sizeof(path[0]), "%s/%s", self, name);
	snprintf(path[1], sizeof(path[1]), "%s/../%s/%s", self, build_folder, name);
	snprintf(path[2], sizeof(path[2]), "%s/%s", ZEPH_LIBEXECDIR, name);
	for (size_t i = 0; i < sizeof(path) / sizeof(*path); i++) {
		argv[0] = path[i];
		execv(path[i], argv);
		if (errno != ENOENT && errno != ENOTDIR)
			return -errno;
	}
	return -ENOENT;
}
