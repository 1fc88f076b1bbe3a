/* Writing GGUF v3: metadata and tensor list first, tensor data in any order, by any thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gguf.h"
#include "kernels/dtype.h"

struct gguf_writer;

struct gguf_writer *gguf_writer_new(void);                   /* or NULL without memory */
struct gguf_writer *gguf_writer_free(struct gguf_writer *w); /* accepts NULL, returns NULL */

/* Metadata, in the order of the calls. Each key at most once. A failed allocation is remembered and
 * returned by gguf_writer_begin(). */
void gguf_write_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_write_f32(struct gguf_writer *w, const char *key, float v);
void gguf_write_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_write_string(struct gguf_writer *w, const char *key, const char *text, size_t len);
void gguf_write_strings(struct gguf_writer *w, const char *key, const struct slice *v, size_t n);
void gguf_write_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_write_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n);

/* A key of another file with its value, whatever it is. */
void gguf_write_copy(struct gguf_writer *w, const struct gguf *g, size_t i);

/* Announces a tensor; dims innermost first, rows of a multiple of the type's block. Returns where
 * its data begins, counted from the data section. */
uint64_t gguf_write_tensor(struct gguf_writer *w, const char *name, enum dtype dtype,
	uint32_t n_dims, const uint64_t *dims);

/* Writes the header and gives the file its final length. Nothing is announced after this.
 * 0 or a negative errno. */
int gguf_writer_begin(struct gguf_writer *w, int fd);

/* Bytes of the data section, at an offset in it. Any number of threads at once. 0 or -errno. */
int gguf_writer_data(
	const struct gguf_writer *w, uint64_t offset, const void *bytes, size_t n_bytes);
