/* zephd's command line. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct options {
	const char *config, *model, *socket, *device; /* NULL: not given; they point into argv */
	const char *quantize;
	int64_t threads, context; /* -1: not given */
	bool check_config;
};

/* 0: go on; 1: --help or --version was answered on stdout; -EINVAL: a sentence stands on stderr. */
int options_parse(int argc, char **argv, struct options *ret);

/* True for auto, cpu, reference, cuda and cuda:N. */
bool options_device_valid(const char *device);
