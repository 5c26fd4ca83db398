/* counting.h: backends that count what passes through them
 *
 * A backend is a struct that begins with a pgs_kv (or pgs_blob) and a vtable of
 * functions: these pass every call on to another backend and add to counters.
 * The same shape makes a cache, a throttle, an encrypting or a remote backend.
 *
 *     counters n = {0};
 *     counting_kv_new(&kv, inner_kv, &n, &err);
 *     counting_blob_new(&blob, inner_blob, &n, &err);
 *     pgs_open_with(&store, kv, blob, NULL, &err);
 *
 * Ownership: a wrapper owns the backend inside it and closes it, also when
 * making the wrapper fails. The counters are borrowed until it is closed.
 *
 * Threads: as pagestore/sys/kv.h asks: any; the counters are atomic.
 */
#ifndef COUNTING_H
#define COUNTING_H

#include <stdatomic.h>

#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

typedef struct counters {
	atomic_uint_fast64_t kv_calls;      /* txn() calls: round trips, were the backend remote */
	atomic_uint_fast64_t kv_txns;       /* transactions in them */
	atomic_uint_fast64_t kv_put_bytes;  /* keys and values of their puts, whichever branch ran */
	atomic_uint_fast64_t kv_read_bytes; /* keys and values that came back */
	atomic_uint_fast64_t blob_puts;
	atomic_uint_fast64_t blob_put_bytes;
	atomic_uint_fast64_t blob_gets; /* ranges */
	atomic_uint_fast64_t blob_get_bytes;
} counters;

/* *out is NULL on failure. Errors: ENOMEM. */
int counting_kv_new(pgs_kv **out, pgs_kv *inner, counters *n, pgs_error *err);
int counting_blob_new(pgs_blob **out, pgs_blob *inner, counters *n, pgs_error *err);

#endif
