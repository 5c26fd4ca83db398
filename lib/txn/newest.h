/* The newest snapshot this process has of a database, and since when it may not be the latest: what a transaction may
 * begin on without asking the KV.
 *
 *     read whole at the latest revision ─┐                         ┌─→ begin, PGS_LOCAL
 *     a commit of this process, alone    ├─→ newest, confirmed at ─┼─→ begin, PGS_BOUNDED, if confirmed lately
 *     what a follower applied            │                         └─→ begin, PGS_AT_LEAST, if it is
 *     the machine's mirror ──────────────┘
 *
 *  N1 A snapshot was the latest at `confirmed_ms`, or is newer than one that was. That time was taken before the request
 *     that says so was sent: what happened while it was under way may be missing from the answer.
 *  N2 No snapshot is given out that does not show every commit of this process, and of those that share its cache file,
 *     that was acknowledged before.
 *  N3 It only ever moves to later revisions.
 */
#ifndef PGS_TXN_NEWEST_H
#define PGS_TXN_NEWEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "txn/snapshot.h"

typedef struct pgs__newest {
	_Atomic bool wanted;    /* somebody has asked: until then nothing is kept */
	_Atomic bool followed;  /* by a thread of this process: then that is as good as the machine's mirror */
	pthread_mutex_t lock;
	pgs__snapshot snapshot; /* kv_revision 0: none yet */
	uint64_t confirmed_ms;  /* N1; 0 = never */
	uint64_t offered_ms;    /* when its revision was seen: how old it is for pins */
	uint64_t required;      /* N2: the last commit of this process, or machine */
	uint64_t gone;          /* a revision that cannot be read any more */
	uint64_t bound_ms;      /* the last one asked for, */
	uint64_t bounded_ms;    /* and when */
} pgs__newest;

/* What a transaction asks for. */
typedef struct pgs__freshness {
	uint32_t kind;           /* PGS_LATEST, … */
	uint32_t bound_ms;
	uint64_t least_revision;
} pgs__freshness;

pgs__newest *pgs__newest_new(void); /* NULL: out of memory */
void pgs__newest_free(pgs__newest *newest);

/* From now on keep the newest. */
void pgs__newest_want(pgs_db *db);

/* A snapshot, with its packs, that the KV had at its kv_revision; it is kept if it is later than what is known. `asked_ms`:
 * when it was the latest, by N1; 0 = not known. */
void pgs__newest_offer(pgs_db *db, const pgs__snapshot *snapshot, uint64_t asked_ms);

/* A commit of this process took effect at `revision`, having been sent at `asked_ms` or later. `landed`: what it did, and
 * which commit came before it; NULL: not known. `counter` is what it put at t. */
void pgs__newest_commit(pgs_db *db, uint64_t revision, const pgs__landed *landed, uint64_t counter, uint64_t asked_ms);

/* The newest, that of the machine's mirror included, if it is as fresh as asked: *out, to be closed, and since when it has been known (monotonic, for pins). */
bool pgs__newest_take(pgs_db *db, const pgs__freshness *freshness, pgs__snapshot *out, uint64_t *since_ms,
		      uint64_t deadline_ms);

/* `kv_revision` is not readable any more: who asks next gets the latest. */
void pgs__newest_forget(pgs_db *db, uint64_t kv_revision);

/* For followers: how often, in milliseconds, to confirm it so that begins need not ask; at most `at_most`. */
uint64_t pgs__newest_pace(pgs_db *db, uint64_t at_most);

#endif
