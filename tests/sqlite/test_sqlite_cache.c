/* The parameters of an SQLite URI that are about this machine's cache file, freshness and following. Two spellings of a
 * store's path are two handles on it, as two processes have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sqlite/sql.h"
#include "support/scratch.h"

enum { ROWS = 200 };

static int set_up(void **state)
{
	assert_int_equal(pagestore_sqlite_register(), SQLITE_OK);
	return scratch_set_up(state);
}

/* `handle`: 0 or 1. */
static void uri_of(char *uri, size_t size, unsigned handle, const char *parameters)
{
	snprintf(uri, size, "file:app?vfs=pagestore&store=dir:%s%s%%3Fsync=off%s", scratch_path(""), handle ? "./store" : "store",
		 parameters);
}

static sqlite3 *open_app(unsigned handle, const char *parameters)
{
	char uri[600];
	uri_of(uri, sizeof uri, handle, parameters);
	return sql_open_uri(uri);
}

/* With &cache_file= of scratch, and what else there is. */
static sqlite3 *open_cached(unsigned handle, const char *parameters)
{
	char all[400];
	snprintf(all, sizeof all, "&cache_file=%s&cache_size=8M%s", scratch_path("cache"), parameters);
	return open_app(handle, all);
}

/* The number in a line "NAME NUMBER" of a pragma's answer. */
static uint64_t line_of(sqlite3 *db, const char *pragma, const char *name)
{
	char sql[64], pattern[64];
	snprintf(sql, sizeof sql, "pragma %s", pragma);
	snprintf(pattern, sizeof pattern, "\n%s ", name);
	char *text = sql_text(db, sql), *all = sqlite3_mprintf("\n%s", text), *at = strstr(all, pattern);
	assert_non_null(at);
	uint64_t number = strtoull(at + strlen(pattern), NULL, 10);
	sqlite3_free(text);
	sqlite3_free(all);
	return number;
}

static void make_rows(sqlite3 *db)
{
	sql_do(db, "create table t(n, b); with recursive c(n) as (select 1 union all select n + 1 from c where n < 200) "
		   "insert into t select n, randomblob(3000) from c");
}

/* Until the query's number is that. */
static void expect_soon(sqlite3 *db, int64_t expected, const char *sql)
{
	int64_t seen = -1;
	for (int i = 0; i < 2000 && (seen = sql_number(db, sql)) != expected; i++)
		usleep(5000);
	assert_int_equal(seen, expected);
}

/* --- the file --------------------------------------------------------------------------------------------------- */

/* The next process finds what the last one has read, and can tell it from what was in memory. */
static void test_sqlite_cache__is_read_instead_of_the_store(void **state)
{
	(void)state;
	sqlite3 *db = open_cached(0, "");
	make_rows(db);
	sql_close(db);
	for (unsigned round = 0; round < 2; round++) {
		db = open_cached(0, "");
		assert_int_equal(sql_number(db, "select count(b) from t where length(b) = 3000"), ROWS);
		uint64_t hits = line_of(db, "pagestore_cost", "disk_cache_hits");
		uint64_t misses = line_of(db, "pagestore_cost", "disk_cache_misses");
		assert_true(round == 0 || (hits >= ROWS && misses == 0));
		assert_true(round == 0 || line_of(db, "pagestore_cost", "blob_gets") == 0);
		assert_true(line_of(db, "pagestore_cost", "cache_hits") < ROWS);
		assert_true(round == 0 || line_of(db, "pagestore_stat", "disk_cache_pages") >= ROWS);
		assert_int_equal(line_of(db, "pagestore_stat", "disk_cache_limit_bytes"), 8 << 20);
		sql_close(db);
	}
}

/* Its name may have anything in it. */
static void test_sqlite_cache__may_have_any_name(void **state)
{
	(void)state;
	char parameters[400];
	struct stat st;
	snprintf(parameters, sizeof parameters, "&cache_file=%s", scratch_path("a b%2526c%253F%25%23=%2B"));
	sqlite3 *db = open_app(0, parameters);
	sql_do(db, "create table t(n)");
	assert_true(line_of(db, "pagestore_stat", "disk_cache_limit_bytes") > 0);
	sql_close(db);
	assert_int_equal(stat(scratch_path("a b%26c%3F%#=+"), &st), 0);
}

/* Without one nothing of it is counted. */
static void test_sqlite_cache__is_not_there_unless_named(void **state)
{
	(void)state;
	sqlite3 *db = open_app(0, "");
	make_rows(db);
	assert_int_equal(line_of(db, "pagestore_stat", "disk_cache_limit_bytes"), 0);
	assert_int_equal(line_of(db, "pagestore_cost", "disk_cache_hits"), 0);
	assert_int_equal(line_of(db, "pagestore_cost", "disk_cache_misses"), 0);
	assert_int_equal(line_of(db, "pagestore_stat", "follows"), 0);
	sql_close(db);
}

/* --- freshness, and following --------------------------------------------------------------------------------------- */

static void test_sqlite_freshness__at_least(void **state)
{
	(void)state;
	char parameters[64];
	sqlite3 *a = open_app(0, ""), *b;
	sql_do(a, "create table c(n); insert into c values (1)");
	b = open_app(1, "&freshness=local&follow=on");
	assert_int_equal(sql_number(b, "select n from c"), 1);
	for (int n = 2; n < 6; n++) {
		char sql[64];
		snprintf(sql, sizeof sql, "update c set n = %d", n);
		sql_do(a, sql);
		snprintf(parameters, sizeof parameters, "&freshness=at_least:%lld",
			 (long long)sql_number(a, "pragma pagestore_revision"));
		sqlite3 *c = open_app(1, parameters); /* of the store of b, which may not know it yet */
		assert_int_equal(sql_number(c, "select n from c"), n);
		sql_close(c);
	}
	sql_close(b);
	b = open_app(1, "&freshness=at_least:999999999");
	assert_int_not_equal(sql_try(b, "select n from c"), SQLITE_OK); /* there is no such revision yet */
	char *why = sql_text(a, "select pagestore_error()");
	assert_non_null(strstr(why, "999999999"));
	sqlite3_free(why);
	sql_close(a);
	sql_close(b);
}

/* The mirror that one process keeps is enough for another that does not follow. */
static void test_sqlite_follow__another_process_keeps_the_cache(void **state)
{
	(void)state;
	sqlite3 *a = open_app(0, ""), *keeper, *reader;
	char sql[64];
	sql_do(a, "create table c(n); insert into c values (1)");
	keeper = open_cached(1, "&follow=on"); /* also of a connection that asks for the latest */
	assert_int_equal(sql_number(keeper, "select n from c"), 1);
	assert_int_equal(line_of(keeper, "pagestore_stat", "follows"), 1);
	for (int i = 0; i < 2000 && line_of(keeper, "pagestore_stat", "mirror_revision") == 0; i++)
		usleep(5000);
	assert_int_equal(line_of(keeper, "pagestore_stat", "mirror_keeper_pid"), getpid());
	reader = open_cached(0, "&freshness=local&follow=off");
	for (int n = 2; n < 6; n++) {
		snprintf(sql, sizeof sql, "update c set n = %d", n);
		sql_do(a, sql);
		expect_soon(reader, n, "select n from c");
	}
	assert_int_equal(line_of(reader, "pagestore_stat", "follows"), 0);
	sql_do(reader, "pragma pagestore_cost=reset");
	assert_int_equal(sql_number(reader, "select n from c"), 5);
	assert_int_equal(line_of(reader, "pagestore_cost", "kv_requests"), 0);
	sql_close(reader);
	sql_close(keeper);
	sql_close(a);
}

/* A bound is kept by asking where nobody follows. */
static void test_sqlite_follow__off_keeps_the_bound(void **state)
{
	(void)state;
	sqlite3 *a = open_app(0, ""), *b;
	sql_do(a, "create table c(n); insert into c values (1)");
	b = open_app(1, "&freshness=bounded:100&follow=off");
	assert_int_equal(sql_number(b, "select n from c"), 1);
	sql_do(a, "update c set n = 2");
	usleep(150 * 1000);
	assert_int_equal(sql_number(b, "select n from c"), 2);
	assert_int_equal(line_of(b, "pagestore_stat", "follows"), 0);
	sql_close(b);
	sql_close(a);
}

/* follow=all has what nobody here has read yet. */
static void test_sqlite_follow__all_fills_the_cache(void **state)
{
	(void)state;
	sqlite3 *a = open_app(0, ""), *b;
	uint64_t pages = 0;
	make_rows(a);
	b = open_cached(1, "&follow=all");
	assert_int_equal(sql_number(b, "select 1 from sqlite_master"), 1);
	for (int i = 0; i < 2000 && pages < ROWS; i++) {
		pages = line_of(b, "pagestore_stat", "disk_cache_pages");
		usleep(5000);
	}
	assert_true(pages >= ROWS);
	sql_close(b);
	sql_close(a);
}

/* --- what cannot be meant ------------------------------------------------------------------------------------------- */

static void test_sqlite_cache__says_what_is_wrong(void **state)
{
	static const struct {
		const char *parameters, *why;
	} cases[] = {
		{"&freshness=", "freshness= is latest, local, bounded:MILLISECONDS or at_least:REVISION"},
		{"&freshness=bounded:-1", "bounded:MILLISECONDS"}, {"&freshness=bounded:1.5", "bounded:MILLISECONDS"},
		{"&freshness=at_least:", "at_least:REVISION"}, {"&freshness=at_least:x", "at_least:REVISION"},
		{"&freshness=at_least:5&at=1", "not together with at="},
		{"&follow=", "follow= is on, off or all"}, {"&follow=yes", "follow= is on, off or all"},
		{"&freshness=local&follow=off", "cache_file="}, {"&freshness=at_least:1&follow=off", "cache_file="},
		{"&cache_file=", "cache= without a path"}, {"&cache_size=5M", "cache_size= without cache="},
		{"&cache_file=/no/such/dir/x", "/no/such/dir/x"}, {"&cache_file=/tmp", "/tmp"},
		{"&cache_file=/tmp/x&cache_size=3", "3"}, {"&cache_file=/tmp/x&cache_size=many", "K, M or G"},
		{"&cache_file=/tmp/x&cache_size=1M%26x=1", "K, M or G"}, {"&timeout=soon", "timeout= is"},
		{"&timeout=-1", "timeout= is"}, {"&cache=/tmp/x", "no such cache mode"}, /* SQLite's own */
	};
	char uri[600];
	(void)state;
	sql_close(open_app(0, "")); /* makes the store */
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		sqlite3 *db;
		uri_of(uri, sizeof uri, 0, cases[i].parameters);
		int result = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);
		assert_int_not_equal(result, SQLITE_OK);
		if (!strstr(sqlite3_errmsg(db), cases[i].why))
			fail_msg("%s: %s, not %s", uri, sqlite3_errmsg(db), cases[i].why);
		sqlite3_close(db);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, scratch_tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_sqlite_cache__is_read_instead_of_the_store),
		TEST(test_sqlite_cache__may_have_any_name),
		TEST(test_sqlite_cache__is_not_there_unless_named),
		TEST(test_sqlite_freshness__at_least),
		TEST(test_sqlite_follow__another_process_keeps_the_cache),
		TEST(test_sqlite_follow__off_keeps_the_bound),
		TEST(test_sqlite_follow__all_fills_the_cache),
		TEST(test_sqlite_cache__says_what_is_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
