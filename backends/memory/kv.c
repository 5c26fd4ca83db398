/* The memory KV: handles, the vtable, creation and end.
 *
 * A handle is a pgs_kv and a counted reference to the store (store.h). One
 * mutex covers the store; it is held for one transaction of an array at a
 * time, and never while a caller's code runs. Requests are checked before it
 * is taken.
 */
#include <stdlib.h>
#include <string.h>

#include <pagestore/backends.h>

#include "store.h"
#include "util/alloc.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/kv_check.h"
#include "util/metered.h"
#include "util/random.h"

#define TIMED_EVERY 31

typedef struct memory_kv {
	pgs__metered_kv base;
	pgs__mem_store *store;
} memory_kv;

static pgs__mem_store *store_of(pgs_kv *kv)
{
	return ((memory_kv *)kv)->store;
}

static int check_deadline(uint64_t deadline_ms, pgs_error *err)
{
	if (!pgs__deadline_passed(deadline_ms))
		return PGS_OK;
	return pgs__error(err, PGS_ETIMEOUT, "the deadline had passed before the call");
}

/* --- the slots ---------------------------------------------------------- */

static int run_one(pgs__mem_store *store, pgs_kv_txn *txn, uint64_t deadline_ms, pgs_error *err)
{
	txn->succeeded = false;
	txn->revision = 0;
	txn->results = NULL;
	txn->result_count = 0;
	txn->response = NULL;
	int status = check_deadline(deadline_ms, err);
	if (status == PGS_OK)
		status = pgs__kv_check(txn, &store->limits, err);
	if (status != PGS_OK)
		return status;
	pthread_mutex_lock(&store->lock);
	status = pgs__mem_run(store, txn, err);
	pthread_mutex_unlock(&store->lock);
	txn->succeeded = status == PGS_OK && txn->succeeded;
	return status;
}

static int memory_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	int result = PGS_OK;
	for (size_t i = 0; i < count; i++) {
		txns[i].status = run_one(store_of(kv), &txns[i], deadline_ms, result == PGS_OK ? err : NULL);
		if (result == PGS_OK)
			result = txns[i].status;
	}
	return result;
}

static void memory_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	(void)kv;
	for (size_t i = 0; i < count; i++)
		pgs__mem_release(&txns[i]);
}

static int memory_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	return pgs__mem_watch_open(store_of(kv), key, range_end, from_revision, out, err);
}

static int compact_locked(pgs__mem_store *store, uint64_t revision, pgs_error *err)
{
	if (revision > store->revision)
		return pgs__error(err, PGS_EINVAL, "cannot compact at %llu: the store is at %llu",
			(unsigned long long)revision, (unsigned long long)store->revision);
	if (revision <= store->compacted)
		return pgs__error(err, PGS_EOLDREV, "revision %llu was compacted before: the oldest is %llu",
			(unsigned long long)revision, (unsigned long long)store->compacted);
	pgs__mem_compact(store, revision);
	return PGS_OK;
}

static int memory_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs__mem_store *store = store_of(kv);
	int status = check_deadline(deadline_ms, err);
	if (status != PGS_OK)
		return status;
	pthread_mutex_lock(&store->lock);
	status = compact_locked(store, revision, err);
	pthread_mutex_unlock(&store->lock);
	return status;
}

static void memory_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	*out = store_of(kv)->limits;
}

static int memory_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	memcpy(out, store_of(kv)->identity, 16);
	return check_deadline(deadline_ms, err);
}

static int memory_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs__mem_store *store = store_of(kv);
	*out = (pgs_kv_stat){0};
	int status = check_deadline(deadline_ms, err);
	if (status != PGS_OK)
		return status;
	pthread_mutex_lock(&store->lock);
	out->revision = store->revision;
	out->compacted_revision = store->compacted;
	out->size_bytes = store->size_bytes;
	pthread_mutex_unlock(&store->lock);
	return PGS_OK;
}

/* A reader that finds the lock taken by who has just raised the revision waits for it, and so reads what the number
 * stands for. Forgetting history changes nothing that is read at the latest revision. */
static uint64_t memory_changes(pgs_kv *kv)
{
	return atomic_load_explicit(&store_of(kv)->revision, memory_order_acquire);
}

/* --- creation and end --------------------------------------------------- */

static void free_store(pgs__mem_store *store)
{
	pthread_cond_destroy(&store->changed);
	pthread_mutex_destroy(&store->lock);
	pgs__mem_map_free(&store->map);
	pgs__free(store->log);
	pgs__free(store);
}

static void drop_handle(pgs__mem_store *store)
{
	pthread_mutex_lock(&store->lock);
	bool last = --store->handles == 0;
	pthread_mutex_unlock(&store->lock);
	if (last)
		free_store(store);
}

static void memory_close(pgs_kv *kv)
{
	drop_handle(store_of(kv));
	pgs__free(kv);
}

static const pgs_kv_vtable memory_vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof(pgs_kv_vtable),
	.txn = memory_txn,
	.release = memory_release,
	.watch_open = memory_watch_open,
	.watch_next = pgs__mem_watch_next,
	.watch_close = pgs__mem_watch_close,
	.compact = memory_compact,
	.limits = memory_limits,
	.identity = memory_identity,
	.stat = memory_stat,
	.close = memory_close,
	.changes = memory_changes,
};

static int init_locks(pgs__mem_store *store)
{
	pthread_condattr_t monotonic;
	if (pthread_condattr_init(&monotonic) != 0)
		return PGS_ENOMEM;
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	int failed = pthread_cond_init(&store->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (failed)
		return PGS_ENOMEM;
	if (pthread_mutex_init(&store->lock, NULL) == 0)
		return PGS_OK;
	pthread_cond_destroy(&store->changed);
	return PGS_ENOMEM;
}

static int new_store(pgs__mem_store **out, const pgs_kv_limits *limits, pgs_error *err)
{
	pgs__mem_store *store = pgs__calloc(1, sizeof *store);
	if (!store || pgs__mem_map_init(&store->map) != PGS_OK || init_locks(store) != PGS_OK) {
		if (store)
			pgs__mem_map_free(&store->map);
		pgs__free(store);
		return pgs__error_nomem(err, "a memory KV");
	}
	store->revision = 1;
	if (limits)
		store->limits = *limits;
	if (pgs__random_bytes(store->identity, sizeof store->identity) != PGS_OK) {
		free_store(store);
		return pgs__error(err, PGS_EIO, "the kernel gave no random bytes");
	}
	*out = store;
	return PGS_OK;
}

static int new_handle(pgs_kv **out, pgs__mem_store *store, pgs_error *err)
{
	memory_kv *kv = pgs__calloc(1, sizeof *kv);
	if (!kv)
		return pgs__error_nomem(err, "a memory KV");
	pgs__metered_kv_init(&kv->base, "memory", &memory_vtable, TIMED_EVERY);
	kv->store = store;
	pthread_mutex_lock(&store->lock);
	store->handles++;
	pthread_mutex_unlock(&store->lock);
	*out = &kv->base.base;
	return PGS_OK;
}

int pgs_kv_memory_new(pgs_kv **out, const pgs_kv_limits *limits, pgs_error *err)
{
	*out = NULL;
	pgs__mem_store *store = NULL;
	int status = new_store(&store, limits, err);
	if (status != PGS_OK)
		return status;
	status = new_handle(out, store, err);
	if (status != PGS_OK)
		free_store(store);
	return status;
}

int pgs_kv_memory_share(pgs_kv **out, pgs_kv *kv, pgs_error *err)
{
	*out = NULL;
	if (!kv || kv->vtable->close != memory_close)
		return pgs__error(err, PGS_EINVAL, "not a memory KV");
	return new_handle(out, store_of(kv), err);
}
