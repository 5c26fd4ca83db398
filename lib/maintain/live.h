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

/* Whether a content is live: while no floor was published, all are. Cheapest in rising order of ids. When the floor has
 * moved on, and the KV's history with it, w->floor is read again and the answer is that of the new one. Errors as
 * above. */
int pgs__live_has(pgs__live *live, const pgs__page_id *id, bool *is_live);

/* At most how many contents are live: one for each page below the page count at the floor, and for each pointer of a
 * named snapshot. Asks nobody. */
uint64_t pgs__live_count_max(const pgs__live *live);
void pgs__live_close(pgs__live *live);

#endif
