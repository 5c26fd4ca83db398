/* Writers that insert into tables of their own, all at once, with BEGIN: what they conflict over is allocation. */
#include "sqlite_fixture.h"

#include <pthread.h>
#include <stdio.h>

#define WRITERS 4
#define ROWS 10 /* of a transaction */

typedef struct conflicts {
	const bench_env *env;
	pthread_t threads[WRITERS];
	uint32_t failed[WRITERS], committed[WRITERS];
	uint32_t transactions;      /* of a writer */
} conflicts;

typedef struct writer {
	conflicts *all;
	unsigned number;
} writer;

static bool run_once(sqlite3 *db, sqlite3_stmt *insert, uint32_t number)
{
	bench_sql(db, "BEGIN");
	for (uint32_t i = 0; i < ROWS; i++) {
		sqlite3_bind_int64(insert, 1, number * ROWS + i);
		bench_sql_run(insert);
	}
	int result = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
	bench_check(result == SQLITE_OK || sqlite3_extended_errcode(db) == SQLITE_BUSY_SNAPSHOT, "sqlite: COMMIT fails");
	return result == SQLITE_OK;
}

static void *write_own(void *ctx)
{
	const writer *w = ctx;
	conflicts *all = w->all;
	bench_sqlite side = {.env = all->env};
	char sql[128];
	bench_sqlite_open(&side);
	sqlite3_busy_timeout(side.db, 60000);
	snprintf(sql, sizeof sql, "INSERT INTO t%u(number, name) VALUES(?, 'somebody or other')", w->number);
	side.statement = bench_sql_prepare(side.db, sql);
	while (all->committed[w->number] < all->transactions)
		if (run_once(side.db, side.statement, all->committed[w->number]))
			all->committed[w->number]++;
		else
			all->failed[w->number]++;
	bench_sqlite_close(&side);
	return NULL;
}

static void run(const bench_env *env, bench_result *out)
{
	conflicts c = {.env = env, .transactions = env->quick ? 20 : 1000};
	writer writers[WRITERS];
	bench_sqlite side = {.env = env};
	double failed = 0;
	bench_sqlite_open(&side);
	for (unsigned i = 0; i < WRITERS; i++) {
		char sql[128];
		snprintf(sql, sizeof sql, "CREATE TABLE t%u(id INTEGER PRIMARY KEY, number INTEGER, name TEXT)", i);
		bench_sql(side.db, sql);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (writer){&c, i};
		bench_check(pthread_create(&c.threads[i], NULL, write_own, &writers[i]) == 0, "no thread");
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(c.threads[i], NULL);
		failed += c.failed[i];
	}
	out->ours = failed / (failed + (double)c.transactions * WRITERS) * 100;
	out->baseline = 1;
	bench_sqlite_remove(&side);
}

const bench bench_sqlite_conflicts = {"sqlite_conflicts", "one in a hundred", "%", 10, false, run};
