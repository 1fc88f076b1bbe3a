/* One pass through the transformer for the rows of a batch. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/kv.h"
#include "engine/model.h"

/* Activations of a step, one set for each backend. */
struct workspace {
	uint32_t max_rows;
	struct workspace_buffers {
		float *x;     /* [max_rows, dim] the residual stream */
		float *h;     /* [max_rows, dim] */
		float *q, *o; /* [max_rows, n_heads * head_dim] */
		float *k, *v; /* [max_rows, n_kv_heads * head_dim] */
		float *g, *u; /* [max_rows, ffn_dim] */
	} * buffers;          /* [n_backends] */
	float *carry;  /* host [max_rows, dim]: x on its way between backends; NULL with one backend
			*/
	float *logits; /* [max_logits, vocab] on the output's backend */
	uint32_t max_logits;
};

int workspace_new(const struct weights *w, uint32_t max_rows, uint32_t max_logits,
	struct workspace **ret, char *error, size_t error_size);
/* What workspace_new() will ask of a device that runs every layer. */
uint64_t workspace_bytes(const struct model_config *c, uint32_t max_rows, uint32_t max_logits);
struct workspace *workspace_free(const struct weights *w, struct workspace *ws);

/* Told before each layer, and with the number of layers before the output. A negative errno ends
 * the pass: -EINTR where it shall stop, another where the backend that ran the layer before failed.
 */
struct forward_watch {
	int (*before)(void *userdata, uint32_t layer);
	void *userdata;
};

/* The batch's first rows where they go through the layers over several passes, the others through
 * all in each (layered prefill: Lee et al. 2025). Between passes their residual stream stays in the
 * workspace's first rows: each pass begins with them until they are through. */
struct forward_part {
	uint32_t n_rows;
	uint32_t layer; /* the first that they have not gone through; forward() moves it on */
	uint32_t to;    /* they go through those before it in this pass */
};

/* Runs the rows, writes their keys and values, and leaves in ws->logits [n_logits, vocab] the
 * logits of the rows logit_rows[]; those of a part once it is through. part and watch may be NULL.
 * -EINTR where the watch wants it: the KV rows written so far are those that the same rows
 * would write again. Another negative errno is a failure of *ret_failed. */
int forward(const struct weights *w, struct kv_pool *kv, struct workspace *ws,
	const struct batch *batch, struct forward_part *part, const uint32_t *logit_rows,
	uint32_t n_logits, const struct forward_watch *watch, struct backend **ret_failed);
