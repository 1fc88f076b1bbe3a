#include "proto/protocol.h"
