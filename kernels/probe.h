/* What the processor itself can do, measured: the yardsticks that zeph-bench prints beside every
 * speed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct probe {
	double read_gbps;   /* 10^9 bytes/s streamed from memory */
	double int8_tops;   /* 10^12 int8 operations/s (a multiply and an add are two); 0: no
			       instruction */
	double bf16_tflops; /* 10^12 bf16 operations/s; 0: no instruction */
	double f32_tflops;  /* 10^12 f32 operations/s with fused multiply-add; 0: no instruction */
};

/* Memory that the bandwidth is read from: what the program itself will read, as it lies there. */
struct probe_range {
	const void *data; /* 64-byte aligned */
	size_t bytes;
};

struct prober;

/* The ranges are copied, what they name is not: it outlives the prober. threads: 0 for all
 * processors. -ENOMEM. */
int prober_new(
	uint32_t threads, const struct probe_range *ranges, size_t n_ranges, struct prober **ret);
struct prober *prober_free(struct prober *p); /* accepts NULL, returns NULL */

/* One round: about 0.1 s for each figure; all ranges are read as often as makes 512 MiB, at least
 * once, and with AVX-512 as often again with their lines asked for early: the better counts. */
void prober_run(struct prober *p, struct probe *ret);
