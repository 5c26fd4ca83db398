/* Backends that count what passes through them. */
#include "counting.h"

#include <stdio.h>
#include <stdlib.h>

static int no_memory(pgs_error *err)
{
	if (err) {
		err->code = PGS_ENOMEM;
		err->page = PGS_NO_PAGE;
		snprintf(err->message, sizeof(err->message), "cannot make a counting backend: out of memory");
	}
	return PGS_ENOMEM;
}

static void add(atomic_uint_fast64_t *counter, uint64_t value)
{
	atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

/* --- the KV ------------------------------------------------------------- */

typedef struct counting_kv {
	pgs_kv base; /* first, so that a pgs_kv * is a counting_kv * */
	pgs_kv *inner;
	counters *n;
} counting_kv;

/* Watches are each backend's own type; the wrapper's remembers whose the inner one is. */
struct pgs_kv_watch {
	pgs_kv *inner;
	pgs_kv_watch *watch;
};

static counting_kv *kv_of(pgs_kv *kv)
{
	return (counting_kv *)kv;
}

static uint64_t put_bytes(const pgs_kv_op *ops, size_t count)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < count; i++) {
		if (ops[i].kind == PGS_KV_PUT)
			bytes += ops[i].key.size + ops[i].value.size;
	}
	return bytes;
}

static uint64_t read_bytes(const pgs_kv_txn *txn)
{
	uint64_t bytes = 0;
	for (size_t i = 0; txn->status == PGS_OK && i < txn->result_count; i++) {
		for (size_t j = 0; j < txn->results[i].count; j++)
			bytes += txn->results[i].pairs[j].key.size + txn->results[i].pairs[j].value.size;
	}
	return bytes;
}

static int kv_txn(pgs_kv *kv, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	counting_kv *self = kv_of(kv);
	int rc = self->inner->vtable->txn(self->inner, txns, count, deadline_ms, err);
	add(&self->n->kv_calls, 1);
	add(&self->n->kv_txns, count);
	for (size_t i = 0; i < count; i++) {
		const pgs_kv_txn *t = &txns[i];
		if (t->status == PGS_OK)
			add(&self->n->kv_put_bytes, t->succeeded ? put_bytes(t->success, t->success_count)
								 : put_bytes(t->failure, t->failure_count));
		add(&self->n->kv_read_bytes, read_bytes(t));
	}
	return rc;
}

static void kv_release(pgs_kv *kv, pgs_kv_txn *txns, size_t count)
{
	pgs_kv *inner = kv_of(kv)->inner;
	inner->vtable->release(inner, txns, count);
}

static int kv_watch_open(
	pgs_kv *kv, pgs_slice key, pgs_slice range_end, uint64_t from_revision, pgs_kv_watch **out, pgs_error *err)
{
	pgs_kv *inner = kv_of(kv)->inner;
	*out = NULL;
	pgs_kv_watch *w = malloc(sizeof(*w));
	if (!w)
		return no_memory(err);
	w->inner = inner;
	int rc = inner->vtable->watch_open(inner, key, range_end, from_revision, &w->watch, err);
	if (rc == PGS_OK)
		*out = w;
	else
		free(w);
	return rc;
}

static int kv_watch_next(pgs_kv_watch *w, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	return w->inner->vtable->watch_next(w->watch, timeout_ms, out, err);
}

static void kv_watch_close(pgs_kv_watch *w)
{
	if (!w)
		return;
	w->inner->vtable->watch_close(w->watch);
	free(w);
}

static int kv_compact(pgs_kv *kv, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = kv_of(kv)->inner;
	return inner->vtable->compact(inner, revision, deadline_ms, err);
}

static void kv_limits(pgs_kv *kv, pgs_kv_limits *out)
{
	pgs_kv *inner = kv_of(kv)->inner;
	inner->vtable->limits(inner, out);
}

static int kv_identity(pgs_kv *kv, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = kv_of(kv)->inner;
	return inner->vtable->identity(inner, out, deadline_ms, err);
}

static int kv_stat(pgs_kv *kv, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = kv_of(kv)->inner;
	return inner->vtable->stat(inner, out, deadline_ms, err);
}

/* Optional of the inner one, so this one may find nothing to pass on. */
static void kv_operations(pgs_kv *kv, pgs_operation_visitor visit, void *ctx)
{
	pgs_kv *inner = kv_of(kv)->inner;
	if (PGS_KV_HAS(inner, operations))
		inner->vtable->operations(inner, visit, ctx);
}

static void kv_close(pgs_kv *kv)
{
	pgs_kv *inner = kv_of(kv)->inner;
	inner->vtable->close(inner);
	free(kv);
}

int counting_kv_new(pgs_kv **out, pgs_kv *inner, counters *n, pgs_error *err)
{
	static const pgs_kv_vtable vtable = {
		.version = PGS_KV_VERSION,
		.struct_size = sizeof(pgs_kv_vtable),
		.txn = kv_txn,
		.release = kv_release,
		.watch_open = kv_watch_open,
		.watch_next = kv_watch_next,
		.watch_close = kv_watch_close,
		.compact = kv_compact,
		.limits = kv_limits,
		.identity = kv_identity,
		.stat = kv_stat,
		.close = kv_close,
		.operations = kv_operations,
	};
	*out = NULL;
	counting_kv *self = malloc(sizeof(*self));
	if (!self) {
		inner->vtable->close(inner);
		return no_memory(err);
	}
	self->base.vtable = &vtable;
	self->inner = inner;
	self->n = n;
	*out = &self->base;
	return PGS_OK;
}

/* --- the blob store ----------------------------------------------------- */

typedef struct counting_blob {
	pgs_blob base;
	pgs_blob *inner;
	counters *n;
} counting_blob;

static counting_blob *blob_of(pgs_blob *blob)
{
	return (counting_blob *)blob;
}

static int blob_put(pgs_blob *blob, const char *name, uint64_t size_bytes, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	counting_blob *self = blob_of(blob);
	int rc = self->inner->vtable->put(self->inner, name, size_bytes, source, ctx, deadline_ms, err);
	add(&self->n->blob_puts, 1);
	if (rc == PGS_OK)
		add(&self->n->blob_put_bytes, size_bytes);
	return rc;
}

static int blob_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	counting_blob *self = blob_of(blob);
	int rc = self->inner->vtable->get(self->inner, ranges, count, deadline_ms, err);
	add(&self->n->blob_gets, count);
	for (size_t i = 0; i < count; i++) {
		if (ranges[i].status == PGS_OK)
			add(&self->n->blob_get_bytes, ranges[i].size);
	}
	return rc;
}

static int blob_stat(pgs_blob *blob, const char *name, uint64_t *size_bytes, uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob *inner = blob_of(blob)->inner;
	return inner->vtable->stat(inner, name, size_bytes, deadline_ms, err);
}

static int blob_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob *inner = blob_of(blob)->inner;
	return inner->vtable->list(inner, prefix, lister, ctx, deadline_ms, err);
}

static int blob_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	pgs_blob *inner = blob_of(blob)->inner;
	return inner->vtable->remove(inner, name, deadline_ms, err);
}

static void blob_operations(pgs_blob *blob, pgs_operation_visitor visit, void *ctx)
{
	pgs_blob *inner = blob_of(blob)->inner;
	if (PGS_BLOB_HAS(inner, operations))
		inner->vtable->operations(inner, visit, ctx);
}

/* Without this one, a store in a network is read and written more slowly. */
static unsigned blob_concurrency(pgs_blob *blob)
{
	pgs_blob *inner = blob_of(blob)->inner;
	return PGS_BLOB_HAS(inner, concurrency) ? inner->vtable->concurrency(inner) : 1;
}

static void blob_close(pgs_blob *blob)
{
	pgs_blob *inner = blob_of(blob)->inner;
	inner->vtable->close(inner);
	free(blob);
}

int counting_blob_new(pgs_blob **out, pgs_blob *inner, counters *n, pgs_error *err)
{
	static const pgs_blob_vtable vtable = {
		.version = PGS_BLOB_VERSION,
		.struct_size = sizeof(pgs_blob_vtable),
		.put = blob_put,
		.get = blob_get,
		.stat = blob_stat,
		.list = blob_list,
		.remove = blob_remove,
		.close = blob_close,
		.operations = blob_operations,
		.concurrency = blob_concurrency,
	};
	*out = NULL;
	counting_blob *self = malloc(sizeof(*self));
	if (!self) {
		inner->vtable->close(inner);
		return no_memory(err);
	}
	self->base.vtable = &vtable;
	self->inner = inner;
	self->n = n;
	*out = &self->base;
	return PGS_OK;
}
