/* GGUF files: the one place that reads their bytes.
 *
 * A file is hostile until proven otherwise: parsing walks the header once with a cursor that knows
 * how many bytes remain, and everything it accepts is safe to use without further checks. struct
 * gguf owns the mapping and the tables of keys and tensors with a hash index over each; strings,
 * array elements and tensor data stay in the mapping. What a value means is gguf_value.c's. */
#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gguf_file.h"
#include "engine/limits.h"

#define GGUF_ALIGNMENT_DEFAULT 32
#define ENTRY_BYTES_MIN        (8 + 1 + 4 + 1)         /* key length, key, type, value */
#define TENSOR_BYTES_MIN       (8 + 1 + 4 + 8 + 4 + 8) /* name, n_dims, one dim, type, offset */

/* What is left to read, and where to say why it cannot be read. */
struct cursor {
	const uint8_t *at;
	const uint8_t *end;
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 3, 4))) static int refuse(
	const struct cursor *c, int r, const char *format, ...)
{
	va_list args;

	if (c->error_size > 0) {
		va_start(args, format);
		vsnprintf(c->error, c->error_size, format, args);
		va_end(args);
	}
	return r;
}

/* A name as a message may show it: printable ASCII, cut to what fits. */
struct shown {
	char text[68];
};

static struct shown show(struct slice s)
{
	struct shown r;
	size_t i, n = s.len < 64 ? s.len : 64;

	for (i = 0; i < n; i++)
		r.text[i] = s.text[i] >= 0x20 && s.text[i] < 0x7f ? s.text[i] : '?';
	if (s.len > n) {
		memcpy(r.text + n, "...", 3);
		n += 3;
	}
	r.text[n] = '\0';
	return r;
}

static size_t remaining(const struct cursor *c)
{
	return (size_t)(c->end - c->at);
}

static uint32_t load_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t load_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static bool take_u32(struct cursor *c, uint32_t *ret)
{
	if (remaining(c) < 4)
		return false;
	*ret = load_u32(c->at);
	c->at += 4;
	return true;
}

static bool take_u64(struct cursor *c, uint64_t *ret)
{
	if (remaining(c) < 8)
		return false;
	*ret = load_u64(c->at);
	c->at += 8;
	return true;
}

static bool take_string(struct cursor *c, struct slice *ret)
{
	uint64_t len;

	if (!take_u64(c, &len) || len > remaining(c))
		return false;
	*ret = (struct slice){(const char *)c->at, (size_t)len};
	c->at += len;
	return true;
}

/* Bytes of a scalar of the type; 0 for strings, arrays and numbers that are no type. */
static size_t scalar_bytes(uint32_t type)
{
	switch (type) {
	case GGUF_U8:
	case GGUF_I8:
	case GGUF_BOOL: return 1;
	case GGUF_U16:
	case GGUF_I16: return 2;
	case GGUF_U32:
	case GGUF_I32:
	case GGUF_F32: return 4;
	case GGUF_U64:
	case GGUF_I64:
	case GGUF_F64: return 8;
	default: return 0;
	}
}

/* FNV-1a from a seed that a file's author cannot know, finished by a mix of the high bits. */
static uint64_t hash_name(uint64_t seed, const char *text, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u ^ seed;
	size_t i;

	for (i = 0; i < len; i++)
		h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93u;
	return h ^ h >> 32;
}

static bool index_new(struct gguf_index *x, size_t n)
{
	size_t slots = 16;

	while (slots < 2 * n)
		slots *= 2;
	x->slots = calloc(slots, sizeof(*x->slots));
	x->mask = slots - 1;
	return x->slots != NULL;
}

static bool same(struct slice a, const char *text, size_t len)
{
	return a.len == len && memcmp(a.text, text, len) == 0;
}

/* The slot of that key or tensor name: taken by it, or empty. */
static uint32_t *find_key(const struct gguf *g, const char *text, size_t len)
{
	size_t i = hash_name(g->hash_seed, text, len) & g->keys.mask;

	while (g->keys.slots[i] && !same(g->entries[g->keys.slots[i] - 1].key, text, len))
		i = (i + 1) & g->keys.mask;
	return &g->keys.slots[i];
}

static uint32_t *find_name(const struct gguf *g, const char *text, size_t len)
{
	size_t i = hash_name(g->hash_seed, text, len) & g->names.mask;

	while (g->names.slots[i] && !same(g->tensors[g->names.slots[i] - 1].name, text, len))
		i = (i + 1) & g->names.mask;
	return &g->names.slots[i];
}

/* ---- the key-value section ---- */

static int take_array(struct cursor *c, struct gguf_entry *e)
{
	struct shown key = show(e->key);
	struct slice s;
	size_t size;
	uint64_t i;

	if (!take_u32(c, &e->element) || !take_u64(c, &e->count))
		return refuse(
			c, -EINVAL, "key %s: the file ends inside its array header", key.text);
	e->value = c->at;
	if (e->element == GGUF_STRING) {
		if (e->count > remaining(c) / 8)
			return refuse(c, -EINVAL,
				"key %s: %llu strings declared, %zu bytes remain in the file",
				key.text, (unsigned long long)e->count, remaining(c));
		for (i = 0; i < e->count; i++)
			if (!take_string(c, &s))
				return refuse(c, -EINVAL,
					"key %s: string %llu of %llu is longer than the file",
					key.text, (unsigned long long)i,
					(unsigned long long)e->count);
		return 0;
	}
	size = scalar_bytes(e->element);
	if (size == 0)
		return refuse(c, e->element == GGUF_ARRAY ? -ENOTSUP : -EINVAL,
			"key %s: an array of numbers, booleans or strings expected, found element "
			"type %u",
			key.text, e->element);
	if (e->count > remaining(c) / size)
		return refuse(c, -EINVAL,
			"key %s: %llu elements of %zu bytes declared, %zu bytes remain in the file",
			key.text, (unsigned long long)e->count, size, remaining(c));
	if (e->element == GGUF_BOOL)
		for (i = 0; i < e->count; i++)
			if (c->at[i] > 1)
				return refuse(c, -EINVAL,
					"key %s: a boolean of 0 or 1 expected, found %u", key.text,
					c->at[i]);
	c->at += e->count * size;
	return 0;
}

static int take_entry(struct cursor *c, struct gguf_entry *e, size_t i, size_t n)
{
	struct slice s;
	struct shown key;
	size_t size;

	if (!take_string(c, &e->key))
		return refuse(c, -EINVAL,
			"key %zu of %zu: the file ends inside its name (%zu bytes remain)", i, n,
			remaining(c));
	key = show(e->key);
	if (e->key.len == 0 || e->key.len > GGUF_NAME_BYTES_MAX)
		return refuse(c, -EINVAL,
			"key %zu of %zu: a name of 1 to %d bytes expected, found %zu bytes", i, n,
			GGUF_NAME_BYTES_MAX, e->key.len);
	if (!take_u32(c, &e->type))
		return refuse(c, -EINVAL, "key %s: the file ends before its type", key.text);
	e->count = 1;
	e->value = c->at;
	if (e->type == GGUF_ARRAY)
		return take_array(c, e);
	if (e->type == GGUF_STRING) {
		if (!take_string(c, &s))
			return refuse(
				c, -EINVAL, "key %s: its string is longer than the file", key.text);
		return 0;
	}
	size = scalar_bytes(e->type);
	if (size == 0)
		return refuse(c, -EINVAL, "key %s: a value type of 0 to 12 expected, found %u",
			key.text, e->type);
	if (remaining(c) < size)
		return refuse(c, -EINVAL, "key %s: the file ends inside its value", key.text);
	if (e->type == GGUF_BOOL && *c->at > 1)
		return refuse(c, -EINVAL, "key %s: a boolean of 0 or 1 expected, found %u",
			key.text, *c->at);
	c->at += size;
	return 0;
}

static int take_entries(struct gguf *g, struct cursor *c, uint64_t n)
{
	uint32_t *slot;
	size_t i;
	int r;

	if (n > GGUF_KEYS_MAX || n > remaining(c) / ENTRY_BYTES_MIN)
		return refuse(c, -EINVAL,
			"metadata: at most %d keys expected in the %zu bytes that remain, found a "
			"count of %llu",
			GGUF_KEYS_MAX, remaining(c), (unsigned long long)n);
	g->entries = calloc(n ? n : 1, sizeof(*g->entries));
	if (!g->entries || !index_new(&g->keys, n))
		return refuse(c, -ENOMEM, "no memory for %llu keys", (unsigned long long)n);
	g->metadata = c->at;
	for (i = 0; i < n; i++) {
		struct gguf_entry *e = &g->entries[i];

		r = take_entry(c, e, i, n);
		if (r < 0)
			return r;
		slot = find_key(g, e->key.text, e->key.len);
		if (*slot)
			return refuse(c, -EINVAL,
				"key %s: each key expected once, found it as key %u and key %zu",
				show(e->key).text, *slot - 1, i);
		*slot = (uint32_t)i + 1;
		g->n_entries = i + 1;
	}
	g->metadata_bytes = (size_t)(c->at - g->metadata);
	return 0;
}

/* ---- the tensor section ---- */

/* Bytes of a tensor's data: dimensions are multiplied one at a time. */
static bool tensor_size(const struct gguf_tensor *t, size_t *ret)
{
	size_t bytes;
	unsigned d;

	if (!dtype_row_bytes(t->dtype, t->dims[0], &bytes))
		return false;
	for (d = 1; d < t->n_dims; d++)
		if (__builtin_mul_overflow(bytes, t->dims[d], &bytes))
			return false;
	*ret = bytes;
	return true;
}

static int take_tensor(
	struct cursor *c, struct gguf_tensor *t, uint64_t *ret_offset, size_t i, size_t n)
{
	const struct dtype_info *info;
	struct shown name;
	uint64_t elements = 1;
	uint32_t type;
	unsigned d;

	if (!take_string(c, &t->name))
		return refuse(c, -EINVAL,
			"tensor %zu of %zu: the file ends inside its name (%zu bytes remain)", i, n,
			remaining(c));
	name = show(t->name);
	if (t->name.len == 0 || t->name.len > GGUF_NAME_BYTES_MAX)
		return refuse(c, -EINVAL,
			"tensor %zu of %zu: a name of 1 to %d bytes expected, found %zu bytes", i,
			n, GGUF_NAME_BYTES_MAX, t->name.len);
	if (!take_u32(c, &t->n_dims))
		return refuse(c, -EINVAL, "tensor %s: the file ends before its shape", name.text);
	if (t->n_dims < 1 || t->n_dims > 4)
		return refuse(c, -EINVAL, "tensor %s: 1 to 4 dimensions expected, found %u",
			name.text, t->n_dims);
	for (d = 0; d < 4; d++)
		t->dims[d] = 1;
	for (d = 0; d < t->n_dims; d++) {
		if (!take_u64(c, &t->dims[d]))
			return refuse(
				c, -EINVAL, "tensor %s: the file ends inside its shape", name.text);
		if (t->dims[d] == 0 || __builtin_mul_overflow(elements, t->dims[d], &elements) ||
			elements > INT64_MAX)
			return refuse(c, -EINVAL,
				"tensor %s: 1 to 2^63 - 1 elements expected, found dimension %u of %llu",
				name.text, d, (unsigned long long)t->dims[d]);
	}
	if (!take_u32(c, &type) || !take_u64(c, ret_offset))
		return refuse(c, -EINVAL, "tensor %s: the file ends before its type and offset",
			name.text);
	info = dtype_info(type);
	if (!info)
		return refuse(c, -ENOTSUP,
			"tensor %s: a type that zeph reads expected (f32, f16, bf16, q8_0, q4_0, q4_1, "
			"q5_0, q5_1, q2_k … q6_k, iq4_nl, iq4_xs), found type %u",
			name.text, type);
	t->dtype = (enum dtype)type;
	if (!tensor_size(t, &t->bytes))
		return refuse(c, -EINVAL,
			"tensor %s: rows of a multiple of %u elements expected for type %s, found %llu",
			name.text, info->block_elements, info->name,
			(unsigned long long)t->dims[0]);
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a;
	const struct gguf_tensor *y = *(const struct gguf_tensor *const *)b;

	return x->data < y->data ? -1 : x->data > y->data;
}

/* No byte belongs to two tensors: so their sizes together are bounded by the file's. */
static int check_overlap(const struct gguf *g, const struct cursor *c)
{
	const struct gguf_tensor **order;
	size_t i;
	int r = 0;

	order = calloc(g->n_tensors ? g->n_tensors : 1, sizeof(*order));
	if (!order)
		return refuse(c, -ENOMEM, "no memory for %zu tensors", g->n_tensors);
	for (i = 0; i < g->n_tensors; i++)
		order[i] = &g->tensors[i];
	qsort(order, g->n_tensors, sizeof(*order), by_address);
	for (i = 1; i < g->n_tensors && r == 0; i++) {
		const uint8_t *end = (const uint8_t *)order[i - 1]->data + order[i - 1]->bytes;

		if ((const uint8_t *)order[i]->data < end)
			r = refuse(c, -EINVAL,
				"tensor %s: data of its own expected, found it inside that of tensor %s",
				show(order[i]->name).text, show(order[i - 1]->name).text);
	}
	free(order);
	return r;
}

static int take_tensors(struct gguf *g, struct cursor *c, uint64_t n, uint64_t alignment)
{
	uint64_t *offsets = NULL, header, size;
	uint32_t *slot;
	size_t i;
	int r = 0;

	g->tensors = calloc(n ? n : 1, sizeof(*g->tensors));
	offsets = calloc(n ? n : 1, sizeof(*offsets));
	if (!g->tensors || !offsets || !index_new(&g->names, n)) {
		free(offsets);
		return refuse(c, -ENOMEM, "no memory for %llu tensors", (unsigned long long)n);
	}
	for (i = 0; i < n && r == 0; i++) {
		struct gguf_tensor *t = &g->tensors[i];

		r = take_tensor(c, t, &offsets[i], i, n);
		if (r < 0)
			break;
		slot = find_name(g, t->name.text, t->name.len);
		if (*slot)
			r = refuse(c, -EINVAL,
				"tensor %s: each name expected once, found it as tensor %u and tensor %zu",
				show(t->name).text, *slot - 1, i);
		*slot = (uint32_t)i + 1;
		g->n_tensors = i + 1;
	}

	/* The data section begins at the next multiple of the alignment. A file without tensors may
	 * end right behind its header. */
	header = (uint64_t)(c->at - g->map);
	header = (header + alignment - 1) / alignment * alignment;
	size = header <= g->map_bytes ? g->map_bytes - header : 0;
	for (i = 0; i < n && r == 0; i++) {
		struct gguf_tensor *t = &g->tensors[i];

		if (offsets[i] % alignment != 0)
			r = refuse(c, -EINVAL,
				"tensor %s: an offset that is a multiple of %llu expected, found %llu",
				show(t->name).text, (unsigned long long)alignment,
				(unsigned long long)offsets[i]);
		else if (offsets[i] > size || t->bytes > size - offsets[i])
			r = refuse(c, -EINVAL,
				"tensor %s: %zu bytes at offset %llu expected, found a data section of "
				"%llu bytes (is the file complete?)",
				show(t->name).text, t->bytes, (unsigned long long)offsets[i],
				(unsigned long long)size);
		else
			t->data = g->map + header + offsets[i];
	}
	free(offsets);
	return r < 0 ? r : check_overlap(g, c);
}

/* ---- the file ---- */

static int parse(struct gguf *g, struct cursor *c)
{
	uint64_t n_tensors, n_keys, alignment = GGUF_ALIGNMENT_DEFAULT;
	const struct gguf_entry *e;
	uint32_t version, slot;
	int r;

	if (remaining(c) < 4 || memcmp(c->at, "GGUF", 4) != 0)
		return refuse(c, -EINVAL, "not a GGUF file: its first four bytes are not \"GGUF\"");
	c->at += 4;
	if (!take_u32(c, &version))
		return refuse(c, -EINVAL, "the file ends inside its header");
	if (version != 2 && version != 3)
		return refuse(c, -ENOTSUP, "GGUF version 2 or 3 expected, found %u%s", version,
			version == 0x03000000u ? " (a big-endian file)" : "");
	if (!take_u64(c, &n_tensors) || !take_u64(c, &n_keys))
		return refuse(c, -EINVAL, "the file ends inside its header");
	if (n_tensors > GGUF_TENSORS_MAX || n_tensors > remaining(c) / TENSOR_BYTES_MIN)
		return refuse(c, -EINVAL,
			"at most %d tensors expected in the %zu bytes that remain, found a count of "
			"%llu",
			GGUF_TENSORS_MAX, remaining(c), (unsigned long long)n_tensors);
	r = take_entries(g, c, n_keys);
	if (r < 0)
		return r;
	slot = *find_key(g, "general.alignment", strlen("general.alignment"));
	if (slot) {
		e = &g->entries[slot - 1];
		if (e->type != GGUF_U32)
			return refuse(c, -EINVAL,
				"key general.alignment: a u32 expected, found type %u", e->type);
		alignment = load_u32(e->value);
		if (alignment == 0 || alignment > GGUF_ALIGNMENT_MAX ||
			(alignment & (alignment - 1)) != 0)
			return refuse(c, -EINVAL,
				"key general.alignment: a power of two up to %d expected, found %llu",
				GGUF_ALIGNMENT_MAX, (unsigned long long)alignment);
	}
	return take_tensors(g, c, n_tensors, alignment);
}

int gguf_open_fd(int fd, struct gguf **ret, char *error, size_t error_size)
{
	struct cursor c = {.error = error, .error_size = error_size};
	struct gguf *g;
	struct stat st;
	void *map;
	int r;

	if (fstat(fd, &st) < 0)
		return refuse(&c, -errno, "fstat: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return refuse(&c, -EINVAL, "a regular file expected, found %s",
			S_ISDIR(st.st_mode) ? "a directory" : "a special file");
	if (st.st_size < 4)
		return refuse(
			&c, -EINVAL, "not a GGUF file: it has %lld bytes", (long long)st.st_size);
	if ((uint64_t)st.st_size > SIZE_MAX / 2)
		return refuse(&c, -EFBIG, "the file does not fit the address space");

	g = calloc(1, sizeof(*g));
	if (!g)
		return refuse(&c, -ENOMEM, "no memory");
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED) {
		r = refuse(&c, -errno, "mmap: %s", strerror(errno));
		free(g);
		return r;
	}
	g->map = map;
	g->map_bytes = (size_t)st.st_size;
	if (getauxval(AT_RANDOM))
		memcpy(&g->hash_seed, (const void *)getauxval(AT_RANDOM), sizeof(g->hash_seed));
	c.at = g->map;
	c.end = g->map + g->map_bytes;
	r = parse(g, &c);
	if (r < 0) {
		gguf_close(g);
		return r;
	}
	*ret = g;
	return 0;
}

int gguf_open(const char *path, struct gguf **ret, char *error, size_t error_size)
{
	struct cursor c = {.error = error, .error_size = error_size};
	int fd, r;

	/* O_NONBLOCK: a FIFO in a model's place is refused, not waited for. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return refuse(&c, -errno, "cannot open the model file: %s", strerror(errno));
	r = gguf_open_fd(fd, ret, error, error_size);
	close(fd);
	return r;
}

struct gguf *gguf_close(struct gguf *g)
{
	if (!g)
		return NULL;
	if (g->map)
		munmap((void *)g->map, g->map_bytes);
	free(g->entries);
	free(g->tensors);
	free(g->keys.slots);
	free(g->names.slots);
	free(g);
	return NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
	uint32_t slot = *find_name(g, name, strlen(name));

	return slot ? &g->tensors[slot - 1] : NULL;
}

const struct gguf_entry *gguf_entry(const struct gguf *g, const char *key)
{
	uint32_t slot = *find_key(g, key, strlen(key));

	return slot ? &g->entries[slot - 1] : NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return gguf_entry(g, key) != NULL;
}
