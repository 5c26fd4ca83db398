/* What can be said about a transaction's request without looking at the store. */
#ifndef PGS_MEMORY_CHECK_H
#define PGS_MEMORY_CHECK_H

#include <pagestore/sys/kv.h>

/* Rules K3 and K4 of pagestore/sys/kv.h, for both branches, in time
 * proportional to n log n. Returns PGS_OK, PGS_EINVAL, PGS_ELIMIT, or
 * PGS_ENOMEM (large branches need scratch memory). */
int pgs__mem_check(const pgs_kv_txn *txn, const pgs_kv_limits *limits, pgs_error *err);

#endif
