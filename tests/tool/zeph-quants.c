/* zeph-quants TYPE quantize|dequantize: f32 numbers to blocks, or blocks to f32 numbers, standard
 * input to standard output as one row: what the package gguf is compared with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"

/* All of standard input; NULL for want of memory. */
static void *read_all(size_t *ret_n)
{
	size_t n = 0, size = 1 << 16;
	char *data = malloc(size);

	while (data) {
		size_t k = fread(data + n, 1, size - n, stdin);
		char *grown;

		if (k == 0)
			break;
		n += k;
		if (n < size)
			continue;
		size *= 2;
		grown = realloc(data, size);
		if (!grown)
			free(data);
		data = grown;
	}
	*ret_n = n;
	return data;
}

int main(int argc, char **argv)
{
	int dtype = argc == 3 ? dtype_from_name(argv[1]) : -1;
	const struct dtype_info *info = dtype < 0 ? NULL : dtype_info((uint32_t)dtype);
	size_t n = 0, elements, bytes;
	void *in, *out;

	if (!info || (strcmp(argv[2], "quantize") != 0 && strcmp(argv[2], "dequantize") != 0)) {
		fprintf(stderr, "usage: zeph-quants TYPE quantize|dequantize <IN >OUT\n");
		return 2;
	}
	in = read_all(&n);
	elements = argv[2][0] == 'q' ? n / sizeof(float)
				     : n / info->block_bytes * info->block_elements;
	if (!in || !dtype_row_bytes((enum dtype)dtype, elements, &bytes))
		return 1;
	out = malloc(elements * sizeof(float) + bytes + 1);
	if (!out)
		return 1;
	if (argv[2][0] == 'q') {
		quantize_row((enum dtype)dtype, in, NULL, out, elements);
	} else {
		dequantize_row((enum dtype)dtype, in, out, elements);
		bytes = elements * sizeof(float);
	}
	n = fwrite(out, 1, bytes, stdout);
	free(in);
	free(out);
	return n != bytes || fflush(stdout) != 0;
}
