/* SQLite on a database in S3 of which nothing is at hand: the first query against a download of the whole, and a scan
 * with and without prefetch. Each round opens the store anew, as a process of its own does. */
#include "s3_fixture.h"
#include "sqlite_fixture.h"

#include <pagestore_sqlite.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define ROW_BYTES 1000  /* of which four share a page */
#define PATH_PAGES 6    /* header, page 1, root, interior page, leaf: what a search reads; one is spare */

typedef struct cold {
	cluster c;
	uint64_t bytes, rows;
	uint64_t multiplier; /* of ids: row i has id i × multiplier mod rows + 1 */
	bench_random random;
	uint64_t gets, get_bytes, kv_requests; /* of the last round */
	uint8_t *object;     /* as large, for curl */
} cold;

/* --- a connection --------------------------------------------------------------------------- */

typedef struct cold_store {
	pgs_kv *kv; /* the store's */
	pgs_blob *blob;
	sqlite3 *db;
} cold_store;

static void open_cold(cold *b, cold_store *s)
{
	static unsigned number;
	char name[32], uri[96];
	cluster_backends(&b->c, &s->kv, &s->blob);
	snprintf(name, sizeof name, "cold-%u", ++number);
	bench_check(pagestore_sqlite_offer(name, s->kv, s->blob) == SQLITE_OK, "sqlite: the store is refused");
	snprintf(uri, sizeof uri, "file:bench?vfs=pagestore&store=%s&timeout=300000", name);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
	bench_check(sqlite3_open_v2(uri, &s->db, flags, NULL) == SQLITE_OK, "sqlite: it cannot be opened");
}

static void count_operation(void *ctx, const pgs_operation_stat *stat)
{
	cold *b = ctx;
	if (!strcmp(stat->backend, "s3"))
		b->gets += stat->requests, b->get_bytes += stat->bytes_received;
	else
		b->kv_requests += stat->requests;
}

/* Close it; what it took is in *b. */
static void close_cold(cold *b, cold_store *s)
{
	b->gets = b->get_bytes = b->kv_requests = 0;
	s->kv->vtable->operations(s->kv, count_operation, b);
	s->blob->vtable->operations(s->blob, count_operation, b);
	bench_check(sqlite3_close(s->db) == SQLITE_OK, "sqlite: a statement is left");
}

/* --- the database ----------------------------------------------------------------------------- */

/* Rows that do not compress, in transactions of at most 64 MiB, as a program would that does not want to begin anew. */
static void fill(cold *b)
{
	cold_store s;
	b->c.databases++;
	open_cold(b, &s);
	bench_sql(s.db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
	sqlite3_stmt *insert = bench_sql_prepare(s.db, "INSERT INTO t VALUES (?1 * ?2 % ?3 + 1, randomblob(?4))");
	for (uint64_t i = 0; i < b->rows; i++) {
		if (i % 65536 == 0)
			bench_sql(s.db, i ? "COMMIT; BEGIN" : "BEGIN");
		sqlite3_bind_int64(insert, 1, (int64_t)i);
		sqlite3_bind_int64(insert, 2, (int64_t)b->multiplier);
		sqlite3_bind_int64(insert, 3, (int64_t)b->rows);
		sqlite3_bind_int64(insert, 4, ROW_BYTES);
		bench_sql_run(insert);
	}
	bench_sql(s.db, "COMMIT");
	sqlite3_finalize(insert);
	close_cold(b, &s);
}

/* As it is found where somebody looks after the store. */
static void maintain(cold *b)
{
	pgs_error err = PGS_ERROR_INIT;
	bench_db db;
	cluster_open_db(&b->c, &db);
	bench_must(pgs_maintain(db.db, NULL, NULL, &err), &err, "pgs_maintain");
	bench_db_close(&db);
}

static bool start(cold *b, const bench_env *env, uint64_t bytes, uint64_t multiplier, bench_result *out)
{
	*b = (cold){.bytes = bytes, .rows = bytes / 1024, .multiplier = multiplier, .random = {7}};
	bench_check(pagestore_sqlite_register() == SQLITE_OK, "sqlite: the VFS is refused");
	if (!cluster_start(&b->c, env, out))
		return false;
	fill(b);
	maintain(b);
	return true;
}

/* --- the first query ---------------------------------------------------------------------------- */

static double first_query(void *ctx)
{
	cold *b = ctx;
	cold_store s;
	char sql[64];
	const unsigned long long id = bench_random_next(&b->random) % b->rows + 1;
	snprintf(sql, sizeof sql, "SELECT length(v) FROM t WHERE id = %llu", id);
	double since = bench_seconds();
	open_cold(b, &s);
	sqlite3_stmt *select = bench_sql_prepare(s.db, sql);
	bench_check(bench_sql_run(select) == ROW_BYTES, "sqlite: another row");
	double seconds = bench_seconds() - since;
	sqlite3_finalize(select);
	close_cold(b, &s);
	return seconds * 1e3;
}

static double download_all(void *ctx)
{
	cold *b = ctx;
	double since = bench_seconds();
	CURL *easy = cluster_curl(&b->c);
	cluster_download(easy, 0, b->object, b->bytes);
	curl_easy_cleanup(easy);
	return (bench_seconds() - since) * 1e3;
}

static void make_object(cold *b)
{
	b->object = bench_alloc(b->bytes);
	for (uint64_t i = 0; i < b->bytes; i += sizeof i) {
		uint64_t word = bench_random_next(&b->random);
		memcpy(b->object + i, &word, sizeof word);
	}
	cluster_upload(&b->c, b->object, b->bytes);
}

static void say(const cold *b)
{
	fprintf(stderr, "the first query: %llu GETs, %llu bytes, %llu KV requests\n", (unsigned long long)b->gets,
		(unsigned long long)b->get_bytes, (unsigned long long)b->kv_requests);
}

static void run_open(const bench_env *env, bench_result *out)
{
	cold b;
	if (!start(&b, env, (env->quick ? 8 : 1024) * MIB, 1, out))
		return;
	make_object(&b);
	bench_compare(env, first_query, download_all, &b, out);
	say(&b);
	free(b.object);
	cluster_stop(&b.c);
}

static void run_requests(const bench_env *env, bool kv, bench_result *out)
{
	cold b;
	if (!start(&b, env, (env->quick ? 8 : 256) * MIB, 1, out))
		return;
	first_query(&b);
	out->ours = (double)(kv ? b.kv_requests : b.gets);
	out->baseline = PATH_PAGES;
	cluster_stop(&b.c);
}

static void run_gets(const bench_env *env, bench_result *out)
{
	run_requests(env, false, out);
}

static void run_kv(const bench_env *env, bench_result *out)
{
	run_requests(env, true, out);
}

/* --- a scan ---------------------------------------------------------------------------------------- */

static double scan(cold *b, bool prefetch)
{
	cold_store s;
	open_cold(b, &s);
	bench_sql(s.db, prefetch ? "PRAGMA pagestore_prefetch=on" : "PRAGMA pagestore_prefetch=off");
	sqlite3_stmt *select = bench_sql_prepare(s.db, "SELECT count(*), sum(length(v)) FROM t");
	double since = bench_seconds();
	int64_t sum = bench_sql_run(select);
	double seconds = bench_seconds() - since;
	bench_check(sum == (int64_t)(b->rows * (ROW_BYTES + 1)), "sqlite: other rows");
	sqlite3_finalize(select);
	close_cold(b, &s);
	return (double)b->bytes / 1e6 / seconds;
}

static double scan_with(void *ctx)
{
	return scan(ctx, true);
}

static double scan_without(void *ctx)
{
	return scan(ctx, false);
}

/* Rows inserted all over, so that pages come in no order. */
static void run_scan(const bench_env *env, bench_result *out)
{
	cold b;
	if (!start(&b, env, (env->quick ? 4 : 16) * MIB, 40503, out))
		return;
	bench_compare(env, scan_with, scan_without, &b, out);
	cluster_stop(&b.c);
}

const bench bench_sqlite_cold_open = {
	"sqlite_cold_open", "curl: one GET of as many bytes", "ms", 0.01, false, run_open};
const bench bench_sqlite_cold_open_gets = {
	"sqlite_cold_open_gets", "pages on the way to a row", "GETs", 2, false, run_gets};
const bench bench_sqlite_cold_open_kv = {
	"sqlite_cold_open_kv", "pages on the way to a row", "requests", 3, false, run_kv};
const bench bench_sqlite_cold_scan = {
	"sqlite_cold_scan", "the same without prefetch", "MB/s", 2, true, run_scan};
