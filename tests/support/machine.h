/* A machine in tests: two processes with one cache file, for which the stage's two handles stand, and another machine,
 * which has none. */
#ifndef TEST_MACHINE_H
#define TEST_MACHINE_H

#include "local_cache/mirror.h"
#include "support/txn_stage.h"

typedef struct machine {
	stage *s;
	char dir[64];
	pgs__disk_cache *cache;
	pgs__disk_db *mine, *others; /* of s->db, and of stage_other() */
	pgs_store *away_store;
	pgs_db *away;                /* another machine's: machine_away() */
} machine;

void machine_setup(machine *m, stage *s);
void machine_teardown(machine *m); /* before the stage's */

pgs_db *machine_away(machine *m);

/* One step of a follower of that handle. */
void machine_follow(pgs_db *db);

/* Begin at a freshness; how many requests that took is added to *cost, as is all that the transaction asks. */
pgs_txn *machine_begin(pgs_db *db, uint32_t freshness, uint32_t bound_ms, pgs_cost *cost);

/* The mirror's sequence; and: at it, it has what the KV had, word for word. */
uint64_t machine_expect_mirror(machine *m);

#endif
