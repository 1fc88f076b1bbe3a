/* Kernels that go along one row: activations made ready for a matmul, norm, SwiGLU, sums. Tails
 * shorter than sixteen are padded with zeros, so a row's length alone fixes its arithmetic. */

LANE struct vf row_load(const float *x, uint32_t i, uint32_t n)
{
	return n - i >= 16 ? vf_load(x + i) : vf_load_n(x + i, n - i);
}

LANE void row_store(float *y, uint32_t i, uint32_t n, struct vf a)
{
	if (n - i >= 16)
		vf_store(y + i, a);
	else
		vf_store_n(y + i, a, n - i);
}

/* A column's tile: its first column and its width. */
LANE uint32_t tile_width(const struct cpu_acts *a, uint32_t c, uint32_t *ret_first)
{
	*ret_first = c - c % TILE_COLS;
	return a->n - *ret_first < TILE_COLS ? a->n - *ret_first : TILE_COLS;
}

/* int8 with one scale per 16: q = round(x / scale), scale = max |x| / 127. Sixteen scales at a
 * time, for their divisions go side by side. */
static void acts_int8(const float *x, struct cpu_acts *a, uint32_t c)
{
	uint32_t c0;
	const uint32_t w = tile_width(a, c, &c0), in = c - c0, blocks = a->cols / 16;
	const size_t per16 = (size_t)c0 * blocks, per32 = (size_t)c0 * (a->cols / 32);
	int8_t *to = a->q + (size_t)c0 * a->cols + 4 * (size_t)in;

	for (uint32_t first = 0; first < blocks; first += 16) {
		const uint32_t n = blocks - first < 16 ? blocks - first : 16;
		float top[16] = {0}, scale[16], inverse[16], last = 0;

		for (uint32_t i = 0; i < n; i++)
			top[i] = vf_top(vf_abs(vf_load(x + 16 * (size_t)(first + i))));
		vf_store(scale, vf_div(vf_load(top), vf_set1(127.0f)));
		vf_store(inverse, vf_div(vf_set1(127.0f), vf_load(top)));
		for (uint32_t i = 0; i < n; i++) {
			const bool zero = !(top[i] > 1e-35f);
			const float s = zero ? 0.0f : scale[i];
			const struct vi v = vi_from_vf(vf_mul(vf_load(x + 16 * (size_t)(first + i)),
				vf_set1(zero ? 0.0f : inverse[i])));
			const int32_t sum = vi_sum(v);
			const size_t at = per16 + (size_t)(first + i) * w + in;
			int8_t q[16];

			vi_store_low_bytes(q, v);
			for (uint32_t j = 0; j < 4; j++, to += 4 * (size_t)w)
				memcpy(to, q + 4 * j, 4);
			a->scale[at] = s;
			a->sum16[at] = s * (float)sum;
			if (i % 2)
				a->sum32[per32 + (size_t)((first + i) / 2) * w + in] = last +
										       a->sum16[at];
			last = a->sum16[at];
			for (uint32_t z = 0; z < a->n_zeros; z++)
				a->init[z][at] = -(int32_t)a->zeros[z] * sum;
		}
	}
}

LANE uint16_t round_bf16(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	if (x != x)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void acts_bf16(const float *x, struct cpu_acts *a, uint32_t c)
{
	uint32_t c0;
	const uint32_t w = tile_width(a, c, &c0), pairs = a->cols / 2 + a->cols % 2;
	uint16_t *to = a->bf16 + (size_t)c0 * pairs * 2 + 2 * (c - c0);

	for (uint32_t i = 0; i < pairs; i++, to += 2 * w) {
		to[0] = round_bf16(x[2 * i]);
		to[1] = 2 * i + 1 < a->cols ? round_bf16(x[2 * i + 1]) : 0;
	}
}

static void acts_f32(const float *x, struct cpu_acts *a, uint32_t c)
{
	uint32_t c0;
	const uint32_t w = tile_width(a, c, &c0);
	float *to = a->f32 + (size_t)c0 * a->cols + (c - c0);

	for (uint32_t k = 0; k < a->cols; k++)
		to[(size_t)k * w] = x[k];
}

static float row_dot(const float *x, const float *y, uint32_t n)
{
	struct vf sum = vf_set1(0);

	for (uint32_t i = 0; i < n; i += 16)
		sum = vf_fma(row_load(x, i, n), row_load(y, i, n), sum);
	return vf_sum(sum);
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, float *y)
{
	const float mean = row_dot(x, x, n) / (float)n;
	const struct vf scale = vf_set1(1.0f / sqrtf(mean + eps));

	for (uint32_t i = 0; i < n; i += 16)
		row_store(y, i, n, vf_mul(vf_mul(row_load(x, i, n), scale), row_load(w, i, n)));
}

static void swiglu(const float *gate, const float *up, uint32_t n, float *y)
{
	for (uint32_t i = 0; i < n; i += 16) {
		const struct vf g = row_load(gate, i, n);
		const struct vf e = vf_exp(vf_sub(vf_set1(0), g));

		row_store(y, i, n, vf_mul(vf_div(g, vf_add(vf_set1(1.0f), e)), row_load(up, i, n)));
	}
}

static void row_add(const float *x, uint32_t n, float *y)
{
	for (uint32_t i = 0; i < n; i += 16)
		row_store(y, i, n, vf_add(row_load(y, i, n), row_load(x, i, n)));
}

static void to_f16(const float *x, uint32_t n, uint16_t *y)
{
	for (uint32_t i = 0; i < n; i += 16) {
		uint16_t t[16];

		vf_store_f16(t, row_load(x, i, n));
		memcpy(y + i, t, (n - i < 16 ? n - i : 16) * sizeof(t[0]));
	}
}
