/* examples/sqlite: several processes and threads on one database, and processes that die. Money is moved between
 * accounts; none is made or lost. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sqlite/sql.h"
#include "support/scratch.h"

enum { ACCOUNTS = 300, BALANCE = 100, WORKERS = 4 };

static void bank_uri(char *uri, size_t size, const char *name)
{
	snprintf(uri, size, "file:%s?vfs=pagestore&store=dir:%s%%3Fsync%%3Doff", name, scratch_path("store"));
}

static void make_bank(const char *uri)
{
	char sql[300];
	sqlite3 *db = sql_open_uri(uri);
	snprintf(sql, sizeof sql, "create table account(id integer primary key, balance integer, pad);"
		 "create table moved(worker integer, n integer);"
		 "with recursive i(i) as (select 1 union all select i + 1 from i where i < %d)"
		 "	insert into account select i, %d, printf('%%.200c', 'p') from i", ACCOUNTS, BALANCE);
	sql_do(db, sql);
	sql_close(db);
}

static void check_bank(const char *uri)
{
	sqlite3 *db = sql_open_uri(uri);
	assert_int_equal(sql_number(db, "select sum(balance) from account"), ACCOUNTS * BALANCE);
	sql_check(db);
	sql_close(db);
}

/* --- who moves money; not with the test's own functions, which are for its thread ------------------------- */

typedef enum mode { OPTIMIST, IMMEDIATE, AUTOCOMMIT, MODES } mode;

typedef struct worker {
	const char *uri;
	unsigned number;
	mode mode;
	unsigned transfers;
	unsigned conflicts;
	int failure; /* an SQLite code */
} worker;

static int run(sqlite3 *db, const char *sql)
{
	int result = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return result == SQLITE_OK ? result : sqlite3_extended_errcode(db);
}

static void transfer_sql(const worker *w, unsigned step, char *sql, size_t size)
{
	unsigned from = (w->number * 7919 + step * 31) % ACCOUNTS + 1, to = (w->number * 104729 + step * 17) % ACCOUNTS + 1;
	if (w->mode == AUTOCOMMIT)
		snprintf(sql, size, "update account set balance = balance + (case id when %u then -1 else 0 end) +"
			 "(case id when %u then 1 else 0 end) where id in (%u, %u)", from, to, from, to);
	else
		snprintf(sql, size, "%s; update account set balance = balance - 1 where id = %u;"
			 "update account set balance = balance + 1 where id = %u; commit",
			 w->mode == IMMEDIATE ? "begin immediate" : "begin", from, to);
}

static int move_once(worker *w, sqlite3 *db, unsigned step)
{
	char sql[400];
	transfer_sql(w, step, sql, sizeof sql);
	for (;;) {
		int result = run(db, sql);
		if (result == SQLITE_OK)
			return SQLITE_OK;
		if (!sqlite3_get_autocommit(db))
			run(db, "rollback");
		if (result != SQLITE_BUSY_SNAPSHOT || w->mode != OPTIMIST)
			return result;
		w->conflicts++;
	}
}

static void *work(void *ctx)
{
	worker *w = ctx;
	sqlite3 *db;
	w->failure = sqlite3_open_v2(w->uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL);
	if (w->failure == SQLITE_OK) {
		sqlite3_busy_timeout(db, 60000);
		w->failure = run(db, "pragma cache_size = 50");
	}
	for (unsigned i = 0; i < w->transfers && w->failure == SQLITE_OK; i++)
		w->failure = move_once(w, db, i);
	if (w->failure != SQLITE_OK)
		fprintf(stderr, "worker %u, mode %d: %d %s\n", w->number, (int)w->mode, w->failure, sqlite3_errmsg(db));
	sqlite3_close(db);
	return NULL;
}

static pid_t start_process(worker w)
{
	pid_t pid = fork();
	if (pid == 0) {
		work(&w);
		_exit(w.failure == SQLITE_OK ? 0 : 1);
	}
	return pid;
}

static unsigned transfers(unsigned usual)
{
	return getenv("PGS_TEST_LONG") ? usual * 10 : usual;
}

/* --- tests ----------------------------------------------------------------------------------------------- */

static void test_sqlite_processes__move_money(void **state)
{
	char uri[200];
	pid_t pids[WORKERS];
	(void)state;
	bank_uri(uri, sizeof uri, "bank");
	make_bank(uri);
	for (unsigned i = 0; i < WORKERS; i++)
		pids[i] = start_process((worker){uri, i, (mode)(i % MODES), transfers(60), 0, 0});
	for (unsigned i = 0; i < WORKERS; i++) {
		int status = 0;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	check_bank(uri);
}

static void test_sqlite_threads__move_money(void **state)
{
	char uri[200];
	pthread_t threads[WORKERS];
	worker workers[WORKERS];
	(void)state;
	bank_uri(uri, sizeof uri, "threads");
	make_bank(uri);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (worker){uri, i, (mode)(i % MODES), transfers(60), 0, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < WORKERS; i++)
		assert_int_equal(workers[i].failure, SQLITE_OK);
	check_bank(uri);
}

/* Some die with the turn, some in the middle of a commit. The next one goes on at once. */
static void test_sqlite_processes__die_at_any_time(void **state)
{
	char uri[200];
	(void)state;
	bank_uri(uri, sizeof uri, "dying");
	make_bank(uri);
	for (unsigned i = 0; i < transfers(12); i++) {
		pid_t pids[2];
		for (unsigned p = 0; p < 2; p++)
			pids[p] = start_process((worker){uri, i * 2 + p, (mode)((i + p) % MODES), 1000000, 0, 0});
		struct timespec pause = {0, (long)(20 + i * 37 % 60) * 1000000};
		nanosleep(&pause, NULL);
		for (unsigned p = 0; p < 2; p++) {
			int status = 0;
			assert_int_equal(kill(pids[p], SIGKILL), 0);
			assert_int_equal(waitpid(pids[p], &status, 0), pids[p]);
			assert_true(WIFSIGNALED(status)); /* it was still at work */
		}
		check_bank(uri);
		sqlite3 *db = sql_open_uri(uri);
		sqlite3_busy_timeout(db, 3000);
		sql_do(db, "begin immediate; insert into moved values (1, 1); commit");
		sql_close(db);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_processes__move_money),
		cmocka_unit_test(test_sqlite_threads__move_money),
		cmocka_unit_test(test_sqlite_processes__die_at_any_time),
	};
	pagestore_sqlite_register();
	return cmocka_run_group_tests_name("sqlite_processes", tests, scratch_set_up, scratch_tear_down);
}
