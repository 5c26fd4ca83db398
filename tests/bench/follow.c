/* Beginning on what the process has, against LMDB's read transactions. */
#include "fixtures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore/follow.h>

typedef struct local_begins {
	bench_db ours;
	bench_lmdb lmdb;
	uint32_t count;
} local_begins;

/* Nanoseconds of a begin and its end. */
static double begin_local(void *ctx)
{
	local_begins *b = ctx;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	options.freshness = PGS_LOCAL;
	double since = bench_seconds();
	for (uint32_t i = 0; i < b->count; i++) {
		bench_must(pgs_begin(&t, b->ours.db, &options, &err), &err, "pgs_begin");
		pgs_abort(t);
	}
	return (bench_seconds() - since) * 1e9 / b->count;
}

static double begin_lmdb(void *ctx)
{
	local_begins *b = ctx;
	double since = bench_seconds();
	for (uint32_t i = 0; i < b->count; i++) {
		MDB_txn *txn;
		size_t number = i % 1000;
		MDB_val key = {sizeof number, &number}, value;
		bench_check(mdb_txn_begin(b->lmdb.env, NULL, MDB_RDONLY, &txn) == 0 &&
				    mdb_get(txn, b->lmdb.dbi, &key, &value) == 0,
			    "LMDB");
		mdb_txn_abort(txn);
	}
	return (bench_seconds() - since) * 1e9 / b->count;
}

/* With a cache file, whose mirror a follower has loaded: it is looked at by every begin. */
static void run_begin_local(const bench_env *env, bench_result *out)
{
	local_begins b = {.count = env->quick ? 1000 : 200000};
	char url[BENCH_PATH_MAX], path[BENCH_PATH_MAX], cache[BENCH_PATH_MAX];
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	bench_db_create(&b.ours, bench_url(env, "follow", url), 4096, 16u << 20);
	bench_db_fill(&b.ours, 1000);
	bench_db_close(&b.ours);
	options.cache_path = bench_path(env, "follow.cache", cache);
	bench_must(pgs_open(&b.ours.store, url, &options, &err), &err, "pgs_open");
	bench_must(pgs_db_open(&b.ours.db, b.ours.store, "bench", 5, NULL, &err), &err, "pgs_db_open");
	bench_must(pgs_follow_step(b.ours.db, 0, &err), &err, "pgs_follow_step");
	bench_lmdb_create(&b.lmdb, bench_path(env, "follow.lmdb", path), 1000, 8);
	bench_compare(env, begin_local, begin_lmdb, &b, out);
	bench_lmdb_close(&b.lmdb);
	bench_db_close(&b.ours);
	bench_remove_tree(path);
	bench_remove_tree(bench_path(env, "follow", path));
}

const bench bench_cache_begin_local = {"cache_begin_local", "LMDB begin + get + abort", "ns", 2.0, false, run_begin_local};
