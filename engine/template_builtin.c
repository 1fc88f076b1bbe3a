#include "engine/template.h"
