/* SQLite's databases, in a store and in a file. */
#include "sqlite_fixture.h"

#include <pagestore_sqlite.h>
#include <stdio.h>
#include <unistd.h>

/* --- SQL ------------------------------------------------------------------------------ */

static void fail(sqlite3 *db, const char *text)
{
	bench_die("sqlite: %s: %s", text, sqlite3_errmsg(db));
}

void bench_sql(sqlite3 *db, const char *text)
{
	if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
		fail(db, text);
}

sqlite3_stmt *bench_sql_prepare(sqlite3 *db, const char *text)
{
	sqlite3_stmt *statement;
	if (sqlite3_prepare_v2(db, text, -1, &statement, NULL) != SQLITE_OK)
		fail(db, text);
	return statement;
}

int64_t bench_sql_run(sqlite3_stmt *statement)
{
	int64_t sum = 0;
	int result;
	while ((result = sqlite3_step(statement)) == SQLITE_ROW)
		for (int i = 0; i < sqlite3_data_count(statement); i++)
			sum += sqlite3_column_type(statement, i) == SQLITE_INTEGER ? sqlite3_column_int64(statement, i)
										  : sqlite3_column_bytes(statement, i);
	if (result != SQLITE_DONE)
		fail(sqlite3_db_handle(statement), sqlite3_sql(statement));
	sqlite3_reset(statement);
	return sum;
}

/* --- one side --------------------------------------------------------------------------- */

#define OURS "sqlite"
#define FILE_NAME "native.sqlite"

void bench_sqlite_open(bench_sqlite *side)
{
	char name[BENCH_PATH_MAX + 64], path[BENCH_PATH_MAX];
	bench_check(pagestore_sqlite_register() == SQLITE_OK, "sqlite: the VFS is refused");
	if (side->journal_mode)
		snprintf(name, sizeof name, "file:%s?vfs=unix", bench_path(side->env, FILE_NAME, path));
	else
		snprintf(name, sizeof name, "file:bench?vfs=pagestore&store=%s", bench_url(side->env, OURS, path));
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
	if (sqlite3_open_v2(side->uri ? side->uri : name, &side->db, flags, NULL) != SQLITE_OK)
		fail(side->db, side->uri ? side->uri : name);
	bench_sql(side->db, "PRAGMA page_size=4096; PRAGMA cache_size=-2000; PRAGMA synchronous=FULL");
	if (!side->journal_mode)
		return;
	snprintf(name, sizeof name, "PRAGMA mmap_size=1073741824; PRAGMA journal_mode=%s", side->journal_mode);
	bench_sql(side->db, name);
}

void bench_sqlite_close(bench_sqlite *side)
{
	sqlite3_finalize(side->statement);
	bench_check(sqlite3_close(side->db) == SQLITE_OK, "sqlite: a statement is left");
	side->statement = NULL;
	side->db = NULL;
}

void bench_sqlite_remove(bench_sqlite *side)
{
	char path[BENCH_PATH_MAX];
	bench_sqlite_close(side);
	if (side->journal_mode)
		unlink(bench_path(side->env, FILE_NAME, path)); /* what was beside it went when it was closed */
	else
		bench_remove_tree(bench_path(side->env, OURS, path));
}

/* --- both ---------------------------------------------------------------------------------- */

typedef struct sides {
	bench_sqlite ours, native;
	const bench_sqlite_work *work;
} sides;

static double round_of_ours(void *ctx)
{
	sides *s = ctx;
	return s->work->round(&s->ours);
}

static double round_of_native(void *ctx)
{
	sides *s = ctx;
	return s->work->round(&s->native);
}

static void start(bench_sqlite *side, const bench_env *env, const char *journal_mode, const bench_sqlite_work *work)
{
	*side = (bench_sqlite){.env = env, .journal_mode = journal_mode, .random = {1}};
	bench_sqlite_open(side);
	work->set_up(side);
}

void bench_sqlite_compare(const bench_env *env, const char *journal_mode, const bench_sqlite_work *work,
			  bench_result *out)
{
	sides s = {.work = work};
	start(&s.ours, env, NULL, work);
	start(&s.native, env, journal_mode, work);
	bench_compare(env, round_of_ours, round_of_native, &s, out);
	bench_check(s.ours.sum == s.native.sum, "sqlite: the two databases give different results");
	bench_sqlite_remove(&s.ours);
	bench_sqlite_remove(&s.native);
}
