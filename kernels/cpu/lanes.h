/* What all instruction sets share above the sixteen lanes: exp. Included
 * after one of the lanes headers. */
#pragma once

#include <math.h>

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
