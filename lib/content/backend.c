/* Requests: charged, and those that may run twice. */
#include "content/backend.h"

#include "util/error.h"
#include "util/kv_check.h"

#define ATTEMPTS 3

/* --- who pays -------------------------------------------------------------------- */

static _Thread_local pgs_cost *charged;

pgs_cost *pgs__charge(pgs_cost *cost)
{
	pgs_cost *before = charged;
	charged = cost;
	return before;
}

void pgs__cost_add(pgs_cost *to, const pgs_cost *more)
{
	to->kv_requests += more->kv_requests;
	to->kv_bytes_sent += more->kv_bytes_sent;
	to->kv_bytes_received += more->kv_bytes_received;
	to->blob_gets += more->blob_gets;
	to->blob_bytes_received += more->blob_bytes_received;
	to->blob_puts += more->blob_puts;
	to->blob_bytes_sent += more->blob_bytes_sent;
	to->cache_hits += more->cache_hits;
	to->cache_misses += more->cache_misses;
	to->pages_ahead += more->pages_ahead;
	to->disk_cache_hits += more->disk_cache_hits;
	to->disk_cache_misses += more->disk_cache_misses;
}

void pgs__charge_disk_cache(uint64_t hits, uint64_t misses)
{
	if (!charged)
		return;
	charged->disk_cache_hits += hits;
	charged->disk_cache_misses += misses;
}

int pgs__kv_send(pgs_kv *kv, pgs_kv_txn *txn, uint64_t deadline_ms, pgs_error *err)
{
	int result = kv->vtable->txn(kv, txn, 1, deadline_ms, err);
	if (charged) {
		charged->kv_requests++;
		charged->kv_bytes_sent += pgs__kv_bytes_sent(txn);
		charged->kv_bytes_received += pgs__kv_bytes_received(txn);
	}
	return result;
}

int pgs__blob_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	int result = blob->vtable->get(blob, ranges, count, deadline_ms, err);
	if (charged)
		charged->blob_gets += count;
	for (size_t i = 0; charged && i < count; i++)
		if (ranges[i].status == PGS_OK)
			charged->blob_bytes_received += ranges[i].size;
	return result;
}

int pgs__blob_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
		  uint64_t deadline_ms, pgs_error *err)
{
	int result = blob->vtable->put(blob, name, size_bytes, source, ctx, deadline_ms, err);
	if (charged) {
		charged->blob_puts++;
		charged->blob_bytes_sent += result == PGS_OK ? size_bytes : 0;
	}
	return result;
}

/* --- what may run twice ------------------------------------------------------------ */

int pgs__kv_read(const pgs__backend *b, pgs_kv_txn *txn, const pgs_kv_op *ops, size_t count, uint64_t deadline_ms,
		 pgs_error *err)
{
	int result = PGS_EUNKNOWN;
	for (int i = 0; result == PGS_EUNKNOWN && i < ATTEMPTS; i++) {
		if (i > 0)
			pgs__kv_release(b, txn, 1);
		*txn = (pgs_kv_txn){.success = ops, .success_count = count};
		result = pgs__kv_send(b->kv, txn, deadline_ms, err);
	}
	return result == PGS_EUNKNOWN ? pgs__error(err, PGS_EIO, "the KV does not answer") : result;
}
