/* examples/sqlite: each allocation in turn fails, SQLite's and the library's. SQLite gets an error code, nothing leaks,
 * and the database is as before the transaction or as after it. */
#include <stdbool.h>
#include <string.h>

#include "sqlite/sql.h"
#include "support/failing_alloc.h"

/* --- SQLite's allocator ---------------------------------------------------------------------------------- */

static sqlite3_mem_methods usual;
static size_t to_fail; /* 0 = none */
static bool has_failed;

static bool fails(void)
{
	bool now = to_fail && --to_fail == 0;
	has_failed |= now;
	return now;
}

static void *mem_malloc(int size)
{
	return fails() ? NULL : usual.xMalloc(size);
}

static void *mem_realloc(void *memory, int size)
{
	return fails() ? NULL : usual.xRealloc(memory, size);
}

static void install(void)
{
	sqlite3_mem_methods mine;
	assert_int_equal(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &usual), SQLITE_OK);
	mine = usual;
	mine.xMalloc = mem_malloc;
	mine.xRealloc = mem_realloc;
	assert_int_equal(sqlite3_config(SQLITE_CONFIG_MALLOC, &mine), SQLITE_OK);
	failing_alloc_install();
}

static void plan(bool of_sqlite, size_t nth)
{
	has_failed = false;
	to_fail = of_sqlite ? nth : 0;
	failing_alloc_begin(of_sqlite ? 0 : nth);
}

/* Whether one did fail. */
static bool unplan(void)
{
	to_fail = 0;
	return failing_alloc_end() || has_failed;
}

/* --- the work -------------------------------------------------------------------------------------------------- */

static const char *const work[] = {
	"pragma cache_size = 3",
	"update t set n = n + 1, pad = zeroblob(700)",
	"begin; update t set n = n + 1; savepoint s; delete from t where id % 2; rollback to s; commit",
	"begin immediate; update t set n = n + 1; rollback",
	"select sum(length(pad)) from t",
};

/* A connection of its own; what fails is left. */
static void do_work(const sql_store *s)
{
	char uri[100];
	sqlite3 *db;
	sqlite3_snprintf(sizeof uri, uri, "file:app?vfs=pagestore&store=%s", s->name);
	int result = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL);
	for (size_t i = 0; result == SQLITE_OK && i < sizeof work / sizeof *work; i++)
		result = sqlite3_exec(db, work[i], NULL, NULL, NULL);
	if (result != SQLITE_OK && (result & 0xff) != SQLITE_NOMEM && (result & 0xff) != SQLITE_IOERR &&
	    (result & 0xff) != SQLITE_CANTOPEN)
		fail_msg("%d %s", result, sqlite3_errmsg(db));
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void sweep(bool of_sqlite)
{
	sql_store store;
	size_t nth = 1;
	sql_store_start(&store);
	sqlite3 *watcher = sql_open(&store, "");
	sql_do(watcher, "pragma page_size = 1024; create table t(id integer primary key, n, pad);"
			"with recursive i(i) as (select 1 union all select i + 1 from i where i < 30)"
			"	insert into t select i, 0, zeroblob(500) from i");
	for (bool failed = true; failed; nth++) {
		int64_t before = sql_number(watcher, "select min(n) from t");
		plan(of_sqlite, nth);
		do_work(&store);
		failed = unplan();
		int64_t now = sql_number(watcher, "select min(n) from t");
		assert_int_equal(now, sql_number(watcher, "select max(n) from t"));
		assert_true(now >= before && now <= before + 2);
		assert_int_equal(sql_number(watcher, "select count(*) from t"), 30);
		if (nth % 16 == 0)
			sql_check(watcher);
	}
	assert_true(nth > 50);
	sql_check(watcher);
	sql_do(watcher, "update t set n = 1"); /* nobody has kept the turn */
	sql_close(watcher);
	sql_store_stop(&store);
	assert_int_equal(failing_alloc_live(), 0);
}

static void test_sqlite_memory__of_sqlite(void **state)
{
	(void)state;
	sweep(true);
}

static void test_sqlite_memory__of_the_library(void **state)
{
	(void)state;
	sweep(false);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sqlite_memory__of_sqlite),
		cmocka_unit_test(test_sqlite_memory__of_the_library),
	};
	install();
	return cmocka_run_group_tests_name("sqlite_memory", tests, NULL, NULL);
}
