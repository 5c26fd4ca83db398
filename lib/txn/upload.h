/* Uploading a transaction's full contents as sorted files of level 0, before its commit registers them. */
#ifndef PGS_TXN_UPLOAD_H
#define PGS_TXN_UPLOAD_H

#include "txn/txn.h"

/* Upload the contents that are in no file. Where the blob store waits for a network, the last file may still be under
 * way on return. Errors: the blob store's, ENOMEM; called again, it goes on where it was. */
int pgs__upload_frames(pgs_txn *t, uint64_t deadline_ms, pgs_error *err);

/* Wait for the file that is under way. What failed is tried once more here. Errors: the blob store's; called again, it
 * is tried again. */
int pgs__upload_finish(pgs_txn *t, uint64_t deadline_ms, pgs_error *err);

/* Before something is read from file `file` of the transaction. */
static inline bool pgs__upload_has(const pgs_txn *t, uint32_t file)
{
	return t->upload && file + 1 == t->file_count;
}

/* The transaction ends: whatever is under way is broken off. */
void pgs__upload_stop(pgs_txn *t);

#endif
