#include "sqlite/bank.h"

#include <stdbool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "sqlite/sql.h"
#include "util/clock.h"

enum { BUSY_MS = 60000 };

/* --- the bank -------------------------------------------------------------------------------------------- */

bank_board *bank_board_new(void)
{
	void *board = mmap(NULL, sizeof(bank_board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(board != MAP_FAILED);
	return board;
}

void bank_board_free(bank_board *board)
{
	munmap(board, sizeof *board);
}

/* Each teller's counter has a page of its own. */
void bank_make(const char *uri)
{
	char sql[500];
	sqlite3 *db = sql_open_uri(uri);
	snprintf(sql, sizeof sql, "create table account(id integer primary key, balance integer, pad);"
		 "create table counter(teller integer primary key, n integer, pad);"
		 "with recursive i(i) as (select 1 union all select i + 1 from i where i < %d)"
		 "	insert into account select i, %d, printf('%%.200c', 'p') from i;"
		 "with recursive i(i) as (select 0 union all select i + 1 from i where i < %d)"
		 "	insert into counter select i, 0, printf('%%.3000c', 'p') from i",
		 BANK_ACCOUNTS, BANK_BALANCE, BANK_TELLERS - 1);
	sql_do(db, sql);
	sql_close(db);
}

void bank_check(const char *uri, bank_board *board)
{
	sqlite3 *db = sql_open_uri(uri);
	sqlite3_busy_timeout(db, BUSY_MS);
	assert_int_equal(sql_number(db, "select sum(balance) from account"), BANK_ACCOUNTS * BANK_BALANCE);
	for (unsigned i = 0; i < BANK_TELLERS; i++) {
		char sql[100];
		snprintf(sql, sizeof sql, "select n from counter where teller = %u", i);
		unsigned long there = (unsigned long)sql_number(db, sql), done = atomic_load(&board->done[i]);
		if (there != done && there != done + 1)
			fail_msg("teller %u: %lu acknowledged, %lu there", i, done, there);
		atomic_store(&board->done[i], there);
	}
	sql_check(db);
	sql_close(db);
}

/* --- tellers ----------------------------------------------------------------------------------------------- */

static int run(sqlite3 *db, const char *sql)
{
	int result = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return result == SQLITE_OK ? result : sqlite3_extended_errcode(db);
}

static void transfer_sql(const teller *t, unsigned long step, char *sql, size_t size)
{
	unsigned long from = (t->number * 7919 + step * 31) % BANK_ACCOUNTS + 1;
	unsigned long to = (t->number * 104729 + step * 17) % BANK_ACCOUNTS + 1;
	if (t->kind == TELLER_AUTOCOMMIT) /* the trigger counts */
		snprintf(sql, size, "update account set balance = balance + (case id when %lu then -1 else 0 end) +"
			 "(case id when %lu then 1 else 0 end) where id in (%lu, %lu)", from, to, from, to);
	else
		snprintf(sql, size, "%s; update account set balance = balance - 1 where id = %lu;"
			 "update account set balance = balance + 1 where id = %lu;"
			 "update counter set n = n + 1 where teller = %u; commit",
			 t->kind == TELLER_IMMEDIATE ? "begin immediate" : "begin", from, to, t->number);
}

/* Of several statements, some of which free and allocate pages. */
static void build_sql(const teller *t, unsigned long step, char *sql, size_t size)
{
	if (step % 5 == 4)
		snprintf(sql, size, "vacuum");
	else
		snprintf(sql, size, "begin immediate; create table hall%u_%lu(a, b);"
			 "insert into hall%u_%lu select id, pad from account limit %lu;"
			 "create index hall_by%u_%lu on hall%u_%lu(b, a); savepoint s; delete from hall%u_%lu;"
			 "rollback to s; drop table hall%u_%lu; create table if not exists halls(n); insert into halls values (%lu);"
			 "delete from halls where n %% 7 = 0; update counter set n = n + 1 where teller = %u; commit",
			 t->number, step, t->number, step, 10 + step % 90, t->number, step, t->number, step, t->number, step,
			 t->number, step, step, t->number);
}

/* One statement cannot update two tables; a temporary trigger makes it one transaction all the same. */
static int prepare(const teller *t, sqlite3 *db)
{
	char sql[300];
	sqlite3_busy_timeout(db, BUSY_MS);
	int result = run(db, "pragma cache_size = 50");
	if (result != SQLITE_OK || t->kind != TELLER_AUTOCOMMIT)
		return result;
	snprintf(sql, sizeof sql, "create temp trigger counts after update of balance on main.account "
		 "when new.balance <= old.balance begin update counter set n = n + 1 where teller = %u; end", t->number);
	return run(db, sql);
}

static int add(void *ctx, int count, char **values, char **names)
{
	(void)count, (void)names;
	*(long *)ctx += values[0] ? strtol(values[0], NULL, 10) : 0;
	return 0;
}

/* Twice in a snapshot. */
static int audit(sqlite3 *db)
{
	static const char sum[] = "select sum(balance) from account";
	long total = 0;
	int result = run(db, "begin");
	for (int i = 0; i < 2 && result == SQLITE_OK; i++)
		result = sqlite3_exec(db, sum, add, &total, NULL);
	if (result == SQLITE_OK)
		result = run(db, "commit");
	return result == SQLITE_OK && total != 2L * BANK_ACCOUNTS * BANK_BALANCE ? SQLITE_MISMATCH : result;
}

/* One transaction, as often as it takes. */
static int work_once(teller *t, sqlite3 *db, unsigned long step)
{
	char sql[900];
	if (t->kind == TELLER_AUDITOR)
		return audit(db);
	if (t->kind == TELLER_BUILDER)
		build_sql(t, step, sql, sizeof sql);
	else
		transfer_sql(t, step, sql, sizeof sql);
	for (;;) {
		int result = run(db, sql);
		if (result == SQLITE_OK)
			return SQLITE_OK;
		if (!sqlite3_get_autocommit(db))
			run(db, "rollback");
		if (result != SQLITE_BUSY_SNAPSHOT || t->kind != TELLER_OPTIMIST)
			return result;
		atomic_fetch_add(&t->board->conflicts[t->number], 1);
	}
}

/* However slow the machine is, some of his work is done. */
static bool goes_on(const teller *t, unsigned long step)
{
	bool due = !t->end_ms || pgs__now_ms() < t->end_ms || (t->kind != TELLER_AUDITOR && !t->board->done[t->number]);
	return t->failure == SQLITE_OK && (!t->count || step < t->count) && due;
}

void *teller_run(void *ctx)
{
	teller *t = ctx;
	sqlite3 *db;
	t->failure = sqlite3_open_v2(t->uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL);
	if (t->failure == SQLITE_OK)
		t->failure = prepare(t, db);
	for (unsigned long i = 0; goes_on(t, i); i++) {
		t->failure = work_once(t, db, i);
		bool counts = t->kind != TELLER_AUDITOR && (t->kind != TELLER_BUILDER || i % 5 != 4);
		if (t->failure == SQLITE_OK && counts)
			atomic_fetch_add(&t->board->done[t->number], 1);
	}
	if (t->failure != SQLITE_OK)
		fprintf(stderr, "teller %u, kind %d: %d %s\n", t->number, (int)t->kind, t->failure, sqlite3_errmsg(db));
	sqlite3_close(db);
	return NULL;
}

pid_t teller_start(teller t)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		teller_run(&t);
		_exit(t.failure == SQLITE_OK ? 0 : 1);
	}
	return pid;
}
