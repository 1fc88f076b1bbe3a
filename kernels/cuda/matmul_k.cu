/* Products with weights in blocks of 256. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/matmul.cuh"

#define INT8_KERNEL(d) KERNEL((matmul_int8<d>))

/* What the mixes q4_k_m and q5_k_m make of Q, K and V. */
const void *matmul_mixed_kernel(int d, int e, size_t *ret_shared_bytes)
{
	if (d == DTYPE_Q4_K && e == DTYPE_Q6_K) {
		*ret_shared_bytes = max(split_shared_bytes<DTYPE_Q4_K, 1, 1>(),
			split_shared_bytes<DTYPE_Q6_K, 1, 1>());
		return KERNEL((matmul_mixed<DTYPE_Q4_K, DTYPE_Q6_K>));
	}
	if (d == DTYPE_Q5_K && e == DTYPE_Q6_K) {
		*ret_shared_bytes = max(split_shared_bytes<DTYPE_Q5_K, 1, 1>(),
			split_shared_bytes<DTYPE_Q6_K, 1, 1>());
		return KERNEL((matmul_mixed<DTYPE_Q5_K, DTYPE_Q6_K>));
	}
	return NULL;
}

bool matmul_k_kernels(int dtype, struct product_kernels *ret)
{
	static const struct product_kernels q2_k = PRODUCT_KERNELS(DTYPE_Q2_K);
	static const struct product_kernels q3_k = PRODUCT_KERNELS(DTYPE_Q3_K);
	static const struct product_kernels q4_k = PRODUCT_KERNELS(DTYPE_Q4_K);
	static const struct product_kernels q5_k = PRODUCT_KERNELS(DTYPE_Q5_K);
	static const struct product_kernels q6_k = PRODUCT_KERNELS(DTYPE_Q6_K);
	static const struct product_kernels iq4_xs = PRODUCT_KERNELS(DTYPE_IQ4_XS);

	switch (dtype) {
	case DTYPE_Q2_K: *ret = q2_k; return true;
	case DTYPE_Q3_K: *ret = q3_k; return true;
	case DTYPE_Q4_K: *ret = q4_k; return true;
	case DTYPE_Q5_K: *ret = q5_k; return true;
	case DTYPE_Q6_K: *ret = q6_k; return true;
	case DTYPE_IQ4_XS: *ret = iq4_xs; return true;
	default: return false;
	}
}
