#include "proto/params.h"
