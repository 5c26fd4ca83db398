/* The writer lock `k/w`: while it is there, only its holder commits. Taken by a commit that lost too often, or before a
 * transaction begins, if it asks for it (PGS_LOCK_…), which then renews it now and then.
 *
 *     absent ── put if absent ──→ held ── deleted by the holder's commit ──→ absent
 *                                  └── broken by an observer who saw it unchanged for its lease, or, on the
 *                                      holder's machine, whose process is gone
 *
 * Every commit compares "absent, or mine by its create revision", so a holder that was paused past its lease changes
 * nothing when it wakes (invariant 9).
 */
#ifndef PGS_TXN_LOCK_H
#define PGS_TXN_LOCK_H

#include "txn/db.h"

typedef struct pgs__writer_lock {
	uint64_t held;         /* create revision of ours; 0 = not held */
	uint64_t seen;         /* mod revision of another's, as observed, */
	uint64_t seen_since;   /* unchanged since this monotonic ms */
	uint32_t waits;
	uint64_t renew_ms;     /* held: put it again from then on (monotonic) */
} pgs__writer_lock;

/* Take the lock, waiting for others. PGS_OK, EBUSY (deadline), or the KV's errors. */
int pgs__writer_lock_take(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err);

/* One try: PGS_EBUSY if another holds it who is not known to be dead. Else as above. */
int pgs__writer_lock_try(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err);

/* Begin its lease anew. Failing is no error here; once it was broken, it is not held any more. */
void pgs__writer_lock_renew(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms);

/* Another's lock was met: wait a little, or break it if it is dead. PGS_OK (try again), EBUSY (deadline), or the KV's
 * errors. */
int pgs__writer_lock_wait(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
			  pgs_error *err);

/* Give it back, if it is held; else its lease ends it. A commit still on its way that compares it then fails. */
void pgs__writer_lock_release(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms);

#endif
