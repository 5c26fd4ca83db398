/* Commits with one sync: see redo.c. */
#ifndef PGS_LOCAL_REDO_H
#define PGS_LOCAL_REDO_H

#include "env.h"
#include "util/cursor.h"

typedef enum pgs__redo_table { PGS__REDO_VERSIONS, PGS__REDO_LOG } pgs__redo_table;

/* What a transaction puts, collected as it goes, no further than a slot's size: the value is head ‖ value. */
void pgs__redo_note(pgs__buffer *puts, pgs__redo_table table, const MDB_val *key, pgs_slice head, pgs_slice value);

/* Put an empty record into a store that has none, in a transaction. The result is LMDB's. */
int pgs__redo_make(pgs__env *env, MDB_txn *txn);

/* Find the record, or make it if there is none, and put again what a crash lost. Files that this process may not write
 * stay as they are. Errors: EIO, ECORRUPT, ETIMEOUT, ENOSPC, EUNKNOWN. */
int pgs__redo_open(pgs__env *env, bool may_make, pgs_error *err);

/* Write what transaction `id` puts into its slot, to be synced with its pages; false: it has to be synced as LMDB does. */
bool pgs__redo_write(pgs__env *env, size_t id, pgs__buffer *puts);

/* Transaction `id` is to be committed without a record, or has failed: none may be left. False: there may be one. */
bool pgs__redo_forget(pgs__env *env, size_t id);

#endif
