/* Products with weights in blocks of 256. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/matmul.cuh"

#define INT8_KERNEL(d) KERNEL((matmul_int8<d>))

bool matmul_k_kernels(int dtype, struct product_kernels *ret)
{
	static const struct product_kernels q2_k = PRODUCT_KERNELS(DTYPE_Q2_K);
	static const struct product_kernels q3_k = PRODUCT_KERNELS(DTYPE_Q3_K);
	static const struct product_kernels q4_k = PRODUCT_KERNELS(DTYPE_Q4_K);
	static const struct product_kernels q5_k = PRODUCT_KERNELS(DTYPE_Q5_K);
	static const struct product_kernels q6_k = PRODUCT_KERNELS(DTYPE_Q6_K);

	switch (dtype) {
	case DTYPE_Q2_K: *ret = q2_k; return true;
	case DTYPE_Q3_K: *ret = q3_k; return true;
	case DTYPE_Q4_K: *ret = q4_k; return true;
	case DTYPE_Q5_K: *ret = q5_k; return true;
	case DTYPE_Q6_K: *ret = q6_k; return true;
	default: return false;
	}
}
