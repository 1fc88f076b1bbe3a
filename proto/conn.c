#include "proto/conn.h"
