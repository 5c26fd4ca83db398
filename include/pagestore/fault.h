/* pagestore/fault.h: backends that fail on demand
 *
 * Wrap any KV and blob store to test what an engine does when the storage
 * below it errs, is slow, loses replies or dies:
 *
 *     pgs_fault *fault;
 *     pgs_fault_new(&fault, NULL, &err);
 *     pgs_fault_wrap_kv(&kv, fault, inner_kv, &err);
 *     pgs_fault_wrap_blob(&blob, fault, inner_blob, &err);
 *     pgs_open_with(&store, kv, blob, NULL, &err);
 *     pgs_fault_at(fault, 3, PGS_FAULT_LOSE_REPLY);   // the third call from now
 *
 * A "call" is one vtable call that does I/O: txn, watch_open, watch_next,
 * compact, identity, stat; put, get, stat, list, remove. All wrappers of one
 * pgs_fault count together. Everything random is decided by the seed and the
 * number of the call. A fault strikes the whole call: of an array of
 * transactions or ranges all suffer it, with the same status.
 *
 * Threads: any; the controller locks.
 */
#ifndef PAGESTORE_FAULT_H
#define PAGESTORE_FAULT_H

#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pgs_fault pgs_fault;

typedef enum pgs_fault_kind {
	PGS_FAULT_NONE = 0,
	PGS_FAULT_ERROR,      /* fail with PGS_EIO, nothing is applied */
	PGS_FAULT_LOSE_REPLY, /* apply, then answer PGS_EUNKNOWN (a KV txn or compaction) or PGS_EIO (a blob call);
				 other KV calls: as ERROR. A watch_next() that fails takes no events. */
	PGS_FAULT_DELAY,      /* a KV txn: answer PGS_EUNKNOWN now, apply it at pgs_fault_deliver(); other calls: as ERROR */
	PGS_FAULT_STOP        /* this call and all after it fail with PGS_EIO, as if the process had died before it */
} pgs_fault_kind;

typedef struct pgs_fault_options {
	uint32_t struct_size;
	uint64_t seed;
	uint32_t error_per_million;      /* chance of PGS_FAULT_ERROR per call */
	uint32_t lose_reply_per_million; /* chance of PGS_FAULT_LOSE_REPLY per call */
	uint32_t latency_us_max;         /* each call sleeps 0 … this long first, but not past its deadline */
	/* Called before each call is decided, numbered from 1, without locks held; NULL = none.
	 * Within it pgs_fault_at(fault, 1, …) means this very call. */
	void (*before)(void *ctx, uint64_t call, const char *operation);
	void *before_ctx;
} pgs_fault_options;

#define PGS_FAULT_OPTIONS_INIT { sizeof(pgs_fault_options), 0, 0, 0, 0, 0, 0 }

/* A controller without wrappers. `options` may be NULL: no random faults.
 * Errors: EINVAL, ENOMEM. Since 0.1. */
int pgs_fault_new(pgs_fault **out, const pgs_fault_options *options, pgs_error *err);

/* Wrap a backend; the wrapper owns it, and closes it also when wrapping fails
 * (unless its vtable's version is unknown here). The controller must outlive
 * its wrappers. Errors: EINVAL, ENOMEM. Since 0.1. */
int pgs_fault_wrap_kv(pgs_kv **out, pgs_fault *fault, pgs_kv *inner, pgs_error *err);
int pgs_fault_wrap_blob(pgs_blob **out, pgs_fault *fault, pgs_blob *inner, pgs_error *err);

/* Make the `nth` call from now (1 = the next) suffer `kind`, once, whatever
 * chance says; replaces what was planned before. nth 0 cancels. Since 0.1. */
void pgs_fault_at(pgs_fault *fault, uint64_t nth, pgs_fault_kind kind);

/* Calls so far. Since 0.1. */
uint64_t pgs_fault_calls(const pgs_fault *fault);

/* Apply the transactions that PGS_FAULT_DELAY kept back, in their order, to
 * the backend now, also while stopped; this is no call and suffers no fault.
 * Returns how many were applied successfully (their compares passed). What is
 * kept back for a wrapper is dropped when it closes. Since 0.1. */
uint64_t pgs_fault_deliver(pgs_fault *fault);

/* End PGS_FAULT_STOP: calls work again. Since 0.1. */
void pgs_fault_resume(pgs_fault *fault);

/* Free the controller, after its wrappers are closed. NULL is allowed. Since 0.1. */
void pgs_fault_free(pgs_fault *fault);

#ifdef __cplusplus
}
#endif

#endif
