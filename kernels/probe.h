/* What the processor itself can do, measured: the yardsticks that zeph-bench prints beside every
 * speed. */
#pragma once

#include <stdint.h>

struct probe {
	double read_gbps;   /* 10^9 bytes/s streamed from memory */
	double int8_tops;   /* 10^12 int8 operations/s (a multiply and an add are two); 0: no
			       instruction */
	double bf16_tflops; /* 10^12 bf16 operations/s; 0: no instruction */
	double f32_tflops;  /* 10^12 f32 operations/s with fused multiply-add; 0: no instruction */
};

struct prober;

/* Makes the buffer that the bandwidth is read from, `bytes` in all (larger than the caches).
 * threads: 0 for all processors. -ENOMEM. */
int prober_new(uint32_t threads, uint64_t bytes, struct prober **ret);
struct prober *prober_free(struct prober *p); /* accepts NULL, returns NULL */

/* One round: about 0.1 s for each figure. */
void prober_run(struct prober *p, struct probe *ret);
