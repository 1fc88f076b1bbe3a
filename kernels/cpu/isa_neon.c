/* The kernels in NEON with the dot product of ARMv8.2. */
#include "kernels/cpu/isa.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/lanes_neon.h"

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/kernel_quants.h"
#include "kernels/cpu/kernel_float.h"
#include "kernels/cpu/kernel_rows.h"
#include "kernels/cpu/kernel_attention.h"

#include "kernels/cpu/isa_table.h"
