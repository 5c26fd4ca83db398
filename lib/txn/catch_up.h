/* Reading what was written, on the whole machine: a commit brings the machine's mirror (local_cache/mirror.h) to its own
 * revision C before it returns, so that who begins on the mirror sees it without asking anybody.
 *
 *     mirror at S ── others' entries x/, which the commit's own reply lists ──→ their keys as of P ──→ mirror at P
 *          └──────── nobody else in between: P <= S ────────────────────────────────────────────────────┤
 *                                                                            what we put, and g ──→ mirror at C
 *
 * P is the commit before ours. Where any of this is not certain, or takes too much, the mirror is left as it is: the
 * required revision (pgs__mirror_require) keeps others from beginning on it until the follower has come to C.
 *
 * That all that was done to mirrored keys in (S, C] is known (M1) is proved, by one of:
 *
 *  U1 C = S + 1: a KV has one revision for each transaction that changes something (K1), so there was ours alone.
 *  U2 t, put once by each commit, has the version at C that the mirror has at S, and ours: nobody committed in between.
 *     And there was no pack at S. Without packs nothing folds; and besides commits and the steps of folds only the floor
 *     moves: g, which the commit's own transaction reads.
 *  U3 As U2, but n versions in between, and n entries of commits with revisions in (S, P]: these are all. Whether they were
 *     looked for in the right place, by clocks that differ, only decides whether they are found. z as of P has not moved
 *     since S: none of them truncated, or put a pack, which no entry tells. So what they name is all that they changed, and
 *     it is read as of P.
 *
 *  U4 Only what a reply said has happened is applied: not a commit that was found by its entry after a reply was lost.
 *  U5 It takes no longer than a bound, and no failure of it is one of the commit.
 */
#ifndef PGS_TXN_CATCH_UP_H
#define PGS_TXN_CATCH_UP_H

#include "txn/history.h"

struct pgs__commit;

#define PGS__CATCH_UP_OPS 2 /* at most, of an attempt */

/* A part of pgs__commit. What it points to is in the commit's arena. */
typedef struct pgs__catch_up {
	bool asks, asks_log;   /* this attempt reads g; and which commits there were lately */
	pgs__key from, end;    /* of the changelog */
	pgs_kv_pair floor;     /* g as of the commit; mod revision 0: it was not read */
	pgs__logged *others;   /* entries, from the window of time alone, perhaps not all of them */
	size_t other_count;
	uint64_t required;     /* of the machine, before this commit raised it */
} pgs__catch_up;

/* Fill in the reads for the end of an attempt's success branch, of which there may be `room` more; g is that key. How
 * many. */
size_t pgs__catch_up_ask(struct pgs__commit *c, pgs_slice g, size_t room, pgs_kv_op *out);

/* The attempt succeeded: keep what they brought, results from `first` on. */
void pgs__catch_up_answers(struct pgs__commit *c, const pgs_kv_txn *txn, size_t first);

/* The commit has happened, and is required: bring the mirror to it, and its contents into the cache file. */
void pgs__catch_up_run(struct pgs__commit *c);

/* The database is closed: forget what waits. */
void pgs__catch_up_end(pgs_db *db);

#endif
