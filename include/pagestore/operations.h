/* pagestore/operations.h: what the backends of a store were asked, and how long they took
 *
 *     static void print(void *ctx, const pgs_operation_stat *s)
 *     {
 *             printf("%s %s: %llu requests, p99 %llu us\n", s->backend, s->operation, ...);
 *     }
 *     pgs_store_operations(store, print, NULL, &err);
 *
 * The numbers are of this handle, since it was opened, and only grow: the
 * difference of two visits is what happened between them. They are what a
 * bill is made of (requests, bytes) and where time goes (latencies).
 *
 * A request is one attempt to send one, so each retry is a request. Backends
 * without a server count the calls of their vtable instead.
 *
 *   KV    txn      transactions that may change something, one request each
 *         read     transactions that only read; further pages of long ranges
 *         watch    watches opened, or opened again after they broke; one that
 *                  stays open is one request, however many events come
 *         compact  compactions of the history
 *         stat     questions about size and state
 *         auth     tokens asked for (etcd)
 *   blobs put      whole blobs
 *         part     pieces of large ones (S3)
 *         upload   uploads in pieces begun, completed, aborted (S3)
 *         get      ranges read
 *         head     sizes asked for
 *         list     pages of names
 *         delete   blobs removed
 *
 * Caveats: numbers that belong together are read one after the other, while
 * other threads go on counting.
 *
 * Threads: as pagestore/store.h; may be called beside anything else.
 */
#ifndef PAGESTORE_OPERATIONS_H
#define PAGESTORE_OPERATIONS_H

#include <stdint.h>

#include <pagestore/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pgs_store;

typedef struct pgs_operation_stat {
	uint32_t struct_size;    /* of the one who filled it in */
	const char *backend;     /* "memory", "local", "etcd", "s3", …; static */
	const char *operation;   /* see above; static */
	uint64_t requests;       /* failed ones and retries among them */
	uint64_t failures;       /* that got no answer, or an error. That a blob is missing is one; that a transaction's
				  * compare did not hold is not. */
	uint64_t retries;        /* that repeat one that failed */
	uint64_t bytes_sent;     /* bodies of requests, without headers; keys and values, or a blob's bytes, where there
				  * is no server. What a watch's events bring counts only where it comes from one. */
	uint64_t bytes_received; /* the same of answers */
	uint64_t p50_us, p99_us; /* of all requests, failed ones too: never below the true quantile, at most 12.5 % above.
				  * Backends in memory may take the time of a sample of the calls only. */
	uint64_t max_us;
} pgs_operation_stat;

/* Called with each operation a backend knows, also one it was never asked;
 * `stat` is borrowed for the call. Must not close the store. */
typedef void (*pgs_operation_visitor)(void *ctx, const pgs_operation_stat *stat);

/* What transactions cost: give one to pgs_txn_options, and to as many
 * transactions as it is to count together. Each call on them, pgs_begin() and
 * pgs_commit() among them, adds what it asked for before it returns; what went
 * on beside the caller is added when the caller meets it, at the latest by the
 * transaction's end. Background maintenance counts nowhere, nor does what a
 * backend sends again by itself.
 *
 * Threads: the transactions that share one belong to one thread at a time. */
typedef struct pgs_cost {
	uint32_t struct_size;
	uint64_t kv_requests;
	uint64_t kv_bytes_sent;       /* of keys and values */
	uint64_t kv_bytes_received;
	uint64_t blob_gets;           /* ranges */
	uint64_t blob_bytes_received;
	uint64_t blob_puts;
	uint64_t blob_bytes_sent;
	uint64_t cache_hits;          /* pages read that were in memory, */
	uint64_t cache_misses;        /* and that were not, or not yet. Own writes, and pages past the page count, are
				       * neither. */
	uint64_t pages_ahead;         /* loaded before they were read: prefetched, or guessed by reads in order */
	uint64_t disk_cache_hits;     /* contents that were asked of the machine's cache file, as they were not in memory, and */
	uint64_t disk_cache_misses;   /* were there, or were not, and were fetched. Zeros without one */
} pgs_cost;

#define PGS_COST_INIT { sizeof(pgs_cost), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Visit the operations of the KV, then those of the blob store. Backends of
 * the caller's that do not count are passed over. No I/O. Errors: EINVAL (no
 * store or visitor). Since 0.1. */
int pgs_store_operations(struct pgs_store *store, pgs_operation_visitor visit, void *ctx, pgs_error *err);

#ifdef __cplusplus
}
#endif

#endif
