/* SQLite on etcd: a statement outside of transactions, against one put. */
#include "etcd_fixture.h"
#include "sqlite_fixture.h"

#include <pagestore/backends.h>
#include <pagestore_sqlite.h>
#include <stdlib.h>

typedef struct autocommit {
	etcd_server *etcd;
	counters counted; /* what the store asked of the KV */
	bench_raw *raw;
	bench_sqlite on;
	uint32_t count;
	double *times;
	size_t bytes;     /* put by a commit, on average */
} autocommit;

static bool start(const bench_env *env, autocommit *a)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	*a = (autocommit){.on = {.env = env}, .count = env->quick ? 5 : 200};
	if (!etcd_available())
		return false;
	setenv("TMPDIR", env->dir, 1); /* where the server's files go */
	a->etcd = etcd_start(&(etcd_setup){.synced = true});
	bench_check(a->etcd != NULL, "etcd does not start");
	bench_must(pgs_kv_etcd_open(&kv, etcd_endpoints(a->etcd), "bench", NULL, &err), &err, "pgs_kv_etcd_open");
	bench_must(counting_kv_new(&kv, kv, &a->counted, &err), &err, "counting_kv_new");
	bench_must(pgs_blob_memory_new(&blob, &err), &err, "pgs_blob_memory_new");
	bench_check(pagestore_sqlite_register() == SQLITE_OK && pagestore_sqlite_offer("etcd", kv, blob) == SQLITE_OK,
		    "sqlite: the store is refused");
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
	bench_check(sqlite3_open_v2("file:bench?vfs=pagestore&store=etcd", &a->on.db, flags, NULL) == SQLITE_OK,
		    "sqlite: the database does not open");
	bench_sql(a->on.db, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, number INTEGER)");
	a->on.statement = bench_sql_prepare(a->on.db, "INSERT INTO t(name, number) VALUES('somebody or other', ?)");
	a->raw = bench_raw_open(etcd_endpoint(a->etcd, 0));
	a->times = bench_alloc(a->count * sizeof *a->times);
	return true;
}

/* Median microseconds of an INSERT. */
static double insert(void *ctx)
{
	autocommit *a = ctx;
	uint64_t before = a->counted.kv_put_bytes;
	for (uint32_t i = 0; i < a->count; i++) {
		double since = bench_seconds();
		sqlite3_bind_int64(a->on.statement, 1, i);
		bench_sql_run(a->on.statement);
		a->times[i] = (bench_seconds() - since) * 1e6;
	}
	a->bytes = (size_t)((double)(a->counted.kv_put_bytes - before) / a->count);
	return bench_median(a->times, a->count);
}

static double put(void *ctx)
{
	autocommit *a = ctx;
	for (uint32_t i = 0; i < a->count; i++)
		a->times[i] = bench_raw_put(a->raw, i, a->bytes) * 1e6;
	return bench_median(a->times, a->count);
}

static void run(const bench_env *env, bench_result *out)
{
	autocommit a;
	out->skipped = !start(env, &a);
	if (out->skipped)
		return;
	bench_compare(env, insert, put, &a, out);
	bench_raw_close(a.raw);
	free(a.times);
	bench_sqlite_close(&a.on);
	etcd_stop(a.etcd);
}

const bench bench_sqlite_etcd_autocommit = {"sqlite_etcd_autocommit", "a put of as many bytes", "us", 2.5, false, run};
