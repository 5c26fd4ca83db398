/* Backends without a server, counted. */
#include "util/metered.h"

#include "util/clock.h"
#include "util/kv_check.h"

static void count(pgs__meter *meter, int status, uint64_t sent, uint64_t received)
{
	pgs__meter_add(&meter->requests, 1);
	pgs__meter_add(&meter->failures, status != PGS_OK);
	pgs__meter_add(&meter->bytes_sent, sent);
	pgs__meter_add(&meter->bytes_received, received);
}

/* A call that began at `start_us` and has just ended. */
static int end(pgs__meter *meter, int status, uint64_t sent, uint64_t start_us)
{
	count(meter, status, sent, 0);
	pgs__meter_time(meter, pgs__now_us() - start_us);
	return status;
}

/* --- the KV's ------------------------------------------------------------------------ */

static pgs__metered_kv *kv_of(pgs_kv *kv)
{
	return (pgs__metered_kv *)kv;
}

static bool is_timed(const pgs__metered_kv *m)
{
	if (m->timed_every == 1)
		return true;
	return (atomic_load_explicit(&m->txn.requests, memory_order_relaxed) +
		       atomic_load_explicit(&m->read.requests, memory_order_relaxed)) % m->timed_every == 0;
}

/* The latency of each of an array is the whole call's. */
static int metered_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t txn_count, uint64_t deadline_ms, pgs_error *err)
{
	pgs__metered_kv *m = kv_of(kv);
	bool timed = is_timed(m);
	uint64_t start_us = timed ? pgs__now_us() : 0;
	int status = m->own->txn(kv, txns, txn_count, deadline_ms, err);
	uint64_t us = timed ? pgs__now_us() - start_us : 0;
	for (size_t i = 0; i < txn_count; i++) {
		pgs__meter *meter = pgs__kv_mutates(&txns[i]) ? &m->txn : &m->read;
		count(meter, txns[i].status, pgs__kv_bytes_sent(&txns[i]), pgs__kv_bytes_received(&txns[i]));
		if (timed)
			pgs__meter_time(meter, us);
	}
	return status;
}

static int metered_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	int status = kv_of(kv)->own->watch_open(kv, key, range_end, from_revision, out, err);
	return end(&kv_of(kv)->watch, status, 0, start_us);
}

static int metered_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	return end(&kv_of(kv)->compact, kv_of(kv)->own->compact(kv, revision, deadline_ms, err), 0, start_us);
}

static int metered_kv_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	return end(&kv_of(kv)->stat, kv_of(kv)->own->stat(kv, out, deadline_ms, err), 0, start_us);
}

static void visit_kv(pgs_kv *kv, pgs_operation_visitor visit, void *ctx)
{
	const pgs__metered_kv *m = kv_of(kv);
	pgs__meter_visit(&m->txn, m->name, "txn", visit, ctx);
	pgs__meter_visit(&m->read, m->name, "read", visit, ctx);
	pgs__meter_visit(&m->watch, m->name, "watch", visit, ctx);
	pgs__meter_visit(&m->compact, m->name, "compact", visit, ctx);
	pgs__meter_visit(&m->stat, m->name, "stat", visit, ctx);
}

void pgs__metered_kv_init(pgs__metered_kv *m, const char *name, const pgs_kv_vtable *own, unsigned timed_every)
{
	m->own = own;
	m->name = name;
	m->timed_every = timed_every;
	m->vtable = *own;
	m->vtable.txn = metered_txn;
	m->vtable.watch_open = metered_watch_open;
	m->vtable.compact = metered_compact;
	m->vtable.stat = metered_kv_stat;
	m->vtable.operations = visit_kv;
	m->base.vtable = &m->vtable;
}

/* --- the blob store's -------------------------------------------------------------------- */

static pgs__metered_blob *blob_of(pgs_blob *blob)
{
	return (pgs__metered_blob *)blob;
}

static int metered_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	int status = blob_of(blob)->own->put(blob, name, size_bytes, source, ctx, deadline_ms, err);
	return end(&blob_of(blob)->put, status, size_bytes, start_us);
}

static int metered_get(pgs_blob *blob, pgs_blob_range *ranges, size_t range_count, uint64_t deadline_ms, pgs_error *err)
{
	pgs__meter *meter = &blob_of(blob)->get;
	uint64_t start_us = pgs__now_us();
	int status = blob_of(blob)->own->get(blob, ranges, range_count, deadline_ms, err);
	uint64_t us = pgs__now_us() - start_us;
	for (size_t i = 0; i < range_count; i++) {
		count(meter, ranges[i].status, 0, ranges[i].status == PGS_OK ? ranges[i].size : 0);
		pgs__meter_time(meter, us);
	}
	return status;
}

static int metered_head(pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	return end(&blob_of(blob)->head, blob_of(blob)->own->stat(blob, name, size_bytes, deadline_ms, err), 0, start_us);
}

static int metered_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	return end(&blob_of(blob)->list, blob_of(blob)->own->list(blob, prefix, lister, ctx, deadline_ms, err), 0, start_us);
}

static int metered_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	uint64_t start_us = pgs__now_us();
	return end(&blob_of(blob)->remove, blob_of(blob)->own->remove(blob, name, deadline_ms, err), 0, start_us);
}

static void visit_blob(pgs_blob *blob, pgs_operation_visitor visit, void *ctx)
{
	const pgs__metered_blob *m = blob_of(blob);
	pgs__meter_visit(&m->put, m->name, "put", visit, ctx);
	pgs__meter_visit(&m->get, m->name, "get", visit, ctx);
	pgs__meter_visit(&m->head, m->name, "head", visit, ctx);
	pgs__meter_visit(&m->list, m->name, "list", visit, ctx);
	pgs__meter_visit(&m->remove, m->name, "delete", visit, ctx);
}

void pgs__metered_blob_init(pgs__metered_blob *m, const char *name, const pgs_blob_vtable *own)
{
	m->own = own;
	m->name = name;
	m->vtable = *own;
	m->vtable.put = metered_put;
	m->vtable.get = metered_get;
	m->vtable.stat = metered_head;
	m->vtable.list = metered_list;
	m->vtable.remove = metered_remove;
	m->vtable.operations = visit_blob;
	m->base.vtable = &m->vtable;
}
