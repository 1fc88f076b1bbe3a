/* What every backend shares: the fused slots' meaning, spelt out in single operations. */
#include "kernels/backend.h"

int backend_qkv(struct backend *b, const struct batch *batch, const struct qkv_args *a)
{
	const struct backend_ops *ops = b->ops;
	uint32_t n = batch->n_rows;
	int r;

	if (ops->qkv != NULL)
		return ops->qkv(b, batch, a);

	r = ops->rmsnorm(b, n, a->x, a->norm, a->eps, a->h);
	if (r == 0)
		r = ops->matmul(b, n, a->h, a->wq, a->bq, a->q);
	if (r == 0)
		r = ops->matmul(b, n, a->h, a->wk, a->bk, a->k);
	if (r == 0)
		r = ops->matmul(b, n, a->h, a->wv, a->bv, a->v);
	if (r == 0)
		r = ops->rope_kv(b, batch, a->shape, a->rope, a->q, a->k, a->v, a->kv, a->layer);
	return r;
}

int backend_gate_up(struct backend *b, uint32_t n, const struct gate_up_args *a)
{
	const struct backend_ops *ops = b->ops;
	int r;

	if (ops->gate_up != NULL)
		return ops->gate_up(b, n, a);

	r = ops->rmsnorm(b, n, a->x, a->norm, a->eps, a->h);
	if (r == 0)
		r = ops->matmul(b, n, a->h, a->gate, NULL, a->y);
	if (r == 0)
		r = ops->matmul(b, n, a->h, a->up, NULL, a->u);
	if (r == 0)
		r = ops->swiglu(b, n, ops->weight_rows(a->gate), a->y, a->u, a->y);
	return r;
}

int backend_matmul_add(struct backend *b, uint32_t n, const float *x, const struct weight *w,
	const struct weight *bias, float *scratch, float *y)
{
	int r;

	if (b->ops->matmul_add != NULL)
		return b->ops->matmul_add(b, n, x, w, bias, scratch, y);

	r = b->ops->matmul(b, n, x, w, bias, scratch);
	if (r == 0)
		r = b->ops->add(b, n, b->ops->weight_rows(w), scratch, y);
	return r;
}

struct backend *backend_free(struct backend *b)
{
	if (b != NULL)
		b->ops->free(b);
	return NULL;
}
