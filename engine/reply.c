/* Holds back partial characters and possible stop texts. Owns the held event and the held bytes. */
#include "engine/reply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/event.h"
#include "engine/utf8.h"

void reply_init(struct reply *r, const struct tokenizer *t, const struct job *job)
{
	*r = (struct reply){.tokenizer = t, .stops = job->stops, .n_stops = job->n_stops};
}

void reply_done(struct reply *r)
{
	event_free(r->held);
	free(r->bytes);
	free(r->ends);
	r->held = NULL;
	r->bytes = NULL;
	r->ends = NULL;
}

/* Doubles an array until it has room for n elements. */
static int reserve(void **array, size_t *size, size_t n, size_t element)
{
	size_t wanted = *size ? *size : 16;
	void *grown;

	if (n <= *size)
		return 0;
	while (wanted < n)
		wanted *= 2;
	grown = realloc(*array, wanted * element);
	if (!grown)
		return -ENOMEM;
	*array = grown;
	*size = wanted;
	return 0;
}

/* Takes one token in: its id, its bytes, its logprob. */
static int hold(struct reply *r, uint64_t job, int32_t token, const struct sample_result *result)
{
	struct slice piece = {NULL, 0};
	size_t size;
	int k;

	if (r->tokenizer)
		piece = tokenizer_piece(r->tokenizer, token);
	if (!r->held) {
		r->held = event_new(EVENT_TOKENS, job);
		if (!r->held)
			return -ENOMEM;
		r->held->index = r->n_tokens;
		r->held_size = 0;
	}
	size = r->held_size;
	k = reserve((void **)&r->held->tokens, &size, r->held->n_tokens + 1, sizeof(int32_t));
	r->held_size = (uint32_t)size;
	if (k < 0)
		return k;
	size = r->ends_size;
	k = reserve((void **)&r->ends, &size, r->held->n_tokens + 1, sizeof(*r->ends));
	r->ends_size = (uint32_t)size;
	if (k < 0)
		return k;
	k = reserve((void **)&r->bytes, &r->size, r->n_bytes + piece.len + 1, 1);
	if (k < 0)
		return k;
	if (result && event_add_logprob(r->held, result) < 0)
		return -ENOMEM;
	if (piece.len > 0)
		memcpy(r->bytes + r->n_bytes, piece.text, piece.len);
	r->n_bytes += piece.len;
	r->held->tokens[r->held->n_tokens] = token;
	r->ends[r->held->n_tokens++] = r->n_bytes;
	r->n_tokens++;
	return 0;
}

/* The stop text that is complete first, byte by byte, so that it does not matter how tokens cut the
 * text; of those that end together the longest. Returns where it starts, or SIZE_MAX. */
static size_t find_stop(const struct reply *r, int32_t *ret_stop)
{
	size_t first_end = SIZE_MAX, start = SIZE_MAX;

	for (uint32_t i = 0; i < r->n_stops; i++) {
		const struct stop_text *s = &r->stops[i];
		const char *at;
		size_t end;

		at = s->len > 0 ? memmem(r->bytes, r->n_bytes, s->text, s->len) : NULL;
		if (!at)
			continue;
		end = (size_t)(at - r->bytes) + s->len;
		if (end < first_end || (end == first_end && end - s->len < start)) {
			first_end = end;
			start = end - s->len;
			*ret_stop = (int32_t)i;
		}
	}
	return start;
}

/* How many of the held bytes can neither begin a stop text nor be an unfinished character. */
static size_t free_bytes(const struct reply *r)
{
	size_t safe = r->n_bytes - utf8_incomplete_tail(r->bytes, r->n_bytes);

	for (uint32_t i = 0; i < r->n_stops; i++) {
		size_t longest = r->stops[i].len - (r->stops[i].len > 0);
		size_t from = r->n_bytes > longest ? r->n_bytes - longest : 0;

		for (size_t at = from; at < safe; at++)
			if (memcmp(r->bytes + at, r->stops[i].text, r->n_bytes - at) == 0)
				safe = at;
	}
	return safe;
}

/* Gives the event the text of the first n held bytes. */
static int set_text(struct event *e, const char *bytes, size_t n)
{
	size_t len = utf8_repair(bytes, n, NULL);

	e->text = malloc(len + 1);
	if (!e->text)
		return -ENOMEM;
	utf8_repair(bytes, n, e->text);
	e->text[len] = '\0';
	e->text_len = len;
	return 0;
}

/* Moves what stands behind the first n_tokens held tokens into an event of its own. */
static int split_held(struct reply *r, uint32_t n_tokens, struct event **ret_rest)
{
	struct event *e = r->held, *rest;
	uint32_t n = e->n_tokens - n_tokens;

	rest = event_new(EVENT_TOKENS, e->job);
	if (!rest)
		return -ENOMEM;
	rest->index = e->index + n_tokens;
	rest->tokens = malloc(n * sizeof(*rest->tokens));
	if (e->logprobs)
		rest->logprobs = malloc(n * sizeof(*rest->logprobs));
	if (!rest->tokens || (e->logprobs && !rest->logprobs)) {
		event_free(rest);
		return -ENOMEM;
	}
	memcpy(rest->tokens, e->tokens + n_tokens, n * sizeof(*rest->tokens));
	rest->n_tokens = n;
	e->n_tokens = n_tokens;
	if (e->logprobs) {
		memcpy(rest->logprobs, e->logprobs + n_tokens, n * sizeof(*rest->logprobs));
		rest->n_logprobs = n;
		e->n_logprobs = n_tokens;
	}
	*ret_rest = rest;
	return 0;
}

/* Releases as many whole tokens as lie within the first `safe` bytes. */
static int release(struct reply *r, size_t safe, struct event **ret)
{
	struct event *e = r->held, *rest = NULL;
	uint32_t n = e->n_tokens;
	size_t end;
	int k;

	while (n > 0 && r->ends[n - 1] > safe)
		n--;
	/* A border inside a character is no border to release at. */
	while (n > 0 && n < e->n_tokens && utf8_incomplete_tail(r->bytes, r->ends[n - 1]) > 0)
		n--;
	if (n == 0)
		return 0;
	end = r->ends[n - 1];
	if (n < e->n_tokens) {
		k = split_held(r, n, &rest);
		if (k < 0)
			return k;
	}
	k = set_text(e, r->bytes, end);
	if (k < 0) {
		event_free(rest);
		return k;
	}
	r->held = rest;
	r->held_size = rest ? rest->n_tokens : 0;
	memmove(r->bytes, r->bytes + end, r->n_bytes - end);
	r->n_bytes -= end;
	for (uint32_t i = 0; rest && i < rest->n_tokens; i++)
		r->ends[i] = r->ends[n + i] - end;
	*ret = e;
	return 1;
}

int reply_push(struct reply *r, uint64_t job, int32_t token, const struct sample_result *result,
	struct event **ret, int32_t *ret_stop)
{
	size_t stop;
	int k;

	k = hold(r, job, token, result);
	if (k < 0)
		return k;
	stop = find_stop(r, ret_stop);
	if (stop != SIZE_MAX) {
		r->n_bytes = stop;
		return 2;
	}
	return release(r, free_bytes(r), ret);
}

int reply_finish(struct reply *r, struct event **ret)
{
	int k;

	*ret = NULL;
	if (!r->held)
		return 0;
	k = set_text(r->held, r->bytes, r->n_bytes);
	if (k < 0)
		return k;
	*ret = r->held;
	r->held = NULL;
	r->n_bytes = 0;
	return 0;
}
