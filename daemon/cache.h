/* Where the daemon keeps what it could find out again. */
#pragma once

/* The folder of that name in the cache: "$CACHE_DIRECTORY/NAME", else "$XDG_CACHE_HOME/zeph/NAME",
 * else "~/.cache/zeph/NAME"; made if missing. malloc'ed; NULL: there is no place for it. */
char *cache_folder(const char *name);
