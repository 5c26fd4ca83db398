/* examples/sqlite: transactions that change several attached databases. All of them or none, whatever the mode, whoever
 * else writes, and whatever fails. */
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

/* --- connections ---------------------------------------------------------------------------------------- */

/* How databases app, two and three of a store come to be schemas of these names. */
typedef enum mode {
	USUAL,        /* app is the main one; a super-journal decides */
	PERSIST,
	IN_MEMORY,    /* journal_mode=MEMORY: there is no super-journal */
	NO_SYNC,      /* synchronous=OFF: nor here */
	MAIN_MEMORY,  /* the main database is :memory: */
	MAIN_FILE,    /* a plain file: its VFS has the super-journal */
	MODES
} mode;

static const char *const schemas[] = {"app", "two", "three"};

static void attach(sqlite3 *db, const sql_store *s, const char *name, const char *schema, const char *parameters)
{
	char sql[300];
	snprintf(sql, sizeof sql, "attach 'file:%s?vfs=pagestore&store=%s%s' as %s", name, s->name, parameters, schema);
	sql_do(db, sql);
}

static sqlite3 *connect(const sql_store *s, mode m)
{
	char sql[300];
	sqlite3 *db;
	if (m == MAIN_FILE) {
		snprintf(sql, sizeof sql, "file:%s", scratch_path("main.db"));
		db = sql_open_uri(sql);
	} else {
		db = m == MAIN_MEMORY ? sql_native() : sql_open(s, "");
	}
	attach(db, s, "two", "two", "");
	attach(db, s, "three", "three", "");
	if (m == MAIN_MEMORY || m == MAIN_FILE)
		attach(db, s, "app", "app", "");
	for (int i = 0; i < 3; i++) {
		const char *schema = i == 0 && m < MAIN_MEMORY ? "main" : schemas[i];
		snprintf(sql, sizeof sql, "pragma %s.%s", schema,
			 m == PERSIST ? "journal_mode = persist" : m == IN_MEMORY ? "journal_mode = memory"
							      : m == NO_SYNC	? "synchronous = off"
										: "user_version");
		sql_do(db, sql);
	}
	return db;
}

typedef struct fixture {
	sql_store store;
	sqlite3 *other; /* another connection */
	mode mode;
	sqlite3 *db;
} fixture;

/* Tables ta, tt and th, so that no schema's name is needed. */
static void make_tables(sqlite3 *db)
{
	static const char *const tables[] = {"main.ta", "two.tt", "three.th"};
	for (int i = 0; i < 3; i++) {
		char sql[400];
		snprintf(sql, sizeof sql, "create table %s(id integer primary key, n integer, pad);"
			 "with recursive i(i) as (select 1 union all select i + 1 from i where i < 60)"
			 "	insert into %s select i, 100, zeroblob(300) from i", tables[i], tables[i]);
		sql_do(db, sql);
	}
}

static int setup(void **state)
{
	fixture *f = calloc(1, sizeof *f);
	sql_store_start(&f->store);
	f->other = connect(&f->store, USUAL);
	make_tables(f->other);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	sql_close(f->other);
	sql_store_stop(&f->store);
	free(f);
	return 0;
}

static void in_mode(fixture *f, mode m)
{
	f->mode = m;
	f->db = connect(&f->store, m);
}

static const char sums[] = "select (select sum(n) from ta), (select sum(n) from tt), (select sum(n) from th)";

/* Both connections see this, and find no damage. */
static void expect_sums(fixture *f, int ta, int tt, int th)
{
	char expected[60];
	snprintf(expected, sizeof expected, "%d|%d|%d", ta, tt, th);
	sql_expect_text(f->db, expected, sums);
	sql_expect_text(f->other, expected, sums);
	for (int i = 0; i < 3; i++) {
		char sql[60];
		snprintf(sql, sizeof sql, "pragma %s.integrity_check", i ? schemas[i] : "main");
		sql_expect_text(f->other, "ok", sql);
		snprintf(sql, sizeof sql, "pragma %s.integrity_check", i || f->mode >= MAIN_MEMORY ? schemas[i] : "main");
		sql_expect_text(f->db, "ok", sql);
	}
}

/* In each mode, on the same databases, which have 6000 in each table before and after. */
static void in_each_mode(void **state, void (*test)(fixture *f))
{
	fixture *f = *state;
	for (mode m = 0; m < MODES; m++) {
		in_mode(f, m);
		test(f);
		if (!sqlite3_get_autocommit(f->db))
			fail_msg("mode %d: a transaction is still open", (int)m);
		sql_do(f->other, "update ta set n = 100; update tt set n = 100; update th set n = 100");
		expect_sums(f, 6000, 6000, 6000);
		sql_close(f->db);
	}
}

/* --- committing, and rolling back --------------------------------------------------------------------------- */

static void commit_together(fixture *f)
{
	const char *app = f->mode < MAIN_MEMORY ? "main" : "app";
	char sql[100];
	for (int i = 0; i < 5; i++) {
		/* BEGIN IMMEDIATE locks the plain file, too, and nobody can tell that it is not written. */
		sql_do(f->db, i % 2 || f->mode == MAIN_FILE ? "begin" : "begin immediate");
		sql_do(f->db, "update ta set n = n - 1 where id = 1; update tt set n = n + 1 where id = 1");
		if (i > 2)
			sql_do(f->db, "update th set n = n + 1");
		sql_do(f->db, "commit");
		snprintf(sql, sizeof sql, "pragma %s.pagestore_revision", app);
		assert_int_equal(sql_number(f->db, sql), sql_number(f->db, "pragma two.pagestore_revision"));
	}
	expect_sums(f, 5995, 6005, 6120);
}

static void test_sqlite_attach__commits_together(void **state)
{
	in_each_mode(state, commit_together);
}

static void roll_back(fixture *f)
{
	sql_do(f->db, "begin; update ta set n = 0; update tt set n = 0; rollback");
	expect_sums(f, 6000, 6000, 6000);
	sql_do(f->db, "begin; update ta set n = n + 1 where id = 1; savepoint s; update ta set n = 0; update tt set n = 0;"
		      "delete from th; rollback to s; update tt set n = n + 1 where id = 2; commit");
	expect_sums(f, 6001, 6001, 6000);
	sql_do(f->db, "savepoint s; update ta set n = n - 1 where id = 1; update tt set n = n - 1 where id = 2; release s");
	expect_sums(f, 6000, 6000, 6000);
	sql_do(f->db, "create temp trigger pair after update on ta begin update tt set n = n + 1 where id = new.id;"
		      "select raise(abort, 'no') where new.id = 30; end");
	sql_do(f->db, "begin; update th set n = n + 1 where id = 1");
	sql_expect(f->db, SQLITE_CONSTRAINT_TRIGGER, "update ta set n = n + 1"); /* half way through both */
	sql_do(f->db, "commit; drop trigger pair");
	expect_sums(f, 6000, 6000, 6001);
}

static void test_sqlite_attach__rolls_back(void **state)
{
	in_each_mode(state, roll_back);
}

/* More than the cache holds, so that pages are written ahead of the commit. */
static void spill(fixture *f)
{
	sql_do(f->db, "pragma two.cache_size = 5; pragma cache_size = 5");
	if (f->mode >= MAIN_MEMORY)
		sql_do(f->db, "pragma app.cache_size = 5");
	const char *work = "update ta set n = n + 1, pad = randomblob(300); update tt set n = n + 1, pad = randomblob(300);"
			   "update ta set n = n + 1; update tt set n = n + 1";
	sql_do(f->db, "begin");
	sql_do(f->db, work);
	sql_do(f->db, "rollback");
	expect_sums(f, 6000, 6000, 6000);
	sql_do(f->db, "begin");
	sql_do(f->db, work);
	sql_do(f->other, "update tt set n = n + 10 where id = 60");
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	expect_sums(f, 6000, 6010, 6000);
	sql_do(f->db, "begin");
	sql_do(f->db, work);
	sql_do(f->db, "commit");
	expect_sums(f, 6120, 6130, 6000);
}

static void test_sqlite_attach__spills(void **state)
{
	in_each_mode(state, spill);
}

/* --- conflicts ---------------------------------------------------------------------------------------------- */

static const char *const others[] = {"update ta set n = n + 5 where id = 3", "update tt set n = n + 5 where id = 3",
				     "update th set n = n + 5 where id = 3"};

static void conflict_on(fixture *f, int which)
{
	int n[3] = {6000, 6000, 6000};
	char expected[60];
	sql_do(f->db, "begin; update ta set n = n - 7 where id = 3; update tt set n = n + 7 where id = 3;"
		      "update th set n = n + 1 where id = 3");
	sql_do(f->other, others[which]);
	n[which] += 5;
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	assert_true(sqlite3_get_autocommit(f->db));
	expect_sums(f, n[0], n[1], n[2]);
	snprintf(expected, sizeof expected, "database %s ", schemas[which]);
	char *text = sql_text(f->db, f->mode < MAIN_MEMORY ? "pragma main.pagestore_conflict" : "pragma app.pagestore_conflict");
	if (!strstr(text, expected))
		fail_msg("%s is not about %s", text, expected);
	sqlite3_free(text);
	sql_expect(f->db, SQLITE_ERROR, "commit"); /* there is none any more */
	sql_do(f->db, "begin; update ta set n = n - 7 where id = 3; update tt set n = n + 7 where id = 3; commit");
	expect_sums(f, n[0] - 7, n[1] + 7, n[2]);
	sql_do(f->other, "update ta set n = 100; update tt set n = 100; update th set n = 100");
}

static void conflicts(fixture *f)
{
	for (int which = 0; which < 3; which++)
		conflict_on(f, which);
}

static void test_sqlite_attach__a_conflict_in_one_stops_all(void **state)
{
	in_each_mode(state, conflicts);
}

/* A SELECT that is at work sees neither what was not committed, nor what the other one did. */
static void conflict_with_select(fixture *f)
{
	sqlite3_stmt *a = sql_begin_select(f->db, "select n from ta order by id");
	sqlite3_stmt *t = sql_begin_select(f->db, "select n from tt order by id");
	sql_do(f->db, "begin; update ta set n = 1; update tt set n = 2");
	sql_do(f->other, others[1]);
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	for (int i = 0; i < 59; i++) {
		assert_int_equal(sqlite3_step(a), SQLITE_ROW);
		assert_int_equal(sqlite3_column_int(a, 0), 100);
		assert_int_equal(sqlite3_step(t), SQLITE_ROW);
		assert_int_equal(sqlite3_column_int(t, 0), 100);
	}
	sqlite3_finalize(a);
	sqlite3_finalize(t);
	expect_sums(f, 6000, 6005, 6000);
	a = sql_begin_select(f->db, "select n from ta order by id");
	sql_do(f->db, "begin; update ta set n = 1; update tt set n = 2; commit"); /* and what was committed it may see */
	while (sqlite3_step(a) == SQLITE_ROW)
		assert_true(sqlite3_column_int(a, 0) == 100 || sqlite3_column_int(a, 0) == 1);
	sqlite3_finalize(a);
	expect_sums(f, 60, 120, 6000);
}

static void test_sqlite_attach__a_select_at_work(void **state)
{
	in_each_mode(state, conflict_with_select);
}

static void conflict_in_release(fixture *f)
{
	sql_do(f->db, "savepoint s; update ta set n = 1; update tt set n = 2");
	sql_do(f->other, others[0]);
	for (int i = 0; i < 3; i++)
		sql_expect(f->db, SQLITE_BUSY, i < 2 ? "release s" : "commit");
	sql_do(f->db, "rollback");
	expect_sums(f, 6005, 6000, 6000);
}

static void test_sqlite_attach__release_that_conflicts(void **state)
{
	in_each_mode(state, conflict_in_release);
}

/* A database that was locked to be written, and was not, gets no SYNC: the others are committed without it. */
static void some_unchanged(fixture *f)
{
	sql_do(f->db, "begin immediate; update ta set n = n + 1 where id = 1; commit");
	expect_sums(f, 6001, 6000, 6000);
	sql_do(f->db, "begin; update ta set n = n - 1 where id = 1; update th set n = 1 where id = -1; commit");
	expect_sums(f, 6000, 6000, 6000);
	sql_do(f->db, "begin; update tt set n = n + 1 where id = 1; update ta set n = 1 where id = -1;"
		      "update th set n = n + 1 where id = 1; commit");
	expect_sums(f, 6000, 6001, 6001);
	sql_do(f->db, "begin; update ta set n = n + 1 where id = 1; update tt set n = n + 1 where id = 1;"
		      "update th set n = 1 where id = -1");
	sql_do(f->other, "update tt set n = n + 5 where id = 1");
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	expect_sums(f, 6000, 6006, 6001);
	sql_do(f->db, "begin; update ta set n = n + 1 where id = 1; commit");
	expect_sums(f, 6001, 6006, 6001);
}

static void test_sqlite_attach__some_unchanged(void **state)
{
	in_each_mode(state, some_unchanged);
}

/* What a transaction has read in one database is validated when it writes to another. */
static void read_only_in_one(fixture *f)
{
	sql_do(f->db, "begin; select n from tt where id = 3; update ta set n = n + 1 where id = 1");
	sql_do(f->other, others[1]);
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	expect_sums(f, 6000, 6005, 6000);
	sql_do(f->db, "begin; select n from tt where id = 3; update ta set n = n + 1 where id = 1");
	sql_do(f->other, others[2]); /* which it has not read */
	sql_do(f->db, "commit");
	sql_do(f->db, "update ta set n = n + (select n from tt where id = 3) where id = 1");
	sqlite3_stmt *s = sql_begin_select(f->db, "select n from tt order by id"); /* a statement of its own */
	sql_do(f->other, others[1]);
	sql_do(f->db, "update ta set n = n + 1 where id = 1");
	sqlite3_finalize(s);
	expect_sums(f, 6107, 6010, 6005);
}

static void test_sqlite_attach__what_is_read_is_validated(void **state)
{
	in_each_mode(state, read_only_in_one);
}

/* --- other databases ------------------------------------------------------------------------------------------ */

static void test_sqlite_attach__new_past_and_temporary(void **state)
{
	fixture *f = *state;
	char parameters[60];
	in_mode(f, USUAL);
	snprintf(parameters, sizeof parameters, "&at=%lld", (long long)sql_number(f->db, "pragma two.pagestore_revision"));
	sql_do(f->db, "update tt set n = 0");
	attach(f->db, &f->store, "new", "new", "");
	attach(f->db, &f->store, "two", "past", parameters);
	sql_do(f->db, "attach ':memory:' as m; create table m.p(n); create temp table s(n)");
	sql_do(f->db, "begin; update ta set n = n + 1 where id = 1; create table new.o(n); insert into m.p values (1);"
		      "insert into s values (1); insert into new.o select sum(n) from past.tt; commit");
	assert_int_equal(sql_number(f->db, "select n from new.o"), 6000);
	sql_expect(f->db, SQLITE_READONLY, "update past.tt set n = 1");
	attach(f->db, &f->store, "newer", "newer", "");
	sql_do(f->db, "begin; select * from ta; create table newer.o(n); update ta set n = n + 1 where id = 1");
	sql_do(f->other, others[0]);
	sql_expect(f->db, SQLITE_BUSY_SNAPSHOT, "commit");
	assert_int_equal(sql_number(f->db, "select count(*) from newer.sqlite_master"), 0);
	sql_do(f->db, "begin; create table newer.o(n); update ta set n = n + 1 where id = 1; commit");
	assert_int_equal(sql_number(f->db, "select count(*) from newer.sqlite_master"), 1);
	sql_do(f->db, "begin; update ta set n = 5; insert into s values (1); insert into m.p values (2); rollback");
	expect_sums(f, 6007, 0, 6000);
	sql_do(f->db, "detach past");
	sql_close(f->db);
}

static void test_sqlite_attach__databases_of_different_stores(void **state)
{
	fixture *f = *state;
	sql_store elsewhere;
	sql_store_start(&elsewhere);
	in_mode(f, USUAL);
	attach(f->db, &elsewhere, "far", "far", "");
	sql_do(f->db, "create table far.o(n); insert into far.o values (1)"); /* one after the other */
	sql_do(f->db, "begin; insert into far.o values (2)");
	sql_expect(f->db, SQLITE_ERROR, "update ta set n = 0");
	sql_do(f->db, "commit; begin; update ta set n = 0");
	sql_expect(f->db, SQLITE_ERROR, "insert into far.o values (3)");
	sql_do(f->db, "rollback; begin immediate; insert into far.o values (3); commit"); /* which locks all */
	sql_do(f->db, "begin immediate; update ta set n = n + 1 where id = 1; update tt set n = n + 1 where id = 1; commit");
	sql_do(f->db, "begin immediate; update ta set n = 0; insert into far.o values (4)");
	sql_expect(f->db, SQLITE_ERROR, "commit");
	assert_int_equal(sql_number(f->db, "select count(*) from far.o"), 3);
	expect_sums(f, 6001, 6001, 6000);
	sql_close(f->db);
	sql_store_stop(&elsewhere);
}

static void test_sqlite_attach__plain_files(void **state)
{
	fixture *f = *state;
	char sql[300];
	in_mode(f, USUAL);
	snprintf(sql, sizeof sql, "attach 'file:%s?vfs=unix' as plain; create table plain.o(n)", scratch_path("plain.db"));
	sql_do(f->db, sql);
	sql_do(f->db, "insert into plain.o values (1); begin; insert into plain.o values (2); update ta set n = 0");
	sql_expect(f->db, SQLITE_CANTOPEN, "commit");
	if (!sqlite3_get_autocommit(f->db))
		sql_do(f->db, "rollback");
	assert_int_equal(sql_number(f->db, "select count(*) from plain.o"), 1);
	expect_sums(f, 6000, 6000, 6000);
	sql_do(f->db, "begin; select * from plain.o; update ta set n = n + 1 where id = 1;"
		      "update tt set n = n + 1 where id = 1; commit");
	expect_sums(f, 6001, 6001, 6000);
	sql_close(f->db);
	in_mode(f, MAIN_FILE); /* two of ours and the main file: not atomic, so refused */
	sql_do(f->db, "create table main.own(n); begin; insert into own values (1); update ta set n = 0; update tt set n = 0");
	sql_expect(f->db, SQLITE_ERROR, "commit");
	assert_int_equal(sql_number(f->db, "select count(*) from own"), 0);
	expect_sums(f, 6001, 6001, 6000);
	sql_close(f->db);
}

static void test_sqlite_attach__one_database_twice(void **state)
{
	fixture *f = *state;
	in_mode(f, USUAL);
	attach(f->db, &f->store, "two", "again", "");
	sql_do(f->db, "begin; update two.tt set n = 1 where id = 1");
	sql_expect(f->db, SQLITE_BUSY, "update again.tt set n = 2 where id = 2"); /* as with files */
	sql_do(f->db, "update ta set n = 1 where id = 1; commit; detach again");
	expect_sums(f, 5901, 5901, 6000);
	sql_close(f->db);
}

/* --- who holds the turn ------------------------------------------------------------------------------------------ */

/* COMMIT may be tried again when the turn was not to be had, for either database. */
static void test_sqlite_attach__waits_for_turns(void **state)
{
	fixture *f = *state;
	in_mode(f, USUAL);
	for (int i = 0; i < 2; i++) {
		sqlite3 *holder = sql_open_uri(":memory:");
		attach(holder, &f->store, i ? "two" : "app", "held", "");
		sql_do(f->db, "begin; update ta set n = n + 1 where id = 1; update tt set n = n + 1 where id = 1");
		sql_do(holder, "begin immediate");
		sql_expect(f->db, SQLITE_BUSY, "commit");
		sql_expect(f->db, SQLITE_BUSY, "commit");
		sql_do(holder, "rollback");
		sql_do(f->db, "commit");
		sql_close(holder);
	}
	expect_sums(f, 6002, 6002, 6000);
	sql_close(f->db);
}

/* --- faults --------------------------------------------------------------------------------------------------- */

static bool is_error(int code)
{
	int primary = code & 0xff;
	return primary == SQLITE_IOERR || primary == SQLITE_BUSY || primary == SQLITE_FULL || primary == SQLITE_CANTOPEN ||
	       primary == SQLITE_NOMEM || primary == SQLITE_ABORT;
}

/* One fault at the nth call of a transaction over three databases. True if it was met. */
static bool fault_at(fixture *f, uint64_t nth, pgs_fault_kind kind)
{
	static const char *const steps[] = {
		"begin", "update ta set n = n - 1", "savepoint s; update tt set n = 9; rollback to s",
		"update tt set n = n + 1, pad = randomblob(400)", "delete from th where n = 0",
		"insert into th(n, pad) select 0, randomblob(25000) from ta", "commit", /* more than goes into the KV */
	};
	uint64_t last = pgs_fault_calls(f->store.fault) + nth;
	int64_t before = sql_number(f->other, "select sum(n) from ta");
	int result = SQLITE_OK;
	pgs_fault_at(f->store.fault, nth, kind);
	for (size_t i = 0; result == SQLITE_OK && i < sizeof steps / sizeof *steps; i++)
		result = sql_try(f->db, steps[i]);
	bool met = pgs_fault_calls(f->store.fault) >= last;
	pgs_fault_at(f->store.fault, 0, PGS_FAULT_NONE);
	pgs_fault_resume(f->store.fault);
	pgs_fault_deliver(f->store.fault);
	if (result != SQLITE_OK && (!is_error(result) || !met))
		fail_msg("mode %d, kind %d at call %llu: %d", (int)f->mode, (int)kind, (unsigned long long)nth, result);
	if (!sqlite3_get_autocommit(f->db))
		sql_do(f->db, "rollback");
	int64_t ta = sql_number(f->other, "select sum(n) from ta"), tt = sql_number(f->other, "select sum(n) from tt");
	if (ta + tt != 12000 || (ta != before && ta != before - 60) || (result == SQLITE_OK && ta == before))
		fail_msg("mode %d, kind %d at call %llu: %lld and %lld, %lld before; the code was %d", (int)f->mode, (int)kind,
			 (unsigned long long)nth, (long long)ta, (long long)tt, (long long)before, result);
	expect_sums(f, (int)ta, (int)tt, 6000);
	return met;
}

static void test_sqlite_attach__faults(void **state)
{
	static const pgs_fault_kind kinds[] = {PGS_FAULT_ERROR, PGS_FAULT_LOSE_REPLY, PGS_FAULT_DELAY, PGS_FAULT_STOP};
	static const mode modes[] = {USUAL, IN_MEMORY, MAIN_MEMORY};
	fixture *f = *state;
	for (size_t m = 0; m < 3; m++)
		for (size_t k = 0; k < 4; k++) {
			uint64_t nth = 1;
			in_mode(f, modes[m]);
			sql_do(f->db, "pragma cache_size = 4");
			while (fault_at(f, nth, kinds[k]))
				nth++;
			assert_true(nth > 2); /* a file, and the commit */
			sql_close(f->db);
		}
}

/* --- tellers ----------------------------------------------------------------------------------------------------- */

enum { TELLERS = 4, ACCOUNTS = 40 };

typedef struct teller {
	unsigned number, transfers;
	int failure;
	char error[200];
} teller;

static void store_uri(char *uri, size_t size, const char *name)
{
	snprintf(uri, size, "file:%s?vfs=pagestore&store=dir:%s%%3Fsync%%3Doff", name, scratch_path("store"));
}

static int run(sqlite3 *db, const char *sql)
{
	int result = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return result == SQLITE_OK ? result : sqlite3_extended_errcode(db);
}

/* Every other teller attaches them the other way round. */
static int open_bank(sqlite3 **db, unsigned number)
{
	char uri[200], sql[300];
	store_uri(uri, sizeof uri, number % 2 ? "right" : "left");
	int result = sqlite3_open_v2(uri, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);
	sqlite3_busy_timeout(*db, 60000);
	store_uri(uri, sizeof uri, number % 2 ? "left" : "right");
	snprintf(sql, sizeof sql, "attach '%s' as second; pragma cache_size = 20", uri);
	return result == SQLITE_OK ? run(*db, sql) : result;
}

static void make_bank(void)
{
	sqlite3 *db;
	char sql[400];
	assert_int_equal(open_bank(&db, 0), SQLITE_OK);
	snprintf(sql, sizeof sql, "create table main.l(id integer primary key, n); create table second.r(id integer primary key, n);"
		 "with recursive i(i) as (select 1 union all select i + 1 from i where i < %d) insert into l select i, 50 from i;"
		 "insert into r select * from l", ACCOUNTS);
	sql_do(db, sql);
	sql_close(db);
}

static void check_bank(void)
{
	sqlite3 *db;
	assert_int_equal(open_bank(&db, 1), SQLITE_OK);
	assert_int_equal(sql_number(db, "select count(*) from l join r using (id) where l.n + r.n = 100"), ACCOUNTS);
	sql_expect_text(db, "ok", "pragma main.integrity_check");
	sql_expect_text(db, "ok", "pragma second.integrity_check");
	sql_close(db);
}

/* Each account of one database and its counterpart in the other have 100 together: also for who moves it. */
static int move_once(sqlite3 *db, const teller *t, unsigned step)
{
	unsigned id = (t->number * 7 + step * 3) % ACCOUNTS + 1;
	char sql[400];
	snprintf(sql, sizeof sql, "%s; create temp table if not exists seen(ok check (ok));"
		 "update l set n = n - 1 where id = %u; update r set n = n + 1 where id = %u;"
		 "insert into seen select l.n + r.n = 100 from l join r using (id) where id = %u; delete from seen; commit",
		 t->number < 2 ? "begin" : "begin immediate", id, id, id);
	return run(db, sql);
}

static void *work(void *ctx)
{
	teller *t = ctx;
	sqlite3 *db;
	t->failure = open_bank(&db, t->number);
	for (unsigned i = 0; i < t->transfers && t->failure == SQLITE_OK;) {
		int result = move_once(db, t, i);
		if (result != SQLITE_OK && !sqlite3_get_autocommit(db))
			run(db, "rollback");
		i += result == SQLITE_OK;
		if (result != SQLITE_OK && (result & 0xff) != SQLITE_BUSY && result != SQLITE_CONSTRAINT_CHECK)
			t->failure = result;
	}
	if (t->failure != SQLITE_OK)
		snprintf(t->error, sizeof t->error, "%s", sqlite3_errmsg(db));
	sqlite3_close(db);
	return NULL;
}

static void test_sqlite_attach__threads_move_money(void **state)
{
	pthread_t threads[TELLERS];
	teller tellers[TELLERS];
	(void)state;
	make_bank();
	for (unsigned i = 0; i < TELLERS; i++) {
		tellers[i] = (teller){.number = i, .transfers = 60};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &tellers[i]), 0);
	}
	for (unsigned i = 0; i < TELLERS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < TELLERS; i++)
		if (tellers[i].failure != SQLITE_OK)
			fail_msg("teller %u: %d %s", i, tellers[i].failure, tellers[i].error);
	check_bank();
}

static void test_sqlite_attach__processes_die_at_any_time(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 15; round++) {
		pid_t pids[2];
		for (unsigned i = 0; i < 2; i++) {
			pids[i] = fork();
			if (pids[i] == 0) {
				teller t = {.number = i * 3 + round % 2, .transfers = 1000000};
				work(&t);
				_exit(1);
			}
		}
		struct timespec pause = {0, (long)(15 + round * 37 % 60) * 1000000};
		nanosleep(&pause, NULL);
		for (unsigned i = 0; i < 2; i++) {
			int status = 0;
			assert_int_equal(kill(pids[i], SIGKILL), 0);
			assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
			assert_true(WIFSIGNALED(status)); /* it was still at work */
		}
		check_bank();
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(test_sqlite_attach__commits_together),
		TEST(test_sqlite_attach__rolls_back),
		TEST(test_sqlite_attach__spills),
		TEST(test_sqlite_attach__a_conflict_in_one_stops_all),
		TEST(test_sqlite_attach__a_select_at_work),
		TEST(test_sqlite_attach__release_that_conflicts),
		TEST(test_sqlite_attach__some_unchanged),
		TEST(test_sqlite_attach__what_is_read_is_validated),
		TEST(test_sqlite_attach__new_past_and_temporary),
		TEST(test_sqlite_attach__databases_of_different_stores),
		TEST(test_sqlite_attach__plain_files),
		TEST(test_sqlite_attach__one_database_twice),
		TEST(test_sqlite_attach__waits_for_turns),
		TEST(test_sqlite_attach__faults),
		cmocka_unit_test(test_sqlite_attach__threads_move_money),
		cmocka_unit_test(test_sqlite_attach__processes_die_at_any_time),
	};
	pagestore_sqlite_register();
	return cmocka_run_group_tests_name("sqlite_attach", tests, scratch_set_up, scratch_tear_down);
}
