/* zeph-quantize: a model file in another type, for zeph and for every other program that reads
 * GGUF. `zephctl quantize` runs it.
 *
 * The file appears under its name only when it is complete and on disk. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/quantize_gguf.h"
#include "engine/source.h"
#include "kernels/pool.h"

enum { EXIT_USAGE = 2, EXIT_MODEL = 5 };

struct arguments {
	const char *in, *out;
	struct quantize_options options;
};

/* What the progress callback draws and watches. */
struct watch {
	sigset_t signals; /* SIGINT and SIGTERM, blocked */
	int signal;       /* that came; 0: none */
	unsigned percent; /* shown last */
	bool show;
};

static void usage(FILE *to)
{
	fprintf(to,
		"usage: zephctl quantize IN OUT.gguf --type TYPE [options]\n"
		"  IN               a GGUF file, or a Hugging Face directory\n"
		"  --type TYPE      %s\n"
		"  --requantize     convert matrices that are quantised already, too: what they\n"
		"                   lost stays lost, and more comes to it\n"
		"  --threads N      0 is all processors (0)\n"
		"  --version, --help\n",
		quantize_mix_names());
}

__attribute__((format(printf, 1, 2))) static int complain(const char *format, ...)
{
	va_list args;

	fputs("zeph-quantize: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return -EINVAL;
}

/* 0: run; 1: all is said; negative: usage. */
static int parse(int argc, char **argv, struct arguments *a)
{
	static const struct option table[] = {
		{"type", required_argument, NULL, 't'},
		{"requantize", no_argument, NULL, 'r'},
		{"threads", required_argument, NULL, 'T'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	unsigned long threads;
	char *end;
	int c;

	*a = (struct arguments){0};
	while ((c = getopt_long(argc, argv, "h", table, NULL)) != -1) {
		switch (c) {
		case 't':
			a->options.mix = quantize_mix_find(optarg);
			if (!a->options.mix)
				return complain("--type: one of %s expected, found \"%s\"",
					quantize_mix_names(), optarg);
			break;
		case 'r': a->options.again = true; break;
		case 'T':
			errno = 0;
			threads = strtoul(optarg, &end, 10);
			if (errno || optarg[0] < '0' || optarg[0] > '9' || *end ||
				threads > POOL_THREADS_MAX)
				return complain("--threads: 0 to %d expected, found \"%s\"",
					POOL_THREADS_MAX, optarg);
			a->options.threads = (uint32_t)threads;
			break;
		case 'V': puts("zeph-quantize " ZEPH_VERSION); return 1;
		case 'h': usage(stdout); return 1;
		default: return -EINVAL;
		}
	}
	if (argc - optind != 2)
		return complain(
			"two names expected, IN and OUT.gguf, found %d words", argc - optind);
	a->in = argv[optind];
	a->out = argv[optind + 1];
	if (!a->options.mix)
		return complain("--type expected, one of %s", quantize_mix_names());
	return 0;
}

static int watch_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	const struct timespec now = {0};
	struct watch *w = userdata;
	unsigned percent = (unsigned)(100.0 * (double)done_bytes / (double)total_bytes);
	int signal = sigtimedwait(&w->signals, NULL, &now);

	if (signal > 0)
		w->signal = signal;
	if (w->show && (percent != w->percent || signal > 0)) {
		w->percent = percent;
		fprintf(stderr, "\r%3u%% of %.2f GB%s", percent, (double)total_bytes * 1e-9,
			done_bytes == total_bytes || signal > 0 ? "\n" : "");
	}
	return w->signal;
}

/* On disk, with the file's own mode, and under its name. */
static int publish(int fd, const char *part, const char *path)
{
	const mode_t mask = umask(0);
	char *folder, *slash;
	int directory, r = 0;

	(void)umask(mask);
	if (fchmod(fd, 0666 & ~mask) < 0 || fsync(fd) < 0 || rename(part, path) < 0)
		return -errno;
	folder = strdup(path);
	if (!folder)
		return -ENOMEM;
	slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = '\0';
	directory = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0 || fsync(directory) < 0)
		r = -errno;
	if (directory >= 0)
		close(directory);
	free(folder);
	return r;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A sentence about matrices that stay as they are, unless the user has asked for that. */
static int check_source(const struct model_source *s, const struct arguments *a)
{
	if (a->options.again)
		return 0;
	for (size_t i = 0; i < s->n_tensors; i++) {
		const struct source_tensor *t = &s->tensors[i];
		const struct dtype_info *info = dtype_info(t->dtype);

		if (info->block_elements > 1)
			return complain("%s: tensor %.*s is %s already; a file of f32, f16 or bf16 "
					"loses less, --requantize takes this one all the same",
				a->in, (int)t->name.len, t->name.text, info->name);
	}
	return 0;
}

static int run(struct arguments *a, struct watch *w)
{
	const struct model_options options = {.sliding_window = -1, .keeps_tokenizer = true};
	struct quantize_result result;
	struct model *m = NULL;
	char error[512], *part = NULL;
	int fd = -1, r;

	if (same_file(a->in, a->out))
		return complain("%s: another file than the source expected", a->out);
	r = model_open(a->in, &options, &m, error, sizeof(error));
	if (r < 0)
		return complain("%s: %s", a->in, error);
	a->options.again |= dtype_info(a->options.mix->dtype)->block_elements == 1;
	r = check_source(m->source, a);
	if (r == 0 && asprintf(&part, "%s.XXXXXX", a->out) < 0) {
		part = NULL;
		r = complain("no memory");
	}
	if (r == 0) {
		fd = mkostemp(part, O_CLOEXEC);
		if (fd < 0)
			r = complain("%s: %s", part, strerror(errno));
	}
	if (r == 0) {
		r = quantize_gguf(m, &a->options, fd, &result, error, sizeof(error));
		if (r < 0 && !w->signal)
			complain("%s: %s", a->out, error);
		if (r == 0) {
			r = publish(fd, part, a->out);
			if (r < 0)
				complain("%s: %s", a->out, strerror(-r));
		}
		if (r < 0)
			(void)unlink(part);
	}
	if (r == 0) {
		fprintf(stderr, "%s: %s, %.2f GB of tensors from %.2f GB\n", a->out,
			a->options.mix->name, (double)result.bytes * 1e-9,
			(double)m->config.tensor_bytes * 1e-9);
		if (result.standins[0])
			fprintf(stderr, "%s\n", result.standins);
	}
	if (fd >= 0)
		close(fd);
	free(part);
	model_free(m);
	return r;
}

int main(int argc, char **argv)
{
	struct watch w = {.percent = 101, .show = isatty(STDERR_FILENO)};
	struct arguments a;
	int r = parse(argc, argv, &a);

	if (r != 0) {
		if (r < 0)
			fputs("Try 'zephctl quantize --help'.\n", stderr);
		return r < 0 ? EXIT_USAGE : EXIT_SUCCESS;
	}
	sigemptyset(&w.signals);
	sigaddset(&w.signals, SIGINT);
	sigaddset(&w.signals, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &w.signals, NULL);
	a.options.progress = watch_progress;
	a.options.userdata = &w;
	r = run(&a, &w);
	if (w.signal) { /* dies of it, so that a shell's loop stops */
		(void)signal(w.signal, SIG_DFL);
		(void)raise(w.signal);
		(void)sigprocmask(SIG_UNBLOCK, &w.signals, NULL);
	}
	return r < 0 ? EXIT_MODEL : EXIT_SUCCESS;
}
