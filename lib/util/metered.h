/* Backends without a server, counted: each transaction of txn()'s array, each range of get()'s, and any other call of
 * the vtable that does I/O, is a request. Sizes are those of keys and values, of both branches as limits count them,
 * or of blobs.
 *
 *     handle: { pgs__metered_kv { base ──▶ vtable: own, but txn … are counted ──▶ own ── txn … }, the backend's fields }
 *
 * A backend has one of these as its first member instead of a pgs_kv or a pgs_blob, and its functions are called as
 * if it were not there.
 */
#ifndef PGS_UTIL_METERED_H
#define PGS_UTIL_METERED_H

#include <pagestore/sys/blob.h>
#include <pagestore/sys/kv.h>

#include "util/meter.h"

typedef struct pgs__metered_kv {
	pgs_kv base;
	pgs_kv_vtable vtable;     /* base's */
	const pgs_kv_vtable *own; /* the backend's */
	const char *name;         /* of the backend, for people */
	unsigned timed_every;     /* calls of txn() */
	pgs__meter txn, read, watch, compact, stat;
} pgs__metered_kv;

typedef struct pgs__metered_blob {
	pgs_blob base;
	pgs_blob_vtable vtable;
	const pgs_blob_vtable *own;
	const char *name;
	pgs__meter put, get, head, list, remove;
} pgs__metered_blob;

/* Of zeroed memory. `own` and `name` are static. Of `timed_every` calls of txn() one is timed, all are counted: where
 * a call takes a microsecond, two looks at the clock are seen. Best an odd number, so that reads and changes that
 * alternate both have their turn. */
void pgs__metered_kv_init(
	pgs__metered_kv *metered, const char *name, const pgs_kv_vtable *own, unsigned timed_every);
void pgs__metered_blob_init(pgs__metered_blob *metered, const char *name, const pgs_blob_vtable *own);

#endif
