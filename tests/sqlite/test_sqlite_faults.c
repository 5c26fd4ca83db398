/* examples/sqlite: a store that fails. Whatever call of it does, SQLite gets an error code; what was committed is there,
 * what was refused is not, and the database has no damage. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "sqlite/sql.h"

static const char *const work[] = {
	"select count(*), sum(n) from t",
	"insert into t(n, pad) select 1, zeroblob(3000) from t limit 20",
	"begin",
	"update t set n = n + 1 where id % 3 = 0",
	"savepoint s",
	"delete from t where id % 5 = 0",
	"rollback to s",
	"insert into t(n, pad) values (7, zeroblob(20000))",
	"commit",
	"begin immediate",
	"update t set n = n + 1 where id < 5",
	"commit",
	NULL, /* opened again, with nothing in caches */
	"select count(*), sum(length(pad)) from t",
	"begin",
	"update t set n = 1000",
	"rollback",
	"create table if not exists more(a, b)",
	"insert into more select id, n from t",
	"drop table more",
	"delete from t where id > 40",
	"vacuum",
};

enum { WORK = sizeof work / sizeof *work };

static const char digest[] = "select count(*), total(n), total(length(pad)) from t;"
			     "select name from sqlite_master order by 1";

static void make(sqlite3 *db)
{
	sql_do(db, "pragma cache_size = 10; pragma page_size = 1024; create table t(id integer primary key, n, pad);"
		   "with recursive i(i) as (select 1 union all select i + 1 from i where i < 40)"
		   "	insert into t select i, 0, zeroblob(500) from i");
}

static bool is_error(int code)
{
	int primary = code & 0xff;
	return primary == SQLITE_IOERR || primary == SQLITE_BUSY || primary == SQLITE_FULL || primary == SQLITE_CANTOPEN ||
	       primary == SQLITE_NOMEM || primary == SQLITE_ABORT;
}

/* After a failure: undo what may be open, and find the database as it was before the transaction or after it. */
static void recover(sql_store *s, sqlite3 **db, const char *before, const char *after, const char *what)
{
	pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
	pgs_fault_resume(s->fault);
	pgs_fault_deliver(s->fault);
	if (!sqlite3_get_autocommit(*db))
		sql_try(*db, "rollback");
	sqlite3 *fresh = sql_open(s, "");
	char *now = sql_text(fresh, digest);
	assert_non_null(now);
	if (strcmp(now, before) != 0 && (!after || strcmp(now, after) != 0))
		fail_msg("%s: %s, neither %s nor %s", what, now, before, after ? after : before);
	sql_check(fresh);
	char *same = sql_text(*db, digest); /* the connection that met it sees the same */
	if (!same || strcmp(same, now) != 0)
		fail_msg("%s: its connection has %s, not %s", what, same ? same : sqlite3_errmsg(*db), now);
	sqlite3_free(now);
	sqlite3_free(same);
	sql_close(fresh);
}

/* Without faults. */
static sqlite3 *reopen(sql_store *s, sqlite3 *db)
{
	pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
	sql_close(db);
	sql_store_offer(s);
	return sql_open(s, "");
}

/* The work with one fault at the nth call. True if it was met. */
static bool run_with(uint64_t nth, pgs_fault_kind kind)
{
	sql_store store;
	char what[300];
	sql_store_start(&store);
	sqlite3 *db = sql_open(&store, ""), *model = sql_native();
	make(db);
	make(model);
	char *before = sql_text(model, digest);
	uint64_t last = pgs_fault_calls(store.fault) + nth;
	pgs_fault_at(store.fault, nth, kind);
	bool met = false;
	for (int i = 0; i < WORK && !met; i++) {
		if (!work[i]) {
			uint64_t left = last - pgs_fault_calls(store.fault);
			db = reopen(&store, db);
			last = pgs_fault_calls(store.fault) + left;
			pgs_fault_at(store.fault, left, kind);
			continue;
		}
		int result = sql_try(db, work[i]);
		met = pgs_fault_calls(store.fault) >= last;
		snprintf(what, sizeof what, "kind %d at call %llu, %s: %d %s", (int)kind, (unsigned long long)nth, work[i],
			 result, sqlite3_errmsg(db));
		if (result != SQLITE_OK && !is_error(result))
			fail_msg("%s", what);
		if (result != SQLITE_OK && !met)
			fail_msg("%s, though nothing had failed", what);
		sql_do(model, work[i]);
		char *after = sqlite3_get_autocommit(model) ? sql_text(model, digest) : NULL;
		if (met)
			recover(&store, &db, before, after, what);
		if (after) {
			sqlite3_free(before);
			before = after;
		}
	}
	sqlite3_free(before);
	sql_close(db);
	sql_close(model);
	sql_store_stop(&store);
	return met;
}

static void sweep(pgs_fault_kind kind)
{
	uint64_t nth = 1;
	while (run_with(nth, kind))
		nth++;
	assert_true(nth > 40);
}

static void test_sqlite_faults__errors(void **state)
{
	(void)state;
	sweep(PGS_FAULT_ERROR);
}

static void test_sqlite_faults__lost_replies(void **state)
{
	(void)state;
	sweep(PGS_FAULT_LOSE_REPLY);
}

static void test_sqlite_faults__late_requests(void **state)
{
	(void)state;
	sweep(PGS_FAULT_DELAY);
}

static void test_sqlite_faults__a_store_that_is_gone(void **state)
{
	(void)state;
	sweep(PGS_FAULT_STOP);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_faults__errors),
		cmocka_unit_test(test_sqlite_faults__lost_replies),
		cmocka_unit_test(test_sqlite_faults__late_requests),
		cmocka_unit_test(test_sqlite_faults__a_store_that_is_gone),
	};
	return cmocka_run_group_tests_name("sqlite_faults", tests, NULL, NULL);
}
