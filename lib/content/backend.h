/* The two backends of a store together, and short names for what is asked of the KV. */
#ifndef PGS_CONTENT_BACKEND_H
#define PGS_CONTENT_BACKEND_H

#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

#include "codec/keys.h"

typedef struct pgs__backend {
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_kv_limits limits;
	unsigned concurrency; /* of the blob store; from 2 on, threads are worth it */
} pgs__backend;

/* How many operations, and how many bytes of keys and values, fit one transaction; SIZE_MAX without a limit. */
static inline size_t pgs__max_ops(const pgs__backend *b)
{
	return b->limits.max_txn_ops ? b->limits.max_txn_ops : SIZE_MAX;
}

static inline size_t pgs__max_bytes(const pgs__backend *b)
{
	return b->limits.max_request_bytes ? b->limits.max_request_bytes : SIZE_MAX;
}

static inline pgs_kv_op pgs__op_put(pgs_slice key, pgs_slice value)
{
	return (pgs_kv_op){.kind = PGS_KV_PUT, .key = key, .value = value};
}

static inline pgs_kv_op pgs__op_delete(pgs_slice key, pgs_slice end)
{
	return (pgs_kv_op){.kind = PGS_KV_DELETE, .key = key, .range_end = end};
}

/* revision 0: latest. */
static inline pgs_kv_op pgs__op_get(pgs_slice key, uint64_t revision)
{
	return (pgs_kv_op){.kind = PGS_KV_RANGE, .key = key, .revision = revision};
}

static inline pgs_kv_op pgs__op_range(pgs_slice key, pgs_slice end, uint64_t revision)
{
	return (pgs_kv_op){.kind = PGS_KV_RANGE, .key = key, .range_end = end, .revision = revision};
}

static inline pgs_kv_compare pgs__if_mod(pgs_slice key, pgs_kv_relation relation, uint64_t revision)
{
	return (pgs_kv_compare){.key = key, .target = PGS_KV_MOD, .relation = relation, .number = revision};
}

static inline pgs_kv_compare pgs__if_absent(pgs_slice key)
{
	return (pgs_kv_compare){.key = key, .target = PGS_KV_CREATE, .relation = PGS_KV_EQUAL};
}

static inline pgs_kv_compare pgs__if_exists(pgs_slice key)
{
	return (pgs_kv_compare){.key = key, .target = PGS_KV_CREATE, .relation = PGS_KV_NOT_EQUAL};
}

static inline pgs_kv_compare pgs__if_value_less(pgs_slice key, pgs_slice value)
{
	return (pgs_kv_compare){.key = key, .target = PGS_KV_VALUE, .relation = PGS_KV_LESS, .value = value};
}

/* The single pair a get found, or NULL. */
static inline const pgs_kv_pair *pgs__got(const pgs_kv_txn *txn, size_t op)
{
	return op < txn->result_count && txn->results[op].count ? &txn->results[op].pairs[0] : NULL;
}

/* --- requests, and who pays ----------------------------------------------------------------------
 *
 * What goes through here is charged to the cost (pagestore/operations.h) that the calling thread works for. */

/* Work for `cost` (NULL = nobody) from now on; returns for whom it was. Whoever calls this puts that back. */
pgs_cost *pgs__charge(pgs_cost *cost);

/* Add the numbers of one cost to another. */
void pgs__cost_add(pgs_cost *to, const pgs_cost *more);

/* Contents that were found in the machine's cache file, and those that were not. */
void pgs__charge_disk_cache(uint64_t hits, uint64_t misses);

/* The vtables' txn(), of one transaction, get() and put(). */
int pgs__kv_send(pgs_kv *kv, pgs_kv_txn *txn, uint64_t deadline_ms, pgs_error *err);
int pgs__blob_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err);
int pgs__blob_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
		  uint64_t deadline_ms, pgs_error *err);

/* Run operations without compares that may run twice: reads, and deletes of what nobody needs. A lost reply is asked
 * for again, so the result is never PGS_EUNKNOWN. The caller releases *txn, also after an error. */
int pgs__kv_read(const pgs__backend *b, pgs_kv_txn *txn, const pgs_kv_op *ops, size_t count, uint64_t deadline_ms,
		 pgs_error *err);

static inline void pgs__kv_release(const pgs__backend *b, pgs_kv_txn *txns, size_t count)
{
	b->kv->vtable->release(b->kv, txns, count);
}

#endif
