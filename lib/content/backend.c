/* Reads, and other requests that may run twice. */
#include "content/backend.h"

#include "util/error.h"

#define ATTEMPTS 3

int pgs__kv_read(const pgs__backend *b, pgs_kv_txn *txn, const pgs_kv_op *ops, size_t count, uint64_t deadline_ms,
		 pgs_error *err)
{
	int result = PGS_EUNKNOWN;
	for (int i = 0; result == PGS_EUNKNOWN && i < ATTEMPTS; i++) {
		if (i > 0)
			pgs__kv_release(b, txn, 1);
		*txn = (pgs_kv_txn){.success = ops, .success_count = count};
		result = b->kv->vtable->txn(b->kv, txn, 1, deadline_ms, err);
	}
	return result == PGS_EUNKNOWN ? pgs__error(err, PGS_EIO, "the KV does not answer") : result;
}
