/* examples/sqlite: transactions, and the places where SQLite's ideas of files and a store of snapshots meet. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sqlite/sql.h"

typedef struct fixture {
	sql_store store;
	sqlite3 *a, *b;
} fixture;

/* Two connections, and a table t of 1000 rows of which some ten share a page; x(n) is another. */
static int setup(void **state)
{
	static fixture f;
	sql_store_start(&f.store);
	sqlite3 *db = sql_open(&f.store, "");
	sql_do(db, "create table t(id integer primary key, n integer, pad text); create table x(n integer);"
		   "insert into x values (0);"
		   "with recursive i(i) as (select 1 union all select i + 1 from i where i < 1000)"
		   "	insert into t select i, 0, printf('%.300c', 'p') from i");
	f.a = sql_open(&f.store, "");
	f.b = sql_open(&f.store, "");
	sql_close(db);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	sql_check(f->a);
	sql_close(f->a);
	sql_close(f->b);
	sql_store_stop(&f->store);
	return 0;
}

static int64_t revision(sqlite3 *db)
{
	return sql_number(db, "pragma pagestore_revision");
}

/* --- conflicts ------------------------------------------------------------------------------------- */

static void test_sqlite_commit__conflict_rolls_back(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "begin; update t set n = n + 1 where id = 5");
	sql_do(f->b, "update t set n = n + 10 where id = 5");
	sql_expect(f->a, SQLITE_BUSY_SNAPSHOT, "commit");
	assert_int_equal(sqlite3_get_autocommit(f->a), 1);
	sql_expect(f->a, SQLITE_ERROR, "rollback"); /* there is nothing any more */
	assert_int_equal(sql_number(f->a, "select n from t where id = 5"), 10);
	char *why = sql_text(f->a, "pragma pagestore_conflict");
	assert_non_null(strstr(why, "was changed by another transaction"));
	sqlite3_free(why);
	sql_do(f->a, "begin; update t set n = n + 1 where id = 5; commit");
	sql_expect_text(f->b, "11", "select n from t where id = 5");
}

/* Page 1 counts every commit; that is no conflict. */
static void test_sqlite_commit__disjoint_writers_both_win(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "begin; update t set n = 1 where id = 5");
	sql_do(f->b, "begin; update t set n = 2 where id = 900");
	sql_do(f->b, "commit");
	sql_do(f->a, "commit");
	sql_expect_text(f->a, "1\n2", "select n from t where id in (5, 900) order by id");
	sql_expect_text(f->b, "1\n2", "select n from t where id in (5, 900) order by id");
}

/* One allocates, the other does not. */
static void test_sqlite_commit__allocation_is_no_conflict_for_others(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "begin; update t set n = 1 where id = 5");
	sql_do(f->b, "create table grown(a)");
	sql_expect(f->a, SQLITE_BUSY_SNAPSHOT, "commit"); /* the schema is another */
	sql_do(f->a, "begin; update t set n = 1 where id = 5");
	sql_do(f->b, "insert into grown values (zeroblob(100000))");
	sql_do(f->a, "commit");
	sql_do(f->b, "begin; insert into grown values (zeroblob(100000))");
	sql_do(f->a, "update t set n = 2 where id = 5");
	sql_do(f->b, "commit");
	sql_expect_text(f->a, "2|2", "select count(*), (select n from t where id = 5) from grown");
	sql_check(f->b);
}

/* What a connection had in its cache before counts only for those who are alone. */
static void test_sqlite_commit__relies_on_what_the_transaction_used(void **state)
{
	fixture *f = *state;
	sql_number(f->a, "select sum(n) from t");
	sql_number(f->b, "select sum(n) from t");
	sql_do(f->a, "begin; update t set n = 1 where id = 5");
	sql_do(f->b, "begin; update t set n = 2 where id = 900");
	sql_do(f->b, "commit");
	sql_do(f->a, "commit");
}

/* Both do. */
static void test_sqlite_commit__allocations_conflict(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "create table g(a); create table h(a)");
	sql_do(f->a, "begin; insert into g values (zeroblob(100000))");
	sql_do(f->b, "begin; insert into h values (zeroblob(100000))");
	sql_do(f->b, "commit");
	sql_expect(f->a, SQLITE_BUSY_SNAPSHOT, "commit");
	char *why = sql_text(f->a, "pragma pagestore_conflict");
	assert_non_null(strstr(why, "allocated"));
	sqlite3_free(why);
}

/* They do so seldom: four writers, each with a table of its own, whose transactions of 1 to 20 rows all overlap. */
static void test_sqlite_commit__inserts_seldom_conflict(void **state)
{
	enum { WRITERS = 4, STEPS = 4000 };
	fixture *f = *state;
	sqlite3 *writers[WRITERS];
	char sql[300];
	unsigned random = 1, committed = 0, refused = 0;
	for (int i = 0; i < WRITERS; i++) {
		writers[i] = sql_open(&f->store, "");
		snprintf(sql, sizeof sql, "create table w%d(id integer primary key, text)", i);
		sql_do(writers[i], sql);
	}
	for (int i = 0; i < STEPS; i++) {
		random = random * 1103515245 + 12345;
		int who = (int)(random >> 16) % WRITERS;
		if (sqlite3_get_autocommit(writers[who])) {
			snprintf(sql, sizeof sql, "begin; with recursive n(i) as (select 1 union all select i + 1 from n where i < %u)"
				 "insert into w%d(text) select 'a row of a usual size, with some words in it, and a number' from n",
				 1 + (random >> 20) % 20, who);
			sql_do(writers[who], sql);
		} else {
			int result = sql_try(writers[who], "commit");
			assert_true(result == SQLITE_OK || result == SQLITE_BUSY_SNAPSHOT);
			++*(result == SQLITE_OK ? &committed : &refused);
		}
	}
	print_message("%u committed, %u refused: %.1f %%\n", committed, refused, 100.0 * refused / (committed + refused));
	assert_true(refused * 10 < committed + refused);
	for (int i = 0; i < WRITERS; i++) {
		sql_try(writers[i], "rollback");
		sql_close(writers[i]);
	}
}

/* Each reads what the other writes, some of it from its cache. */
static void test_sqlite_commit__write_skew_is_refused(void **state)
{
	fixture *f = *state;
	for (int cached = 0; cached < 2; cached++) {
		sql_do(f->a, "update t set n = 1 where id in (5, 900)");
		if (cached) { /* afterwards the pages are read without the VFS */
			sql_number(f->a, "select sum(n) from t");
			sql_number(f->b, "select sum(n) from t");
		}
		sql_do(f->a, "begin");
		sql_do(f->b, "begin");
		assert_int_equal(sql_number(f->a, "select sum(n) from t where id in (5, 900)"), 2);
		assert_int_equal(sql_number(f->b, "select sum(n) from t where id in (5, 900)"), 2);
		sql_do(f->a, "update t set n = 0 where id = 5");
		sql_do(f->b, "update t set n = 0 where id = 900");
		sql_do(f->a, "commit");
		sql_expect(f->b, SQLITE_BUSY_SNAPSHOT, "commit");
	}
}

static void test_sqlite_commit__a_snapshot_stays(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "begin");
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 0);
	sql_do(f->b, "update t set n = 1; delete from t where id > 500; vacuum");
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 0);
	assert_int_equal(sql_number(f->a, "select count(*) from t"), 1000);
	sql_check(f->a);
	sql_do(f->a, "commit");
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 500);
}

/* --- turns -------------------------------------------------------------------------------------------- */

static void test_sqlite_turn__immediate_excludes_writers(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "begin immediate");
	sql_expect(f->b, SQLITE_BUSY, "begin immediate");
	sql_expect(f->b, SQLITE_BUSY, "update t set n = 7 where id = 1");
	assert_int_equal(sql_number(f->b, "select count(*) from t"), 1000);
	sql_do(f->a, "update t set n = 1 where id = 1; commit");
	sql_do(f->b, "update t set n = n + 7 where id = 1");
	sql_do(f->b, "begin immediate; rollback");
	sql_do(f->a, "begin exclusive; update t set n = n + 1 where id = 1; commit");
	assert_int_equal(sql_number(f->b, "select n from t where id = 1"), 9);
}

/* An optimist's COMMIT waits for the turn, and may be repeated. */
static void test_sqlite_turn__optimists_commit_after_it(void **state)
{
	fixture *f = *state;
	sql_do(f->b, "begin; update t set n = 7 where id = 900");
	sql_do(f->a, "begin immediate; update t set n = 1 where id = 1");
	sql_expect(f->b, SQLITE_BUSY, "commit");
	sql_expect(f->b, SQLITE_BUSY, "commit");
	assert_int_equal(sqlite3_get_autocommit(f->b), 0);
	sql_do(f->a, "commit");
	sql_do(f->b, "commit");
	sql_expect_text(f->a, "1\n7", "select n from t where id in (1, 900) order by id");
	sql_do(f->b, "begin; update t set n = 8 where id = 900");
	sql_do(f->a, "begin immediate; update t set n = 2 where id = 1");
	sql_expect(f->b, SQLITE_BUSY, "commit");
	sql_do(f->b, "rollback");
	sql_do(f->a, "commit");
	assert_int_equal(sql_number(f->a, "select n from t where id = 900"), 7);
}

/* It is no part of a transaction, so it has to succeed when others are at work, too. */
static void test_sqlite_turn__is_taken_by_vacuum(void **state)
{
	fixture *f = *state;
	char sql[100];
	sql_do(f->b, "begin immediate; delete from t where id > 500");
	sql_expect(f->a, SQLITE_BUSY, "vacuum");
	snprintf(sql, sizeof sql, "vacuum into 'file:copy?vfs=pagestore&store=%s'", f->store.name);
	sql_do(f->a, sql); /* which only reads */
	sql_do(f->b, "commit");
	sql_do(f->a, "\n vacuum main");
	assert_int_equal(sql_number(f->a, "pragma freelist_count"), 0);
	snprintf(sql, sizeof sql, "attach 'file:copy?vfs=pagestore&store=%s' as copy", f->store.name);
	sql_do(f->b, sql);
	sql_expect_text(f->b, "1000|500", "select (select count(*) from copy.t), (select count(*) from main.t)");
	sql_expect_text(f->b, "ok", "pragma copy.integrity_check");
}

static int count_down(void *ctx, int calls)
{
	int *left = ctx;
	(void)calls;
	return (*left)-- > 0;
}

static void test_sqlite_turn__waits_through_the_busy_handler(void **state)
{
	fixture *f = *state;
	int left = 3;
	sqlite3_busy_handler(f->b, count_down, &left);
	sql_do(f->a, "begin immediate");
	sql_expect(f->b, SQLITE_BUSY, "update t set n = 1 where id = 1");
	assert_int_equal(left, -1);
	sql_do(f->a, "commit");
	left = 2;
	sql_do(f->b, "begin; update t set n = 1 where id = 1");
	sql_do(f->a, "begin immediate");
	sql_expect(f->b, SQLITE_BUSY, "commit");
	assert_int_equal(left, -1);
	sql_do(f->a, "rollback");
	sql_do(f->b, "commit");
}

/* As another process does it: the store's lock, without this process's turn. */
static void test_sqlite_turn__is_the_stores(void **state)
{
	fixture *f = *state;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	assert_int_equal(pgs_kv_memory_share(&kv, f->store.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, f->store.blob, NULL), PGS_OK);
	assert_int_equal(pgs_open_with(&store, kv, blob, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_open(&db, store, "app", 3, NULL, NULL), PGS_OK);
	o.write = true;
	o.lock = PGS_LOCK_WAIT; /* the fixture may have kept it */
	assert_int_equal(pgs_begin(&txn, db, &o, NULL), PGS_OK);
	o.lock = PGS_LOCK_TRY;
	sql_expect(f->a, SQLITE_BUSY, "update t set n = 1");
	sql_expect(f->a, SQLITE_BUSY, "begin immediate");
	sqlite3 *hasty = sql_open(&f->store, "&timeout=100");
	sql_do(hasty, "begin; update t set n = 1 where id = 5");
	int result = sql_try(hasty, "commit"); /* a busy machine may pass the time within a call of the KV */
	assert_true(result == SQLITE_BUSY_SNAPSHOT || result == SQLITE_IOERR_FSYNC);
	assert_int_equal(sqlite3_get_autocommit(hasty), 1);
	sql_close(hasty);
	pgs_abort(txn);
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 0);
	sql_do(f->a, "begin immediate");
	assert_int_equal(pgs_begin(&txn, db, &o, NULL), PGS_EBUSY);
	sql_do(f->a, "commit");
	assert_int_equal(pgs_begin(&txn, db, &o, NULL), PGS_OK);
	pgs_abort(txn);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- rollback ------------------------------------------------------------------------------------------- */

/* The store's database has page 0 beside SQLite's pages, and becomes smaller as they do. */
static void expect_pages(sqlite3 *db)
{
	char expected[32];
	snprintf(expected, sizeof expected, "\npages %lld\n", (long long)sql_number(db, "pragma page_count") + 1);
	char *stat = sql_text(db, "pragma pagestore_stat");
	assert_non_null(stat);
	if (!strstr(stat, expected))
		fail_msg("%s, not %s", stat, expected);
	sqlite3_free(stat);
}

static void test_sqlite_vacuum__shrinks_what_is_stored(void **state)
{
	fixture *f = *state;
	int64_t before = sql_number(f->a, "pragma page_count");
	expect_pages(f->a);
	sql_do(f->a, "delete from t where id > 100; vacuum");
	assert_true(sql_number(f->b, "pragma page_count") < before / 5);
	expect_pages(f->b);
	sql_do(f->a, "pragma auto_vacuum = full; vacuum");
	sql_do(f->a, "insert into x values (zeroblob(1000000))");
	expect_pages(f->a);
	sql_do(f->a, "delete from x where length(n) > 100");
	assert_true(sql_number(f->b, "pragma page_count") < before / 5);
	expect_pages(f->b);
}

/* Pages written ahead of the commit: ROLLBACK writes them back, and says SYNC as a commit does. */
static void test_sqlite_rollback__of_spilled_pages_commits_nothing(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "pragma cache_size = 5");
	int64_t before = revision(f->a);
	sql_do(f->a, "begin; update t set n = 5, pad = pad || 'longer'; insert into t(pad) select pad from t");
	sql_do(f->b, "update x set n = 1"); /* changes what the rollback would be checked against */
	int64_t other = revision(f->b);
	sql_do(f->a, "rollback");
	assert_true(other > before);
	assert_int_equal(revision(f->b), other);
	sql_expect_text(f->a, "1000|0|1", "select count(*), sum(n), (select n from x) from t");
	sql_do(f->a, "update t set n = 1 where id = 3");
}

static void test_sqlite_rollback__of_statements_and_savepoints(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "pragma cache_size = 5; begin; update t set n = 1; savepoint s; update t set n = n + 1;"
		     "delete from t where id < 500");
	sql_do(f->a, "rollback to s");
	sql_expect_text(f->a, "1000|1000", "select count(*), sum(n) from t");
	sql_expect(f->a, SQLITE_CONSTRAINT_PRIMARYKEY, "update t set n = 7, id = id % 997 + 10000");
	sql_expect_text(f->a, "1000|1000", "select count(*), sum(n) from t");
	sql_do(f->a, "release s; commit");
	sql_expect_text(f->b, "1000|1000", "select count(*), sum(n) from t");
}

/* SQLite's cache may hold anything for free pages, and writes that to its journal. */
static void test_sqlite_rollback__with_free_pages_that_were_used(void **state)
{
	sqlite3 *db = sql_open_uri("file:freed?vfs=pagestore&store=mem:");
	(void)state;
	sql_do(db, "pragma auto_vacuum = incremental; pragma secure_delete = off; create table l(id integer primary key, b);"
		   "with recursive i(i) as (select 1 union all select i + 1 from i where i < 60)"
		   "	insert into l select i, zeroblob(6000) from i; delete from l where id < 40; create table last(a);"
		   "insert into last values (1)");
	for (int i = 0; i < 3; i++) {
		sql_do(db, "begin; insert into l(b) select randomblob(6000) from l; rollback");
		sql_do(db, "begin; pragma incremental_vacuum(9); drop table last; delete from l; rollback");
		sql_check(db);
		sql_expect_text(db, "21|1", "select count(*), (select a from last) from l");
		sql_do(db, "update l set b = zeroblob(5000) where id % 2");
	}
	sql_close(db);
}

/* An outermost RELEASE that fails must not succeed when it is repeated. */
static void test_sqlite_rollback__of_a_release_that_conflicts(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "savepoint s; update t set n = n + 1 where id = 5");
	sql_do(f->b, "update t set n = n + 10 where id = 5");
	for (int i = 0; i < 5; i++)
		sql_expect(f->a, SQLITE_BUSY, " release s");
	sql_expect(f->a, SQLITE_BUSY, "commit");
	assert_int_equal(sqlite3_get_autocommit(f->a), 0);
	sql_do(f->a, "rollback");
	sql_expect_text(f->a, "10", "select n from t where id = 5");
	sql_do(f->a, "savepoint s; update t set n = n + 1 where id = 5; release s");
	sql_expect_text(f->b, "11", "select n from t where id = 5");
}

/* … nor after ROLLBACK TO and other changes; but with none left there is nothing to refuse. */
static void test_sqlite_rollback__to_after_a_release_that_conflicts(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "savepoint s; update t set n = n + 1 where id = 5");
	sql_do(f->b, "update t set n = n + 10 where id = 5");
	sql_expect(f->a, SQLITE_BUSY, "release s");
	sql_do(f->a, "rollback to s; update t set n = n + 2 where id = 6");
	sql_expect(f->a, SQLITE_BUSY, "release s");
	sql_do(f->a, "rollback to s");
	sql_try(f->a, "release s");
	if (!sqlite3_get_autocommit(f->a))
		sql_do(f->a, "rollback");
	sql_expect_text(f->a, "10\n0", "select n from t where id in (5, 6) order by id");
}

/* --- readers on the connection that commits ----------------------------------------------------------------- */

static int64_t sum_rest(sqlite3_stmt *s)
{
	int64_t sum = sqlite3_column_int64(s, 0);
	int result;
	while ((result = sqlite3_step(s)) == SQLITE_ROW)
		sum += sqlite3_column_int64(s, 0);
	assert_int_equal(result, SQLITE_DONE);
	sqlite3_finalize(s);
	return sum;
}

static void test_sqlite_reader__sees_nothing_of_a_commit_that_failed(void **state)
{
	fixture *f = *state;
	for (int small = 0; small < 2; small++) {
		sql_do(f->a, small ? "pragma cache_size = 10" : "pragma cache_size = 2000");
		sqlite3_stmt *s = sql_begin_select(f->a, "select n from t where n < 100 order by id");
		sql_do(f->a, "begin; update t set n = 1000 where id % 50 = 49");
		sql_do(f->b, "update t set n = n + 1 where id = 449");
		sql_expect(f->a, SQLITE_BUSY_SNAPSHOT, "commit");
		int64_t sum = 0;
		int result;
		while ((result = sqlite3_step(s)) == SQLITE_ROW)
			sum += sqlite3_column_int64(s, 0);
		assert_true(sum < 10); /* SQLite may abort the reader, but shows it nothing of the failed commit */
		sqlite3_finalize(s);
		sql_check(f->a);
	}
}

static void test_sqlite_reader__goes_on_while_its_connection_commits(void **state)
{
	fixture *f = *state;
	for (int fetch = 0; fetch < 2; fetch++) {
		sql_do(f->a, fetch ? "pragma mmap_size = 1000000; pragma cache_size = 10"
				   : "pragma mmap_size = 0; pragma cache_size = 10");
		sql_do(f->a, "update t set n = 0");
		sqlite3_stmt *s = sql_begin_select(f->a, "select id from t order by id");
		for (int i = 1; i < 1000; i++) {
			if (i % 10 == 0)
				sql_do(f->a, "update t set n = n + 1 where id = (select max(n) + 1 from t)");
			assert_int_equal(sqlite3_step(s), SQLITE_ROW);
			assert_int_equal(sqlite3_column_int64(s, 0), i + 1);
		}
		assert_int_equal(sqlite3_step(s), SQLITE_DONE);
		sqlite3_finalize(s);
		assert_true(sql_number(f->b, "select sum(n) from t") > 0);
		sql_check(f->a);
	}
}

/* The commit is merged with another's: the reader keeps its snapshot and what its own connection wrote; who wants to
 * write then has to wait for it to finish. */
static void test_sqlite_reader__keeps_its_snapshot_after_a_merged_commit(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "pragma cache_size = 5");
	sqlite3_stmt *s = sql_begin_select(f->a, "select n from t order by id");
	sql_do(f->b, "update t set n = 100 where id = 950");
	sql_do(f->a, "update x set n = 5");
	sql_expect(f->a, SQLITE_BUSY_SNAPSHOT, "update x set n = 6");
	assert_int_equal(sum_rest(s), 0);
	sql_do(f->a, "update x set n = n + 1");
	sql_expect_text(f->a, "100|6", "select sum(n), (select n from x) from t");
	sql_expect_text(f->b, "100|6", "select sum(n), (select n from x) from t");
}

/* --- SQLite's cache --------------------------------------------------------------------------------------------- */

static int misses(sqlite3 *db)
{
	int now, highest;
	assert_int_equal(sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_MISS, &now, &highest, 1), SQLITE_OK);
	return now;
}

static void test_sqlite_cache__is_kept_while_nobody_else_commits(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "pragma mmap_size = 0; pragma cache_size = 2000");
	sql_number(f->a, "select sum(n) from t");
	misses(f->a);
	sql_do(f->a, "update t set n = n + 1 where id = 5");
	sql_close(f->b); /* else explicit transactions begin without a cache */
	sql_do(f->a, "begin; update t set n = n + 1 where id = 6; rollback");
	sql_do(f->a, "begin; update t set n = n + 1 where id = 6; commit");
	f->b = sql_open(&f->store, "");
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 2);
	assert_int_equal(misses(f->a), 0);
	int64_t version = sql_number(f->a, "pragma data_version");
	sql_do(f->a, "update t set n = n + 1 where id = 7");
	assert_int_equal(sql_number(f->a, "pragma data_version"), version);
	sql_do(f->b, "update t set n = n + 1 where id = 8");
	assert_true(sql_number(f->a, "pragma data_version") != version);
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 4);
	assert_true(misses(f->a) > 50);
	/* A merged commit makes it stale, though nobody has committed since. */
	sql_do(f->a, "begin; update t set n = n + 1 where id = 9");
	sql_do(f->b, "update t set n = n + 1 where id = 900");
	sql_do(f->a, "commit");
	assert_int_equal(sql_number(f->a, "select sum(n) from t"), 6);
	assert_int_equal(sql_number(f->b, "select sum(n) from t"), 6);
}

/* Pages that a connection holds on to from statement to statement are those of the latest commit. */
static void test_sqlite_reader__holds_no_page_that_was_changed(void **state)
{
	fixture *f = *state;
	char sql[120];
	sql_do(f->a, "pragma mmap_size = 100000000; pragma cache_size = 10");
	for (int i = 0; i < 400; i++) {
		int id = i * 37 % 50 * 20 + 1, look = i * 13 % 1000 + 1;
		sqlite3 *writer = i % 4 == 0 ? f->a : i % 4 == 1 ? f->b : NULL;
		snprintf(sql, sizeof sql, "select n from t where id = %d", id);
		int64_t before = sql_number(f->a, sql);
		snprintf(sql, sizeof sql, "update t set n = n + 1 where id = %d", id);
		if (writer)
			sql_do(writer, sql);
		if (i % 40 == 39) /* the tree gets another shape */
			sql_do(f->b, "insert into t select max(id) + 1, 0, printf('%.3000c', 'q') from t");
		snprintf(sql, sizeof sql, "select n from t where id = %d", id);
		assert_int_equal(sql_number(f->a, sql), before + (writer != NULL));
		snprintf(sql, sizeof sql, "select count(*) from t where id between %d and %d", look, look + 2);
		int64_t there = sql_number(f->b, sql);
		assert_int_equal(sql_number(f->a, sql), there);
	}
	sql_expect_text(f->a, "200", "select sum(n) from t");
}

/* --- several databases --------------------------------------------------------------------------------------------- */

/* PRAGMAs without a schema's name are told to the main file only, but count for all: nothing gets broken by that. */
static void test_sqlite_attach__modes_that_break_things(void **state)
{
	fixture *f = *state;
	static const char *const modes[] = {"pragma journal_mode = off", "pragma locking_mode = exclusive"};
	for (int i = 0; i < 2; i++) {
		char sql[100];
		sqlite3 *db = sql_native();
		snprintf(sql, sizeof sql, "attach 'file:app?vfs=pagestore&store=%s' as app", f->store.name);
		sql_do(db, sql);
		sql_do(db, modes[i]);
		int64_t before = sql_number(f->a, "select sum(n) from t");
		for (int step = 0; step < 3; step++) {
			sql_try(db, "begin; update app.t set n = n + 1 where id = 1");
			if (sql_try(db, "commit") == SQLITE_OK)
				before++;
			else
				sql_try(db, "rollback");
		}
		assert_int_equal(sql_number(f->a, "select sum(n) from t"), before);
		sql_do(f->b, "begin immediate; update x set n = n + 1; commit");
		sqlite3_close(db);
		sql_check(f->a);
	}
}

/* --- tables ----------------------------------------------------------------------------------------------------------- */

static void test_sqlite_tables__log_and_changes(void **state)
{
	fixture *f = *state;
	char sql[200];
	int64_t before = revision(f->a);
	sql_do(f->a, "update t set n = 1 where id = 5");
	int64_t between = revision(f->a);
	sql_do(f->b, "update t set n = 1 where id in (5, 900)");
	int64_t after = revision(f->b);
	snprintf(sql, sizeof sql, "select group_concat(revision), sum(pages) from (select * from pagestore_log where revision > "
		 "%lld order by revision)", (long long)before);
	char *expected = sqlite3_mprintf("%lld,%lld|%d", (long long)between, (long long)after, 2); /* 900 alone, then */
	sql_expect_text(f->a, expected, sql);
	sqlite3_free(expected);
	sql_expect_text(f->a, "1", "select abs(time_ms / 1000 - strftime('%s')) < 100 from pagestore_log limit 1");
	snprintf(sql, sizeof sql, "select count(*), min(page) > 1 from pagestore_changes(%lld, %lld)", (long long)before,
		 (long long)after);
	sql_expect_text(f->a, "2|1", sql);
	snprintf(sql, sizeof sql, "select count(*) from pagestore_changes(%lld, %lld, 'main')", (long long)between,
		 (long long)after);
	sql_expect_text(f->b, "1", sql);
	sql_expect(f->a, SQLITE_ERROR, "select * from pagestore_changes(1, 99999999)");
	sql_expect(f->a, SQLITE_ERROR, "select * from pagestore_log('temp')");
	sql_expect(f->a, SQLITE_ERROR, "select * from pagestore_changes");
	sql_expect_text(f->a, "", "select * from pagestore_log(null)");
}

/* --- freshness -------------------------------------------------------------------------------------------------------- */

/* The store is away: what is known is read, and nothing is written. */
static void test_sqlite_freshness__local_without_the_store(void **state)
{
	fixture *f = *state;
	sql_do(f->a, "create table fresh(n); insert into fresh values (1)");
	sqlite3 *local = sql_open(&f->store, "&freshness=local");
	sql_expect_text(local, "1", "select n from fresh");
	sql_do(local, "insert into fresh values (3)");
	sql_expect_text(local, "1\n3", "select n from fresh"); /* its own are seen at once */
	sql_expect_text(f->a, "1\n3", "select n from fresh");
	pgs_fault_at(f->store.fault, 1, PGS_FAULT_STOP);
	for (int i = 0; i < 10; i++)
		sql_expect_text(local, "1\n3", "select n from fresh");
	assert_int_not_equal(sql_try(local, "begin; insert into fresh values (2); commit"), SQLITE_OK);
	sql_try(local, "rollback");
	pgs_fault_resume(f->store.fault);
	sql_expect_text(local, "1\n3", "select n from fresh");
	sql_close(local);
}

/* What another process commits is there soon. */
static void test_sqlite_freshness__follows(void **state)
{
	char dir[] = "/tmp/pagestore-fresh-XXXXXX", uri[200];
	int64_t seen = 0;
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(uri, sizeof uri, "file:app?vfs=pagestore&store=dir:%s", dir);
	sqlite3 *a = sql_open_uri(uri);
	sql_do(a, "create table c(n); insert into c values (1)");
	snprintf(uri, sizeof uri, "file:app?vfs=pagestore&store=dir:/tmp/.%s&freshness=local", dir + 4);
	sqlite3 *b = sql_open_uri(uri); /* another store handle, as another process has */
	assert_int_equal(sql_number(b, "select n from c"), 1);
	for (int n = 2; n < 6; n++) {
		char sql[64];
		snprintf(sql, sizeof sql, "update c set n = %d", n);
		sql_do(a, sql);
		for (int i = 0; i < 1000 && seen != n; i++) {
			seen = sql_number(b, "select n from c");
			usleep(5000);
		}
		assert_int_equal(seen, n);
	}
	sql_check(b);
	sql_close(a);
	sql_close(b);
	char command[100];
	snprintf(command, sizeof command, "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

/* --- creation -------------------------------------------------------------------------------------------------------- */

static void test_sqlite_create__by_the_first_write(void **state)
{
	fixture *f = *state;
	char uri[100];
	snprintf(uri, sizeof uri, "file:new?vfs=pagestore&store=%s", f->store.name);
	sqlite3 *a = sql_open_uri(uri), *b = sql_open_uri(uri);
	assert_int_equal(sql_number(a, "select count(*) from sqlite_master"), 0);
	sql_do(a, "pragma page_size = 1024; begin; create table c(n)");
	sql_do(b, "pragma page_size = 8192; begin; create table d(n)");
	sql_do(b, "commit");
	sql_expect(a, SQLITE_BUSY_SNAPSHOT, "commit");
	sql_do(a, "create table c(n)");
	sql_expect_text(a, "8192", "pragma page_size");
	sql_expect_text(b, "c\nd", "select name from sqlite_master order by 1");
	sql_check(a);
	sql_close(a);
	sql_close(b);
	snprintf(uri, sizeof uri, "file:none?vfs=pagestore&store=%s", f->store.name);
	assert_int_equal(sqlite3_open_v2(uri, &a, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL), SQLITE_CANTOPEN);
	sqlite3_close(a);
}

/* A connection that only reads shares the store with one that writes. */
static void test_sqlite_create__read_only_beside_a_writer(void **state)
{
	fixture *f = *state;
	sqlite3 *reader = sql_open(&f->store, "&mode=ro");
	assert_int_equal(sqlite3_db_readonly(reader, "main"), 1);
	sql_do(f->a, "update x set n = 3");
	assert_int_equal(sql_number(reader, "select n from x"), 3);
	sql_expect(reader, SQLITE_READONLY, "update x set n = 4");
	sql_do(f->a, "begin immediate");
	assert_int_equal(sql_number(reader, "select n from x"), 3);
	sql_do(f->a, "commit");
	sql_close(reader);
}

static void test_sqlite_create__not_by_a_rollback(void **state)
{
	fixture *f = *state;
	char uri[100];
	snprintf(uri, sizeof uri, "file:rolled?vfs=pagestore&store=%s", f->store.name);
	sqlite3 *a = sql_open_uri(uri);
	sql_do(a, "pragma cache_size = 5; begin; create table c(n); insert into c values (zeroblob(100000)); rollback");
	assert_int_equal(sql_number(a, "select count(*) from sqlite_master"), 0);
	sql_do(a, "begin; create table c(n); insert into c values (1); commit");
	assert_int_equal(sql_number(a, "select count(*) from c"), 1);
	sql_check(a);
	sql_close(a);
}

static void test_sqlite_create__refuses_what_it_cannot_do(void **state)
{
	static const struct {
		const char *parameters, *why;
	} cases[] = {
		{"&cache=shared", "cache=shared is not possible"}, {"&at=0", "at= is a revision"},
		{"&at=tomorrow", "at= is a revision"}, {"&at=2026-01-01", "at= is a revision"},
		{"&freshness=old", "freshness= is latest"}, {"&freshness=bounded:", "freshness= is latest"},
		{"&freshness=bounded:5s", "freshness= is latest"}, {"&at=1&freshness=local", "freshness= is latest"},
		{"&at=17x", "at= is a revision"}, {"&at=-5", "at= is a revision"},
		{"&at=999999", "revision 999999 is above"}, {"&at=@none", "no snapshot none"},
		{"&at=1999-01-01T00:00:00Z", "no commit at or before"}, {"x", "no scheme that is known"},
		{"&nolock=1", NULL}, {"&immutable=1", NULL}, /* SQLite would read an empty database */
	};
	fixture *f = *state;
	char uri[150], attach[200];
	sqlite3 *db;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		snprintf(uri, sizeof uri, "file:app?vfs=pagestore&store=%s%s", f->store.name, cases[i].parameters);
		assert_int_equal(sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL), SQLITE_CANTOPEN);
		if (cases[i].why && !strstr(sqlite3_errmsg(db), cases[i].why))
			fail_msg("%s: %s, not %s", uri, sqlite3_errmsg(db), cases[i].why);
		sqlite3_close(db);
		snprintf(attach, sizeof attach, "attach '%s' as other", uri);
		sql_expect(f->a, SQLITE_CANTOPEN, attach);
		char *why = sql_text(f->a, "select pagestore_error()");
		if (cases[i].why && !strstr(why, cases[i].why))
			fail_msg("%s: %s, not %s", uri, why, cases[i].why);
		sqlite3_free(why);
	}
}

/* What another engine keeps in the store is not taken for a database of SQLite's. */
static void test_sqlite_create__refuses_what_is_not_its_own(void **state)
{
	fixture *f = *state;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_db *db;
	pgs_txn *txn;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	const uint8_t page[4096] = "something else";
	char uri[100];
	assert_int_equal(pgs_kv_memory_share(&kv, f->store.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, f->store.blob, NULL), PGS_OK);
	assert_int_equal(pgs_open_with(&store, kv, blob, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_db_create(&db, store, "foreign", 7, NULL, NULL), PGS_OK);
	o.write = true;
	assert_int_equal(pgs_begin(&txn, db, &o, NULL), PGS_OK);
	assert_int_equal(pgs_write(txn, 0, page), PGS_OK);
	assert_int_equal(pgs_commit(txn, NULL, NULL, NULL), PGS_OK);
	pgs_db_close(db);
	pgs_close(store);
	snprintf(uri, sizeof uri, "file:foreign?vfs=pagestore&store=%s", f->store.name);
	sqlite3 *a = sql_open_uri(uri);
	sql_expect(a, SQLITE_NOTADB, "select * from sqlite_master");
	sql_expect(a, SQLITE_NOTADB, "create table t(a)");
	sql_close(a);
}

/* --- blobs ---------------------------------------------------------------------------------------------------------------- */

static void test_sqlite_blob__in_parts(void **state)
{
	fixture *f = *state;
	sqlite3_blob *blob;
	char bytes[5000], back[5000];
	memset(bytes, 'b', sizeof bytes);
	sql_do(f->a, "create table large(b); insert into large values (zeroblob(2000000))");
	assert_int_equal(sqlite3_blob_open(f->a, "main", "large", "b", 1, 1, &blob), SQLITE_OK);
	assert_int_equal(sqlite3_blob_write(blob, bytes, sizeof bytes, 1234567), SQLITE_OK);
	assert_int_equal(sqlite3_blob_close(blob), SQLITE_OK);
	assert_int_equal(sqlite3_blob_open(f->b, "main", "large", "b", 1, 0, &blob), SQLITE_OK);
	assert_int_equal(sqlite3_blob_read(blob, back, sizeof back, 1234567), SQLITE_OK);
	assert_memory_equal(bytes, back, sizeof back);
	assert_int_equal(sqlite3_blob_read(blob, back, 1, 1234566), SQLITE_OK);
	assert_int_equal(back[0], 0);
	assert_int_equal(sqlite3_blob_close(blob), SQLITE_OK);
}

/* --- cost -------------------------------------------------------------------------------------------- */

static long long cost_of(sqlite3 *db, const char *name)
{
	char *text = sql_text(db, "pragma pagestore_cost"), *line = text ? strstr(text, name) : NULL;
	assert_non_null(line);
	long long number = strtoll(line + strlen(name), NULL, 10);
	sqlite3_free(text);
	return number;
}

static void test_sqlite_cost__is_the_connections(void **state)
{
	fixture *f = *state;
	sqlite3_free(sql_text(f->a, "pragma pagestore_cost=reset"));
	sqlite3_free(sql_text(f->b, "pragma pagestore_cost=reset"));
	assert_int_equal(cost_of(f->a, "kv_requests "), 0);
	sql_do(f->a, "update t set n = n + 1 where id = 7");
	assert_true(cost_of(f->a, "kv_requests ") >= 2);
	assert_true(cost_of(f->a, "kv_bytes_sent ") > 0);
	assert_true(cost_of(f->a, "cache_hits ") + cost_of(f->a, "cache_misses ") > 0);
	assert_int_equal(cost_of(f->b, "kv_requests "), 0);
	sqlite3_free(sql_text(f->a, "pragma pagestore_cost=reset"));
	assert_int_equal(cost_of(f->a, "kv_requests "), 0);
	sql_expect(f->a, SQLITE_ERROR, "pragma pagestore_cost=never");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_sqlite_commit__conflict_rolls_back),
		TEST(test_sqlite_cost__is_the_connections),
		TEST(test_sqlite_commit__disjoint_writers_both_win),
		TEST(test_sqlite_commit__allocation_is_no_conflict_for_others),
		TEST(test_sqlite_commit__relies_on_what_the_transaction_used),
		TEST(test_sqlite_commit__allocations_conflict),
		TEST(test_sqlite_commit__inserts_seldom_conflict),
		TEST(test_sqlite_commit__write_skew_is_refused),
		TEST(test_sqlite_commit__a_snapshot_stays),
		TEST(test_sqlite_turn__immediate_excludes_writers),
		TEST(test_sqlite_turn__optimists_commit_after_it),
		TEST(test_sqlite_turn__is_taken_by_vacuum),
		TEST(test_sqlite_turn__waits_through_the_busy_handler),
		TEST(test_sqlite_turn__is_the_stores),
		TEST(test_sqlite_vacuum__shrinks_what_is_stored),
		TEST(test_sqlite_rollback__of_spilled_pages_commits_nothing),
		TEST(test_sqlite_rollback__of_statements_and_savepoints),
		TEST(test_sqlite_rollback__with_free_pages_that_were_used),
		TEST(test_sqlite_rollback__of_a_release_that_conflicts),
		TEST(test_sqlite_rollback__to_after_a_release_that_conflicts),
		TEST(test_sqlite_reader__sees_nothing_of_a_commit_that_failed),
		TEST(test_sqlite_reader__goes_on_while_its_connection_commits),
		TEST(test_sqlite_reader__keeps_its_snapshot_after_a_merged_commit),
		TEST(test_sqlite_reader__holds_no_page_that_was_changed),
		TEST(test_sqlite_cache__is_kept_while_nobody_else_commits),
		TEST(test_sqlite_attach__modes_that_break_things),
		TEST(test_sqlite_tables__log_and_changes),
		TEST(test_sqlite_freshness__local_without_the_store),
		TEST(test_sqlite_freshness__follows),
		TEST(test_sqlite_create__by_the_first_write),
		TEST(test_sqlite_create__read_only_beside_a_writer),
		TEST(test_sqlite_create__not_by_a_rollback),
		TEST(test_sqlite_create__refuses_what_it_cannot_do),
		TEST(test_sqlite_create__refuses_what_is_not_its_own),
		TEST(test_sqlite_blob__in_parts),
	};
	return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
