/* The mirror: a database's small keys (pointers, attributes, packs, t, g, z, e, …) as the KV has them, in the cache file.
 *
 *     keeper:  ┌→ load_begin ─→ load_range, load_apply, … ─→ load_end ─→ [sequence = S] ── apply ──→ [sequence = S'] ──→ …
 *     opened:  └─ it is another history's, or cannot be proved ── proof ──→ believe ──↑
 *     readers: get(keys, at R): each is present, absent, or unknown
 *
 * It holds KV pairs word for word, with their revisions: what snapshots, pointers and attributes are made of
 * (pgs__mirror_holds()). So what reads pointers, packs and folds in the KV's answers reads them here by the same code.
 * Never c/ (contents), and of x/ (changelog) only which entry the last one was: the *proof* of the history it belongs to.
 *
 *  M1 The *sequence* S is a KV revision: everything that was done to mirrored keys in revisions up to S is in the mirror,
 *     and nothing that was done later. It moves in the same LMDB transaction as the keys, and only forward.
 *     S = 0: nothing is known (new, being loaded, or found damaged), and every answer is "unknown". While it is loaded, what
 *     has been loaded is as of the revision `loading`, which moves as S does.
 *  M2 A reader at revision R <= S is answered from the current state alone: a pair with mod revision <= R is what the key
 *     had at R; one that was put or deleted after R is unknown, and is asked of the KV. Deleted keys leave a tombstone
 *     for that, until the *horizon* has passed it; R below the horizon is unknown altogether.
 *     A folded pointer counts with its own age w: folding changes no page.
 *  M3 A reader at R > S is told nothing.
 *  M4 Of an attribute it may know no more than when it was changed: then its value was too large to be kept, or could not
 *     be read. Its answer is "unknown".
 *  M5 What was in the file when the first process opened it counts only once its keeper has held it against the KV: the KV
 *     may have been restored since, and have come to the same revisions with other contents.
 *
 * So a transaction that began at S keeps getting right answers while others move the mirror on; it asks the KV for what
 * changed since it began.
 *
 * Threads, fork: as in disk_cache.h. Errors of all functions that say int: PGS_EIO (the file failed; go on without it),
 * PGS_ENOMEM, and what is said at each. Those that write also: PGS_ENOSPC (disk full), PGS_ELIMIT (the mirror alone would
 * take more than half of the cache: it cannot be kept), PGS_EBUSY (other writers kept the file past the deadline).
 */
#ifndef PGS_LOCAL_CACHE_MIRROR_H
#define PGS_LOCAL_CACHE_MIRROR_H

#include <sys/types.h>

#include <pagestore/sys/kv.h>

#include "local_cache/disk_cache.h"

/* Whether such keys are mirrored. */
bool pgs__mirror_holds(pgs_slice key);

/* --- where it stands ---------------------------------------------------------------- */

/* A commit: its changelog entry's uuid is random, so the history that has this one at this revision is the same up to
 * there. */
typedef struct pgs__mirror_proof_entry {
	uint64_t revision; /* 0 = not known */
	uint8_t uuid[16];
} pgs__mirror_proof_entry;

typedef struct pgs__mirror_state {
	uint64_t sequence; /* S, or 0 */
	uint64_t horizon;  /* R below this is unknown */
	uint64_t loading;  /* the revision that it has been brought to while it is being loaded, or 0 */
	pgs__mirror_proof_entry last; /* commit at or before S, or `loading` */
	uint64_t keys;     /* pairs, without tombstones */
	uint64_t bytes;    /* of keys and values */
} pgs__mirror_state;

/* As of the last transaction on the file. */
int pgs__mirror_state_get(pgs__disk_db *db, pgs__mirror_state *out, pgs_error *err);

/* S as last announced by any process: one load of a shared word, for those who keep what they read at an S. May lag
 * behind the file if a process died right after writing; the next apply puts it right. 0 when unknown, or not believed
 * yet (M5). */
uint64_t pgs__mirror_sequence(const pgs__disk_db *db);

/* It was held against the KV: it counts (M5). For who holds the follower's lock. */
int pgs__mirror_believe(pgs__disk_db *db, pgs_error *err);

/* Freshness, for bounded staleness: `at_ms` (pgs__now_ms(): one clock for all processes of a boot) is a time at which
 * no commit was finished that is not in the mirror now: take it before the request that showed so was sent. Only rises.
 * Read it before the sequence: then that sequence had all of that time. 0 = never since the first process opened the
 * file. */
void pgs__mirror_confirm(pgs__disk_db *db, uint64_t at_ms);
uint64_t pgs__mirror_confirmed(const pgs__disk_db *db);

/* Read your writes: readers of this machine must see `revision` from now on. An atomic maximum, seen by all processes at
 * once; it goes with the last process (who opens the file next was not there). */
void pgs__mirror_require(pgs__disk_db *db, uint64_t revision);
uint64_t pgs__mirror_required(const pgs__disk_db *db);

/* One handle in one process follows: true if it is this one from now on, or already. Given up by unlock, by detach, and
 * by the system when the process dies. */
bool pgs__mirror_follow_lock(pgs__disk_db *db);
void pgs__mirror_follow_unlock(pgs__disk_db *db);

/* The process that has that lock, which may be this one; 0 = nobody, -1 = one that cannot be named here. */
pid_t pgs__mirror_follower(pgs__disk_db *db);

/* --- reading ------------------------------------------------------------------------- */

typedef enum pgs__mirror_answer {
	PGS__MIRROR_UNKNOWN, /* ask the KV */
	PGS__MIRROR_ABSENT,  /* there was no such key at R */
	PGS__MIRROR_PRESENT  /* *pair is what it had; of a pointer folded since, what it has, with the same page */
} pgs__mirror_answer;

/* Called for key `index`; `pair` (PRESENT only) is borrowed for the call. */
typedef void (*pgs__mirror_visitor)(void *ctx, size_t index, pgs__mirror_answer answer, const pgs_kv_pair *pair);

/* Look up whole keys (codec/keys.h, all of this database and of mirrored kinds) at revision `at`; 0 = at S. All are
 * answered from one state, that of *sequence (may be NULL). When it is 0, or `at` is past it, all are UNKNOWN. */
int pgs__mirror_get(pgs__disk_db *db, uint64_t at, const pgs_slice *keys, size_t count, pgs__mirror_visitor visit,
		    void *ctx, uint64_t *sequence, pgs_error *err);

/* Visit the pairs in [first, end) at revision `at` (0 = at S), in order, PRESENT alone; index counts them. Ends at
 * `limit` pairs (0 = no limit; more may follow). PGS_EOLDREV: something in the range is unknown, and what was visited
 * does not count. */
int pgs__mirror_range(pgs__disk_db *db, uint64_t at, pgs_slice first, pgs_slice end, size_t limit,
		      pgs__mirror_visitor visit, void *ctx, uint64_t *sequence, pgs_error *err);

/* --- writing (who holds the follower's lock; apply also who committed) ------------------ */

/* One key's change; `deleted`: pair.key and pair.mod_revision (of the deletion) alone count. */
typedef struct pgs__mirror_change {
	pgs_kv_pair pair;
	bool deleted;
	bool unread; /* an attribute that was put, and whose value is not known (M4); likewise */
} pgs__mirror_change;

/* Bring the mirror from S to `to`: `changes` is all that was done to mirrored keys in (from, to], each key's in the order of
 * revisions, from <= S; of attributes what there is at `to` is enough. (What the mirror has already is left alone, so
 * overlap does no harm; neither do changes of other keys. Those of x/ are wanted: the last commit's is the proof.)
 * `horizon`: rises to it, if
 * higher; at most `to`. The KV's floor is a good one, as nothing older can be asked there either.
 * *sequence (may be NULL) is where the mirror is afterwards. PGS_OK also when it was at `to` or further, and nothing was
 * done. PGS_EOLDREV: S is before `from`, or 0, or not believed: something in between is missing. One LMDB transaction
 * (M1). */
int pgs__mirror_apply(pgs__disk_db *db, uint64_t from, uint64_t to, uint64_t horizon,
		      const pgs__mirror_change *changes, size_t count, uint64_t deadline_ms, uint64_t *sequence,
		      pgs_error *err);

/* Load, or load anew, while readers go past the mirror: begin at KV revision L; ranges that cover all mirrored kinds,
 * each of any size that fits memory, with all of the KV's pairs in [first, end) at revision L; end. In between, apply as
 * above brings what has been loaded from L to a later one, at which the following ranges are then read. What the mirror has
 * in a range and the KV does not, goes; what is the same is not written. A pair of x/ is the last commit's. A load broken
 * off is begun again.
 * range, apply, end: PGS_EOLDREV when the load is not at this revision: another one was begun meanwhile. */
int pgs__mirror_load_begin(pgs__disk_db *db, uint64_t revision, uint64_t deadline_ms, pgs_error *err);
int pgs__mirror_load_range(pgs__disk_db *db, uint64_t revision, pgs_slice first, pgs_slice end,
			   const pgs_kv_pair *pairs, size_t count, uint64_t deadline_ms, pgs_error *err);
int pgs__mirror_load_apply(pgs__disk_db *db, uint64_t revision, uint64_t to, const pgs__mirror_change *changes,
			   size_t count, uint64_t deadline_ms, pgs_error *err);
int pgs__mirror_load_end(pgs__disk_db *db, uint64_t revision, uint64_t deadline_ms, pgs_error *err);

/* Forget everything: S and required are 0 afterwards. Contents stay: an id names one content for ever. */
int pgs__mirror_reset(pgs__disk_db *db, uint64_t deadline_ms, pgs_error *err);

#endif
