/* The local KV, shared by its parts.
 *
 *   kv.c        open, close, limits, stat
 *   run.c       run one request in an LMDB transaction
 *   redo.c      commits with one sync
 *   commit.c    which LMDB transaction: reads, writes, and writes of several threads together
 *   watch.c     history, then what comes
 *   compact.c   forgetting
 */
#ifndef PGS_LOCAL_KV_H
#define PGS_LOCAL_KV_H

#include "env.h"
#include "record.h"
#include "util/arena.h"
#include "util/metered.h"

typedef struct pgs__local_kv {
	pgs__metered_kv base;
	pgs__env *env;
	pgs_sync sync;
	bool read_only;
} pgs__local_kv;

/* --- run.c --- */

/* What requests run in: one LMDB transaction, for reading or writing. */
typedef struct pgs__run {
	pgs__env *env;
	MDB_txn *txn;
	MDB_cursor *versions;
	MDB_cursor *log;
	uint64_t revision;  /* the store's, before the current request */
	uint64_t compacted; /* read when first asked for, see compacted_known */
	bool compacted_known;
	bool changed;           /* a request of this transaction changed something */
	bool dirty;             /* LMDB's transaction may have been touched by a request that failed */
	pgs__buffer log_record; /* keys the current request changed */
	pgs__buffer puts;       /* what all of them put, for a commit with one sync (redo.c), */
	bool keeps_puts;        /* if it is to be kept */
	pgs_kv_pair *pairs;     /* scratch of range reads */
	size_t pair_capacity;
} pgs__run;

/* Set up in an open LMDB transaction; both cursors are set. Errors: ECORRUPT, EIO. */
int pgs__run_begin(pgs__run *run, pgs_error *err);

/* Run a checked request. On failure nothing of it is done unless run->dirty,
 * when the LMDB transaction has to be aborted. */
int pgs__run_txn(pgs__run *run, pgs_kv_txn *txn, pgs_error *err);
void pgs__run_end(pgs__run *run);

/* The newest revision in the log, and the compacted one (0 = never). */
int pgs__read_revision(pgs__env *env, MDB_cursor *log, uint64_t *out, pgs_error *err);
int pgs__read_compacted(pgs__env *env, MDB_txn *txn, uint64_t *out, pgs_error *err);

/* Free a response. */
void pgs__txn_release(pgs_kv_txn *txn);

/* --- commit.c --- */

/* Keep every other writer out, of this process and of others, until leave. Errors: ETIMEOUT, EIO. */
int pgs__writers_enter(pgs__env *env, uint64_t deadline_ms, pgs_error *err);
void pgs__writers_leave(pgs__env *env);

/* --- commit.c, watch.c, compact.c: the vtable's --- */

int pgs__local_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err);
int pgs__local_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err);
int pgs__local_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err);
void pgs__local_watch_close(pgs_kv_watch *watch);
int pgs__local_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err);

#endif
