/* One safetensors file: mapped, its header checked against the file's length before a byte of data
 * is believed. struct safetensors owns the mapping, the parsed header and the list. */
#include "engine/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "engine/json.h"
#include "engine/limits.h"

#define HEADER_BYTES_MAX 100000000u
#define LENGTH_BYTES     8u

static const struct {
	const char *name;
	enum dtype dtype;
} types[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};

/* A non-negative integer; false for anything else. */
static bool take_size(const json_t *v, uint64_t *ret)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(v);
	return true;
}

static int take_type(const char *file, const char *key, const json_t *info, struct source_tensor *t,
	const struct model_refusal *why)
{
	const json_t *dtype = json_object_get(info, "dtype");
	size_t i;

	if (!json_is_string(dtype))
		return model_refuse(
			why, -EINVAL, "%s: tensor %.100s: dtype: a string expected", file, key);
	for (i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (strcmp(types[i].name, json_string_value(dtype)) == 0) {
			t->dtype = types[i].dtype;
			return 0;
		}
	return model_refuse(why, -ENOTSUP,
		"%s: tensor %.100s: F32, F16 or BF16 expected, found \"%.20s\", which is not "
		"implemented",
		file, key, json_string_value(dtype));
}

/* dims and bytes from the shape, which lists the outermost first. */
static int take_shape(const char *file, const char *key, const json_t *info,
	struct source_tensor *t, const struct model_refusal *why)
{
	const json_t *shape = json_object_get(info, "shape");
	size_t n = json_array_size(shape), i;
	uint64_t dim, bytes = dtype_info(t->dtype)->block_bytes;

	if (!json_is_array(shape) || n > 4)
		return model_refuse(why, -EINVAL,
			"%s: tensor %.100s: shape: a list of at most 4 sizes expected", file, key);
	t->n_dims = (uint32_t)n;
	for (i = 0; i < 4; i++)
		t->dims[i] = 1;
	for (i = 0; i < n; i++) {
		if (!take_size(json_array_get(shape, i), &dim) ||
			__builtin_mul_overflow(bytes, dim, &bytes))
			return model_refuse(why, -EINVAL,
				"%s: tensor %.100s: shape: sizes whose product fits expected", file,
				key);
		t->dims[n - 1 - i] = dim;
	}
	t->bytes = bytes;
	return 0;
}

static int take_tensor(const struct safetensors *s, size_t data, const char *file, const char *key,
	const json_t *info, struct source_tensor *t, const struct model_refusal *why)
{
	static const char *const members[] = {"dtype", "shape", "data_offsets", NULL};
	const json_t *offsets = json_object_get(info, "data_offsets");
	uint64_t begin, end;
	int r;

	if (!json_is_object(info))
		return model_refuse(
			why, -EINVAL, "%s: tensor %.100s: an object expected", file, key);
	if ((r = json_only(info, file, key, members, why)) < 0 ||
		(r = take_type(file, key, info, t, why)) < 0 ||
		(r = take_shape(file, key, info, t, why)) < 0)
		return r;
	if (json_array_size(offsets) != 2 || !take_size(json_array_get(offsets, 0), &begin) ||
		!take_size(json_array_get(offsets, 1), &end) || begin > end ||
		end > s->map_bytes - data)
		return model_refuse(why, -EINVAL,
			"%s: tensor %.100s: data_offsets: [begin, end] within the %zu bytes of data "
			"expected (is the file complete?)",
			file, key, s->map_bytes - data);
	if (end - begin != t->bytes)
		return model_refuse(why, -EINVAL,
			"%s: tensor %.100s: %zu bytes expected for its shape and type, found %llu",
			file, key, t->bytes, (unsigned long long)(end - begin));
	t->name = (struct slice){key, strlen(key)};
	t->data = s->map + data + begin;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct source_tensor *x = a, *y = b;

	if (x->data != y->data)
		return (const char *)x->data < (const char *)y->data ? -1 : 1;
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The tensors lie end to end and fill the data. */
static int check_layout(
	const struct safetensors *s, size_t data, const char *file, const struct model_refusal *why)
{
	const char *at = s->map + data;
	size_t i;

	for (i = 0; i < s->n; at = (const char *)s->tensors[i].data + s->tensors[i].bytes, i++)
		if (s->tensors[i].data != at)
			return model_refuse(why, -EINVAL,
				"%s: tensor %.100s: data from offset %td expected, where the one "
				"before ends, found %td",
				file, s->tensors[i].name.text, at - (s->map + data),
				(const char *)s->tensors[i].data - (s->map + data));
	if (at != s->map + s->map_bytes)
		return model_refuse(why, -EINVAL,
			"%s: data up to the end of the file expected, found %td bytes that no "
			"tensor has",
			file, s->map + s->map_bytes - at);
	return 0;
}

static int check_metadata(const char *file, json_t *metadata, const struct model_refusal *why)
{
	const char *key;
	json_t *value;

	if (!json_is_object(metadata))
		return model_refuse(why, -EINVAL, "%s: __metadata__: an object expected", file);
	json_object_foreach(metadata, key, value)
	{
		if (!json_is_string(value))
			return model_refuse(why, -EINVAL,
				"%s: __metadata__: %.80s: a string expected", file, key);
	}
	return 0;
}

static int parse(struct safetensors *s, const char *file, const struct model_refusal *why)
{
	uint64_t header_bytes = 0;
	size_t data, n;
	const char *key;
	json_t *info;
	unsigned i;
	int r;

	for (i = 0; i < LENGTH_BYTES; i++)
		header_bytes |= (uint64_t)(uint8_t)s->map[i] << 8 * i;
	if (header_bytes > HEADER_BYTES_MAX || header_bytes > s->map_bytes - LENGTH_BYTES)
		return model_refuse(why, -EINVAL,
			"%s: a header of at most %u and the file's %zu bytes expected, found %llu "
			"(is the file complete?)",
			file, HEADER_BYTES_MAX, s->map_bytes, (unsigned long long)header_bytes);
	if (header_bytes < 2 || s->map[LENGTH_BYTES] != '{')
		return model_refuse(why, -EINVAL,
			"%s: not a safetensors file: its header begins no object", file);
	data = LENGTH_BYTES + (size_t)header_bytes;
	r = json_read(s->map + LENGTH_BYTES, (size_t)header_bytes, file, &s->header, why);
	if (r < 0)
		return r;
	n = json_object_size(s->header);
	if (n > MODEL_TENSORS_MAX)
		return model_refuse(why, -EINVAL, "%s: at most %d tensors expected, found %zu",
			file, MODEL_TENSORS_MAX, n);
	s->tensors = calloc(n ? n : 1, sizeof(*s->tensors));
	if (!s->tensors)
		return model_refuse(why, -ENOMEM, "%s: no memory for %zu tensors", file, n);
	json_object_foreach(s->header, key, info)
	{
		if (strcmp(key, "__metadata__") == 0) {
			r = check_metadata(file, info, why);
			if (r < 0)
				return r;
			continue;
		}
		r = take_tensor(s, data, file, key, info, &s->tensors[s->n], why);
		if (r < 0)
			return r;
		s->n++;
	}
	qsort(s->tensors, s->n, sizeof(*s->tensors), by_offset);
	return check_layout(s, data, file, why);
}

int safetensors_open_fd(
	int fd, const char *name, struct safetensors **ret, const struct model_refusal *why)
{
	struct safetensors *s;
	struct stat st;
	void *map;
	int r;

	if (fstat(fd, &st) < 0)
		return model_refuse(why, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return model_refuse(why, -EINVAL, "%s: a regular file expected", name);
	if (st.st_size < (off_t)LENGTH_BYTES)
		return model_refuse(why, -EINVAL, "%s: not a safetensors file: it has %lld bytes",
			name, (long long)st.st_size);
	if ((uint64_t)st.st_size > SIZE_MAX / 2)
		return model_refuse(why, -EFBIG, "%s does not fit the address space", name);
	s = calloc(1, sizeof(*s));
	if (!s)
		return model_refuse(why, -ENOMEM, "%s: no memory", name);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED) {
		r = model_refuse(why, -errno, "%s: mmap: %s", name, strerror(errno));
		free(s);
		return r;
	}
	s->map = map;
	s->map_bytes = (size_t)st.st_size;
	r = parse(s, name, why);
	if (r < 0) {
		safetensors_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct safetensors *safetensors_close(struct safetensors *s)
{
	if (!s)
		return NULL;
	munmap((void *)s->map, s->map_bytes);
	json_decref(s->header);
	free(s->tensors);
	free(s);
	return NULL;
}
