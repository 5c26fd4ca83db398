/* Warm reads: pages that the cache holds, against LMDB, whose cache is the kernel's. */
#include "fixtures.h"

#include <stdlib.h>
#include <string.h>

typedef struct warm {
	uint32_t count;
	uint32_t *order;
	bench_db ours;
	bench_lmdb lmdb;
	pgs_txn *txn;
	MDB_txn *lmdb_txn;
	uint64_t sum; /* keeps the compiler from leaving reads out */
} warm;

static const void *lmdb_page(warm *w, uint64_t number)
{
	MDB_val k = {sizeof number, &number}, v;
	int rc = mdb_get(w->lmdb_txn, w->lmdb.dbi, &k, &v);
	if (rc || v.mv_size != 4096)
		bench_die("mdb_get: %s", mdb_strerror(rc));
	return v.mv_data;
}

/* Every page, read and pinned, is what LMDB has; this also warms the cache. */
static void verify(warm *w)
{
	uint8_t page[4096];
	const void *pinned;
	for (uint32_t i = 0; i < w->count; i++) {
		bench_must(pgs_read(w->txn, i, page), pgs_txn_error(w->txn), "pgs_read");
		bench_must(pgs_pin(w->txn, i, &pinned), pgs_txn_error(w->txn), "pgs_pin");
		bench_check(memcmp(page, lmdb_page(w, i), 4096) == 0 && memcmp(page, pinned, 4096) == 0,
			    "a page read differs from LMDB's");
		pgs_unpin(w->txn, pinned);
	}
}

static void set_up(const bench_env *env, warm *w)
{
	char path[BENCH_PATH_MAX];
	pgs_error err = PGS_ERROR_INIT;
	w->count = env->quick ? 4096 : 65536;
	w->order = bench_shuffled(w->count, 7);
	bench_db_create(&w->ours, "mem:", 4096, 320u << 20);
	bench_db_fill(&w->ours, w->count);
	bench_lmdb_create(&w->lmdb, bench_path(env, "warm", path), w->count, 4096);
	bench_must(pgs_begin(&w->txn, w->ours.db, NULL, &err), &err, "pgs_begin");
	bench_check(mdb_txn_begin(w->lmdb.env, NULL, MDB_RDONLY, &w->lmdb_txn) == 0, "mdb_txn_begin");
	verify(w);
}

static void tear_down(const bench_env *env, warm *w)
{
	char path[BENCH_PATH_MAX];
	pgs_abort(w->txn);
	mdb_txn_abort(w->lmdb_txn);
	bench_db_close(&w->ours);
	bench_lmdb_close(&w->lmdb);
	free(w->order);
	bench_remove_tree(bench_path(env, "warm", path));
}

static double ns_per_page(const warm *w, double since)
{
	return (bench_seconds() - since) * 1e9 / w->count;
}

/* --- copying ------------------------------------------------------------------- */

static double read_ours(void *ctx)
{
	warm *w = ctx;
	uint8_t page[4096];
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++) {
		bench_must(pgs_read(w->txn, w->order[i], page), pgs_txn_error(w->txn), "pgs_read");
		w->sum += page[i & 4095];
	}
	return ns_per_page(w, since);
}

static double read_lmdb(void *ctx)
{
	warm *w = ctx;
	uint8_t page[4096];
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++) {
		memcpy(page, lmdb_page(w, w->order[i]), sizeof page);
		__asm__ volatile("" : : "r"(page) : "memory");
		w->sum += page[i & 4095];
	}
	return ns_per_page(w, since);
}

static void run_read(const bench_env *env, bench_result *out)
{
	warm w = {0};
	set_up(env, &w);
	bench_compare(env, read_ours, read_lmdb, &w, out);
	tear_down(env, &w);
}

const bench bench_read_warm = {"read_warm_4k", "LMDB get + memcpy", "ns", 1.0, false, run_read};

/* --- zero copy --------------------------------------------------------------------- */

static double pin_ours(void *ctx)
{
	warm *w = ctx;
	const void *page;
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++) {
		bench_must(pgs_pin(w->txn, w->order[i], &page), pgs_txn_error(w->txn), "pgs_pin");
		w->sum += *((const uint8_t *)page + (i & 4095));
		pgs_unpin(w->txn, page);
	}
	return ns_per_page(w, since);
}

static double pin_lmdb(void *ctx)
{
	warm *w = ctx;
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++)
		w->sum += *((const uint8_t *)lmdb_page(w, w->order[i]) + (i & 4095));
	return ns_per_page(w, since);
}

static void run_pin(const bench_env *env, bench_result *out)
{
	warm w = {0};
	set_up(env, &w);
	bench_compare(env, pin_ours, pin_lmdb, &w, out);
	tear_down(env, &w);
}

const bench bench_pin_warm = {"pin_warm_4k", "LMDB get", "ns", 1.0, false, run_pin};

/* --- a transaction for each page -------------------------------------------------------- */

#define BEGIN_PAGES 4096

static double begin_ours(void *ctx)
{
	warm *w = ctx;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	const void *page;
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++) {
		bench_must(pgs_begin(&t, w->ours.db, NULL, &err), &err, "pgs_begin");
		bench_must(pgs_pin(t, w->order[i], &page), pgs_txn_error(t), "pgs_pin");
		w->sum += *((const uint8_t *)page + (i & 4095));
		pgs_abort(t);
	}
	return ns_per_page(w, since);
}

static double begin_lmdb(void *ctx)
{
	warm *w = ctx;
	double since = bench_seconds();
	for (uint32_t i = 0; i < w->count; i++) {
		bench_check(mdb_txn_begin(w->lmdb.env, NULL, MDB_RDONLY, &w->lmdb_txn) == 0, "mdb_txn_begin");
		w->sum += *((const uint8_t *)lmdb_page(w, w->order[i]) + (i & 4095));
		mdb_txn_abort(w->lmdb_txn);
	}
	return ns_per_page(w, since);
}

/* In a directory: whether others have committed has to be looked at each time. */
static void run_begin(const bench_env *env, bench_result *out)
{
	char url[BENCH_PATH_MAX], path[BENCH_PATH_MAX];
	warm w = {.count = BEGIN_PAGES, .order = bench_shuffled(BEGIN_PAGES, 7)};
	pgs_error err = PGS_ERROR_INIT;
	bench_db_create(&w.ours, bench_url(env, "begin", url), 4096, 64u << 20);
	bench_db_fill(&w.ours, w.count);
	bench_lmdb_create(&w.lmdb, bench_path(env, "begin-lmdb", path), w.count, 4096);
	bench_must(pgs_begin(&w.txn, w.ours.db, NULL, &err), &err, "pgs_begin");
	bench_check(mdb_txn_begin(w.lmdb.env, NULL, MDB_RDONLY, &w.lmdb_txn) == 0, "mdb_txn_begin");
	verify(&w);
	pgs_abort(w.txn);
	mdb_txn_abort(w.lmdb_txn);
	bench_compare(env, begin_ours, begin_lmdb, &w, out);
	bench_db_close(&w.ours);
	bench_lmdb_close(&w.lmdb);
	free(w.order);
	bench_remove_tree(bench_path(env, "begin", path));
	bench_remove_tree(bench_path(env, "begin-lmdb", path));
}

const bench bench_begin_warm = {"begin_warm_local", "LMDB begin + get + abort", "ns", 2.0, false, run_begin};

/* --- the cache's own memory ------------------------------------------------------------ */

static void run_overhead(const bench_env *env, bench_result *out)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	uint32_t count = env->quick ? 4096 : 65536;
	bench_db b;
	pgs_txn *t;
	uint8_t page[4096];
	bench_db_create(&b, "mem:", 4096, (uint64_t)count * 5120);
	bench_db_fill(&b, count);
	bench_must(pgs_begin(&t, b.db, NULL, &err), &err, "pgs_begin");
	for (uint32_t i = 0; i < count; i++)
		bench_must(pgs_read(t, i, page), pgs_txn_error(t), "pgs_read");
	pgs_abort(t);
	bench_must(pgs_stat(b.db, &stat, &err), &err, "pgs_stat");
	out->ours = (double)stat.cache_overhead_bytes / ((double)stat.cache_used_bytes / 4096);
	out->baseline = 120;
	bench_db_close(&b);
}

const bench bench_cache_overhead = {"cache_overhead", "120 bytes", "B/page", 1.0, false, run_overhead};
