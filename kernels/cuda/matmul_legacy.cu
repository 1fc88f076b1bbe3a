/* Products with weights in blocks of 32. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/matmul.cuh"

#define INT8_KERNEL(d) KERNEL((matmul_int8<d>))

bool matmul_legacy_kernels(int dtype, struct product_kernels *ret)
{
	static const struct product_kernels q8_0 = PRODUCT_KERNELS(DTYPE_Q8_0);
	static const struct product_kernels q4_0 = PRODUCT_KERNELS(DTYPE_Q4_0);
	static const struct product_kernels q4_1 = PRODUCT_KERNELS(DTYPE_Q4_1);
	static const struct product_kernels q5_0 = PRODUCT_KERNELS(DTYPE_Q5_0);
	static const struct product_kernels q5_1 = PRODUCT_KERNELS(DTYPE_Q5_1);
	static const struct product_kernels iq4_nl = PRODUCT_KERNELS(DTYPE_IQ4_NL);

	switch (dtype) {
	case DTYPE_Q8_0: *ret = q8_0; return true;
	case DTYPE_Q4_0: *ret = q4_0; return true;
	case DTYPE_Q4_1: *ret = q4_1; return true;
	case DTYPE_Q5_0: *ret = q5_0; return true;
	case DTYPE_Q5_1: *ret = q5_1; return true;
	case DTYPE_IQ4_NL: *ret = iq4_nl; return true;
	default: return false;
	}
}
