/* Packed blocks of layout.h read back into lanes: values as bytes, scales as f32. What every kernel
 * on quantised weights begins with. */

#define VALUES_PANEL 100 /* bytes that were unpacked before */

/* Bits `from` … of every byte moved to bit `to`; what stood around them comes along. */
LANE struct vi bits_shift(struct vi v, int from, int to)
{
	return from >= to ? vi_shr(v, from - to) : vi_shl(v, to - from);
}

/* The 64-byte lines of a packed block: held in registers, or read where they are wanted. */
struct lines {
	const uint8_t *p;
	bool held;
	struct vi v[8];
};

LANE struct vi line_at(const struct lines *l, int i)
{
	return l->held ? l->v[i] : vi_load(l->p + 64 * i);
}

/* The lines are asked for in ascending order, which is how memory streams at its full speed and not
 * what the compiler would do. */
LANE struct lines lines_hold(const int values, const uint8_t *p)
{
	struct lines l = {.p = p, .held = true};

	for (uint32_t i = 0; i < VALUES_BYTES(values) / 64; i++)
		l.v[i] = vi_load_in_order(p + 64 * i);
	return l;
}

/* Vector j (0 … 7) of a block as bytes: 16 rows x 4 columns. */
LANE struct vi values_unpack(const int values, const struct lines *l, int j)
{
	struct vi v;

	switch (values) {
	case VALUES_Q4:
	case VALUES_Q5:
	case VALUES_Q6:
		v = vi_and_byte(bits_shift(line_at(l, j / 2), j % 2 * 4, 0), 0x0f);
		if (values == VALUES_Q5)
			v = vi_merge(v, bits_shift(line_at(l, 4), j, 4), 0x10);
		if (values == VALUES_Q6)
			v = vi_merge(v, bits_shift(line_at(l, 4 + j / 4), j % 4 * 2, 4), 0x30);
		return v;
	case VALUES_Q2:
	case VALUES_Q3:
		v = vi_and_byte(bits_shift(line_at(l, j / 4), j % 4 * 2, 0), 0x03);
		if (values == VALUES_Q3)
			v = vi_merge(v, bits_shift(line_at(l, 2), j, 2), 0x04);
		return v;
	case VALUES_IQ4:
		v = vi_level(
			vi_and_byte(bits_shift(line_at(l, j / 2), j % 2 * 4, 0), 0x0f), iq4_levels);
		return BYTE_ZERO ? vi_flip_sign(v) : v;
	default: return line_at(l, j);
	}
}

/* Values that unpack to full bytes, BYTE_ZERO too high. */
LANE bool values_byte(const int values)
{
	return values == VALUES_Q8 || values == VALUES_IQ4;
}

struct block_scales {
	struct vf d[2], m[2]; /* per half; the second only where scales are per 16 */
};

LANE bool scales_per16(const int scales)
{
	return scales == SCALES_K16 || scales == SCALES_K16M;
}

LANE bool scales_min(const int scales)
{
	return scales == SCALES_DM || scales == SCALES_K32M || scales == SCALES_K16M;
}

LANE struct vf lanes_f16(const uint8_t *p)
{
	return vf_load_f16((const uint16_t *)(const void *)p);
}

/* What the blocks of a record have in common: d and -dmin of 256 columns. */
struct record_scales {
	struct vf d, min;
};

LANE struct record_scales record_load(const int scales, const uint8_t *s)
{
	struct record_scales r = {vf_set1(0), vf_set1(0)};

	if (SCALES_BLOCKS(scales) == 8)
		r.d = lanes_f16(s);
	if (scales == SCALES_K32M || scales == SCALES_K16M)
		r.min = vf_sub(vf_set1(0), lanes_f16(s + 32));
	return r;
}

/* The scales of block i of a record. Products of an f16 and an 8-bit integer are exact. */
LANE struct block_scales scales_load(
	const int scales, const uint8_t *s, const struct record_scales *record, uint32_t i)
{
	struct block_scales r;

	r.m[0] = r.m[1] = vf_set1(0);
	switch (scales) {
	case SCALES_D: r.d[0] = r.d[1] = lanes_f16(s + 32 * (size_t)i); return r;
	case SCALES_DM:
		r.d[0] = r.d[1] = lanes_f16(s);
		r.m[0] = r.m[1] = lanes_f16(s + 32);
		return r;
	case SCALES_K32M:
		r.d[0] = r.d[1] = vf_mul(record->d, vf_load_u8(s + 64 + 32 * i));
		r.m[0] = r.m[1] = vf_mul(record->min, vf_load_u8(s + 64 + 32 * i + 16));
		return r;
	case SCALES_K16:
		r.d[0] = vf_mul(record->d, vf_load_s8(s + 32 + 32 * i));
		r.d[1] = vf_mul(record->d, vf_load_s8(s + 32 + 32 * i + 16));
		return r;
	case SCALES_K32: r.d[0] = r.d[1] = vf_mul(record->d, vf_load_s8(s + 32 + 16 * i)); return r;
	default:
		for (int h = 0; h < 2; h++) {
			const uint8_t *at = s + 64 + 64 * i + 32 * h;

			r.d[h] = vf_mul(record->d, vf_load_u8(at));
			r.m[h] = vf_mul(record->min, vf_load_u8(at + 16));
		}
		return r;
	}
}

LANE struct block_scales scales_of(
	const int values, const int scales, const uint8_t *group, uint32_t b)
{
	const uint8_t *record = layout_record(values, scales, group, b);
	const struct record_scales rs = record_load(scales, record);

	return scales_load(scales, record, &rs, b % SCALES_BLOCKS(scales));
}
