/* zeph-mkmodel: a model of random weights, for tests and benchmarks.
 *
 * The file appears under its name only when it is complete. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/mkmodel.h"

enum { EXIT_USAGE = 2 };

static void usage(FILE *to)
{
	fprintf(to,
		"zeph-mkmodel [options] OUT.gguf\n"
		"  --shape NAME   %s (tiny)\n"
		"  --type TYPE    f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k,\n"
		"                 q5_k, q6_k, or q4_k_m, llama.cpp's mix (f32)\n"
		"  --seed N       the same seed makes the same file (0)\n"
		"  --threads N    0 is all processors (0)\n"
		"  --version, --help\n",
		mkmodel_shape_names());
}

/* A decimal number up to max, and nothing else. */
static bool parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || v > max)
		return false;
	*ret = v;
	return true;
}

static void say(void *userdata, const char *sentence)
{
	fprintf(stderr, "zeph-mkmodel: %s\n", sentence);
}

/* userdata: the percent shown last. */
static void show_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	unsigned *shown = userdata,
		 percent = (unsigned)(100.0 * (double)done_bytes / (double)total_bytes);

	if (percent == *shown)
		return;
	*shown = percent;
	fprintf(stderr, "\r%3u%% of %.1f MB%s", percent, (double)total_bytes / 1e6,
		done_bytes == total_bytes ? "\n" : "");
}

static int make(const struct mkmodel_options *o, const char *path)
{
	char error[256], *part;
	int fd, r;

	if (asprintf(&part, "%s.part", path) < 0) {
		fprintf(stderr, "zeph-mkmodel: no memory\n");
		return EXIT_FAILURE;
	}
	fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) {
		fprintf(stderr, "zeph-mkmodel: %s: %s\n", part, strerror(errno));
		free(part);
		return EXIT_FAILURE;
	}
	r = mkmodel_write(o, fd, error, sizeof(error));
	if (close(fd) < 0 && r == 0) {
		r = -errno;
		snprintf(error, sizeof(error), "writing the model: %s", strerror(errno));
	}
	if (r == 0 && rename(part, path) < 0) {
		r = -errno;
		snprintf(error, sizeof(error), "%s", strerror(errno));
	}
	if (r < 0) {
		unlink(part);
		fprintf(stderr, "zeph-mkmodel: %s: %s\n", path, error);
	}
	free(part);
	return r == -EINVAL ? EXIT_USAGE : r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"shape", required_argument, NULL, 's'},
		{"type", required_argument, NULL, 't'},
		{"seed", required_argument, NULL, 'S'},
		{"threads", required_argument, NULL, 'T'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	unsigned shown = 101;
	struct mkmodel_options o = {
		.shape = mkmodel_shape("tiny"), .type = "f32", .note = say, .userdata = &shown};
	const char *path, *end;
	uint64_t v;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			o.shape = mkmodel_shape(optarg);
			if (!o.shape) {
				fprintf(stderr,
					"zeph-mkmodel: --shape: one of %s expected, found \"%s\"\n",
					mkmodel_shape_names(), optarg);
				return EXIT_USAGE;
			}
			break;
		case 't': o.type = optarg; break;
		case 'S':
			if (!parse_number(optarg, UINT64_MAX, &o.seed)) {
				fprintf(stderr,
					"zeph-mkmodel: --seed: an integer of 0 to 2^64 - 1 expected, "
					"found \"%s\"\n",
					optarg);
				return EXIT_USAGE;
			}
			break;
		case 'T':
			if (!parse_number(optarg, 256, &v)) {
				fprintf(stderr,
					"zeph-mkmodel: --threads: 0 to 256 expected, found \"%s\"\n",
					optarg);
				return EXIT_USAGE;
			}
			o.threads = (uint32_t)v;
			break;
		case 'V': puts("zeph-mkmodel " ZEPH_VERSION); return EXIT_SUCCESS;
		case 'h': usage(stdout); return EXIT_SUCCESS;
		default: usage(stderr); return EXIT_USAGE;
		}
	}
	if (optind + 1 != argc) {
		usage(stderr);
		return EXIT_USAGE;
	}
	path = argv[optind];
	end = strrchr(path, '.');
	if (!end || strcmp(end, ".gguf") != 0) {
		fprintf(stderr,
			"zeph-mkmodel: %s: a name that ends in .gguf expected; Hugging Face "
			"directories cannot be made yet\n",
			path);
		return EXIT_USAGE;
	}
	if (isatty(STDERR_FILENO))
		o.progress = show_progress;
	return make(&o, path);
}
