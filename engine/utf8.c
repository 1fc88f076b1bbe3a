#include "engine/utf8.h"
