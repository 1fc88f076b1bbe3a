/* The machine: memory, budget, failing. The arena owns everything that a compilation or a rendering
 * makes; the owner of the struct jinja frees it as a whole. */
#include "engine/jinja.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"

#define ARENA_BLOCK_BYTES 65536
#define ARENA_ALIGN       16

struct jinja_arena_block {
	struct jinja_arena_block *next;
	size_t used, size;
	_Alignas(ARENA_ALIGN) char bytes[];
};

void *jinja_arena_take(struct jinja_arena *a, size_t bytes)
{
	struct jinja_arena_block *b = a->blocks;
	void *p;

	if (bytes > a->max_bytes)
		return NULL;
	bytes = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	if (!b || b->size - b->used < bytes) {
		size_t size = bytes > ARENA_BLOCK_BYTES / 4 ? bytes : ARENA_BLOCK_BYTES;

		if (size > a->max_bytes || a->used_bytes > a->max_bytes - size)
			return NULL;
		b = calloc(1, sizeof(*b) + size);
		if (!b)
			return NULL;
		b->size = size;
		a->used_bytes += size;
		if (a->blocks && size == bytes) {
			/* A large one stands behind, so that the open block stays in use. */
			b->next = a->blocks->next;
			a->blocks->next = b;
		} else {
			b->next = a->blocks;
			a->blocks = b;
		}
	}
	p = b->bytes + b->used;
	b->used += bytes;
	return p;
}

void jinja_arena_done(struct jinja_arena *a)
{
	while (a->blocks) {
		struct jinja_arena_block *b = a->blocks;

		a->blocks = b->next;
		free(b);
	}
	a->used_bytes = 0;
}

static _Noreturn void jinja_fail_with(
	struct jinja *j, int code, unsigned line, const char *format, va_list args)
{
	char *out = j->error;
	size_t size = j->error_size, n = 0, i;

	assert(code < 0);
	if (size > 0) {
		int k = line > 0 ? snprintf(out, size, "line %u: ", line) : 0;

		n = k < 0 ? 0 : (size_t)k < size ? (size_t)k : size - 1;
		vsnprintf(out + n, size - n, format, args);
		/* A sentence that was cut ends with a whole character. */
		n = strlen(out);
		if (n == size - 1) {
			for (i = n;
				i > 0 && n - i < 4 && ((unsigned char)out[i - 1] & 0xc0) == 0x80;)
				i--;
			if (i > 0 && (unsigned char)out[i - 1] >= 0xc0) {
				unsigned char lead = (unsigned char)out[i - 1];

				if (n - (i - 1) < (lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2))
					out[i - 1] = 0;
			}
		}
	}
	j->code = code;
	longjmp(j->escape, 1);
}

_Noreturn void jinja_fail(struct jinja *j, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	jinja_fail_with(j, code, 0, format, args);
}

_Noreturn void jinja_fail_at(struct jinja *j, int code, unsigned line, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	jinja_fail_with(j, code, line, format, args);
}

void jinja_step(struct jinja *j, size_t n)
{
	if (n > TEMPLATE_STEPS_MAX - j->steps)
		jinja_fail_at(j, -E2BIG, j->line, "the template runs for more than %d steps",
			TEMPLATE_STEPS_MAX);
	j->steps += n;
}

void jinja_enter(struct jinja *j)
{
	if (j->depth == TEMPLATE_DEPTH_MAX)
		jinja_fail_at(j, -E2BIG, j->line, "the template is nested deeper than %d levels",
			TEMPLATE_DEPTH_MAX);
	j->depth++;
}

void jinja_leave(struct jinja *j)
{
	assert(j->depth > 0);
	j->depth--;
}

void *jinja_take(struct jinja *j, size_t n, size_t size)
{
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n, size, &bytes) || bytes > j->arena.max_bytes ||
		j->arena.used_bytes > j->arena.max_bytes - bytes)
		jinja_fail_at(j, -E2BIG, j->line,
			"the template needs more than %zu bytes of memory", j->arena.max_bytes);
	p = jinja_arena_take(&j->arena, bytes ? bytes : 1);
	if (!p) {
		if (j->arena.max_bytes - j->arena.used_bytes < bytes + ARENA_BLOCK_BYTES)
			jinja_fail_at(j, -E2BIG, j->line,
				"the template needs more than %zu bytes of memory",
				j->arena.max_bytes);
		jinja_fail(j, -ENOMEM, "out of memory");
	}
	return p;
}
