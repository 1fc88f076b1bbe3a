/* The command line. It overrides the configuration; nothing here opens or checks a file. */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/limits.h"
#include "engine/quantize_mix.h"

static const char usage[] =
	"Usage: zephd [options]\n"
	"Serves a chat model on a Unix socket.\n"
	"\n"
	"  --model FILE       the model, a GGUF file or a Hugging Face directory\n"
	"  --socket PATH      where to listen (default: $ZEPH_SOCKET, else the user's runtime\n"
	"                     directory, for root /run/zeph/zeph.sock)\n"
	"  --config FILE      configuration (default: /etc/zeph/zephd.conf for root, else\n"
	"                     ~/.config/zeph/zephd.conf)\n"
	"  --device DEV       auto, cpu, reference, cuda or cuda:N\n"
	"  --quantize TYPE    what f32, f16 and bf16 weights become as they load: q8_0, q4_k_m, …\n"
	"  --threads N        processor threads of the engine (0: all processors)\n"
	"  --context N        positions of one conversation (0: the model's)\n"
	"  --check-config     check the configuration and exit\n"
	"  --version, --help\n"
	"\n"
	"Exit status: 0 stopped, 1 failed, 2 usage, 78 the configuration or the model is bad.\n";

bool options_device_valid(const char *device)
{
	if (!strcmp(device, "auto") || !strcmp(device, "cpu") || !strcmp(device, "reference") ||
		!strcmp(device, "cuda"))
		return true;
	if (strncmp(device, "cuda:", 5) != 0)
		return false;
	size_t digits = strspn(device + 5, "0123456789");
	return digits >= 1 && digits <= 3 && !device[5 + digits];
}

/* A whole decimal number within [0, max]. */
static int parse_number(const char *option, const char *text, int64_t max, int64_t *ret)
{
	char *end;

	errno = 0;
	long long value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < 0 || value > max) {
		fprintf(stderr, "zephd: --%s takes a number from 0 to %lld, not '%s'\n", option,
			(long long)max, text);
		return -EINVAL;
	}
	*ret = value;
	return 0;
}

int options_parse(int argc, char **argv, struct options *ret)
{
	enum {
		OPT_CONFIG = 256,
		OPT_MODEL,
		OPT_SOCKET,
		OPT_DEVICE,
		OPT_QUANTIZE,
		OPT_THREADS,
		OPT_CONTEXT,
		OPT_CHECK,
		OPT_VERSION
	};
	static const struct option table[] = {
		{"config", required_argument, NULL, OPT_CONFIG},
		{"model", required_argument, NULL, OPT_MODEL},
		{"socket", required_argument, NULL, OPT_SOCKET},
		{"device", required_argument, NULL, OPT_DEVICE},
		{"quantize", required_argument, NULL, OPT_QUANTIZE},
		{"threads", required_argument, NULL, OPT_THREADS},
		{"context", required_argument, NULL, OPT_CONTEXT},
		{"check-config", no_argument, NULL, OPT_CHECK},
		{"version", no_argument, NULL, OPT_VERSION},
		{"help", no_argument, NULL, 'h'},
		{},
	};
	struct options o = {.threads = -1, .context = -1};
	int c, r = 0;

	optind = 0; /* glibc: start over, whatever was parsed before */
	while ((c = getopt_long(argc, argv, "h", table, NULL)) >= 0) {
		switch (c) {
		case OPT_CONFIG: o.config = optarg; break;
		case OPT_MODEL: o.model = optarg; break;
		case OPT_SOCKET: o.socket = optarg; break;
		case OPT_DEVICE: o.device = optarg; break;
		case OPT_QUANTIZE: o.quantize = optarg; break;
		case OPT_THREADS: r = parse_number("threads", optarg, 1024, &o.threads); break;
		case OPT_CONTEXT:
			r = parse_number("context", optarg, MODEL_CONTEXT_MAX, &o.context);
			break;
		case OPT_CHECK: o.check_config = true; break;
		case OPT_VERSION: puts("zephd " ZEPH_VERSION); return 1;
		case 'h': fputs(usage, stdout); return 1;
		default: fputs("Try 'zephd --help'.\n", stderr); return -EINVAL;
		}
		if (r < 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "zephd: unexpected argument '%s'\nTry 'zephd --help'.\n",
			argv[optind]);
		return -EINVAL;
	}
	if (o.device && !options_device_valid(o.device)) {
		fprintf(stderr,
			"zephd: --device takes auto, cpu, reference, cuda or cuda:N, not '%s'\n",
			o.device);
		return -EINVAL;
	}
	if (o.quantize && !quantize_mix_find(o.quantize)) {
		fprintf(stderr, "zephd: --quantize takes one of %s, not '%s'\n",
			quantize_mix_names(), o.quantize);
		return -EINVAL;
	}
	*ret = o;
	return 0;
}
