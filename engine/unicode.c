/* Classes and case of characters, looked up in the sorted tables of unicode_table.c. Nothing here
 * depends on the locale. */
#include "engine/unicode.h"

#include "engine/unicode_table.h"

unsigned unicode_class(uint32_t code)
{
	size_t low = 0, high = UNICODE_CLASSES;

	if (code > 0x10ffff)
		return 0;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (unicode_classes[middle] >> 8 <= code)
			low = middle;
		else
			high = middle;
	}
	return unicode_classes[low] & 0xff;
}

bool unicode_is_space(uint32_t code)
{
	if (code < 0x80)
		return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20);
	return code == 0x85 || code == 0xa0 || code == 0x1680 ||
	       (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
	       code == 0x202f || code == 0x205f || code == 0x3000;
}

bool unicode_is_line_end(uint32_t code)
{
	return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
	       code == 0x2028 || code == 0x2029;
}

static bool unicode_run_map(
	const struct unicode_run *runs, size_t n, uint32_t code, uint32_t *ret_code)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct unicode_run *r = &runs[middle];

		if (code > r->last) {
			low = middle + 1;
		} else if (code < r->first) {
			high = middle;
		} else {
			if ((code - r->first) % r->step != 0)
				return false;
			*ret_code = (uint32_t)((int64_t)code + r->delta);
			return true;
		}
	}
	return false;
}

static size_t unicode_several_map(
	const struct unicode_several *several, size_t n, uint32_t code, uint32_t out[3])
{
	size_t low = 0, high = n, i;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (code > several[middle].code) {
			low = middle + 1;
		} else if (code < several[middle].code) {
			high = middle;
		} else {
			for (i = 0; i < 3 && several[middle].to[i] != 0; i++)
				out[i] = several[middle].to[i];
			return i;
		}
	}
	return 0;
}

size_t unicode_map(uint32_t code, enum unicode_case to, uint32_t out[3])
{
	size_t n = 0;

	out[0] = code;
	if (code < 0x80) {
		if (to == UNICODE_TO_LOWER)
			out[0] = code >= 'A' && code <= 'Z' ? code + 32 : code;
		else
			out[0] = code >= 'a' && code <= 'z' ? code - 32 : code;
		return 1;
	}
	switch (to) {
	case UNICODE_TO_LOWER:
		n = unicode_several_map(unicode_lower_several, UNICODE_LOWER_SEVERAL, code, out);
		if (n == 0)
			unicode_run_map(unicode_lower, UNICODE_LOWER, code, &out[0]);
		break;
	case UNICODE_TO_TITLE:
		n = unicode_several_map(unicode_title_several, UNICODE_TITLE_SEVERAL, code, out);
		if (n == 0 && !unicode_run_map(unicode_title, UNICODE_TITLE, code, &out[0]))
			unicode_run_map(unicode_upper, UNICODE_UPPER, code, &out[0]);
		break;
	case UNICODE_TO_UPPER:
		n = unicode_several_map(unicode_upper_several, UNICODE_UPPER_SEVERAL, code, out);
		if (n == 0)
			unicode_run_map(unicode_upper, UNICODE_UPPER, code, &out[0]);
		break;
	}
	return n > 0 ? n : 1;
}
