/* What all instruction sets share above the sixteen lanes: fixed reduction trees and exp. Included
 * after one of the lanes headers. */
#pragma once

#include <math.h>

/* Lanes 0…15 to one number, always by the same tree: (i, i + 8), (i, i + 4) … */
LANE float vf_sum(struct vf a)
{
	float t[16];

	vf_store(t, a);
	for (int half = 8; half >= 1; half /= 2)
		for (int i = 0; i < half; i++)
			t[i] += t[i + half];
	return t[0];
}

LANE float vf_top(struct vf a)
{
	float t[16], top;

	vf_store(t, a);
	top = t[0];
	for (int i = 1; i < 16; i++)
		top = t[i] > top ? t[i] : top;
	return top;
}

/* e^x within 2 ulp for x in [-87, 88]; e^-87 (1.6e-38) below, e^88 above. Cody-Waite reduction by
 * ln 2 in two parts, then the Taylor polynomial of degree 7 on |r| <= ln 2 / 2. */
LANE struct vf vf_exp(struct vf x)
{
	const struct vf c = vf_max(vf_min(x, vf_set1(88.0f)), vf_set1(-87.0f));
	const struct vf n = vf_round(vf_mul(c, vf_set1(1.44269504f)));
	struct vf r = vf_fma(n, vf_set1(-0.693359375f), c);
	struct vf p = vf_set1(1.0f / 5040);

	r = vf_fma(n, vf_set1(2.12194440e-4f), r);
	p = vf_fma(p, r, vf_set1(1.0f / 720));
	p = vf_fma(p, r, vf_set1(1.0f / 120));
	p = vf_fma(p, r, vf_set1(1.0f / 24));
	p = vf_fma(p, r, vf_set1(1.0f / 6));
	p = vf_fma(p, r, vf_set1(0.5f));
	p = vf_fma(p, r, vf_set1(1.0f));
	p = vf_fma(p, r, vf_set1(1.0f));
	return vf_scale2(p, n);
}
