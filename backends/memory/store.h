/* The memory KV's contents, shared by its handles and watches.
 *
 *     handle ─┐
 *     handle ─┼─▶ store: lock ─ map (keys ▶ versions)
 *     watch ──┘               └ log of changes, for watches and for undoing
 *
 * Invariants, while the lock is free
 *  S1 The log holds exactly the versions with mod_revision >= compacted, in
 *     revision order: each is in the map, under the key the log names.
 *  S2 No version's mod_revision is above `revision`.
 *  S3 Of the versions at or below `compacted`, a key keeps the newest only, and
 *     that only if it is a put, or a delete at `compacted` itself (in the log).
 *
 * A transaction appends to map and log under the revision to come; raising
 * `revision` is what commits it, and walking the log's end back undoes it.
 */
#ifndef PGS_MEMORY_STORE_H
#define PGS_MEMORY_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include <pagestore/sys/kv.h>

#include "map.h"

typedef struct pgs__mem_change {
	pgs__mem_key *key;
	pgs__mem_version *version;
} pgs__mem_change;

typedef struct pgs__mem_store {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* `revision` or `compacted` rose */
	size_t handles;

	pgs__mem_map map;
	pgs__mem_change *log; /* [log_first, log_end) */
	size_t log_first;
	size_t log_end;
	size_t log_capacity;

	_Atomic uint64_t revision; /* changed under the lock only */
	uint64_t compacted;
	uint64_t size_bytes;
	pgs_kv_limits limits;
	uint8_t identity[16];
} pgs__mem_store;

/* One transaction, already checked by pgs__kv_check(), under the lock. Fills
 * the response. PGS_OK, PGS_EOLDREV, PGS_EINVAL (a future revision) or
 * PGS_ENOMEM; then nothing has changed. */
int pgs__mem_run(pgs__mem_store *store, pgs_kv_txn *txn, pgs_error *err);

/* Frees a transaction's response and zeroes the fields that point to it. */
void pgs__mem_release(pgs_kv_txn *txn);

/* Forget what S3 says, under the lock; `revision` is above `compacted`, not
 * above the store's. Takes time in proportion to what it looks at in the log,
 * not to the store. */
void pgs__mem_compact(pgs__mem_store *store, uint64_t revision);

/* The watch slots of the vtable. */
int pgs__mem_watch_open(pgs__mem_store *store, pgs_slice key, pgs_slice range_end, uint64_t from_revision,
	pgs_kv_watch **out, pgs_error *err);
int pgs__mem_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err);
void pgs__mem_watch_close(pgs_kv_watch *watch);

#endif
