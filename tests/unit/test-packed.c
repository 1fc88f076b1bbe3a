/* engine/packed: weights that were kept are the weights that were packed, and a file that is not
 * wholly right is not taken. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/mkmodel.h"
#include "engine/packed_file.h"
#include "engine/source.h"

struct fixture {
	char folder[32], file[64], path[160]; /* path: of the packed weights */
	struct model *m;
	struct backend *b;
	struct packed_place place;
};

/* A model's file, in place of another version of it. */
static void make(const char *path, const char *type, uint64_t seed)
{
	const struct mkmodel_options o = {
		.shape = mkmodel_shape("tiny"), .type = type, .seed = seed, .threads = 1};
	char temporary[80], error[256];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	if (mkmodel_write(&o, fd, error, sizeof(error)) < 0)
		fail_msg("mkmodel: %s", error);
	close(fd);
	assert_int_equal(rename(temporary, path), 0);
}

static struct model *opened(const char *path, const char *quantize)
{
	const struct model_options o = {.sliding_window = -1, .quantize = quantize};
	struct model *m;
	char error[256];

	if (model_open(path, &o, &m, error, sizeof(error)) < 0)
		fail_msg("model_open: %s", error);
	return m;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->folder, sizeof(f->folder), P_tmpdir "/test-packed.XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->file, sizeof(f->file), "%s.gguf", f->folder);
	make(f->file, "q4_k_m", 1);
	f->m = opened(f->file, NULL);
	assert_int_equal(backend_new_cpu(2, ACTIVATIONS_FAST, &f->b), 0);
	f->place = (struct packed_place){f->folder, f->file, file_key_of(f->file)};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	backend_free(f->b);
	model_free(f->m);
	unlink(f->path);
	unlink(f->file);
	assert_int_equal(rmdir(f->folder), 0); /* nothing else was left */
	free(f);
	return 0;
}

static struct weights *load(struct fixture *f, const struct packed_place *place)
{
	const struct weights_options o = {.context = 32, .packed = place};
	struct weights *w;
	char error[256];

	if (weights_load(f->m, &f->b, 1, &o, &w, error, sizeof(error)) < 0)
		fail_msg("weights_load: %s", error);
	return w;
}

static void keep(struct fixture *f)
{
	struct weights *w = load(f, NULL);
	uint64_t bytes = 0;
	struct stat st;
	char name[96], error[256];

	packed_name(&f->place, f->m, name);
	snprintf(f->path, sizeof(f->path), "%s/%s", f->folder, name);
	if (packed_write(&f->place, w, NULL, &bytes, error, sizeof(error)) < 0)
		fail_msg("packed_write: %s", error);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, bytes);
	assert_int_equal(st.st_mode & 07777, 0600);
	weights_free(w);
}

static int open_packed(struct fixture *f)
{
	struct packed *p = NULL;
	int r = packed_open(&f->place, f->m, f->b->ops->weight_layout(f->b), NULL, &p);

	assert_true((r == 0) == (p != NULL));
	packed_free(p);
	return r;
}

static void same_bytes(const struct fixture *f, const struct weight *a, const struct weight *b)
{
	const struct backend_ops *ops = f->b->ops;

	assert_true((a == NULL) == (b == NULL));
	if (!a)
		return;
	assert_int_equal(ops->weight_bytes(a), ops->weight_bytes(b));
	assert_int_equal(ops->weight_rows(a), ops->weight_rows(b));
	assert_memory_equal(ops->weight_data(a), ops->weight_data(b), ops->weight_bytes(a));
}

static void all_same(const struct fixture *f, const struct weights *a, const struct weights *b)
{
	same_bytes(f, a->embed, b->embed);
	same_bytes(f, a->output, b->output);
	same_bytes(f, a->output_norm, b->output_norm);
	for (uint32_t i = 0; i < f->m->config.n_layers; i++)
		for (unsigned k = 0; k < LAYER_TENSORS; k++)
			same_bytes(f, *weights_of_layer(&a->layers[i], (enum layer_tensor)k),
				*weights_of_layer(&b->layers[i], (enum layer_tensor)k));
	assert_int_equal(a->bytes, b->bytes);
}

/* What is taken from the place is what was packed; frees that. */
static void taken_is(struct fixture *f, struct weights *packed)
{
	struct weights *taken = load(f, &f->place);

	assert_non_null(taken->packed);
	all_same(f, packed, taken);
	weights_free(packed);
	weights_free(taken);
}

static void what_was_kept_is_what_was_packed(void **state)
{
	struct fixture *f = *state;
	struct weights *packed = load(f, &f->place);

	assert_null(packed->packed); /* nothing was kept yet */
	keep(f);
	taken_is(f, packed);
}

/* A file system that maps nothing on huge pages: the file is read. */
static void a_folder_in_memory_does(void **state)
{
	struct fixture *f = *state;
	struct weights *packed = load(f, NULL);
	char folder[] = "/dev/shm/test-packed.XXXXXX", name[96], path[160];
	uint64_t bytes;
	char error[256];

	assert_non_null(mkdtemp(folder));
	f->place.folder = folder;
	assert_int_equal(packed_write(&f->place, packed, NULL, &bytes, error, sizeof(error)), 0);
	taken_is(f, packed);
	packed_name(&f->place, f->m, name);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(folder), 0);
}

static void quantised_weights_have_a_file_of_their_own(void **state)
{
	struct fixture *f = *state;
	char name[96], quantised[96];

	make(f->file, "f32", 1);
	f->place.key = file_key_of(f->file);
	model_free(f->m);
	f->m = opened(f->file, NULL);
	packed_name(&f->place, f->m, name);
	model_free(f->m);
	f->m = opened(f->file, "q8_0");
	packed_name(&f->place, f->m, quantised);
	assert_string_not_equal(name, quantised);
	keep(f);
	taken_is(f, load(f, NULL));
}

static void another_version_of_the_model_is_not_taken(void **state)
{
	struct fixture *f = *state;
	const struct packed_place place = f->place;

	keep(f);
	assert_int_equal(open_packed(f), 0);
	f->place.key.mtime_nsec++;
	assert_int_equal(open_packed(f), -ENOENT);
	f->place = place;
	f->place.key.size++;
	assert_int_equal(open_packed(f), -ENOENT);
	f->place = place;
	f->place.key.ino = 0; /* not known */
	assert_int_equal(open_packed(f), -ENOENT);
	f->place = place;
	f->place.folder = NULL;
	assert_int_equal(open_packed(f), -ENOENT);
	f->place = place;
	assert_int_equal(
		packed_open(&f->place, f->m, "cpu 0", NULL, &(struct packed *){NULL}), -ENOENT);
}

static void a_damaged_head_is_not_taken(void **state)
{
	struct fixture *f = *state;
	struct packed_head head;
	size_t bytes;
	int fd;

	keep(f);
	fd = open(f->path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &head, sizeof(head), 0), sizeof(head));
	bytes = sizeof(head) + head.n_tensors * sizeof(struct packed_entry);
	for (size_t i = 0; i < bytes; i += i < 256 ? 1 : 61) {
		uint8_t was, is;

		assert_int_equal(pread(fd, &was, 1, (off_t)i), 1);
		is = was ^ 0x10;
		assert_int_equal(pwrite(fd, &is, 1, (off_t)i), 1);
		if (open_packed(f) == 0)
			fail_msg("taken with byte %zu of the head changed", i);
		assert_int_equal(pwrite(fd, &was, 1, (off_t)i), 1);
	}
	assert_int_equal(open_packed(f), 0);
	for (size_t n = 0; n < head.bytes; n += n < 16384 ? 911 : 500009) {
		assert_int_equal(ftruncate(fd, (off_t)n), 0);
		assert_true(open_packed(f) < 0);
	}
	close(fd);
}

/* A head that is whole, but says what cannot be. */
static void entries_outside_the_file_are_not_taken(void **state)
{
	struct fixture *f = *state;
	struct packed_entry *entries, good;
	struct packed_head head;
	int fd;

	keep(f);
	fd = open(f->path, O_RDWR);
	assert_int_equal(packed_read_head(fd, &head, &entries), 0);
	good = entries[1];
	for (int i = 0; i < 5; i++) {
		const size_t size = head.n_tensors * sizeof(*entries);

		entries[1] = good;
		switch (i) {
		case 0: entries[1].offset = head.bytes + 64; break;
		case 1: entries[1].bytes = head.bytes - good.offset + 1; break;
		case 2: entries[1].bytes = UINT64_MAX - 63; break;
		case 3: entries[1].offset += 4; break;
		case 4: memset(entries[1].name, 'x', sizeof(entries[1].name)); break;
		}
		assert_int_equal(packed_digest(&head, entries, head.digest), 0);
		assert_int_equal(pwrite(fd, &head, sizeof(head), 0), sizeof(head));
		assert_int_equal(pwrite(fd, entries, size, sizeof(head)), size);
		assert_int_equal(open_packed(f), -EBADMSG);
	}
	free(entries);
	close(fd);
}

/* A file of other rules, whole in itself: what is not in it as it should be is packed. */
static void a_tensor_that_is_not_there_is_packed(void **state)
{
	struct fixture *f = *state;
	struct weights *packed = load(f, NULL);
	struct packed_entry *entries;
	struct packed_head head;
	size_t size;
	int fd;

	keep(f);
	fd = open(f->path, O_RDWR);
	assert_int_equal(packed_read_head(fd, &head, &entries), 0);
	size = head.n_tensors * sizeof(*entries);
	entries[0].name[0] ^= 1;
	entries[1].bytes -= 64;
	entries[2].dtype ^= 1;
	assert_int_equal(packed_digest(&head, entries, head.digest), 0);
	assert_int_equal(pwrite(fd, &head, sizeof(head), 0), sizeof(head));
	assert_int_equal(pwrite(fd, entries, size, sizeof(head)), size);
	free(entries);
	close(fd);
	taken_is(f, packed);
}

static void what_others_could_write_is_not_taken(void **state)
{
	struct fixture *f = *state;
	char target[96];

	keep(f);
	assert_int_equal(chmod(f->path, 0620), 0);
	assert_int_equal(open_packed(f), -EPERM);
	assert_int_equal(chmod(f->path, 0600), 0);
	assert_int_equal(chmod(f->folder, 0777), 0);
	assert_int_equal(open_packed(f), -EPERM);
	assert_int_equal(chmod(f->folder, 0700), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(f->path, 12345, 12345), 0);
		assert_int_equal(open_packed(f), -EPERM);
		assert_int_equal(chown(f->path, 0, 0), 0);
	}
	snprintf(target, sizeof(target), "%s/target", f->folder);
	assert_int_equal(rename(f->path, target), 0);
	assert_int_equal(symlink("target", f->path), 0);
	assert_int_equal(open_packed(f), -ELOOP);
	assert_int_equal(unlink(target), 0);
}

static void a_writer_that_is_stopped_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct weights *w = load(f, NULL);
	const _Atomic bool stop = true;
	char error[256];
	uint64_t bytes;

	assert_int_equal(
		packed_write(&f->place, w, &stop, &bytes, error, sizeof(error)), -ECANCELED);
	assert_int_equal(open_packed(f), -ENOENT);
	weights_free(w); /* teardown() sees that the folder is empty */
}

static void two_writers_do_not_meet(void **state)
{
	struct fixture *f = *state;
	struct weights *w = load(f, NULL);
	char error[256], name[176];
	uint64_t bytes;
	int fd;

	keep(f); /* its name is known now */
	snprintf(name, sizeof(name), "%s" PACKED_NEW, f->path);
	fd = open(name, O_CREAT | O_RDWR, 0600);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(packed_write(&f->place, w, NULL, &bytes, error, sizeof(error)), -EBUSY);
	packed_sweep(f->folder);
	assert_int_equal(access(name, F_OK), 0); /* it is at it still */
	close(fd);
	assert_int_equal(packed_write(&f->place, w, NULL, &bytes, error, sizeof(error)), 0);
	assert_int_equal(open_packed(f), 0);
	weights_free(w);
}

static void the_sweep_removes_what_is_of_no_use(void **state)
{
	struct fixture *f = *state;
	char stranger[96], left[96], broken[96];
	const char *made[] = {stranger, left, broken};

	snprintf(stranger, sizeof(stranger), "%s/notes", f->folder);
	snprintf(left, sizeof(left), "%s/1-2.packed.new", f->folder);
	snprintf(broken, sizeof(broken), "%s/1-2.packed", f->folder);
	for (int i = 0; i < 3; i++)
		close(open(made[i], O_CREAT | O_WRONLY, 0600));
	keep(f);
	packed_sweep(f->folder);
	assert_int_equal(access(f->path, F_OK), 0);
	assert_int_equal(access(stranger, F_OK), 0);
	assert_int_equal(access(left, F_OK), -1);
	assert_int_equal(access(broken, F_OK), -1);
	assert_int_equal(unlink(stranger), 0);

	make(f->file, "q4_k_m", 2); /* the model has changed */
	packed_sweep(f->folder);
	assert_int_equal(access(f->path, F_OK), -1);
	f->place.key = file_key_of(f->file);
	keep(f);
	assert_int_equal(unlink(f->file), 0);
	packed_sweep(f->folder);
	assert_int_equal(access(f->path, F_OK), -1);
}

static int stop_at_once(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t *seen = userdata;

	assert_true(done_bytes <= total_bytes);
	*seen = done_bytes;
	return 1;
}

static void a_load_that_is_cancelled_is(void **state)
{
	struct fixture *f = *state;
	uint64_t seen = 0;
	const struct weights_progress progress = {stop_at_once, &seen};
	const struct weights_options o = {
		.context = 32, .progress = &progress, .packed = &f->place};
	struct weights *w;
	char error[256];

	keep(f);
	assert_int_equal(weights_load(f->m, &f->b, 1, &o, &w, error, sizeof(error)), -ECANCELED);
	assert_int_equal(seen, f->m->config.tensor_bytes);
}

static void the_reference_keeps_nothing(void **state)
{
	struct fixture *f = *state;
	struct weights *w;

	backend_free(f->b);
	assert_int_equal(backend_new_reference(1, &f->b), 0);
	w = load(f, &f->place);
	assert_null(w->packed);
	assert_false(packed_wanted(&f->place, w));
	weights_free(w);
}

static void small_models_are_not_kept(void **state)
{
	struct fixture *f = *state;
	struct weights *w = load(f, &f->place);

	assert_true(w->bytes < PACKED_MIN_BYTES);
	assert_false(packed_wanted(&f->place, w));
	weights_free(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_kept_is_what_was_packed),
		TEST(a_folder_in_memory_does),
		TEST(quantised_weights_have_a_file_of_their_own),
		TEST(another_version_of_the_model_is_not_taken),
		TEST(a_damaged_head_is_not_taken),
		TEST(entries_outside_the_file_are_not_taken),
		TEST(a_tensor_that_is_not_there_is_packed),
		TEST(what_others_could_write_is_not_taken),
		TEST(a_writer_that_is_stopped_leaves_nothing),
		TEST(two_writers_do_not_meet),
		TEST(the_sweep_removes_what_is_of_no_use),
		TEST(a_load_that_is_cancelled_is),
		TEST(the_reference_keeps_nothing),
		TEST(small_models_are_not_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
