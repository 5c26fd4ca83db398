/* What opening a database reads: counted by a KV that passes everything on. */
#include "fixtures.h"

#include <pagestore/backends.h>

typedef struct counting_kv {
	pgs_kv base;
	pgs_kv *inner;
	uint64_t keys; /* read: asked for one by one, or found in a range */
} counting_kv;

static uint64_t keys_read(const pgs_kv_txn *txn)
{
	const pgs_kv_op *ops = txn->succeeded ? txn->success : txn->failure;
	uint64_t keys = txn->compare_count;
	for (size_t i = 0; i < txn->result_count; i++)
		if (ops[i].kind == PGS_KV_RANGE)
			keys += txn->results[i].count + txn->results[i].total ? txn->results[i].count + txn->results[i].total : 1;
	return keys;
}

static int count_txn(pgs_kv *base, pgs_kv_txn *txns, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	counting_kv *kv = (counting_kv *)base;
	int result = kv->inner->vtable->txn(kv->inner, txns, count, deadline_ms, err);
	for (size_t i = 0; i < count; i++)
		kv->keys += keys_read(&txns[i]);
	return result;
}

static void pass_release(pgs_kv *base, pgs_kv_txn *txns, size_t count)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	inner->vtable->release(inner, txns, count);
}

static int pass_watch_open(pgs_kv *base, pgs_slice key, pgs_slice end, uint64_t from, pgs_kv_watch **out, pgs_error *err)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	return inner->vtable->watch_open(inner, key, end, from, out, err);
}

static int refuse_watch_next(pgs_kv_watch *watch, uint32_t timeout_ms, pgs_kv_events *out, pgs_error *err)
{
	(void)watch;
	(void)timeout_ms;
	(void)out;
	(void)err;
	bench_die("opening a database watches");
}

static void refuse_watch_close(pgs_kv_watch *watch)
{
	(void)watch;
}

static int pass_compact(pgs_kv *base, uint64_t revision, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	return inner->vtable->compact(inner, revision, deadline_ms, err);
}

static void pass_limits(pgs_kv *base, pgs_kv_limits *out)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	inner->vtable->limits(inner, out);
}

static int pass_identity(pgs_kv *base, uint8_t out[16], uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	return inner->vtable->identity(inner, out, deadline_ms, err);
}

static int pass_stat(pgs_kv *base, pgs_kv_stat *out, uint64_t deadline_ms, pgs_error *err)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	return inner->vtable->stat(inner, out, deadline_ms, err);
}

static void pass_close(pgs_kv *base)
{
	pgs_kv *inner = ((counting_kv *)base)->inner;
	inner->vtable->close(inner);
}

static const pgs_kv_vtable vtable = {
	.version = PGS_KV_VERSION,
	.struct_size = sizeof vtable,
	.txn = count_txn,
	.release = pass_release,
	.watch_open = pass_watch_open,
	.watch_next = refuse_watch_next,
	.watch_close = refuse_watch_close,
	.compact = pass_compact,
	.limits = pass_limits,
	.identity = pass_identity,
	.stat = pass_stat,
	.close = pass_close,
};

/* Keys read from opening the store until its first transaction is ready to read pages, with `pages` in the database. */
static uint64_t count_opening(uint32_t pages)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	counting_kv counting = {.base = {&vtable}};
	bench_db first, again;
	pgs_txn *t;
	uint8_t page[4096], want[4096];
	bench_must(pgs_kv_memory_new(&kv, NULL, &err), &err, "pgs_kv_memory_new");
	bench_must(pgs_blob_memory_new(&blob, &err), &err, "pgs_blob_memory_new");
	bench_must(pgs_kv_memory_share(&counting.inner, kv, &err), &err, "pgs_kv_memory_share");
	pgs_blob *shared;
	bench_must(pgs_blob_memory_share(&shared, blob, &err), &err, "pgs_blob_memory_share");
	bench_must(pgs_open_with(&first.store, kv, blob, NULL, &err), &err, "pgs_open_with");
	bench_must(pgs_db_create(&first.db, first.store, "bench", 5, NULL, &err), &err, "pgs_db_create");
	bench_db_fill(&first, pages);
	bench_must(pgs_open_with(&again.store, &counting.base, shared, NULL, &err), &err, "pgs_open_with");
	bench_must(pgs_db_open(&again.db, again.store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	bench_must(pgs_begin(&t, again.db, NULL, &err), &err, "pgs_begin");
	uint64_t keys = counting.keys;
	bench_must(pgs_read(t, pages - 1, page), pgs_txn_error(t), "pgs_read");
	bench_page(pages - 1, want);
	for (size_t i = 0; i < sizeof page; i++)
		bench_check(page[i] == want[i], "a page reads otherwise after opening");
	pgs_abort(t);
	bench_db_close(&again);
	bench_db_close(&first);
	return keys;
}

static void run_open(const bench_env *env, bench_result *out)
{
	uint64_t few = count_opening(16), many = count_opening(env->quick ? 4096 : 65536);
	out->ours = (double)many;
	out->baseline = (double)few;
}

const bench bench_open_reads = {"open_reads", "the same with 16 pages", "keys", 1.0, false, run_open};
