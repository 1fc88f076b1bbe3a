/* One thread, one file. The place's strings belong to the engine's thread, which frees the packer
 * before it lets go of the weights. */
#include "daemon/packer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/ioprio.h, which Debian's headers have not always had. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE        (3 << 13)

struct packer {
	pthread_t thread;
	struct packed_place place;
	const struct weights *weights;
	struct packer_told told;
	_Atomic bool stop;
};

static void *packer_main(void *userdata)
{
	struct packer *p = userdata;
	uint64_t bytes = 0;
	char why[256];
	int r;

	/* On Linux both belong to the thread. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
	packed_sweep(p->place.folder);
	if (!packed_wanted(&p->place, p->weights))
		return NULL;
	r = packed_write(&p->place, p->weights, &p->stop, &bytes, why, sizeof(why));
	if (r != -ECANCELED && r != -EBUSY)
		p->told.fn(p->told.userdata, bytes, r < 0 ? why : NULL);
	return NULL;
}

int packer_new(const struct packed_place *place, const struct weights *w,
	const struct packer_told *told, struct packer **ret)
{
	struct packer *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->place = *place;
	p->weights = w;
	p->told = *told;
	r = -pthread_create(&p->thread, NULL, packer_main, p);
	if (r < 0) {
		free(p);
		return r;
	}
	pthread_setname_np(p->thread, "zephd-pack");
	*ret = p;
	return 0;
}

struct packer *packer_free(struct packer *p)
{
	if (!p)
		return NULL;
	p->stop = true;
	pthread_join(p->thread, NULL);
	free(p);
	return NULL;
}
