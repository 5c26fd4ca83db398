/* A KV that looks at what it is asked: how many keys lie under each range, whatever the limit.
 *
 * Some KVs visit all keys under a range (etcd does), while a reader of other keys waits, or, when the range is part of a
 * transaction that changes something, everybody. So a request has a bound on them. */
#ifndef PGS_TESTS_GUARD_KV_H
#define PGS_TESTS_GUARD_KV_H

#include <pagestore/sys/kv.h>

typedef struct guard_worst {
	uint64_t keys;   /* the most under one range, */
	char range[160]; /* and which it was */
} guard_worst;

typedef struct guard_seen {
	uint64_t requests, ranges;
	uint64_t keys;         /* under all ranges together */
	guard_worst read;      /* of transactions that change nothing */
	guard_worst change;    /* of those that change something: reads, compares and deletes */
} guard_seen;

/* A KV on `inner`, which it takes over. It counts into *seen, from any thread. */
pgs_kv *guard_kv_new(pgs_kv *inner, guard_seen *seen);

#endif
