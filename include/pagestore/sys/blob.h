/* pagestore/sys/blob.h: the contract of a blob backend
 *
 * Immutable named objects with ranged reads: an object store, or a directory.
 *
 * Rules
 *  B1 put() makes the whole object visible, durably, or nothing.
 *  B2 A name never changes content: the core puts one name again only with the
 *     same bytes (a retry), and the backend may keep either.
 *  B3 A name is 1 to 200 bytes of [A-Za-z0-9._-] and '/', which separates
 *     non-empty parts; no part is "." or "..". Others are PGS_EINVAL. The core
 *     never names one blob "a" and another "a/b": a backend of files need not
 *     be able to hold both.
 *  B4 get() fills a whole range or fails: PGS_ENOTFOUND when there is no such
 *     blob (also for a range of size 0), PGS_ECORRUPT when it ends before the
 *     range does.
 *  B5 list() gives names in memcmp order; what is put or removed meanwhile may
 *     or may not be listed. An unfinished put is never listed.
 *  B6 remove() of an absent name is PGS_OK.
 *
 * Threads: every function may be called from several threads at once.
 *
 * Stability: for backend authors; see docs/api-stability.md.
 */
#ifndef PAGESTORE_SYS_BLOB_H
#define PAGESTORE_SYS_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include <pagestore/error.h>
#include <pagestore/operations.h>
#include <pagestore/sys/slice.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PGS_BLOB_VERSION 1
#define PGS_BLOB_NAME_MAX 200

typedef struct pgs_blob pgs_blob;

/* Copies `size` bytes at `offset` of the object into `buf`; the backend may
 * ask in any order and more than once. Returns PGS_OK, or a code that makes
 * put() fail with it. */
typedef int (*pgs_blob_source)(void *ctx, uint64_t offset, void *buf, size_t size);

/* Called with each name and size; returns 0 to go on, else list() stops and
 * returns that value. `name` is borrowed for the call. */
typedef int (*pgs_blob_lister)(void *ctx, const char *name, uint64_t size_bytes);

typedef struct pgs_blob_range {
	const char *name; /* NUL-terminated, borrowed for the call */
	uint64_t offset;
	size_t size;
	void *buffer;     /* `size` bytes of the caller's, filled on PGS_OK */
	int status;       /* the result of this range */
} pgs_blob_range;

/* deadline_ms: absolute CLOCK_MONOTONIC milliseconds, 0 for none. */
typedef struct pgs_blob_vtable {
	uint32_t version;     /* PGS_BLOB_VERSION */
	uint32_t struct_size;

	/* Store `size_bytes` from `source` under `name`. Errors: EINVAL, EIO,
	 * ETIMEOUT, EAUTH, ENOSPC, EREADONLY, ENOMEM, and source's. After any
	 * error the blob may exist whole or not at all (it can be put again, or
	 * removed). */
	int (*put)(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
		   uint64_t deadline_ms, pgs_error *err);

	/* Read `count` ranges, of one blob or several, in any order or at once.
	 * Every status is set; the result is PGS_OK or the first failed one's. */
	int (*get)(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err);

	/* The size of a blob, or PGS_ENOTFOUND. */
	int (*stat)(pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err);

	/* Every blob whose name begins with `prefix` (which may be ""). */
	int (*list)(pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms,
		    pgs_error *err);

	int (*remove)(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err);

	/* Free the backend; no call is running. */
	void (*close)(pgs_blob *blob);

	/* Optional, from here on: NULL, or beyond struct_size, when there is none. */

	/* As the KV's (pagestore/sys/kv.h). */
	void (*operations)(pgs_blob *blob, pgs_operation_visitor visit, void *ctx);

	/* How many calls are well made at once, because one mostly waits for a
	 * network: from 2 on, transactions read ahead and upload on threads of
	 * their own beside the caller's. Constant, and cheap to ask. None: 1. */
	unsigned (*concurrency)(pgs_blob *blob);
} pgs_blob_vtable;

/* The size of a vtable without optional slots, and whether one has such a slot. */
#define PGS_BLOB_VTABLE_LEAST offsetof(pgs_blob_vtable, operations)
#define PGS_BLOB_HAS(blob, slot) ((blob)->vtable->struct_size > offsetof(pgs_blob_vtable, slot) && (blob)->vtable->slot)

struct pgs_blob {
	const pgs_blob_vtable *vtable;
};

#ifdef __cplusplus
}
#endif

#endif
