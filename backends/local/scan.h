/* Walking the keys of a range as of one revision. */
#ifndef PGS_LOCAL_SCAN_H
#define PGS_LOCAL_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include <lmdb.h>
#include <pagestore/error.h>
#include <pagestore/sys/slice.h>

#include "record.h"

typedef struct pgs__scan {
	MDB_cursor *cursor; /* of `versions` */
	pgs_slice key;
	pgs_slice range_end;
	uint64_t revision;
	bool jump;        /* find the next place with a seek, for `key` or behind `last` */
	bool arrived;     /* the cursor is there already */
	size_t last_size; /* of the key given last; 0 = none yet */
	uint8_t last[PGS__LOCAL_KEY_MAX];
	int rc; /* LMDB's result when a call said PGS_EIO */
} pgs__scan;

/* The keys in [key, range_end) (see sys/kv.h) that exist at `revision`
 * (UINT64_MAX = now). The slices are borrowed. */
void pgs__scan_start(pgs__scan *scan, MDB_cursor *cursor, pgs_slice key, pgs_slice range_end, uint64_t revision);

/* The next key in *out and *found true, or *found false at the end. Errors:
 * PGS_ECORRUPT with `err` filled; PGS_EIO with LMDB's result in scan->rc. */
int pgs__scan_next(pgs__scan *scan, pgs__record *out, bool *found, pgs_error *err);

/* Writing through the same cursor between two calls needs this. */
static inline void pgs__scan_moved(pgs__scan *scan)
{
	scan->jump = true;
}

#endif
