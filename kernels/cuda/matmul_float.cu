/* Products with 16-bit weights. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/matmul.cuh"

#define INT8_KERNEL(d) NULL

bool matmul_float_kernels(int dtype, struct product_kernels *ret)
{
	static const struct product_kernels f16 = PRODUCT_KERNELS(DTYPE_F16);
	static const struct product_kernels bf16 = PRODUCT_KERNELS(DTYPE_BF16);

	switch (dtype) {
	case DTYPE_F16: *ret = f16; return true;
	case DTYPE_BF16: *ret = bf16; return true;
	default: return false;
	}
}
