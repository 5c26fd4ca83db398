/* Reads, and other requests that may run twice. */
#include "content/backend.h"

#include <string.h>

#include "util/error.h"

#define ATTEMPTS 3
#define PAGE_PAIRS 500

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

/* Where the next page begins: right after the last key of this one. */
static int begin_after(const pgs_kv_result *page, pgs__key *next, pgs_error *err)
{
	pgs_slice last = page->pairs[page->count - 1].key;
	if (last.size >= PGS__KEY_MAX)
		return pgs__error(err, PGS_ECORRUPT, "a key of %zu bytes is none of ours", last.size);
	next->size = (uint16_t)last.size;
	memcpy(next->bytes, last.data, last.size);
	*next = pgs__key_after(next);
	return PGS_OK;
}

int pgs__kv_read_range(const pgs__backend *b, const pgs__key *from, const pgs__key *end, uint64_t *revision,
		       pgs__pair_reader read, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	pgs__key next = *from;
	bool more = true;
	int result = PGS_OK;
	while (result == PGS_OK && more) {
		pgs_kv_op op = pgs__op_range(pgs__key_slice(&next), pgs__key_slice(end), *revision);
		op.limit = PAGE_PAIRS;
		pgs_kv_txn txn;
		result = pgs__kv_read(b, &txn, &op, 1, deadline_ms, err);
		const pgs_kv_result *r = result == PGS_OK ? &txn.results[0] : NULL;
		if (r && *revision == 0)
			*revision = txn.revision;
		for (size_t i = 0; r && result == PGS_OK && i < r->count; i++)
			result = read(ctx, &r->pairs[i]);
		more = r && result == PGS_OK && r->more && r->count > 0;
		if (more)
			result = begin_after(r, &next, err);
		pgs__kv_release(b, &txn, 1);
	}
	return result;
}
