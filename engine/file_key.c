/* Device, inode, size and times, as stat(2) has them. */
#include "engine/file_key.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

/* A directory's own times do not tell of changes inside its files: theirs are folded in. A sum, as
 * the order of entries says nothing. */
static void fold_directory(const char *path, struct file_key *key)
{
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;

	key->size = 0;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		key->size += (uint64_t)st.st_size;
		key->mtime_nsec += (st.st_ino + st.st_dev) * UINT64_C(0x9e3779b97f4a7c15) +
				   st.st_mtim.tv_sec * UINT64_C(1000000000) +
				   (uint64_t)st.st_mtim.tv_nsec;
		key->ctime_nsec += (uint64_t)st.st_size * UINT64_C(0xbf58476d1ce4e5b9) +
				   st.st_ctim.tv_sec * UINT64_C(1000000000) +
				   (uint64_t)st.st_ctim.tv_nsec;
	}
	if (d)
		closedir(d);
}

struct file_key file_key_of(const char *path)
{
	struct file_key key;
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct file_key){};
	key = (struct file_key){
		.dev = st.st_dev,
		.ino = st.st_ino,
		.size = st.st_size,
		.mtime_nsec = st.st_mtim.tv_sec * 1000000000ull + st.st_mtim.tv_nsec,
		.ctime_nsec = st.st_ctim.tv_sec * 1000000000ull + st.st_ctim.tv_nsec,
	};
	if (S_ISDIR(st.st_mode))
		fold_directory(path, &key);
	return key;
}

bool file_key_same(const struct file_key *a, const struct file_key *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}
