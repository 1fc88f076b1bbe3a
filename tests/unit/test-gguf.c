/* engine/gguf: what a well-formed file gives, and that each known hole is refused with a sentence
 * naming the key or tensor. Files are built here byte by byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/gguf.h"
#include "engine/limits.h"

struct file {
	uint8_t bytes[1 << 16];
	size_t n;
};

static void put(struct file *f, const void *p, size_t n)
{
	assert_true(f->n + n <= sizeof(f->bytes));
	if (n > 0)
		memcpy(f->bytes + f->n, p, n);
	f->n += n;
}

static void put_u8(struct file *f, uint8_t v)
{
	put(f, &v, 1);
}

static void put_u32(struct file *f, uint32_t v)
{
	put(f, &v, 4);
}

static void put_u64(struct file *f, uint64_t v)
{
	put(f, &v, 8);
}

static void put_f32(struct file *f, float v)
{
	put(f, &v, 4);
}

static void put_string(struct file *f, const char *s)
{
	put_u64(f, strlen(s));
	put(f, s, strlen(s));
}

static void begin(struct file *f, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
	f->n = 0;
	put(f, "GGUF", 4);
	put_u32(f, version);
	put_u64(f, n_tensors);
	put_u64(f, n_keys);
}

static void key(struct file *f, const char *name, uint32_t type)
{
	put_string(f, name);
	put_u32(f, type);
}

static void array(struct file *f, const char *name, uint32_t element, uint64_t n)
{
	key(f, name, GGUF_ARRAY);
	put_u32(f, element);
	put_u64(f, n);
}

/* n_dims of the dims are written. */
static void tensor(struct file *f, const char *name, uint32_t n_dims, const uint64_t *dims,
	uint32_t type, uint64_t offset)
{
	uint32_t d;

	put_string(f, name);
	put_u32(f, n_dims);
	for (d = 0; d < n_dims; d++)
		put_u64(f, dims[d]);
	put_u32(f, type);
	put_u64(f, offset);
}

static void pad(struct file *f, size_t alignment)
{
	while (f->n % alignment)
		put_u8(f, 0);
}

static void data(struct file *f, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		put_u8(f, (uint8_t)i);
}

static int open_bytes(const struct file *f, struct gguf **ret, char error[256])
{
	int fd = memfd_create("gguf", MFD_CLOEXEC), r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, f->bytes, f->n), f->n);
	error[0] = '\0';
	r = gguf_open_fd(fd, ret, error, 256);
	close(fd);
	return r;
}

static struct gguf *accept(const struct file *f)
{
	struct gguf *g = NULL;
	char error[256];
	int r = open_bytes(f, &g, error);

	if (r < 0)
		fail_msg("refused: %s", error);
	return g;
}

/* The file is refused with that error, and its sentence holds both words. The output is left alone.
 */
static void refuse(const struct file *f, int r, const char *a, const char *b)
{
	struct gguf *const untouched = (struct gguf *)0x1;
	struct gguf *g = untouched;
	char error[256];

	assert_int_equal(open_bytes(f, &g, error), r);
	assert_ptr_equal(g, untouched);
	if (!strstr(error, a) || !strstr(error, b))
		fail_msg("\"%s\" names neither \"%s\" nor \"%s\"", error, a, b);
}

static const uint64_t dims_4x2[] = {4, 2};

/* A file with one key of each kind and two tensors. */
static void sample(struct file *f, uint32_t version)
{
	begin(f, version, 2, 9);
	key(f, "a.u8", GGUF_U8), put_u8(f, 200);
	key(f, "a.i64", GGUF_I64), put_u64(f, (uint64_t)-5);
	key(f, "a.u64", GGUF_U64), put_u64(f, UINT64_MAX);
	key(f, "a.f32", GGUF_F32), put_f32(f, 0.25f);
	key(f, "a.bool", GGUF_BOOL), put_u8(f, 1);
	key(f, "a.string", GGUF_STRING), put_string(f, "text");
	array(f, "a.strings", GGUF_STRING, 3), put_string(f, "x"), put_string(f, ""),
		put_string(f, "zz");
	array(f, "a.f32s", GGUF_F32, 2), put_f32(f, 1), put_f32(f, -2);
	array(f, "a.i8s", GGUF_I8, 3), put_u8(f, 1), put_u8(f, 0xff), put_u8(f, 0x80);
	tensor(f, "one", 2, dims_4x2, DTYPE_F32, 0);
	tensor(f, "two", 1, dims_4x2, DTYPE_F16, 32);
	pad(f, 32);
	data(f, 40);
}

static void versions_2_and_3_are_read(void **state)
{
	static struct file f;
	struct slice s;
	struct gguf *g;
	uint32_t version;
	uint64_t u;
	double d;
	bool b;

	for (version = 2; version <= 3; version++) {
		sample(&f, version);
		g = accept(&f);
		assert_int_equal(gguf_n_keys(g), 9);
		assert_int_equal(gguf_file_bytes(g), f.n);
		assert_memory_equal(gguf_key_at(g, 8).text, "a.i8s", 5);
		assert_true(gguf_has(g, "a.u8"));
		assert_false(gguf_has(g, "a.u"));
		assert_int_equal(gguf_get_u64(g, "a.u8", &u), 0);
		assert_int_equal(u, 200);
		assert_int_equal(gguf_get_u64(g, "a.u64", &u), 0);
		assert_true(u == UINT64_MAX);
		assert_int_equal(gguf_get_f64(g, "a.f32", &d), 0);
		assert_true(d == 0.25);
		assert_int_equal(gguf_get_f64(g, "a.i64", &d), 0);
		assert_true(d == -5);
		assert_int_equal(gguf_get_bool(g, "a.bool", &b), 0);
		assert_true(b);
		assert_int_equal(gguf_get_string(g, "a.string", &s), 0);
		assert_int_equal(s.len, 4);
		assert_memory_equal(s.text, "text", 4);
		gguf_close(g);
	}
}

static void a_value_of_another_type_is_einval_and_a_missing_one_enoent(void **state)
{
	static struct file f;
	struct gguf_strings *strings;
	struct slice s;
	struct gguf *g;
	uint64_t u = 7;
	int32_t *i32s;
	float *f32s;
	size_t n;
	double d;
	bool b;

	sample(&f, 3);
	g = accept(&f);
	assert_int_equal(gguf_get_u64(g, "none", &u), -ENOENT);
	assert_int_equal(gguf_get_u64(g, "a.i64", &u), -EINVAL);
	assert_int_equal(gguf_get_u64(g, "a.f32", &u), -EINVAL);
	assert_int_equal(gguf_get_u64(g, "a.bool", &u), -EINVAL);
	assert_int_equal(gguf_get_u64(g, "a.i8s", &u), -EINVAL);
	assert_int_equal(u, 7);
	assert_int_equal(gguf_get_f64(g, "a.string", &d), -EINVAL);
	assert_int_equal(gguf_get_bool(g, "a.u8", &b), -EINVAL);
	assert_int_equal(gguf_get_string(g, "a.strings", &s), -EINVAL);
	assert_int_equal(gguf_get_strings(g, "a.string", &strings), -EINVAL);
	assert_int_equal(gguf_get_strings(g, "a.f32s", &strings), -EINVAL);
	assert_int_equal(gguf_get_f32s(g, "a.strings", &f32s, &n), -EINVAL);
	assert_int_equal(gguf_get_i32s(g, "a.f32s", &i32s, &n), -EINVAL);
	assert_int_equal(gguf_get_i32s(g, "none", &i32s, &n), -ENOENT);
	gguf_close(g);
}

static void arrays_are_indexed(void **state)
{
	static struct file f;
	struct gguf_strings *strings;
	struct gguf *g;
	int32_t *i32s;
	float *f32s;
	size_t n;

	sample(&f, 3);
	g = accept(&f);
	assert_int_equal(gguf_get_strings(g, "a.strings", &strings), 0);
	assert_int_equal(gguf_strings_count(strings), 3);
	assert_int_equal(gguf_strings_at(strings, 0).len, 1);
	assert_int_equal(gguf_strings_at(strings, 1).len, 0);
	assert_memory_equal(gguf_strings_at(strings, 2).text, "zz", 2);
	gguf_strings_free(strings);
	assert_int_equal(gguf_get_f32s(g, "a.f32s", &f32s, &n), 0);
	assert_int_equal(n, 2);
	assert_true(f32s[0] == 1 && f32s[1] == -2);
	free(f32s);
	assert_int_equal(gguf_get_i32s(g, "a.i8s", &i32s, &n), 0);
	assert_int_equal(n, 3);
	assert_true(i32s[0] == 1 && i32s[1] == -1 && i32s[2] == -128);
	free(i32s);
	gguf_close(g);
}

static void integers_beyond_i32_are_refused(void **state)
{
	static const struct {
		int64_t v;
		int r;
	} cases[] = {{INT32_MAX, 0}, {INT32_MIN, 0}, {INT32_MAX + 1ll, -EINVAL},
		{INT32_MIN - 1ll, -EINVAL}, {INT64_MIN, -EINVAL}};
	static struct file f;
	struct gguf *g;
	int32_t *v;
	size_t i, n;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		begin(&f, 3, 0, 1);
		array(&f, "k", GGUF_I64, 1), put_u64(&f, (uint64_t)cases[i].v);
		g = accept(&f);
		assert_int_equal(gguf_get_i32s(g, "k", &v, &n), cases[i].r);
		if (cases[i].r == 0) {
			assert_true(v[0] == cases[i].v);
			free(v);
		}
		gguf_close(g);
	}
}

static void tensors_are_found_by_name_and_place(void **state)
{
	static struct file f;
	const struct gguf_tensor *t;
	struct gguf *g;

	sample(&f, 3);
	g = accept(&f);
	assert_int_equal(gguf_n_tensors(g), 2);
	t = gguf_tensor(g, "two");
	assert_ptr_equal(t, gguf_tensor_at(g, 1));
	assert_int_equal(t->dtype, DTYPE_F16);
	assert_int_equal(t->bytes, 8);
	assert_int_equal(t->dims[0], 4);
	assert_int_equal(t->dims[1], 1);
	assert_int_equal(((const uint8_t *)t->data)[0], 32);
	assert_null(gguf_tensor(g, "tw"));
	assert_null(gguf_tensor(g, "twoo"));
	gguf_close(g);
}

static void a_thousand_keys_are_found(void **state)
{
	static struct file f;
	struct gguf *g;
	char name[16];
	uint64_t v;
	unsigned i;

	begin(&f, 3, 0, 1000);
	for (i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "key.%u", i);
		key(&f, name, GGUF_U32), put_u32(&f, i * 3);
	}
	g = accept(&f);
	for (i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "key.%u", i);
		assert_int_equal(gguf_get_u64(g, name, &v), 0);
		assert_int_equal(v, i * 3);
	}
	assert_false(gguf_has(g, "key.1000"));
	gguf_close(g);
}

static void an_empty_file_and_another_format_are_refused(void **state)
{
	static struct file f;

	f.n = 0;
	refuse(&f, -EINVAL, "GGUF", "0 bytes");
	f.n = 3;
	refuse(&f, -EINVAL, "GGUF", "3 bytes");
	sample(&f, 3);
	f.bytes[3] = 'X';
	refuse(&f, -EINVAL, "GGUF", "first four");
}

static void other_versions_are_refused(void **state)
{
	static struct file f;

	sample(&f, 1);
	refuse(&f, -ENOTSUP, "version", "found 1");
	sample(&f, 4);
	refuse(&f, -ENOTSUP, "version", "found 4");
	sample(&f, 0x03000000);
	refuse(&f, -ENOTSUP, "version", "big-endian");
}

static void counts_beyond_the_file_are_refused(void **state)
{
	static const uint64_t counts[] = {1, 1000, GGUF_KEYS_MAX + 1, UINT32_MAX, UINT64_MAX};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		begin(&f, 3, 0, counts[i]);
		refuse(&f, -EINVAL, "keys", "count");
		begin(&f, 3, counts[i], 0);
		refuse(&f, -EINVAL, "tensors", "count");
	}
}

static void a_key_longer_than_the_file_is_refused(void **state)
{
	static const uint64_t lengths[] = {20, UINT32_MAX, UINT64_MAX, UINT64_MAX - 7};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		begin(&f, 3, 0, 1);
		put_u64(&f, lengths[i]);
		data(&f, 19);
		refuse(&f, -EINVAL, "key 0 of 1", "name");
	}
}

static void a_name_of_no_or_too_many_bytes_is_refused(void **state)
{
	static struct file f;
	static char name[GGUF_NAME_BYTES_MAX - 99];

	begin(&f, 3, 0, 1);
	key(&f, "", GGUF_U32), put_u32(&f, 1);
	data(&f, 8);
	refuse(&f, -EINVAL, "key 0 of 1", "0 bytes");
	begin(&f, 3, 1, 0);
	tensor(&f, "", 1, dims_4x2, DTYPE_F32, 0);
	data(&f, 64);
	refuse(&f, -EINVAL, "tensor 0 of 1", "0 bytes");
	memset(name, 'n', sizeof(name) - 1);
	begin(&f, 3, 0, 1);
	key(&f, name, GGUF_U32), put_u32(&f, 1);
	gguf_close(accept(&f));
}

static void a_string_longer_than_the_file_is_refused(void **state)
{
	static struct file f;

	begin(&f, 3, 0, 1);
	key(&f, "general.name", GGUF_STRING), put_u64(&f, 5), data(&f, 4);
	refuse(&f, -EINVAL, "general.name", "longer than the file");
	begin(&f, 3, 0, 1);
	key(&f, "general.name", GGUF_STRING), put_u64(&f, UINT64_MAX - 3), data(&f, 4);
	refuse(&f, -EINVAL, "general.name", "longer than the file");
}

static void value_types_are_checked(void **state)
{
	static const uint32_t types[] = {13, 255, UINT32_MAX};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(*types); i++) {
		begin(&f, 3, 0, 1);
		key(&f, "k.type", types[i]), put_u64(&f, 0);
		refuse(&f, -EINVAL, "k.type", "type");
		begin(&f, 3, 0, 1);
		array(&f, "k.array", types[i], 1), put_u64(&f, 0);
		refuse(&f, -EINVAL, "k.array", "element type");
	}
}

static void arrays_of_arrays_are_refused(void **state)
{
	static struct file f;

	begin(&f, 3, 0, 1);
	array(&f, "k", GGUF_ARRAY, 1), put_u32(&f, GGUF_U8), put_u64(&f, 0);
	refuse(&f, -ENOTSUP, "key k", "element type 9");
}

static void array_counts_beyond_the_file_are_refused(void **state)
{
	static const uint64_t counts[] = {3, UINT64_MAX, UINT64_MAX / 4 + 2, UINT64_MAX / 8 + 2};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		begin(&f, 3, 0, 1);
		array(&f, "k.numbers", GGUF_U32, counts[i]), put_u64(&f, 0);
		refuse(&f, -EINVAL, "k.numbers", "remain");
		begin(&f, 3, 0, 1);
		array(&f, "k.strings", GGUF_STRING, counts[i]), put_u64(&f, 0), put_u64(&f, 0);
		refuse(&f, -EINVAL, "k.strings", "");
	}
}

static void a_boolean_is_0_or_1(void **state)
{
	static struct file f;

	begin(&f, 3, 0, 1);
	key(&f, "k", GGUF_BOOL), put_u8(&f, 2);
	refuse(&f, -EINVAL, "key k", "found 2");
	begin(&f, 3, 0, 1);
	array(&f, "k", GGUF_BOOL, 2), put_u8(&f, 1), put_u8(&f, 255);
	refuse(&f, -EINVAL, "key k", "found 255");
}

static void a_key_stands_once(void **state)
{
	static struct file f;

	begin(&f, 3, 0, 2);
	key(&f, "twice", GGUF_U8), put_u8(&f, 1);
	key(&f, "twice", GGUF_U32), put_u32(&f, 1);
	refuse(&f, -EINVAL, "key twice", "once");
}

static void a_tensor_stands_once(void **state)
{
	static struct file f;

	begin(&f, 3, 2, 0);
	tensor(&f, "w", 1, dims_4x2, DTYPE_F32, 0);
	tensor(&f, "w", 1, dims_4x2, DTYPE_F32, 32);
	pad(&f, 32);
	data(&f, 64);
	refuse(&f, -EINVAL, "tensor w", "once");
}

static void dimensions_are_1_to_4(void **state)
{
	static const uint64_t dims[5] = {1, 1, 1, 1, 1};
	static struct file f;
	uint32_t n;

	for (n = 0; n <= 5; n++) {
		begin(&f, 3, 1, 0);
		tensor(&f, "w", n, dims, DTYPE_F32, 0);
		pad(&f, 32);
		data(&f, 32);
		if (n == 0 || n == 5)
			refuse(&f, -EINVAL, "tensor w", "1 to 4 dimensions");
		else
			gguf_close(accept(&f));
	}
	begin(&f, 3, 1, 0);
	put_string(&f, "w");
	put_u32(&f, UINT32_MAX);
	data(&f, 64);
	refuse(&f, -EINVAL, "tensor w", "1 to 4 dimensions");
}

static void dimensions_do_not_wrap(void **state)
{
	static const uint64_t dims[][4] = {
		{UINT64_MAX, 1, 1, 1},
		{INT64_MAX, 2, 1, 1},
		{1ull << 32, 1ull << 32, 1, 1},
		{1ull << 32, 1ull << 32, 1ull << 32, 1ull << 32},
		{4, 1ull << 62, 1, 1},
		{1ull << 61, 2, 2, 1},
		{4, 0, 1, 1},
		{0, 1, 1, 1},
	};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(dims) / sizeof(*dims); i++) {
		begin(&f, 3, 1, 0);
		tensor(&f, "wrap", 4, dims[i], DTYPE_F32, 0);
		pad(&f, 32);
		data(&f, 64);
		refuse(&f, -EINVAL, "tensor wrap", "expected");
	}
}

static void tensor_types_are_checked(void **state)
{
	static const uint32_t types[] = {4, 5, 9, 15, 29, 31, 255, UINT32_MAX};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(*types); i++) {
		begin(&f, 3, 1, 0);
		tensor(&f, "w", 1, dims_4x2, types[i], 0);
		pad(&f, 32);
		data(&f, 64);
		refuse(&f, -ENOTSUP, "tensor w", "found type");
	}
}

static void rows_are_whole_blocks(void **state)
{
	static const uint64_t dims[] = {255, 1};
	static struct file f;

	begin(&f, 3, 1, 0);
	tensor(&f, "w", 2, dims, DTYPE_Q4_K, 0);
	pad(&f, 32);
	data(&f, 256);
	refuse(&f, -EINVAL, "tensor w", "multiple of 256");
}

static void data_lies_in_the_file(void **state)
{
	static const uint64_t offsets[] = {32, 64, 1ull << 40, UINT64_MAX - 31};
	static struct file f;
	size_t i;

	/* 32 bytes of data at 0 in a section of 32 fit; one byte less does not */
	begin(&f, 3, 1, 0);
	tensor(&f, "w", 2, dims_4x2, DTYPE_F32, 0);
	pad(&f, 32);
	data(&f, 32);
	gguf_close(accept(&f));
	f.n--;
	refuse(&f, -EINVAL, "tensor w", "complete");
	for (i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		begin(&f, 3, 1, 0);
		tensor(&f, "w", 2, dims_4x2, DTYPE_F32, offsets[i]);
		pad(&f, 32);
		data(&f, 32);
		refuse(&f, -EINVAL, "tensor w", "offset");
	}
}

static void offsets_are_aligned(void **state)
{
	static struct file f;

	begin(&f, 3, 1, 0);
	tensor(&f, "w", 1, dims_4x2, DTYPE_F32, 16);
	pad(&f, 32);
	data(&f, 64);
	refuse(&f, -EINVAL, "tensor w", "multiple of 32");
}

static void tensors_do_not_overlap(void **state)
{
	static struct file f;

	begin(&f, 3, 2, 0);
	tensor(&f, "below", 2, dims_4x2, DTYPE_F32, 0);
	tensor(&f, "above", 1, dims_4x2, DTYPE_F32, 0);
	pad(&f, 32);
	data(&f, 64);
	refuse(&f, -EINVAL, "tensor", "inside that of");
}

static void alignment_is_a_bounded_power_of_two(void **state)
{
	static const uint32_t bad[] = {0, 3, 33, 2 * GGUF_ALIGNMENT_MAX, 1u << 31, UINT32_MAX};
	static const uint32_t good[] = {1, 8, 64, 4096};
	static struct file f;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		begin(&f, 3, 0, 1);
		key(&f, "general.alignment", GGUF_U32), put_u32(&f, bad[i]);
		refuse(&f, -EINVAL, "general.alignment", "power of two");
	}
	begin(&f, 3, 0, 1);
	key(&f, "general.alignment", GGUF_U64), put_u64(&f, 32);
	refuse(&f, -EINVAL, "general.alignment", "u32");
	for (i = 0; i < sizeof(good) / sizeof(*good); i++) {
		begin(&f, 3, 1, 1);
		key(&f, "general.alignment", GGUF_U32), put_u32(&f, good[i]);
		tensor(&f, "w", 1, dims_4x2, DTYPE_F32, 0);
		pad(&f, good[i]);
		data(&f, 16);
		gguf_close(accept(&f));
	}
}

static void names_from_the_file_reach_a_message_printable(void **state)
{
	static struct file f;
	struct gguf *g;
	char error[256];
	size_t i;

	begin(&f, 3, 0, 1);
	key(&f, "\x1b]52;evil\x07\n\xff", 99), put_u64(&f, 0);
	assert_int_equal(open_bytes(&f, &g, error), -EINVAL);
	for (i = 0; error[i]; i++)
		assert_true(error[i] >= 0x20 && error[i] < 0x7f);
	assert_non_null(strstr(error, "?]52;evil???"));
}

static void every_truncation_of_a_header_is_refused(void **state)
{
	static struct file f;
	struct gguf *g;
	char error[256];

	sample(&f, 3);
	for (f.n--; f.n > 0; f.n--) {
		assert_int_equal(open_bytes(&f, &g, error), -EINVAL);
		assert_true(error[0] != '\0');
	}
}

static void only_regular_files_are_mapped(void **state)
{
	char name[] = P_tmpdir "/zeph-test-gguf-XXXXXX", fifo[64], error[256];
	struct gguf *g;

	assert_non_null(mkdtemp(name));
	assert_int_equal(gguf_open(name, &g, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "a directory"));
	snprintf(fifo, sizeof(fifo), "%s/fifo", name);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(gguf_open(fifo, &g, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "special file"));
	unlink(fifo);
	assert_int_equal(gguf_open(fifo, &g, error, sizeof(error)), -ENOENT);
	rmdir(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions_2_and_3_are_read),
		cmocka_unit_test(a_value_of_another_type_is_einval_and_a_missing_one_enoent),
		cmocka_unit_test(arrays_are_indexed),
		cmocka_unit_test(integers_beyond_i32_are_refused),
		cmocka_unit_test(tensors_are_found_by_name_and_place),
		cmocka_unit_test(a_thousand_keys_are_found),
		cmocka_unit_test(an_empty_file_and_another_format_are_refused),
		cmocka_unit_test(other_versions_are_refused),
		cmocka_unit_test(counts_beyond_the_file_are_refused),
		cmocka_unit_test(a_key_longer_than_the_file_is_refused),
		cmocka_unit_test(a_name_of_no_or_too_many_bytes_is_refused),
		cmocka_unit_test(a_string_longer_than_the_file_is_refused),
		cmocka_unit_test(value_types_are_checked),
		cmocka_unit_test(arrays_of_arrays_are_refused),
		cmocka_unit_test(array_counts_beyond_the_file_are_refused),
		cmocka_unit_test(a_boolean_is_0_or_1),
		cmocka_unit_test(a_key_stands_once),
		cmocka_unit_test(a_tensor_stands_once),
		cmocka_unit_test(dimensions_are_1_to_4),
		cmocka_unit_test(dimensions_do_not_wrap),
		cmocka_unit_test(tensor_types_are_checked),
		cmocka_unit_test(rows_are_whole_blocks),
		cmocka_unit_test(data_lies_in_the_file),
		cmocka_unit_test(offsets_are_aligned),
		cmocka_unit_test(tensors_do_not_overlap),
		cmocka_unit_test(alignment_is_a_bounded_power_of_two),
		cmocka_unit_test(names_from_the_file_reach_a_message_printable),
		cmocka_unit_test(every_truncation_of_a_header_is_refused),
		cmocka_unit_test(only_regular_files_are_mapped),
	};

	return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
