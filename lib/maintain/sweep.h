/* Which blobs of a database are orphans (orphans.c): a part of the job of sweeping (sweep.c). */
#ifndef PGS_MAINTAIN_SWEEP_H
#define PGS_MAINTAIN_SWEEP_H

#include "maintain/worker.h"

/* Remove the blobs that were never registered, and can no longer be. `floor` was read before. Stops when the budget is
 * spent; *all: it was not. Errors: the backends', ECORRUPT, EVERSION (what a damaged value names is not known: nothing is
 * removed), ENOMEM. */
int pgs__orphans_remove(pgs__worker *w, uint64_t floor, bool *all);

#endif
