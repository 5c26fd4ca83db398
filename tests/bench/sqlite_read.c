/* SQLite's warm reads: by key, and of a whole table that its cache does not hold. */
#include "sqlite_fixture.h"

#include <stdio.h>

#define POINTS 20000 /* of a round */

static uint32_t rows(const bench_sqlite *side)
{
	return side->env->quick ? 20000 : 1000000;
}

/* Rows of some 40 bytes: a million are 45 MB, less than the store's page cache and far more than SQLite's. */
static void make_table(bench_sqlite *side)
{
	bench_sql(side->db, "CREATE TABLE t(id INTEGER PRIMARY KEY, number INTEGER, name TEXT); BEGIN");
	sqlite3_stmt *insert = bench_sql_prepare(side->db, "INSERT INTO t VALUES(?, ?, ?)");
	for (uint32_t i = 1; i <= rows(side); i++) {
		char name[64];
		int size = snprintf(name, sizeof name, "%s %s", bench_word(&side->random), bench_word(&side->random));
		sqlite3_bind_int64(insert, 1, i);
		sqlite3_bind_int64(insert, 2, (int64_t)(bench_random_next(&side->random) % 1000000));
		sqlite3_bind_text(insert, 3, name, size, SQLITE_STATIC);
		bench_sql_run(insert);
	}
	sqlite3_finalize(insert);
	bench_sql(side->db, "COMMIT");
	if (side->journal_mode)
		bench_sql(side->db, "PRAGMA wal_checkpoint(TRUNCATE)");
	bench_sql(side->db, "SELECT sum(number), sum(length(name)) FROM t"); /* the kernel's cache, or the store's */
}

/* --- by key ------------------------------------------------------------------------------ */

static void set_up_points(bench_sqlite *side)
{
	make_table(side);
	side->statement = bench_sql_prepare(side->db, "SELECT number, name FROM t WHERE id = ?");
}

/* Nanoseconds a SELECT. */
static double read_points(bench_sqlite *side)
{
	uint32_t count = side->env->quick ? 500 : POINTS;
	double since = bench_seconds();
	for (uint32_t i = 0; i < count; i++) {
		sqlite3_bind_int64(side->statement, 1, (int64_t)(bench_random_next(&side->random) % rows(side) + 1));
		side->sum += bench_sql_run(side->statement);
	}
	return (bench_seconds() - since) * 1e9 / count;
}

const bench_sqlite_work bench_sqlite_points = {set_up_points, read_points};

static void run_points(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "WAL", &bench_sqlite_points, out);
}

/* --- all of it ---------------------------------------------------------------------------- */

static void set_up_scan(bench_sqlite *side)
{
	make_table(side);
	side->statement = bench_sql_prepare(side->db, "SELECT count(*), sum(number), sum(length(name)) FROM t");
}

/* Nanoseconds a row. */
static double scan(bench_sqlite *side)
{
	double since = bench_seconds();
	side->sum += bench_sql_run(side->statement);
	return (bench_seconds() - since) * 1e9 / rows(side);
}

static void run_scan(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "WAL", &(bench_sqlite_work){set_up_scan, scan}, out);
}

const bench bench_sqlite_point_read = {"sqlite_point_read", "a file, WAL", "ns", 0.7, false, run_points};
const bench bench_sqlite_scan = {"sqlite_scan", "a file, WAL", "ns/row", 1.0, false, run_scan};
