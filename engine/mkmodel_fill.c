/* Random weights, fast: every row of every tensor from a generator of its own, so that threads can
 * take chunks of rows in any order and the file comes out the same.
 *
 * The generator is xoshiro256++ (Blackman and Vigna, 2019) seeded by splitmix64; a value is the sum
 * of the four 16-bit parts of one draw (Irwin-Hall of order 4, close to a normal). */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/mkmodel.h"

#define CHUNK_ELEMENTS (1u << 18) /* drawn, quantised and written at a time */
#define THREADS_MAX    256

struct fill {
	const struct gguf_writer *writer;     /* or NULL: the tensors' files */
	const struct mkmodel_tensor *tensors; /* [n] */
	size_t n;
	const struct mkmodel_options *options;
	size_t largest_row; /* elements */

	pthread_mutex_t lock; /* of what follows */
	size_t tensor;        /* the next chunk: tensor and row */
	uint32_t row;
	uint64_t done_bytes, total_bytes;
	int failure; /* 0 or a negative errno */
};

struct chunk {
	size_t tensor;
	uint32_t row, n_rows;
};

static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t rotl(uint64_t x, int k)
{
	return x << k | x >> (64 - k);
}

static void draw_row(
	const struct mkmodel_tensor *t, uint64_t seed, size_t tensor, uint32_t row, float *y)
{
	/* A sum of four uniforms on 0 … 65535: mean 131070, variance 4 (2^32 - 1) / 12. */
	const float unit = 1.0f / 37837.23f;
	uint64_t state = seed, s[4];
	uint32_t i;

	state = splitmix64(&state) ^ tensor;
	state = splitmix64(&state) ^ row;
	for (i = 0; i < 4; i++)
		s[i] = splitmix64(&state);
	for (i = 0; i < t->cols; i++) {
		const uint64_t x = rotl(s[0] + s[3], 23) + s[0], shifted = s[1] << 17;
		const uint64_t pairs = (x & 0x0000ffff0000ffffu) + (x >> 16 & 0x0000ffff0000ffffu);
		const int32_t sum = (int32_t)((uint32_t)pairs + (uint32_t)(pairs >> 32));

		s[2] ^= s[0];
		s[3] ^= s[1];
		s[1] ^= s[2];
		s[0] ^= s[3];
		s[2] ^= shifted;
		s[3] = rotl(s[3], 45);
		y[i] = t->mean + t->spread * ((float)(sum - 131070) * unit);
	}
}

/* The row as a GGUF has it, where neighbours are a pair: the same model in both layouts. */
static uint32_t drawn_row(const struct mkmodel_tensor *t, uint32_t row)
{
	const uint32_t d = t->halves, in_head = d ? row % d : 0;

	if (d == 0)
		return row;
	return row - in_head + in_head % (d / 2) * 2 + in_head / (d / 2);
}

static int write_file(int fd, uint64_t offset, const unsigned char *bytes, size_t n)
{
	ssize_t r;

	for (; n > 0; bytes += r, n -= (size_t)r, offset += (uint64_t)r) {
		r = pwrite(fd, bytes, n, (off_t)offset);
		if (r < 0 && errno == EINTR)
			r = 0;
		else if (r < 0)
			return -errno;
	}
	return 0;
}

static int fill_chunk(
	const struct fill *f, const struct chunk *c, float *values, unsigned char *bytes)
{
	const struct mkmodel_tensor *t = &f->tensors[c->tensor];
	uint32_t i;

	for (i = 0; i < c->n_rows; i++) {
		draw_row(t, f->options->seed, c->tensor, drawn_row(t, c->row + i), values);
		quantize_row(t->dtype, values, NULL, bytes + i * t->row_bytes, t->cols);
	}
	const uint64_t offset = t->offset + c->row * (uint64_t)t->row_bytes;

	return f->writer ? gguf_writer_data(f->writer, offset, bytes, c->n_rows * t->row_bytes)
			 : write_file(t->fd, offset, bytes, c->n_rows * t->row_bytes);
}

/* Takes the next chunk, after telling of the one before. */
static bool next_chunk(struct fill *f, struct chunk *c, int r)
{
	bool more;

	pthread_mutex_lock(&f->lock);
	if (r < 0 && f->failure == 0)
		f->failure = r;
	if (c->n_rows > 0) {
		f->done_bytes += c->n_rows * f->tensors[c->tensor].row_bytes;
		if (f->options->progress)
			f->options->progress(f->options->userdata, f->done_bytes, f->total_bytes);
	}
	more = f->failure == 0 && f->tensor < f->n;
	if (more) {
		const struct mkmodel_tensor *t = &f->tensors[f->tensor];
		const uint32_t at_once = t->cols < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / t->cols : 1;
		const uint32_t left = t->rows - f->row;

		*c = (struct chunk){f->tensor, f->row, left < at_once ? left : at_once};
		f->row += c->n_rows;
		if (f->row == t->rows) {
			f->row = 0;
			f->tensor++;
		}
	}
	pthread_mutex_unlock(&f->lock);
	return more;
}

static void *work(void *argument)
{
	struct fill *f = argument;
	struct chunk c = {0};
	const size_t room = f->largest_row > CHUNK_ELEMENTS ? f->largest_row : CHUNK_ELEMENTS;
	float *values = malloc(f->largest_row * sizeof(*values));
	unsigned char *bytes = malloc(room * sizeof(float));
	int r = values && bytes ? 0 : -ENOMEM;

	while (next_chunk(f, &c, r))
		r = fill_chunk(f, &c, values, bytes);
	free(values);
	free(bytes);
	return NULL;
}

static int fill(const struct gguf_writer *w, const struct mkmodel_tensor *tensors, size_t n,
	const struct mkmodel_options *o)
{
	struct fill f = {.writer = w, .tensors = tensors, .n = n, .options = o};
	uint32_t threads = o->threads, started = 0, i;
	pthread_t ids[THREADS_MAX];

	if (threads == 0) {
		long processors = sysconf(_SC_NPROCESSORS_ONLN);

		threads = processors > 0 ? (uint32_t)processors : 1;
	}
	for (i = 0; i < n; i++) {
		if (tensors[i].cols > f.largest_row)
			f.largest_row = tensors[i].cols;
		f.total_bytes += tensors[i].rows * (uint64_t)tensors[i].row_bytes;
	}
	pthread_mutex_init(&f.lock, NULL);
	while (started + 1 < threads && started < THREADS_MAX &&
		pthread_create(&ids[started], NULL, work, &f) == 0)
		started++;
	work(&f);
	for (i = 0; i < started; i++)
		pthread_join(ids[i], NULL);
	pthread_mutex_destroy(&f.lock);
	return f.failure;
}

int mkmodel_fill(const struct gguf_writer *w, const struct mkmodel_tensor *tensors, size_t n,
	const struct mkmodel_options *o)
{
	return fill(w, tensors, n, o);
}

int mkmodel_fill_files(
	const struct mkmodel_tensor *tensors, size_t n, const struct mkmodel_options *o)
{
	return fill(NULL, tensors, n, o);
}
