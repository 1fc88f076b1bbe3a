/* What gguf.c has checked and gguf_value.c reads: for those two alone. */
#pragma once

#include "engine/gguf.h"

struct gguf_entry {
	struct slice key;
	uint32_t type;        /* enum gguf_type */
	uint32_t element;     /* of an array */
	uint64_t count;       /* of an array; 1 otherwise */
	const uint8_t *value; /* the scalar, the string's length field, the first element */
};

/* Open addressing over indices; 0 is empty. */
struct gguf_index {
	uint32_t *slots;
	size_t mask;
};

struct gguf {
	const uint8_t *map;
	size_t map_bytes;
	struct gguf_entry *entries;
	size_t n_entries;
	struct gguf_tensor *tensors;
	size_t n_tensors;
	struct gguf_index keys, names;
	uint64_t hash_seed;
	const uint8_t *metadata;
	size_t metadata_bytes;
};

/* The entry of that key, or NULL. */
const struct gguf_entry *gguf_entry(const struct gguf *g, const char *key);
