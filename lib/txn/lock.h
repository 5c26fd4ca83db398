/* The writer lock `k/w`: while it is there, only its holder commits. Taken by a commit that lost too often, or before a
 * transaction begins, if it asks for it (PGS_LOCK_…), which then renews it now and then.
 *
 *     absent ── put if absent ──→ held ── deleted by the holder's commit, or after it (turn.h) ──→ absent
 *                                  └── broken by an observer who saw it unchanged for its lease, or, on the
 *                                      holder's machine, whose process is gone
 *
 * Every commit compares "absent, or mine by its create revision", so a holder that was paused past its lease changes
 * nothing when it wakes (invariant 9).
 *
 * `k/w-asked` is put by who wants the lock while it is there (compared by its create revision), and deleted in the same
 * transaction as the lock, whoever does that: it never outlives it. It is a hint, to those who keep the lock between
 * transactions.
 */
#ifndef PGS_TXN_LOCK_H
#define PGS_TXN_LOCK_H

#include "txn/db.h"

typedef struct pgs__writer_keys {
	pgs__key lock, asked, end; /* end: of the range that has both, and nothing else */
} pgs__writer_keys;
void pgs__writer_keys_make(pgs__writer_keys *out, const uint8_t *prefix);

/* Take the lock for a commit, waiting for others. PGS_OK, EBUSY (deadline), or the KV's errors. */
int pgs__writer_lock_take(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms, pgs_error *err);

/* The same for a transaction that is about to begin. With PGS_LOCK_TRY it is one try: PGS_EBUSY if another holds it who
 * is not known to be dead. */
int pgs__writer_lock_begin(pgs_db *db, pgs__writer_lock *lock, uint32_t how, uint64_t deadline_ms, pgs_error *err);

/* Begin its lease anew. Failing is no error here; once it was broken, it is not held any more. */
void pgs__writer_lock_renew(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms);

/* Another's lock was met: wait a little, or break it if it is dead. PGS_OK (try again), EBUSY (deadline), or the KV's
 * errors. */
int pgs__writer_lock_wait(pgs_db *db, pgs__writer_lock *lock, const pgs_kv_pair *pair, uint64_t deadline_ms,
			  pgs_error *err);

/* Give it back, if it is held; else its lease ends it. A commit still on its way that compares it then fails. */
void pgs__writer_lock_release(pgs_db *db, pgs__writer_lock *lock, uint64_t deadline_ms);

#endif
