/* Why: strtol() and strtod() take more than is meant (spaces, hex, "inf"); here only plain decimal
 * numbers pass. */
#include "client/numbers.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/limits.h"

bool number_int(const char *text, int64_t *ret)
{
	const char *digits = text + (text[0] == '-' || text[0] == '+');
	long long v;

	if (!digits[0] || digits[strspn(digits, "0123456789")])
		return false;
	errno = 0;
	v = strtoll(text, NULL, 10);
	if (errno || v > SAFE_INTEGER_MAX || v < -SAFE_INTEGER_MAX)
		return false;
	*ret = v;
	return true;
}

bool number_float(const char *text, double *ret)
{
	char *end;
	double v;

	if (!text[0] || text[strspn(text, "0123456789+-.eE")])
		return false;
	v = strtod(text, &end);
	if (*end || end == text || !isfinite(v))
		return false;
	*ret = v;
	return true;
}
