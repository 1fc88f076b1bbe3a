#include "engine/kv.h"
