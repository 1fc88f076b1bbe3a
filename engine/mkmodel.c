/* zeph-mkmodel: a model of random weights, for tests and benchmarks.
 *
 * The file or directory appears under its name only when it is complete. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/limits.h"
#include "engine/mkmodel.h"
#include "engine/source_hf.h"

enum { EXIT_USAGE = 2 };

static void usage(FILE *to)
{
	fprintf(to,
		"zeph-mkmodel [options] OUT.gguf|OUTDIR\n"
		"  --shape NAME   %s (tiny)\n"
		"  --type TYPE    f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k,\n"
		"                 q6_k, iq4_nl, iq4_xs (f32), or one of llama.cpp's mixes: q3_k_s,\n"
		"                 q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m\n"
		"  --tokenizer F  a tokenizer.model to use; the vocabulary becomes its size\n"
		"  --seed N       the same seed makes the same model (0)\n"
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

/* *ret is malloc'ed. 0 or a negative errno. */
static int read_whole(const char *path, char **ret, size_t *ret_len)
{
	FILE *f = fopen(path, "rbe");
	char *text = NULL;
	long size = -1;
	int r = f ? 0 : -errno;

	if (r == 0 && (fseek(f, 0, SEEK_END) < 0 || (size = ftell(f)) < 0))
		r = -errno;
	if (r == 0 && size > (long)HF_FILE_BYTES_MAX)
		r = -EFBIG;
	if (r == 0) {
		rewind(f);
		text = malloc((size_t)size + 1);
		r = !text ? -ENOMEM : fread(text, 1, (size_t)size, f) != (size_t)size ? -EIO : 0;
	}
	if (f)
		fclose(f);
	if (r < 0) {
		free(text);
		return r;
	}
	*ret = text;
	*ret_len = (size_t)size;
	return 0;
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

static int make_file(const struct mkmodel_options *o, const char *path)
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

/* Reads a tokenizer.model into *from, and a shape of its size into *shape. */
static int use_tokenizer(struct mkmodel_options *o, const char *path, struct mkmodel_shape *shape,
	struct tokenizer_source *from)
{
	char error[256] = "";
	const struct model_refusal why = {error, sizeof(error)};
	char *text;
	size_t len;
	int r;

	r = read_whole(path, &text, &len);
	if (r < 0) {
		fprintf(stderr, "zeph-mkmodel: %s: %s\n", path, strerror(-r));
		return r;
	}
	r = tokenizer_model_read(text, len, from, &why);
	if (r < 0) {
		fprintf(stderr, "zeph-mkmodel: %s: %s\n", path, error);
		tokenizer_source_done(from);
		return r;
	}
	from->adds_bos = from->bos >= 0;
	*shape = *o->shape;
	shape->vocab = from->n;
	shape->from = from;
	o->shape = shape;
	return 0;
}

static int copy_into(int directory, const char *name, const char *from)
{
	char *text;
	size_t len;
	int fd, r;

	r = read_whole(from, &text, &len);
	if (r < 0)
		return r;
	fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	r = fd < 0 ? -errno : write(fd, text, len) == (ssize_t)len ? 0 : -EIO;
	if (fd >= 0)
		close(fd);
	free(text);
	return r;
}

/* What a failure leaves behind. */
static void remove_directory(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(path);
}

static int make_directory(const struct mkmodel_options *o, const char *path, const char *tokenizer)
{
	char error[256] = "", *part;
	int fd = -1, r;

	if (asprintf(&part, "%s.part", path) < 0) {
		fprintf(stderr, "zeph-mkmodel: no memory\n");
		return EXIT_FAILURE;
	}
	if (mkdir(part, 0777) < 0 || (fd = open(part, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
		fprintf(stderr, "zeph-mkmodel: %s: %s\n", part, strerror(errno));
		free(part);
		return EXIT_FAILURE;
	}
	r = mkmodel_write_directory(o, fd, error, sizeof(error));
	if (r == 0 && tokenizer) {
		r = copy_into(fd, "tokenizer.model", tokenizer);
		snprintf(error, sizeof(error), "tokenizer.model: %s", strerror(-r));
	}
	close(fd);
	if (r == 0 && rename(part, path) < 0) {
		r = errno == EEXIST || errno == ENOTEMPTY ? -EEXIST : -errno;
		snprintf(error, sizeof(error), "%s", strerror(-r));
	}
	if (r < 0) {
		remove_directory(part);
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
		{"tokenizer", required_argument, NULL, 'k'},
		{"seed", required_argument, NULL, 'S'},
		{"threads", required_argument, NULL, 'T'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	unsigned shown = 101;
	struct mkmodel_options o = {
		.shape = mkmodel_shape("tiny"), .type = "f32", .note = say, .userdata = &shown};
	const char *path, *end, *tokenizer = NULL;
	struct tokenizer_source from = {0};
	struct mkmodel_shape shape;
	uint64_t v;
	int c, r;

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
		case 'k': tokenizer = optarg; break;
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
	if (tokenizer && use_tokenizer(&o, tokenizer, &shape, &from) < 0)
		return EXIT_USAGE;
	path = argv[optind];
	end = strrchr(path, '.');
	if (isatty(STDERR_FILENO))
		o.progress = show_progress;
	if (end && strcmp(end, ".gguf") == 0)
		r = make_file(&o, path);
	else
		r = make_directory(&o, path, tokenizer);
	tokenizer_source_done(&from);
	return r;
}
