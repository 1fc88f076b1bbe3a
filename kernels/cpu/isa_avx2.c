/* The kernels in AVX2, FMA and F16C. */
#include "kernels/cpu/isa.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/lanes_avx2.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/kernel_quants.h"
#include "kernels/cpu/kernel_float.h"
#include "kernels/cpu/kernel_rows.h"
#include "kernels/cpu/kernel_attention.h"

#include "kernels/cpu/isa_table.h"
