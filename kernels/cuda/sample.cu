/* The sampler on the card: the contract of kernels/sample.h, one thread block per row.
 *
 * Nothing is sorted. A cut of the ordered vocabulary ("the best until their number, or their mass,
 * reaches a limit") is found by descending through the bytes of an order-preserving key with a
 * histogram per byte. Masses are whole numbers, 2^40 for the likeliest token: sums of them do not
 * depend on the order in which threads arrive, so a draw repeats to the bit. A token that is cut
 * has logit -inf from then on.
 *
 * Against the host's sampler: its sums are in double and its expf() is another one, so a draw may
 * differ where the uniform number falls within about 1e-7 of a border. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#define THREADS 512
#define WARPS   (THREADS / WARP_LANES)
#define ONE     0x1p40f /* the likeliest token's mass */

typedef unsigned long long mass; /* as atomicAdd() has it */

/* A row's settings; the arrays lie behind the jobs, at these offsets in bytes. */
struct job {
	uint32_t bias, n_bias, counts, n_counts, mask; /* mask: 0 for none */
	float repetition_penalty, presence_penalty, frequency_penalty;
	float temperature, top_p, min_p, typical_p;
	uint32_t top_k, n_top;
	int32_t forced;
	uint32_t want_logprob;
	uint64_t seed, step;
};

struct result {
	int32_t token;
	float logprob;
	uint32_t n_top, pad;
	struct sample_top top[SAMPLE_TOP_MAX];
};

struct sample {
	const float *logits; /* [n, vocab] */
	const uint8_t *jobs; /* [n] and what they point to */
	float *scratch;      /* [n, vocab] */
	struct result *results;
	uint32_t vocab, none;
};

/* The block's shared memory. */
struct shared {
	mass masses[256];
	uint32_t counts[256];
	mass warps[WARPS];
	double doubles[WARPS];
	mass found_above;
	uint32_t found_bin, found_count, n_list;
	uint64_t list[SAMPLE_TOP_MAX]; /* keys of the likeliest */
	int32_t tokens[SAMPLE_TOP_MAX];
};

__device__ static double warp_sum_double(double v)
{
	for (int i = WARP_LANES / 2; i > 0; i /= 2)
		v += __shfl_xor_sync(ALL_LANES, v, i);
	return v;
}

/* The same value for all threads. */
__device__ static double block_sum(struct shared &sh, double v)
{
	double sum = 0;

	v = warp_sum_double(v);
	__syncthreads();
	if (threadIdx.x % WARP_LANES == 0)
		sh.doubles[threadIdx.x / WARP_LANES] = v;
	__syncthreads();
	for (uint32_t i = 0; i < WARPS; i++)
		sum += sh.doubles[i];
	return sum;
}

__device__ static mass block_max(struct shared &sh, mass v)
{
	for (int i = WARP_LANES / 2; i > 0; i /= 2) {
		const mass other = __shfl_xor_sync(ALL_LANES, v, i);

		v = other > v ? other : v;
	}
	__syncthreads();
	if (threadIdx.x % WARP_LANES == 0)
		sh.warps[threadIdx.x / WARP_LANES] = v;
	__syncthreads();
	for (uint32_t i = 0; i < WARPS; i++)
		v = sh.warps[i] > v ? sh.warps[i] : v;
	return v;
}

/* The sum over the threads before this one; *total is that of all. */
__device__ static mass block_scan(struct shared &sh, mass v, mass *total)
{
	const uint32_t lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
	mass sum = v, before = 0;

	for (uint32_t i = 1; i < WARP_LANES; i *= 2) {
		const mass other = __shfl_up_sync(ALL_LANES, sum, i);

		sum += lane >= i ? other : 0;
	}
	__syncthreads();
	if (lane == WARP_LANES - 1)
		sh.warps[warp] = sum;
	__syncthreads();
	*total = 0;
	for (uint32_t i = 0; i < WARPS; i++) {
		before += i < warp ? sh.warps[i] : 0;
		*total += sh.warps[i];
	}
	return before + sum - v;
}

/* Greater floats have greater keys; 0 is below all. */
__device__ static uint32_t key_of(float f)
{
	const uint32_t u = __float_as_uint(f);

	return u >> 31 ? ~u : u | 0x80000000;
}

/* The finite maximum of s [vocab], lowest token first: key in the high half, ~token in the low; 0:
 * there is none. */
__device__ static mass best_of(struct shared &sh, const float *s, uint32_t vocab)
{
	mass best = 0;

	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS) {
		const mass at = (mass)key_of(s[t]) << 32 | (uint32_t)~t;

		if (isfinite(s[t]) && at > best)
			best = at;
	}
	return block_max(sh, best);
}

__device__ static float logit_of(mass best)
{
	const uint32_t key = (uint32_t)(best >> 32);

	return __uint_as_float(key >> 31 ? key & 0x7fffffff : ~key);
}

__device__ static mass mass_of(float logit, float max)
{
	return (mass)(expf(logit - max) * ONE);
}

/* What orders the tokens of a cut, and what their amounts are. */
struct order {
	bool typical; /* by closeness of the surprise to the entropy; otherwise by logit */
	bool count;   /* a token amounts to 1; otherwise to its mass */
	bool ties;    /* who equals the last that stays, stays */
	float max;
	double log_sum, entropy;
};

__device__ static uint64_t order_key(const struct order &o, float logit)
{
	const double distance = fabs(o.log_sum - (double)logit - o.entropy);
	uint64_t bits;

	if (!o.typical)
		return (uint64_t)key_of(logit) << 32;
	memcpy(&bits, &distance, sizeof(bits));
	return ~bits;
}

__device__ static mass order_amount(const struct order &o, float logit)
{
	return o.count ? 1 : mass_of(logit, o.max);
}

/* Keeps the tokens before which the amounts of better ones are below `limit`; the best one stays in
 * any case. Equal keys all stay with ties, otherwise they go by token. s [vocab]: -inf is cut
 * already. */
__device__ static void cut(
	struct shared &sh, float *s, uint32_t vocab, const struct order &o, mass limit)
{
	uint64_t prefix = 0; /* of the key at which the limit is met */
	uint32_t depth, bytes = o.typical ? 8 : 4;
	mass above = 0;

	limit = limit > 0 ? limit : 1;
	for (depth = 0; depth < bytes; depth++) {
		const uint32_t shift = 56 - 8 * depth;

		__syncthreads();
		for (uint32_t i = threadIdx.x; i < 256; i += THREADS) {
			sh.masses[i] = 0;
			sh.counts[i] = 0;
		}
		__syncthreads();
		for (uint32_t t = threadIdx.x; t < vocab; t += THREADS) {
			uint64_t key;

			if (s[t] == -INFINITY)
				continue;
			key = order_key(o, s[t]);
			if (depth > 0 && (key ^ prefix) >> (shift + 8) != 0)
				continue;
			atomicAdd(&sh.masses[key >> shift & 255], order_amount(o, s[t]));
			atomicAdd(&sh.counts[key >> shift & 255], (uint32_t)1);
		}
		__syncthreads();
		if (threadIdx.x == 0) {
			mass sum = above;
			int bin = 255, last = -1;

			for (; bin >= 0; bin--) {
				if (sh.counts[bin] == 0)
					continue;
				last = bin;
				if (sum + sh.masses[bin] >= limit)
					break;
				sum += sh.masses[bin];
			}
			sh.found_bin = bin < 0 ? 256 : (uint32_t)last;
			sh.found_above = sum;
			sh.found_count = last < 0 ? 0 : sh.counts[last];
		}
		__syncthreads();
		if (sh.found_bin == 256)
			return; /* all together stay below the limit */
		prefix |= (uint64_t)sh.found_bin << shift;
		above = sh.found_above;
	}

	/* Whoever is worse than the key goes; of those that have it, the first by token stay. */
	const uint32_t each = (vocab + THREADS - 1) / THREADS;
	const uint32_t begin = min(threadIdx.x * each, vocab), end = min(begin + each, vocab);
	const bool several = sh.found_count > 1;
	mass mine = 0, before, total;
	for (uint32_t t = begin; t < end; t++) {
		uint64_t key;

		if (s[t] == -INFINITY)
			continue;
		key = order_key(o, s[t]);
		if (key < prefix)
			s[t] = -INFINITY;
		else if (key == prefix)
			mine += order_amount(o, s[t]);
	}
	if (!several || o.ties)
		return;
	before = above + block_scan(sh, mine, &total);
	for (uint32_t t = begin; t < end; t++) {
		if (s[t] == -INFINITY || order_key(o, s[t]) != prefix)
			continue;
		mine = order_amount(o, s[t]);
		if (before >= limit)
			s[t] = -INFINITY;
		before += mine;
	}
}

/* Sum of all masses; integers, so in any order. */
__device__ static mass total_of(struct shared &sh, const float *s, uint32_t vocab, float max)
{
	mass sum = 0, total;

	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS)
		sum += s[t] == -INFINITY ? 0 : mass_of(s[t], max);
	block_scan(sh, sum, &total);
	return total;
}

/* logit_bias, the penalties and the mask, as kernels/sample.c has them. */
__device__ static void process(
	const struct sample &p, const struct job &job, const float *logits, float *s)
{
	const struct sample_bias *bias = (const struct sample_bias *)(p.jobs + job.bias);
	const struct sample_count *counts = (const struct sample_count *)(p.jobs + job.counts);
	const uint32_t *mask = (const uint32_t *)(p.jobs + job.mask);

	for (uint32_t t = threadIdx.x; t < p.vocab; t += THREADS)
		s[t] = logits[t];
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < job.n_bias; i += THREADS)
		s[bias[i].token] += bias[i].bias;
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < job.n_counts; i += THREADS) {
		const struct sample_count c = counts[i];
		float logit = s[c.token];

		if (c.in_all > 0 && job.repetition_penalty != 1)
			logit = logit < 0 ? logit * job.repetition_penalty
					  : logit / job.repetition_penalty;
		if (c.in_reply > 0)
			logit -= job.presence_penalty + job.frequency_penalty * (float)c.in_reply;
		s[c.token] = logit;
	}
	__syncthreads();
	for (uint32_t t = threadIdx.x; job.mask && t < p.vocab; t += THREADS)
		if (!(mask[t / 32] >> t % 32 & 1))
			s[t] = -INFINITY;
	__syncthreads();
}

__device__ static void cut_typical_p(
	struct shared &sh, float *s, uint32_t vocab, float typical_p, float max)
{
	struct order o = {true, false, true, 0, 0, 0};
	double sum = 0, entropy = 0;

	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS)
		sum += s[t] == -INFINITY ? 0 : exp((double)s[t] - (double)max);
	o.log_sum = log(block_sum(sh, sum)) + (double)max;
	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS) {
		const double surprise = o.log_sum - (double)s[t];

		entropy += s[t] == -INFINITY ? 0 : surprise * exp(-surprise);
	}
	o.entropy = block_sum(sh, entropy);
	o.max = (float)o.log_sum; /* masses are probabilities */
	cut(sh, s, vocab, o, (mass)ceil((double)typical_p * (double)ONE));
	__syncthreads();
}

/* Temperature and the four cuts; what is left is finite in s. False where nothing is. */
__device__ static bool warp(struct shared &sh, const struct job &job, float *s, uint32_t vocab)
{
	const mass best = best_of(sh, s, vocab);
	struct order o = {false, true, true, 0, 0, 0};
	float max = best ? logit_of(best) : 0;

	if (!best)
		return false;
	/* A temperature close to 0 must not make infinities: only differences count. */
	if (isfinite(max / job.temperature))
		max = 0;
	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS) {
		const float v = (s[t] - max) / job.temperature;

		s[t] = isfinite(v) ? v : -INFINITY;
	}
	__syncthreads();
	o.max = logit_of(best_of(sh, s, vocab));
	if (job.top_k > 0 && job.top_k < vocab) {
		cut(sh, s, vocab, o, job.top_k);
		__syncthreads();
	}
	o.count = o.ties = false;
	if (job.top_p < 1) {
		const mass total = total_of(sh, s, vocab, o.max);

		cut(sh, s, vocab, o, (mass)ceil((double)job.top_p * (double)total));
		__syncthreads();
	}
	if (job.min_p > 0) {
		for (uint32_t t = threadIdx.x; t < vocab; t += THREADS)
			if (s[t] != o.max && s[t] != -INFINITY &&
				!(exp((double)s[t] - (double)o.max) >= (double)job.min_p))
				s[t] = -INFINITY;
		__syncthreads();
	}
	if (job.typical_p < 1)
		cut_typical_p(sh, s, vocab, job.typical_p, o.max);
	return true;
}

/* kernels/philox.c, one word of it: the uniform number in [0, 1) of (seed, step). */
__device__ static float uniform_of(uint64_t seed, uint64_t step)
{
	uint32_t c[4] = {(uint32_t)step, (uint32_t)(step >> 32), 0, 0};
	uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

	for (int round = 0; round < 10; round++) {
		const uint64_t a = (uint64_t)0xD2511F53 * c[0], b = (uint64_t)0xCD9E8D57 * c[2];

		c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k[0];
		c[1] = (uint32_t)b;
		c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k[1];
		c[3] = (uint32_t)a;
		k[0] += 0x9E3779B9;
		k[1] += 0xBB67AE85;
	}
	return (float)(c[0] >> 8) * 0x1p-24f;
}

/* The first token, in order, at which the masses so far pass the uniform share of all. */
__device__ static void draw(
	struct shared &sh, const float *s, uint32_t vocab, float uniform, int32_t *token)
{
	const float max = logit_of(best_of(sh, s, vocab));
	const uint32_t each = (vocab + THREADS - 1) / THREADS;
	const uint32_t begin = min(threadIdx.x * each, vocab), end = min(begin + each, vocab);
	mass mine = 0, sum, total;
	double target;

	for (uint32_t t = begin; t < end; t++)
		mine += s[t] == -INFINITY ? 0 : mass_of(s[t], max);
	sum = block_scan(sh, mine, &total);
	target = (double)uniform * (double)total;
	if ((double)sum > target || !((double)(sum + mine) > target))
		return; /* another thread's */
	for (uint32_t t = begin; t < end; t++) {
		sum += s[t] == -INFINITY ? 0 : mass_of(s[t], max);
		if ((double)sum > target) {
			*token = (int32_t)t;
			return;
		}
	}
}

/* The likeliest tokens of the raw logits, best first. s: scratch. */
__device__ static void top_of(struct shared &sh, const float *logits, float *s, uint32_t vocab,
	uint32_t n, double log_sum, struct result *result)
{
	const struct order o = {false, true, false, 0, 0, 0};

	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS)
		s[t] = isfinite(logits[t]) ? logits[t] : -INFINITY;
	if (threadIdx.x == 0)
		sh.n_list = 0;
	__syncthreads();
	cut(sh, s, vocab, o, n);
	__syncthreads();
	for (uint32_t t = threadIdx.x; t < vocab; t += THREADS)
		if (s[t] != -INFINITY) {
			const uint32_t at = atomicAdd(&sh.n_list, (uint32_t)1);

			sh.list[at] = (uint64_t)key_of(s[t]) << 32 | (uint32_t)~t;
			sh.tokens[at] = (int32_t)t;
		}
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < sh.n_list; i += THREADS) {
		uint32_t rank = 0;

		for (uint32_t k = 0; k < sh.n_list; k++)
			rank += sh.list[k] > sh.list[i];
		result->top[rank].token = sh.tokens[i];
		result->top[rank].logprob = (float)((double)logits[sh.tokens[i]] - log_sum);
	}
	if (threadIdx.x == 0)
		result->n_top = sh.n_list;
}

__global__ __launch_bounds__(THREADS, 1) void sample_kernel(const struct sample p)
{
	SHARED(struct shared, sh, [1]);
	SHARED(int32_t, token, [1]);
	const uint32_t row = blockIdx.x;
	const float *logits = p.logits + (size_t)row * p.vocab;
	float *s = p.scratch + (size_t)row * p.vocab;
	struct result *result = p.results + row;

	grid_wait();
	grid_release();

	const struct job job = ((const struct job *)p.jobs)[row];
	if (threadIdx.x == 0)
		token[0] = job.forced;
	__syncthreads();
	if (job.forced < 0) {
		process(p, job, logits, s);
		if (job.temperature == 0) {
			const mass best = best_of(sh[0], s, p.vocab);

			if (threadIdx.x == 0)
				token[0] = best ? (int32_t) ~(uint32_t)best : -1;
		} else if (warp(sh[0], job, s, p.vocab)) {
			draw(sh[0], s, p.vocab, uniform_of(job.seed, job.step), &token[0]);
		}
	}
	__syncthreads();
	const int32_t drawn = token[0];
	if (threadIdx.x == 0) {
		result->token = drawn;
		result->logprob = NAN;
		result->n_top = 0;
	}
	if (!job.want_logprob || drawn < 0)
		return;

	/* log(sum(exp(logits))) */
	float max = -INFINITY;
	double sum = 0;
	for (uint32_t t = threadIdx.x; t < p.vocab; t += THREADS)
		max = fmaxf(max, logits[t]);
	const mass most = block_max(sh[0], (mass)key_of(max) << 32);
	max = logit_of(most);
	for (uint32_t t = threadIdx.x; t < p.vocab; t += THREADS)
		sum += (double)expf(logits[t] - max);
	const double log_sum = (double)max + log(block_sum(sh[0], sum));
	if (threadIdx.x == 0)
		result->logprob = (float)((double)logits[drawn] - log_sum);
	if (job.n_top > 0)
		top_of(sh[0], logits, s, p.vocab, job.n_top, log_sum, result);
}

/* Bytes of everything that the rows' jobs point to, from the jobs on. */
static size_t jobs_bytes(uint32_t n, uint32_t vocab, const struct sample_row *rows)
{
	size_t bytes = n * sizeof(struct job);

	for (uint32_t i = 0; i < n; i++)
		bytes += rows[i].n_bias * sizeof(struct sample_bias) +
			 rows[i].n_counts * sizeof(struct sample_count) +
			 (rows[i].mask ? parts_of(vocab, 32) * sizeof(uint32_t) : 0);
	return bytes;
}

static uint32_t append(uint8_t *to, size_t *at, const void *from, size_t bytes)
{
	const uint32_t begin = (uint32_t)*at;

	if (bytes > 0)
		memcpy(to + begin, from, bytes);
	*at += bytes;
	return begin;
}

static void jobs_write(
	uint32_t n, uint32_t vocab, const struct sample_row *rows, uint8_t *to, size_t at)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct sample_row *r = &rows[i];
		struct job job = {};

		assert(r->n_top <= SAMPLE_TOP_MAX);
		job.bias = append(to, &at, r->bias, r->n_bias * sizeof(*r->bias));
		job.n_bias = r->n_bias;
		job.counts = append(to, &at, r->counts, r->n_counts * sizeof(*r->counts));
		job.n_counts = r->n_counts;
		if (r->mask)
			job.mask = append(to, &at, r->mask, parts_of(vocab, 32) * sizeof(uint32_t));
		job.repetition_penalty = r->repetition_penalty;
		job.presence_penalty = r->presence_penalty;
		job.frequency_penalty = r->frequency_penalty;
		job.temperature = r->temperature;
		job.top_p = r->top_p;
		job.min_p = r->min_p;
		job.typical_p = r->typical_p;
		job.top_k = r->top_k;
		job.n_top = r->n_top;
		job.forced = r->forced;
		job.want_logprob = r->want_logprob;
		job.seed = r->seed;
		job.step = r->step;
		memcpy(to + i * sizeof(job), &job, sizeof(job));
	}
}

/* Pinned memory that holds the jobs on their way up, then the results on their way down. */
static int pinned_grow(struct cuda *c, size_t bytes)
{
	int r;

	if (bytes <= c->sampler_pinned_bytes)
		return 0;
	if (c->sampler_pinned)
		cudaFreeHost(c->sampler_pinned);
	c->sampler_pinned = NULL;
	c->sampler_pinned_bytes = 0;
	r = cuda_check(c, cudaHostAlloc(&c->sampler_pinned, 2 * bytes, cudaHostAllocDefault),
		"pinned memory for the sampler");
	if (r == 0)
		c->sampler_pinned_bytes = 2 * bytes;
	return r;
}

int cuda_sample(struct backend *b, uint32_t n, uint32_t vocab, const float *logits,
	const struct sample_row *rows, struct sample_result *results)
{
	struct cuda *c = cuda_of(b);
	const size_t scratch = ((size_t)n * vocab * sizeof(float) + 255) / 256 * 256;
	const size_t result_bytes = n * sizeof(struct result);
	const size_t up = jobs_bytes(n, vocab, rows);
	struct sample p = {};
	int r;

	if (n == 0)
		return 0;
	if (up > UINT32_MAX)
		return cuda_fail(c, -ENOMEM, "%zu bytes of sampling settings in one step", up);
	r = arena_grow(c, &c->sampler, scratch + result_bytes + up, false, "the sampler");
	if (r == 0)
		r = pinned_grow(c, up > result_bytes ? up : result_bytes);
	if (r < 0)
		return r;
	p.logits = logits;
	p.vocab = vocab;
	p.scratch = (float *)c->sampler.data;
	p.results = (struct result *)(c->sampler.data + scratch);
	p.jobs = c->sampler.data + scratch + result_bytes;
	jobs_write(n, vocab, rows, c->sampler_pinned, n * sizeof(struct job));
	r = cuda_check(c,
		cudaMemcpyAsync(
			(void *)p.jobs, c->sampler_pinned, up, cudaMemcpyHostToDevice, c->stream),
		"uploading sampling settings");
	/* joins what was gathered: one graph from the embedding to the token */
	if (r == 0)
		r = cuda_launch(c, KERNEL(sample_kernel), dim3(n), THREADS, 0, p);
	if (r == 0)
		r = cuda_flush(c);
	if (r == 0)
		r = cuda_check(c,
			cudaMemcpyAsync(c->sampler_pinned, p.results, result_bytes,
				cudaMemcpyDeviceToHost, c->stream),
			"reading the sampler's results");
	if (r == 0)
		r = cuda_finish(c);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		const struct result *from = (const struct result *)c->sampler_pinned + i;

		results[i].token = from->token;
		results[i].logprob = from->logprob;
		results[i].n_top = from->n_top;
		if (from->n_top > 0)
			memcpy(results[i].top, from->top, from->n_top * sizeof(*from->top));
	}
	return r;
}
