#include "proto/address.h"
