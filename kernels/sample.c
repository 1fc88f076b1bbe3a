#include "kernels/sample.h"
