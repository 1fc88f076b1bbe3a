/* The kernels in AVX2, FMA, F16C and AVX-VNNI: client processors without AVX-512. The tests compile
 * this file for AVX-512 VNNI and VL as well, whose 256-bit form is the same instruction, and name
 * that table otherwise. */
#include "kernels/cpu/isa.h"

#include <math.h>
#include <string.h>

#ifndef LANES_VNNI
#define LANES_VNNI avxvnni
#endif
#include "kernels/cpu/lanes_avx2.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/kernel_quants.h"
#include "kernels/cpu/kernel_float.h"
#include "kernels/cpu/kernel_rows.h"
#include "kernels/cpu/kernel_attention.h"

#include "kernels/cpu/isa_table.h"
