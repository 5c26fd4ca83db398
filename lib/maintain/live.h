/* Which contents are live: ids and bases of the pointers visible at the floor, and in named snapshots.
 *
 * Asked in rising order of ids, it reads pointers group by group (an id begins with its group), a few groups at a
 * time, and keeps only those: memory does not grow with the database.
 */
#ifndef PGS_MAINTAIN_LIVE_H
#define PGS_MAINTAIN_LIVE_H

#include "maintain/worker.h"

typedef struct pgs__live pgs__live;

/* Open at w->floor.floor: a published floor. Reads the list of named snapshots now, after publishing. Errors: the
 * KV's, EOLDREV (someone compacted the KV above the floor), ECORRUPT, ENOMEM. */
int pgs__live_open(pgs__live **out, pgs__worker *w);

/* Ids must not fall from call to call. Errors as above. */
int pgs__live_has(pgs__live *live, const pgs__page_id *id, bool *is_live);
void pgs__live_close(pgs__live *live);

#endif
