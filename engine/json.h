/* JSON out of files that nobody vouches for: jansson behind a count of what it would build. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "engine/source.h"

/* Parses a whole text. file names it in messages. -EINVAL with the line, or for more than
 * JSON_VALUES_MAX values or JSON_DEPTH_MAX levels; -ENOMEM. Where an integer needs more than 64
 * bits, all are read as reals. *ret is the caller's to json_decref().
 */
int json_read(const char *text, size_t len, const char *file, json_t **ret,
	const struct model_refusal *why);

/* A member of an object that a file holds; null counts as missing. NULL where it is missing. */
json_t *json_member(const json_t *object, const char *key);

/* Members with their bounds; `otherwise` (or NULL: required) stands in where they are missing. */
int json_get_u32(const json_t *object, const char *file, const char *key, const uint32_t *otherwise,
	uint32_t low, uint32_t high, uint32_t *ret, const struct model_refusal *why);
int json_get_number(const json_t *object, const char *file, const char *key,
	const double *otherwise, double low, double high, double *ret,
	const struct model_refusal *why);
int json_get_bool(const json_t *object, const char *file, const char *key, bool otherwise,
	bool *ret, const struct model_refusal *why);
/* *ret is NULL where it is missing. */
int json_get_string(const json_t *object, const char *file, const char *key, const char **ret,
	const struct model_refusal *why);

/* Refuses members that are none of names[] (NULL at its end). */
int json_only(const json_t *object, const char *file, const char *what, const char *const *names,
	const struct model_refusal *why);
