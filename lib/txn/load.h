/* Loading pages past the cache, which learns them. */
#ifndef PGS_TXN_LOAD_H
#define PGS_TXN_LOAD_H

#include "txn/txn.h"

/* Pages that are loaded at once, at most. */
size_t pgs__load_chunk(uint32_t page_size);

typedef enum pgs__load_use {
	PGS__LOAD_AHEAD,  /* they are not read: they do not join the read set */
	PGS__LOAD_READ,
	PGS__LOAD_COUNTED /* read, and whether memory had them is added to the transaction's cost */
} pgs__load_use;

/* Load pages into dst[], or, when dst is NULL, only into the cache. Errors: as pgs_read(), in the transaction's
 * error. */
int pgs__load_pages(pgs_txn *t, const uint64_t *page_nos, size_t count, void *const *dst, pgs__load_use use);

/* Load pages of a snapshot's extent into the cache; any thread, beside the transaction it belongs to, at a cost of its
 * own. Not of a named snapshot, which keeps what it reads. */
int pgs__load_ahead(const pgs__snapshot *snapshot, const uint64_t *page_nos, size_t count, uint64_t deadline_ms,
		    pgs_cost *cost);

#endif
