/* Which planted bug is on: in the simulator's build only. */
#include "util/bug.h"

#ifdef PGS_PLANTED_BUGS
pgs__bug_name pgs__planted_bug = PGS__BUG_NONE;
#endif
