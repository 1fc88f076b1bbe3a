#include "engine/forward.h"
