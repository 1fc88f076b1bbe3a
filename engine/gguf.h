/* GGUF v2 and v3, read by mmap.
 *
 * Source: the GGUF specification (ggml/docs/gguf.md). Every count and length is checked against the
 * bytes that remain in the file before it is used; nothing is read past the mapping. Keys, names
 * and values point into the mapping and live as long as the struct gguf. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/slice.h"
#include "kernels/dtype.h"

enum gguf_type {
	GGUF_U8,
	GGUF_I8,
	GGUF_U16,
	GGUF_I16,
	GGUF_U32,
	GGUF_I32,
	GGUF_F32,
	GGUF_BOOL,
	GGUF_STRING,
	GGUF_ARRAY,
	GGUF_U64,
	GGUF_I64,
	GGUF_F64,
};

struct gguf_tensor {
	struct slice name;
	enum dtype dtype;
	uint32_t n_dims;
	uint64_t dims[4]; /* innermost first, as in the file; 1 beyond n_dims */
	const void *data; /* in the mapping */
	size_t bytes;
};

struct gguf;

/* Maps and checks a file: regular ones only. On failure returns a negative errno and writes a
 * sentence that names the key or tensor, what was expected and what was found. fd is not kept.
 *
 * A file that shrinks while it is mapped is fatal, not undefined: the next touch of a page behind
 * its end is a SIGBUS. */
int gguf_open_fd(int fd, struct gguf **ret, char *error, size_t error_size);
int gguf_open(const char *path, struct gguf **ret, char *error, size_t error_size);
struct gguf *gguf_close(struct gguf *g); /* accepts NULL, returns NULL */

size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name); /* or NULL */
size_t gguf_file_bytes(const struct gguf *g);

/* The key-value section as the file holds it. */
const void *gguf_metadata(const struct gguf *g, size_t *ret_bytes);

/* Keys in the file's order; i is below gguf_n_keys(). */
size_t gguf_n_keys(const struct gguf *g);
struct slice gguf_key_at(const struct gguf *g, size_t i);
/* Key, type and value as they lie in the file. */
const void *gguf_key_bytes(const struct gguf *g, size_t i, size_t *ret_bytes);
bool gguf_has(const struct gguf *g, const char *key);

/* Scalars: 0, -ENOENT (no such key) or -EINVAL (another type, or out of the range of the result).
 */
int gguf_get_u64(
	const struct gguf *g, const char *key, uint64_t *ret); /* any non-negative integer type */
int gguf_get_f64(const struct gguf *g, const char *key, double *ret); /* any number */
int gguf_get_bool(const struct gguf *g, const char *key, bool *ret);
int gguf_get_string(const struct gguf *g, const char *key, struct slice *ret);

/* Arrays of strings and of numbers. Element access is O(1) and bounds-checked by an assertion. */
struct gguf_strings; /* an index over an array of strings */
int gguf_get_strings(
	const struct gguf *g, const char *key, struct gguf_strings **ret); /* or -ENOMEM */
size_t gguf_strings_count(const struct gguf_strings *a);
struct slice gguf_strings_at(const struct gguf_strings *a, size_t i);
struct gguf_strings *gguf_strings_free(struct gguf_strings *a);

int gguf_get_f32s(
	const struct gguf *g, const char *key, float **ret, size_t *ret_n); /* malloc'ed */
int gguf_get_i32s(
	const struct gguf *g, const char *key, int32_t **ret, size_t *ret_n); /* malloc'ed */
