/* What can be said about a KV transaction without looking at the store: for every backend that has no server to say
 * it. */
#ifndef PGS_UTIL_KV_CHECK_H
#define PGS_UTIL_KV_CHECK_H

#include <pagestore/sys/kv.h>

/* Rules K3 and K4 of pagestore/sys/kv.h, for both branches, in time
 * proportional to n log n. Returns PGS_OK, PGS_EINVAL, PGS_ELIMIT, or
 * PGS_ENOMEM (large branches need scratch memory). */
int pgs__kv_check(const pgs_kv_txn *txn, const pgs_kv_limits *limits, pgs_error *err);

/* Whether either branch has a put or a delete. */
bool pgs__kv_mutates(const pgs_kv_txn *txn);

/* Bytes of keys and values, of both branches as limits count them, and of the answer. */
uint64_t pgs__kv_bytes_sent(const pgs_kv_txn *txn);
uint64_t pgs__kv_bytes_received(const pgs_kv_txn *txn);

/* True for PGS_KV_TO_END. */
static inline bool pgs__kv_is_to_end(pgs_slice range_end)
{
	return range_end.size == 1 && *(const uint8_t *)range_end.data == 0;
}

/* True when `key` lies in [from, range_end). */
bool pgs__kv_in_range(pgs_slice key, pgs_slice from, pgs_slice range_end);

#endif
