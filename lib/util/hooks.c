/* The hooks of tests. */
#include "util/hooks.h"

const pgs__system *pgs__hooks;
