/* pagestore/sys/kv.h: the contract of a key-value backend
 *
 * A KV is an ordered map from byte strings to byte strings with one revision
 * number for the whole store, history, and multi-key transactions: the
 * semantics of etcd v3 (https://etcd.io/docs/v3.4/learning/api/). A backend
 * embeds `pgs_kv` as its first member and fills in the vtable:
 *
 *     typedef struct my_kv { pgs_kv base; ... } my_kv;
 *     static const pgs_kv_vtable vtable = {
 *             .version = PGS_KV_VERSION, .struct_size = sizeof vtable,
 *             .txn = my_txn, ... };
 *
 * tests/conformance/ runs every rule below against any implementation.
 *
 * Rules
 *  K1 A transaction that changes anything gets a revision one above the
 *     store's; one that changes nothing (a read, a delete that met no key)
 *     reports the store's revision and does not raise it. A new store is at
 *     revision 1 or above.
 *  K2 A transaction is atomic and isolated: compares, then all success
 *     operations or all failure operations, in order; a range operation sees
 *     what earlier operations of the same transaction did.
 *  K3 Two puts of one key, or a put of a key inside a range deleted by the
 *     same branch (in either order), make the transaction PGS_EINVAL. This is
 *     judged for both branches before anything runs.
 *  K4 More compares, success operations or failure operations than
 *     `max_txn_ops`, a key longer than `max_key_bytes`, a value longer than
 *     `max_value_bytes`, or a transaction whose keys and values sum to more
 *     than `max_request_bytes`, is PGS_ELIMIT. An empty key is PGS_EINVAL, as
 *     is an unknown kind, target or relation. A range_end counts as a key, but
 *     may be empty. This too is judged for both branches before anything runs.
 *  K5 Reads at a revision see the store as it was right after that revision.
 *     Below the compacted revision: PGS_EOLDREV. Above the store's: PGS_EINVAL.
 *     (A read exactly at the compacted revision works.) This is judged for the
 *     branch that runs, against the store as it was before the transaction.
 *  K6 A key's create revision and version (1, 2, …) start anew after a delete.
 *  K7 A transaction whose status is PGS_EUNKNOWN may have been applied, or may
 *     still be; with any other failure it was not, and never will be.
 *  K8 Durable when it returns, as far as the backend's options promise.
 *
 * Threads: every function may be called from several threads at once, except
 * that one watch belongs to one thread at a time. The backend locks.
 *
 * Stability: for backend authors; see docs/api-stability.md. Slots are only
 * ever appended to the vtable.
 */
#ifndef PAGESTORE_SYS_KV_H
#define PAGESTORE_SYS_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/operations.h>
#include <pagestore/sys/slice.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PGS_KV_VERSION 1

typedef struct pgs_kv pgs_kv;
typedef struct pgs_kv_watch pgs_kv_watch;

/* A key range is [key, range_end). An empty range_end names the single key;
 * the one-byte range_end "\0" (PGS_KV_TO_END) means every key >= key. A range
 * whose end is not above its key is empty. */
#ifdef __cplusplus
#define PGS_KV_TO_END (pgs_slice{"", 1})
#else
#define PGS_KV_TO_END ((pgs_slice){"", 1})
#endif

/* What a compare looks at. */
typedef enum pgs_kv_target {
	PGS_KV_MOD = 1, /* revision of the last put; 0 when absent */
	PGS_KV_CREATE,  /* revision of the put that created the key; 0 when absent */
	PGS_KV_VERSION_COUNT, /* puts since creation; 0 when absent */
	PGS_KV_VALUE    /* the value, in memcmp order, a prefix before the longer */
} pgs_kv_target;

typedef enum pgs_kv_relation {
	PGS_KV_EQUAL = 1,
	PGS_KV_NOT_EQUAL,
	PGS_KV_LESS,   /* stored < given */
	PGS_KV_GREATER /* stored > given */
} pgs_kv_relation;

/* An absent key's numbers are 0, and PGS_KV_VALUE on it fails with every
 * relation. On a range, every existing key must pass; a range without keys is
 * compared as one absent key. */
typedef struct pgs_kv_compare {
	pgs_slice key;
	pgs_slice range_end;
	pgs_kv_target target;
	pgs_kv_relation relation;
	uint64_t number; /* MOD, CREATE, VERSION_COUNT */
	pgs_slice value; /* VALUE */
} pgs_kv_compare;

typedef enum pgs_kv_op_kind {
	PGS_KV_PUT = 1,
	PGS_KV_DELETE, /* key or range */
	PGS_KV_RANGE   /* read a key or a range, in key order */
} pgs_kv_op_kind;

typedef struct pgs_kv_op {
	pgs_kv_op_kind kind;
	pgs_slice key;
	pgs_slice range_end; /* DELETE, RANGE */
	pgs_slice value;     /* PUT; may be empty */
	/* RANGE only, zero for the default: */
	uint64_t revision;         /* read as of this revision; 0 = as of this point of this transaction */
	uint64_t min_mod_revision; /* leave out pairs last put before it */
	size_t limit;              /* return at most so many pairs; 0 = all */
	bool keys_only;            /* values come back empty */
	bool count_only;           /* no pairs come back, only `total` */
} pgs_kv_op;

typedef struct pgs_kv_pair {
	pgs_slice key;
	pgs_slice value;
	uint64_t create_revision;
	uint64_t mod_revision;
	uint64_t version;
} pgs_kv_pair;

/* The result of one operation. */
typedef struct pgs_kv_result {
	pgs_kv_pair *pairs; /* RANGE */
	size_t count;       /* RANGE: pairs returned */
	uint64_t total;     /* count_only: keys in the range (min_mod_revision not applied); DELETE: keys deleted */
	bool more;          /* RANGE: `limit` left some out */
} pgs_kv_result;

/* One transaction: the request, filled by the caller, then the response. All
 * request slices are borrowed for the call. The response belongs to the
 * backend until release(). */
typedef struct pgs_kv_txn {
	const pgs_kv_compare *compares;
	size_t compare_count;
	const pgs_kv_op *success;
	size_t success_count;
	const pgs_kv_op *failure;
	size_t failure_count;

	int status;             /* PGS_OK, or why this transaction did not (certainly) run */
	bool succeeded;         /* every compare passed, the success branch ran */
	uint64_t revision;      /* the store's revision right after; on PGS_OK only */
	pgs_kv_result *results; /* one per operation of the branch that ran */
	size_t result_count;
	void *response;         /* the backend's own */
} pgs_kv_txn;

typedef struct pgs_kv_event {
	bool deleted;     /* then pair.value is empty, create_revision and version are 0 */
	pgs_kv_pair pair; /* mod_revision is the event's revision */
} pgs_kv_event;

/* A batch of events in revision order; within a revision in key order. A
 * revision is never split over batches. */
typedef struct pgs_kv_events {
	const pgs_kv_event *events;
	size_t count;
	uint64_t revision; /* everything in the range up to and including it has now been delivered; it never falls,
			      and need not keep up with changes outside the range */
} pgs_kv_events;

/* 0 = no limit. */
typedef struct pgs_kv_limits {
	size_t max_txn_ops;       /* compares, success ops, failure ops: each */
	size_t max_request_bytes; /* sum of all keys and values of one transaction's request */
	size_t max_key_bytes;
	size_t max_value_bytes;
} pgs_kv_limits;

typedef struct pgs_kv_stat {
	uint64_t revision;
	uint64_t compacted_revision;
	uint64_t size_bytes;  /* stored, history included, as near as the backend knows: what the quota is about */
	uint64_t quota_bytes; /* 0 = none known */
	uint64_t used_bytes;  /* of size_bytes, what is not free to be used again; 0 = not known */
} pgs_kv_stat;

/* deadline_ms is an absolute CLOCK_MONOTONIC time in milliseconds, 0 for none:
 * no call runs past it by more than a scheduling delay. `err` may be NULL. */
typedef struct pgs_kv_vtable {
	uint32_t version;     /* PGS_KV_VERSION */
	uint32_t struct_size; /* sizeof(pgs_kv_vtable) the backend was compiled with */

	/* Run `count` independent transactions, in any order or at once; return
	 * when all are done, with each one's `status` set. The result is PGS_OK
	 * when every status is, else the first failed one's. On return every
	 * element is safe to pass to release(), failed ones too.
	 * Errors: EINVAL, ELIMIT, EOLDREV, EUNKNOWN, EIO, ETIMEOUT, EAUTH, ENOSPC,
	 * ECORRUPT, EREADONLY, ENOMEM. */
	int (*txn)(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err);

	/* Free the responses of txn(): each element's results, result_count and
	 * response are zeroed, so that a second release does nothing. */
	void (*release)(pgs_kv *kv, pgs_kv_txn *txns, size_t count);

	/* Watch [key, range_end) from `from_revision` on (0 = from now): history
	 * first, then what comes. Errors: EOLDREV (below the compacted revision)
	 * may come here or from the first watch_next(); EINVAL (empty key); others
	 * as txn(). From the compacted revision itself works, but its deletes may
	 * be missing. A future `from_revision` waits for it. */
	int (*watch_open)(pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision,
			  pgs_kv_watch **out, pgs_error *err);

	/* Wait up to timeout_ms for the next batch; PGS_OK with count 0 when none
	 * came. The batch is borrowed until the next call on this watch. When
	 * history is gone: EOLDREV, and the watch stays failed. After any other
	 * error the next call goes on where the last good one ended. */
	int (*watch_next)(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err);

	void (*watch_close)(pgs_kv_watch *watch);

	/* Forget history below `revision`: reads at it still work, those below
	 * fail. At or below the compacted revision: PGS_EOLDREV. Above the store's:
	 * PGS_EINVAL. */
	int (*compact)(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err);

	/* The backend's limits: constant, no I/O. */
	void (*limits)(pgs_kv *kv, pgs_kv_limits *out);

	/* 16 bytes that differ between stores: a cluster's id, a directory's. */
	int (*identity)(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err);

	int (*stat)(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err);

	/* Free the backend; no call is running and no watch is open. */
	void (*close)(pgs_kv *kv);

	/* Optional, from here on: NULL, or beyond struct_size, when there is none. */

	/* Visit what was counted since this handle was opened, by the rules and
	 * names of pagestore/operations.h: numbers only grow. No I/O. */
	void (*operations)(pgs_kv *kv, pgs_operation_visitor visit, void *ctx);

	/* A number that stays while nothing changes. Where two calls on a handle return the same one, other than 0,
	 * no transaction that changed something, of whatever handle or process, became visible from the return of
	 * the first to the start of the second: all that was read in between (of the latest revision) is what would
	 * be read now. One that returned before the second call, anywhere, was visible. A number never comes again
	 * after another one; another one need not mean a change. 0: it cannot be told now. No I/O, no waiting: for
	 * where it costs a few loads from memory. */
	uint64_t (*changes)(pgs_kv *kv);
} pgs_kv_vtable;

/* The size of a vtable without optional slots, and whether one has such a slot. */
#define PGS_KV_VTABLE_LEAST offsetof(pgs_kv_vtable, operations)
#define PGS_KV_HAS(kv, slot) ((kv)->vtable->struct_size > offsetof(pgs_kv_vtable, slot) && (kv)->vtable->slot)

struct pgs_kv {
	const pgs_kv_vtable *vtable;
};

#ifdef __cplusplus
}
#endif

#endif
