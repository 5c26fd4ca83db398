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

/* No more of them; what was on its way arrives. */
static void heal(sql_store *s)
{
	s->last_call = 0;
	pgs_fault_at(s->fault, 0, PGS_FAULT_NONE);
	pgs_fault_resume(s->fault);
	pgs_fault_deliver(s->fault);
}

/* After a failure: undo what may be open, and find the database as it was before the transaction or after it. */
static void recover(sql_store *s, sqlite3 **db, const char *before, const char *after, const char *what)
{
	heal(s);
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
static sqlite3 *reopen(sql_store *s, sqlite3 *db, const char *parameters)
{
	heal(s);
	sql_close(db);
	sql_store_offer(s);
	return sql_open(s, parameters);
}

typedef struct plan {
	pgs_fault_kind kind;
	bool gone; /* and after that call nothing works any more */
} plan;

static void arm(sql_store *s, plan p, uint64_t nth)
{
	pgs_fault_at(s->fault, nth, p.kind);
	s->last_call = p.gone ? pgs_fault_calls(s->fault) + nth : 0;
}

/* The work with one fault at the nth call. True if it was met. */
static bool run_with(uint64_t nth, plan p)
{
	sql_store store;
	char what[300];
	sql_store_start(&store);
	const char *parameters = p.gone ? "&timeout=50" : "";
	sqlite3 *db = sql_open(&store, parameters), *model = sql_native();
	make(db);
	make(model);
	char *before = sql_text(model, digest);
	uint64_t last = pgs_fault_calls(store.fault) + nth;
	arm(&store, p, nth);
	bool met = false;
	for (int i = 0; i < WORK && !met; i++) {
		if (!work[i]) {
			uint64_t left = last - pgs_fault_calls(store.fault);
			db = reopen(&store, db, parameters);
			last = pgs_fault_calls(store.fault) + left;
			arm(&store, p, left);
			continue;
		}
		int result = sql_try(db, work[i]);
		/* With a short timeout a machine that is late is a fault, too. */
		met = pgs_fault_calls(store.fault) >= last || (p.gone && result != SQLITE_OK);
		snprintf(what, sizeof what, "kind %d at call %llu, %s: %d %s", (int)p.kind, (unsigned long long)nth, work[i],
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

static void sweep(plan p)
{
	uint64_t nth = 1;
	while (run_with(nth, p))
		nth++;
	assert_true(nth > 25);
}

static void test_sqlite_faults__errors(void **state)
{
	(void)state;
	sweep((plan){PGS_FAULT_ERROR, false});
}

static void test_sqlite_faults__lost_replies(void **state)
{
	(void)state;
	sweep((plan){PGS_FAULT_LOSE_REPLY, false});
}

static void test_sqlite_faults__late_requests(void **state)
{
	(void)state;
	sweep((plan){PGS_FAULT_DELAY, false});
}

static void test_sqlite_faults__a_store_that_is_gone(void **state)
{
	(void)state;
	sweep((plan){PGS_FAULT_STOP, false});
}

/* The store goes before it can be asked. */
static void test_sqlite_faults__outcomes_that_stay_unknown(void **state)
{
	(void)state;
	sweep((plan){PGS_FAULT_LOSE_REPLY, true});
	sweep((plan){PGS_FAULT_DELAY, true});
}

/* --- opening and looking ---------------------------------------------------------------------------------------- */

/* @ is a revision before the last one; what is to be answered, or NULL: anything. */
static const struct {
	const char *sql, *answer;
} looks[] = {
	{"select count(*), sum(length(pad)) from t", "300|300000"},
	{"select n from t where id = 77", "77"},
	{"pragma page_count", NULL},
	{"pragma pagestore_revision", NULL},
	{"pragma pagestore_log", NULL},
	{"pragma pagestore_stat", NULL},
	{"pragma pagestore_conflict", NULL},
	{"select count(*) from pagestore_log where pages > 0", "3"},
	{"select count(*) > 0 from pagestore_changes(@, (select max(revision) from pagestore_log))", "1"},
	{"pragma pagestore_snapshot = kept", NULL},
	{"pragma pagestore_snapshots", NULL},
	{"attach 'file:app?store=%&at=@' as past", ""},
	{"select count(*) from past.t where n > 0", "0"},
	{"detach past", ""},
	{"pragma pagestore_snapshot_drop = kept", NULL},
	{"pragma integrity_check", "ok"},
};

enum { LOOKS = sizeof looks / sizeof *looks };

/* With @ and % for a revision and the store's name. */
static void fill_in(char *out, size_t size, const char *sql, const sql_store *s, int64_t revision)
{
	sqlite3_str *text = sqlite3_str_new(NULL);
	for (; *sql; sql++) {
		if (*sql == '@')
			sqlite3_str_appendf(text, "%lld", (long long)revision);
		else if (*sql == '%')
			sqlite3_str_appendall(text, s->name);
		else
			sqlite3_str_appendchar(text, 1, *sql);
	}
	char *all = sqlite3_str_finish(text);
	snprintf(out, size, "%s", all);
	sqlite3_free(all);
}

static void look(sqlite3 *db, const sql_store *s, int64_t revision)
{
	char sql[200];
	for (int i = 0; i < LOOKS; i++) {
		fill_in(sql, sizeof sql, looks[i].sql, s, revision);
		char *answer = sql_text(db, sql);
		int code = answer ? SQLITE_OK : sqlite3_extended_errcode(db);
		/* Pragmas, tables and ATTACH have a code for all; without its database a name in a statement is unknown. */
		if (!answer && !is_error(code) && code != SQLITE_ERROR)
			fail_msg("%s: %d %s", sql, code, sqlite3_errmsg(db));
		if (answer && looks[i].answer && strcmp(answer, looks[i].answer) != 0)
			fail_msg("%s: %s, not %s", sql, answer, looks[i].answer);
		sqlite3_free(answer);
	}
}

/* A fault at the nth call from before the store is opened. True if it was met. */
static bool look_with(sql_store *s, int64_t revision, uint64_t nth, plan p)
{
	char uri[100];
	sqlite3 *db = NULL;
	uint64_t last = pgs_fault_calls(s->fault) + nth;
	snprintf(uri, sizeof uri, "file:app?vfs=pagestore&store=%s%s", s->name, p.gone ? "&timeout=50" : "");
	arm(s, p, nth);
	if (sql_store_try_offer(s) == SQLITE_OK) {
		int result = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL);
		if (result == SQLITE_OK)
			look(db, s, revision);
		else
			assert_true(is_error(result));
	}
	bool met = pgs_fault_calls(s->fault) >= last;
	heal(s);
	sqlite3_close(db);
	return met;
}

static void look_sweep(plan p)
{
	sql_store store;
	uint64_t nth = 1;
	sql_store_start(&store);
	sqlite3 *db = sql_open(&store, "");
	sql_do(db, "create table t(id integer primary key, n, pad);"
		   "with recursive i(i) as (select 1 union all select i + 1 from i where i < 300)"
		   "	insert into t select i, 0, zeroblob(1000) from i");
	int64_t revision = sql_number(db, "pragma pagestore_revision");
	sql_do(db, "update t set n = id");
	sql_close(db);
	while (look_with(&store, revision, nth, p))
		nth++;
	assert_true(nth > 20);
	sql_store_stop(&store);
}

static void test_sqlite_faults__opening_and_looking(void **state)
{
	(void)state;
	look_sweep((plan){PGS_FAULT_ERROR, false});
	look_sweep((plan){PGS_FAULT_LOSE_REPLY, false});
	look_sweep((plan){PGS_FAULT_LOSE_REPLY, true});
	look_sweep((plan){PGS_FAULT_DELAY, true});
	look_sweep((plan){PGS_FAULT_STOP, false});
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_faults__errors),
		cmocka_unit_test(test_sqlite_faults__lost_replies),
		cmocka_unit_test(test_sqlite_faults__late_requests),
		cmocka_unit_test(test_sqlite_faults__a_store_that_is_gone),
		cmocka_unit_test(test_sqlite_faults__outcomes_that_stay_unknown),
		cmocka_unit_test(test_sqlite_faults__opening_and_looking),
	};
	return cmocka_run_group_tests_name("sqlite_faults", tests, NULL, NULL);
}
