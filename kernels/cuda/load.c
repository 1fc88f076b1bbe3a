/* The way to a CUDA module. Owns nothing: a module that was opened stays for the process's life,
 * because the CUDA runtime inside it registers what must not be unmapped. */
#include "kernels/cuda/load.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The modules, newest first, and the CUDA version that a driver must serve for each. */
static const struct {
	const char *file;
	int cuda;           /* 1000 x major + 10 x minor */
	const char *driver; /* the first that serves it */
} modules[] = {
	{"zeph-cuda13.so", 13000, "580"},
	{"zeph-cuda12.so", 12000, "525"},
};
#define N_MODULES (sizeof(modules) / sizeof(modules[0]))

/* The CUDA version that the installed driver serves. */
static int driver_version(int *ret, char *error, size_t error_size)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	int (*get)(int *) = NULL;
	int version = 0;

	if (library) {
		*(void **)&get = dlsym(library, "cuDriverGetVersion");
		dlclose(library);
	}
	if (!get) {
		snprintf(error, error_size,
			"there is no NVIDIA driver on this machine (libcuda.so.1 %s)",
			library ? "is damaged" : "was not found");
		return -ENODEV;
	}
	if (get(&version) != 0 || version <= 0) {
		snprintf(error, error_size, "the NVIDIA driver does not tell its version");
		return -ENODEV;
	}
	if (version < modules[N_MODULES - 1].cuda) {
		snprintf(error, error_size,
			"the NVIDIA driver is too old: it serves CUDA %d.%d, wanted 12.0 (driver "
			"%s) or newer",
			version / 1000, version % 1000 / 10, modules[N_MODULES - 1].driver);
		return -ENODEV;
	}
	*ret = version;
	return 0;
}

/* Opens one file and checks what it exports. -ENOENT: there is no such file; -ENODEV: a file that
 * does not serve. */
static int module_open(
	const char *path, const struct cuda_module **ret, char *error, size_t error_size)
{
	const struct cuda_module *m;
	const char *why;
	void *handle;

	if (access(path, F_OK) < 0)
		return -ENOENT;
	handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!handle) {
		why = dlerror();
		snprintf(error, error_size, "the CUDA module does not load: %s", why ? why : path);
		return -ENODEV;
	}
	m = dlsym(handle, CUDA_MODULE_SYMBOL);
	dlclose(handle); /* RTLD_NODELETE: it stays */
	if (!m) {
		snprintf(error, error_size, "%s is no CUDA module of zeph", path);
		return -ENODEV;
	}
	if (m->abi != CUDA_MODULE_ABI) {
		snprintf(error, error_size,
			"%s is of another version of zeph: its interface is %u, wanted %u", path,
			m->abi, CUDA_MODULE_ABI);
		return -ENODEV;
	}
	*ret = m;
	return 0;
}

/* Where modules lie: beside the program, in a build's folder (programs lie one or two folders deep
 * there), where they are installed. */
static int module_find(
	const char *file, const struct cuda_module **ret, char *error, size_t error_size)
{
	static const char *const places[] = {
		"", "../kernels/cuda/", "../../kernels/cuda/", "../lib/zeph/"};
	char program[512], path[1024];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	size_t folder = 0;
	int r = -ENOENT;

	if (n > 0) {
		program[n] = '\0';
		folder = (size_t)(strrchr(program, '/') + 1 - program);
	}
	for (size_t i = 0; folder > 0 && i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%.*s%s%s", (int)folder, program, places[i], file);
		r = module_open(path, ret, error, error_size);
		if (r != -ENOENT)
			return r;
	}
	snprintf(path, sizeof(path), "%s/%s", ZEPH_MODULE_DIR, file);
	r = module_open(path, ret, error, error_size);
	if (r == -ENOENT)
		snprintf(error, error_size,
			"the CUDA module %s is missing: it is neither beside the program nor in %s",
			file, ZEPH_MODULE_DIR);
	return r;
}

/* The oldest architecture in "sm_75 sm_80": 75. */
static unsigned oldest_sm(const char *arch_names)
{
	unsigned oldest = 0;

	for (const char *at = arch_names; (at = strstr(at, "sm_")); at += 3) {
		unsigned sm = (unsigned)strtoul(at + 3, NULL, 10);

		if (sm > 0 && (oldest == 0 || sm < oldest))
			oldest = sm;
	}
	return oldest;
}

int cuda_choose_card(const struct cuda_card *cards, uint32_t n, const char *arch_names,
	uint32_t wanted, uint32_t *ret, char *error, size_t error_size)
{
	const unsigned oldest = oldest_sm(arch_names);
	uint32_t best = CUDA_CARD_ANY, old = 0;

	if (n == 0) {
		snprintf(error, error_size, "there is no NVIDIA card in this machine");
		return -ENODEV;
	}
	if (wanted != CUDA_CARD_ANY && wanted >= n) {
		snprintf(error, error_size, "there is no card %u: this machine has %u, from 0",
			wanted, n);
		return -ENODEV;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (wanted != CUDA_CARD_ANY && i != wanted)
			continue;
		if (cards[i].major * 10 + cards[i].minor < oldest)
			old = i;
		else if (best == CUDA_CARD_ANY || cards[i].free_bytes > cards[best].free_bytes)
			best = i;
	}
	if (best == CUDA_CARD_ANY) {
		if (wanted != CUDA_CARD_ANY)
			old = wanted;
		snprintf(error, error_size,
			"card %u (%s, sm_%u%u) is too old for this module, which needs sm_%u or newer",
			old, cards[old].name, cards[old].major, cards[old].minor, oldest);
		return -ENODEV;
	}
	*ret = best;
	return 0;
}

static int choose_from(const struct cuda_module *m, uint32_t wanted, struct cuda_choice *ret,
	char *error, size_t error_size)
{
	struct cuda_card cards[CUDA_CARDS_MAX];
	uint32_t n = 0, card;
	char why[256] = "";
	int r;

	r = m->cards(cards, CUDA_CARDS_MAX, &n, why, sizeof(why));
	if (r < 0) {
		snprintf(error, error_size, "the NVIDIA cards cannot be used: %s",
			why[0] ? why : strerror(-r));
		return -ENODEV;
	}
	if (n > CUDA_CARDS_MAX)
		n = CUDA_CARDS_MAX;
	r = cuda_choose_card(cards, n, m->arch_names, wanted, &card, error, error_size);
	if (r < 0)
		return r;
	*ret = (struct cuda_choice){.module = m, .card = card, .info = cards[card]};
	return 0;
}

int cuda_choose(uint32_t wanted, struct cuda_choice *ret, char *error, size_t error_size)
{
	const char *named = secure_getenv("ZEPH_CUDA_MODULE");
	const struct cuda_module *m;
	int version = 0, r;

	if (named && named[0] != '\0') {
		r = module_open(named, &m, error, error_size);
		if (r == -ENOENT) {
			snprintf(error, error_size,
				"the CUDA module %s, which ZEPH_CUDA_MODULE names, is missing",
				named);
			return -ENODEV;
		}
		return r < 0 ? r : choose_from(m, wanted, ret, error, error_size);
	}
	r = driver_version(&version, error, error_size);
	if (r < 0)
		return r;
	/* The newest module that the driver serves; an older one may know older cards. What is told
	 * is what the newest said. */
	for (size_t i = 0; i < N_MODULES; i++) {
		char later[256];
		bool first = r == 0;

		if (version < modules[i].cuda)
			continue;
		r = module_find(modules[i].file, &m, first ? error : later,
			first ? error_size : sizeof(later));
		if (r == 0)
			r = choose_from(m, wanted, ret, first ? error : later,
				first ? error_size : sizeof(later));
		if (r == 0)
			return 0;
	}
	return -ENODEV;
}
