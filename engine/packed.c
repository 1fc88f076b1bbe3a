/* Packed weights from their file. struct packed owns the mapping or the memory, and the list of
 * what is in it; the file is closed once it is resident. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/packed_file.h"
#include "kernels/pool.h"

#define ROUND_PIECES 32 /* between two reports */
#define THREADS      8  /* a disk wants to be asked by several */

struct packed {
	uint8_t *at; /* aligned to PACKED_ALIGN */
	size_t bytes;
	struct packed_entry *entries; /* [n] */
	uint32_t n;
};

/* ---- what a file says ---- */

void packed_name(const struct packed_place *place, const struct model *m, char ret[96])
{
	snprintf(ret, 96, "%" PRIx64 "-%" PRIu64 "%s%s" PACKED_SUFFIX, place->key.dev,
		place->key.ino, m->quantize ? "-" : "", m->quantize ? m->quantize->name : "");
}

int packed_digest(const struct packed_head *head, const struct packed_entry *entries,
	uint8_t ret[DIGEST_BYTES])
{
	struct packed_head bare = *head;
	struct digest *d = digest_new();
	int r = d ? 0 : -ENOMEM;

	memset(bare.digest, 0, sizeof(bare.digest));
	if (r == 0)
		r = digest_add(d, &bare, sizeof(bare));
	if (r == 0)
		r = digest_add(d, entries, head->n_tensors * sizeof(*entries));
	if (r == 0)
		r = digest_now(d, ret);
	digest_free(d);
	return r;
}

static bool entry_good(const struct packed_head *h, const struct packed_entry *e)
{
	const uint64_t begin = sizeof(*h) + h->n_tensors * sizeof(*e);

	return memchr(e->name, 0, sizeof(e->name)) && e->offset % 64 == 0 && e->offset >= begin &&
	       e->offset <= h->bytes && e->bytes <= h->bytes - e->offset;
}

static int read_entries(int fd, const struct packed_head *h, struct packed_entry **ret)
{
	const size_t size = h->n_tensors * sizeof(**ret);
	struct packed_entry *entries = malloc(size);
	uint8_t digest[DIGEST_BYTES];
	int r = entries ? 0 : -ENOMEM;

	if (r == 0 && pread(fd, entries, size, sizeof(*h)) != (ssize_t)size)
		r = -EBADMSG;
	if (r == 0)
		r = packed_digest(h, entries, digest);
	if (r == 0 && memcmp(digest, h->digest, sizeof(digest)) != 0)
		r = -EBADMSG;
	for (uint32_t i = 0; r == 0 && i < h->n_tensors; i++)
		if (!entry_good(h, &entries[i]))
			r = -EBADMSG;
	if (r < 0) {
		free(entries);
		return r;
	}
	*ret = entries;
	return 0;
}

int packed_read_head(int fd, struct packed_head *ret, struct packed_entry **ret_entries)
{
	struct packed_head h;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return -EPERM;
	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) ||
		memcmp(h.magic, PACKED_MAGIC, sizeof(h.magic)) != 0 ||
		h.version != PACKED_VERSION || h.bytes != (uint64_t)st.st_size ||
		h.bytes % PACKED_ALIGN != 0 || h.n_tensors == 0 ||
		h.n_tensors > (h.bytes - sizeof(h)) / sizeof(struct packed_entry) ||
		!memchr(h.layout, 0, sizeof(h.layout)) || !memchr(h.mix, 0, sizeof(h.mix)) ||
		!memchr(h.model, 0, sizeof(h.model)))
		return -EBADMSG;
	if (ret_entries) {
		int r = read_entries(fd, &h, ret_entries);

		if (r < 0)
			return r;
	}
	*ret = h;
	return 0;
}

int packed_open_folder(const char *path, int *ret_fd)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022)) {
		close(fd);
		return -EPERM;
	}
	*ret_fd = fd;
	return 0;
}

/* ---- its bytes ---- */

/* One way to make bytes resident, piece by piece. */
struct fill {
	int (*piece)(const struct fill *f, size_t from, size_t n); /* 0 or a negative errno */
	uint8_t *at;
	size_t bytes, begin; /* begin: of this round */
	int fd;
	atomic_int failure;
};

static void fill_pieces(void *arg, struct pool_range range)
{
	struct fill *f = arg;

	for (uint32_t i = range.begin; i < range.end; i++) {
		const size_t from = f->begin + i * PACKED_PIECE;
		const size_t left = f->bytes - from;
		int r = f->piece(f, from, left < PACKED_PIECE ? left : PACKED_PIECE);

		if (r < 0)
			atomic_store(&f->failure, r);
	}
}

/* Bytes of the mapping that begins there which huge pages map: /proc/self/smaps, FilePmdMapped. */
static size_t huge_bytes(const void *at)
{
	char *line = NULL, begin[32];
	size_t room = 0, kib = 0;
	bool inside = false;
	FILE *f = fopen("/proc/self/smaps", "re");

	snprintf(begin, sizeof(begin), "%" PRIxPTR "-", (uintptr_t)at);
	while (f && getline(&line, &room, f) > 0) {
		inside |= strncmp(line, begin, strlen(begin)) == 0;
		if (inside && sscanf(line, "FilePmdMapped: %zu kB", &kib) == 1)
			break;
	}
	if (f)
		fclose(f);
	free(line);
	return kib * 1024;
}

static int map_piece(const struct fill *f, size_t from, size_t n)
{
	if (madvise(f->at + from, n, MADV_POPULATE_READ) == 0)
		return 0;
	return errno == EINVAL ? -ENOTSUP : -errno; /* Linux before 5.14 */
}

static int read_piece(const struct fill *f, size_t from, size_t n)
{
	while (n > 0) {
		ssize_t got = pread(f->fd, f->at + from, n, (off_t)from);

		if (got <= 0 && !(got < 0 && errno == EINTR))
			return got == 0 ? -EBADMSG : -errno;
		if (got > 0) {
			from += (size_t)got;
			n -= (size_t)got;
		}
	}
	return 0;
}

static int fill(struct fill *f, const struct weights_progress *progress, uint64_t total_bytes)
{
	struct pool *pool;
	int r = pool_new(THREADS, &pool);

	if (r < 0)
		return r;
	for (f->begin = 0; f->begin < f->bytes && r == 0; f->begin += ROUND_PIECES * PACKED_PIECE) {
		size_t left = f->bytes - f->begin, done;
		size_t pieces = (left + PACKED_PIECE - 1) / PACKED_PIECE;

		pieces = pieces < ROUND_PIECES ? pieces : ROUND_PIECES;
		pool_run(pool, fill_pieces, f, (uint32_t)pieces, 1);
		r = atomic_load(&f->failure);
		done = pieces < ROUND_PIECES ? f->bytes : f->begin + pieces * PACKED_PIECE;
		done = done < f->bytes ? done : f->bytes;
		if (r == 0 && f->piece == map_piece && huge_bytes(f->at) < done / 4 * 3)
			r = -ENOTSUP;
		if (r == 0 && progress && progress->report &&
			progress->report(progress->userdata,
				(uint64_t)((double)done / (double)f->bytes * (double)total_bytes),
				total_bytes) != 0)
			r = -ECANCELED;
	}
	pool_free(pool);
	return r;
}

/* Addresses for so many bytes, from a huge page's begin on; NULL: there are none. */
static uint8_t *reserve(size_t bytes)
{
	uint8_t *p = mmap(
		NULL, bytes + PACKED_ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p % PACKED_ALIGN;
	if (before > 0)
		munmap(p, before);
	munmap(p + before + bytes, PACKED_ALIGN - before);
	return p + before;
}

/* As `flags` and fd say, over addresses of its own, filled by `piece`. */
static int resident(int fd, size_t bytes, int protection, int flags,
	int (*piece)(const struct fill *f, size_t from, size_t n),
	const struct weights_progress *progress, uint64_t total_bytes, uint8_t **ret)
{
	struct fill f = {.piece = piece, .at = reserve(bytes), .bytes = bytes, .fd = fd};
	int r = 0;

	if (!f.at)
		return -ENOMEM;
	if (mmap(f.at, bytes, protection, flags | MAP_FIXED, flags & MAP_ANONYMOUS ? -1 : fd, 0) ==
		MAP_FAILED)
		r = -errno;
	if (r == 0) {
		madvise(f.at, bytes, MADV_HUGEPAGE); /* advice: refused, it costs speed only */
		r = fill(&f, progress, total_bytes);
	}
	if (r < 0) {
		munmap(f.at, bytes);
		return r;
	}
	*ret = f.at;
	return 0;
}

int packed_map_huge(int fd, size_t bytes, const struct weights_progress *progress,
	uint64_t total_bytes, uint8_t **ret)
{
	return resident(fd, bytes, PROT_READ, MAP_SHARED, map_piece, progress, total_bytes, ret);
}

static int read_in(int fd, size_t bytes, const struct weights_progress *progress,
	uint64_t total_bytes, uint8_t **ret)
{
	return resident(fd, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, read_piece,
		progress, total_bytes, ret);
}

/* ---- the weights ---- */

static bool made_of(const struct packed_head *h, const struct packed_place *place,
	const struct model *m, const char *layout)
{
	return file_key_same(&h->key, &place->key) && strcmp(h->layout, layout) == 0 &&
	       strcmp(h->mix, m->quantize ? m->quantize->name : "") == 0;
}

static int open_file(const struct packed_place *place, const struct model *m, int *ret_fd)
{
	char name[96];
	int folder = -1, fd, r;

	if (!place->folder || !file_key_known(&place->key))
		return -ENOENT;
	r = packed_open_folder(place->folder, &folder);
	if (r < 0)
		return r;
	packed_name(place, m, name);
	fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	close(folder);
	*ret_fd = fd;
	return r;
}

int packed_open(const struct packed_place *place, const struct model *m, const char *layout,
	const struct weights_progress *progress, struct packed **ret)
{
	const uint64_t total = m->config.tensor_bytes;
	struct packed *p;
	struct packed_head head;
	int fd, r;

	r = open_file(place, m, &fd);
	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	r = p ? packed_read_head(fd, &head, &p->entries) : -ENOMEM;
	if (r == 0 && !made_of(&head, place, m, layout))
		r = -ENOENT;
	if (r == 0) {
		p->n = head.n_tensors;
		p->bytes = head.bytes;
		r = packed_map_huge(fd, p->bytes, progress, total, &p->at);
		if (r == -ENOTSUP)
			r = read_in(fd, p->bytes, progress, total, &p->at);
	}
	close(fd);
	if (r < 0) {
		packed_free(p);
		return r;
	}
	/* They are to stay; where the limit forbids it, the page cache decides. */
	(void)mlock(p->at, p->bytes);
	*ret = p;
	return 0;
}

struct packed *packed_free(struct packed *p)
{
	if (!p)
		return NULL;
	if (p->at)
		munmap(p->at, p->bytes);
	free(p->entries);
	free(p);
	return NULL;
}

const void *packed_tensor(const struct packed *p, const struct tensor *t, size_t *ret_bytes)
{
	for (uint32_t i = 0; i < p->n; i++) {
		const struct packed_entry *e = &p->entries[i];

		if (strcmp(e->name, t->name) == 0 && e->dtype == (uint32_t)t->dtype &&
			e->rows == t->rows && e->cols == t->cols) {
			*ret_bytes = e->bytes;
			return p->at + e->offset;
		}
	}
	return NULL;
}
