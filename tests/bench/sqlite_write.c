/* SQLite's writes: statements outside of transactions, small transactions, one that is large. All synced. */
#include "sqlite_fixture.h"

#include <stdio.h>

/* --- autocommit ------------------------------------------------------------------------------ */

static void set_up_inserts(bench_sqlite *side)
{
	bench_sql(side->db, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, number INTEGER)");
	side->statement = bench_sql_prepare(side->db, "INSERT INTO t(name, number) VALUES('somebody or other', ?)");
}

/* Commits a second. */
static double insert(bench_sqlite *side)
{
	uint32_t count = side->env->quick ? 5 : 200;
	double since = bench_seconds();
	for (uint32_t i = 0; i < count; i++) {
		sqlite3_bind_int64(side->statement, 1, i);
		bench_sql_run(side->statement);
	}
	double rate = count / (bench_seconds() - since);
	side->sum = sqlite3_last_insert_rowid(side->db);
	return rate;
}

static void run_insert(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "DELETE", &(bench_sqlite_work){set_up_inserts, insert}, out);
}

static void run_insert_wal(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "WAL", &(bench_sqlite_work){set_up_inserts, insert}, out);
}

const bench bench_sqlite_insert_autocommit = {"sqlite_insert_autocommit", "a file, DELETE, FULL", "commits/s", 1.5, true,
					      run_insert};
/* Has no goal: it is to be known. */
const bench bench_sqlite_insert_autocommit_wal = {"sqlite_insert_autocommit_wal", "a file, WAL, FULL", "commits/s", 0,
						  true, run_insert_wal};

/* --- a bank ------------------------------------------------------------------------------------ */

#define UPDATES 10 /* of a transaction */

static uint32_t accounts(const bench_sqlite *side)
{
	return side->env->quick ? 1000 : 100000;
}

static void set_up_bank(bench_sqlite *side)
{
	char fill[256];
	snprintf(fill, sizeof fill,
		 "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER);"
		 "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %u) "
		 "INSERT INTO account SELECT i, 'owner ' || i * 7919, 1000 FROM n",
		 accounts(side));
	bench_sql(side->db, fill);
	side->statement = bench_sql_prepare(side->db, "UPDATE account SET balance = balance + ? WHERE id = ?");
}

static void change(bench_sqlite *side, int64_t amount)
{
	sqlite3_bind_int64(side->statement, 1, amount);
	sqlite3_bind_int64(side->statement, 2, (int64_t)(bench_random_next(&side->random) % accounts(side) + 1));
	bench_sql_run(side->statement);
}

/* Transactions a second. */
static double transfer(bench_sqlite *side)
{
	uint32_t count = side->env->quick ? 5 : 200;
	sqlite3_stmt *begin = bench_sql_prepare(side->db, "BEGIN");
	sqlite3_stmt *commit = bench_sql_prepare(side->db, "COMMIT");
	double since = bench_seconds();
	for (uint32_t i = 0; i < count; i++) {
		bench_sql_run(begin);
		for (int k = 0; k < UPDATES; k++)
			change(side, k % 2 ? 10 : -10);
		bench_sql_run(commit);
	}
	double rate = count / (bench_seconds() - since);
	sqlite3_finalize(begin);
	sqlite3_finalize(commit);
	sqlite3_stmt *check = bench_sql_prepare(side->db, "SELECT sum(balance), sum(balance * id) FROM account");
	side->sum = bench_sql_run(check);
	sqlite3_finalize(check);
	return rate;
}

static void run_bank(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "WAL", &(bench_sqlite_work){set_up_bank, transfer}, out);
}

const bench bench_sqlite_bank = {"sqlite_bank", "a file, WAL, FULL", "txns/s", 0.7, true, run_bank};

/* --- a million rows at once ---------------------------------------------------------------------- */

static void set_up_nothing(bench_sqlite *side)
{
	(void)side;
}

static void insert_row(bench_sqlite *side, sqlite3_stmt *statement)
{
	sqlite3_bind_int64(statement, 1, (int64_t)(bench_random_next(&side->random) % 1000000));
	sqlite3_bind_text(statement, 2, bench_word(&side->random), -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, 3, bench_word(&side->random), -1, SQLITE_STATIC);
	bench_sql_run(statement);
}

/* Thousands of rows a second, into a new database. */
static double bulk(bench_sqlite *side)
{
	uint32_t count = side->env->quick ? 5000 : 1000000;
	bench_sqlite_remove(side);
	bench_sqlite_open(side);
	bench_sql(side->db, "CREATE TABLE t(id INTEGER PRIMARY KEY, number INTEGER, name TEXT, place TEXT)");
	sqlite3_stmt *statement = bench_sql_prepare(side->db, "INSERT INTO t(number, name, place) VALUES(?, ?, ?)");
	double since = bench_seconds();
	bench_sql(side->db, "BEGIN");
	for (uint32_t i = 0; i < count; i++)
		insert_row(side, statement);
	bench_sql(side->db, "COMMIT");
	double rate = count / 1e3 / (bench_seconds() - since);
	sqlite3_finalize(statement);
	sqlite3_stmt *check = bench_sql_prepare(side->db, "SELECT count(*), sum(number), sum(length(name || place)) FROM t");
	side->sum = bench_sql_run(check);
	sqlite3_finalize(check);
	return rate;
}

static void run_bulk(const bench_env *env, bench_result *out)
{
	bench_sqlite_compare(env, "DELETE", &(bench_sqlite_work){set_up_nothing, bulk}, out);
}

const bench bench_sqlite_bulk = {"sqlite_bulk", "a file, DELETE, FULL", "k rows/s", 0.8, true, run_bulk};
