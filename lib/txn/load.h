/* Loading pages past the cache, which learns them. */
#ifndef PGS_TXN_LOAD_H
#define PGS_TXN_LOAD_H

#include "txn/txn.h"

/* Pages that are loaded at once, at most. */
size_t pgs__load_chunk(uint32_t page_size);

/* Load pages into dst[], or, when dst is NULL, only into the cache. `tracked`: they join the read set. Errors: as
 * pgs_read(), in the transaction's error. */
int pgs__load_pages(pgs_txn *t, const uint64_t *page_nos, size_t count, void *const *dst, bool tracked);

/* Load pages of a snapshot's extent into the cache; any thread, beside the transaction it belongs to. Not of a named
 * snapshot, which keeps what it reads. */
int pgs__load_ahead(const pgs__snapshot *snapshot, const uint64_t *page_nos, size_t count, uint64_t deadline_ms);

#endif
