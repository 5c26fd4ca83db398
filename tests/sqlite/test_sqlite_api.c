/* examples/sqlite: what programs do with SQLite's C API beside SQL: backups, large blobs in parts, how files are opened,
 * serialized databases, hooks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite/sql.h"
#include "support/scratch.h"

typedef struct fixture {
	sql_store store;
	sqlite3 *db;
} fixture;

static const char rows[] = "create table t(id integer primary key, n integer, pad); create index tn on t(n);"
			   "with recursive i(i) as (select 1 union all select i + 1 from i where i < 3000)"
			   "	insert into t select i, i % 7, printf('%.300c', 'p') from i";
static const char digest[] = "select count(*), sum(id), sum(n), sum(length(pad)) from t; pragma integrity_check";

static int setup(void **state)
{
	static fixture f;
	sql_store_start(&f.store);
	f.db = sql_open(&f.store, "");
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	sql_check(f->db);
	sql_close(f->db);
	sql_store_stop(&f->store);
	return 0;
}

/* Another database of the store. */
static sqlite3 *open_other(const fixture *f, const char *name, const char *parameters)
{
	char uri[200];
	snprintf(uri, sizeof uri, "file:%s?vfs=pagestore&store=%s%s", name, f->store.name, parameters);
	return sql_open_uri(uri);
}

static void expect_same(sqlite3 *a, sqlite3 *b)
{
	char *text = sql_text(a, digest);
	assert_non_null(text);
	sql_expect_text(b, text, digest);
	sqlite3_free(text);
}

/* --- backups --------------------------------------------------------------------------------------------- */

/* All of it, `step` pages at a time; `meanwhile` is said to `other` after the first step. */
static int copy(sqlite3 *to, sqlite3 *from, int step, sqlite3 *other, const char *meanwhile)
{
	sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
	assert_non_null(backup);
	int result = sqlite3_backup_step(backup, step);
	if (meanwhile)
		sql_do(other, meanwhile);
	while (result == SQLITE_OK)
		result = sqlite3_backup_step(backup, step);
	int finished = sqlite3_backup_finish(backup);
	return result == SQLITE_DONE ? finished : result;
}

static void test_sqlite_backup__both_ways(void **state)
{
	static const int sizes[] = {512, 1024, 4096, 16384, 65536};
	fixture *f = *state;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char sql[100], name[32];
		sqlite3 *native = sql_native(), *file = sql_open_uri(scratch_path("copy"));
		snprintf(sql, sizeof sql, "pragma page_size = %d; pragma auto_vacuum = %zu", sizes[i], i % 3);
		snprintf(name, sizeof name, "copy%zu", i);
		sql_do(native, sql);
		sql_do(native, rows);
		sqlite3 *ours = open_other(f, name, "");
		assert_int_equal(copy(ours, native, 10, NULL, NULL), SQLITE_OK);
		expect_same(native, ours);
		sql_do(ours, "update t set n = n + 1");
		sql_do(file, "pragma journal_mode = delete; drop table if exists t; pragma page_size = 2048; vacuum");
		assert_int_equal(copy(file, ours, -1, NULL, NULL), SQLITE_OK);
		expect_same(ours, file);
		sql_close(ours);
		ours = open_other(f, name, ""); /* what is in the store */
		expect_same(file, ours);
		sql_close(ours);
		sql_close(file);
		sql_close(native);
	}
}

static void test_sqlite_backup__from_store_to_store(void **state)
{
	fixture *f = *state;
	sqlite3 *to = open_other(f, "to", "");
	sql_do(f->db, rows);
	assert_int_equal(copy(to, f->db, 7, NULL, NULL), SQLITE_OK);
	expect_same(f->db, to);
	sql_do(to, "delete from t where id > 5; vacuum");
	assert_int_equal(copy(to, f->db, -1, NULL, NULL), SQLITE_OK);
	expect_same(f->db, to);
	sql_close(to);
}

/* It begins again by itself, as SQLite's does, whoever it is that writes. */
static void test_sqlite_backup__while_the_source_changes(void **state)
{
	fixture *f = *state;
	sqlite3 *other = sql_open(&f->store, ""), *native = sql_native();
	sql_do(f->db, rows);
	assert_int_equal(copy(native, f->db, 5, other, "update t set n = n + 1; delete from t where id % 3 = 0"), SQLITE_OK);
	expect_same(f->db, native);
	assert_int_equal(copy(native, f->db, 5, f->db, "update t set n = n + 1 where id % 2; create table more(a)"),
			 SQLITE_OK);
	expect_same(f->db, native);
	sql_expect_text(native, "0", "select count(*) from more");
	sql_close(other);
	sql_close(native);
}

static void test_sqlite_backup__of_a_past_state(void **state)
{
	fixture *f = *state;
	char parameters[64];
	sql_do(f->db, rows);
	char *before = sql_text(f->db, digest);
	snprintf(parameters, sizeof parameters, "&at=%lld", (long long)sql_number(f->db, "pragma pagestore_revision"));
	sql_do(f->db, "delete from t");
	sqlite3 *past = sql_open(&f->store, parameters);
	assert_int_equal(sqlite3_db_readonly(past, "main"), 1);
	assert_int_equal(copy(f->db, past, 50, NULL, NULL), SQLITE_OK); /* onto its own present */
	sql_expect_text(f->db, before, digest);
	sqlite3_free(before);
	sql_close(past);
}

/* A copy of a WAL database says that it is one; here it becomes one that is none. */
static void test_sqlite_backup__of_a_wal_database(void **state)
{
	fixture *f = *state;
	sqlite3 *wal = sql_open_uri(scratch_path("wal")), *back = sql_open_uri(scratch_path("back"));
	sql_do(wal, "pragma journal_mode = wal");
	sql_do(wal, rows);
	assert_int_equal(copy(f->db, wal, 20, NULL, NULL), SQLITE_OK);
	expect_same(wal, f->db);
	sql_do(f->db, "update t set n = 1 where id = 5");
	sqlite3 *again = sql_open(&f->store, "");
	expect_same(f->db, again);
	assert_int_equal(copy(back, again, -1, NULL, NULL), SQLITE_OK);
	expect_same(again, back);
	sql_close(again);
	sql_close(wal);
	sql_close(back);
}

/* Another connection commits to the target in the middle of it. */
static void test_sqlite_backup__into_a_database_that_is_busy(void **state)
{
	fixture *f = *state;
	sqlite3 *other = sql_open(&f->store, ""), *native = sql_native();
	sql_do(native, rows);
	sql_do(f->db, "create table mine(a)");
	sql_do(other, "begin immediate; insert into mine values (1)");
	assert_int_equal(copy(f->db, native, 10, NULL, NULL) & 0xff, SQLITE_BUSY);
	sql_do(other, "commit");
	sql_expect_text(f->db, "1", "select count(*) from mine");
	assert_int_equal(copy(f->db, native, 10, NULL, NULL), SQLITE_OK);
	expect_same(native, f->db);
	expect_same(native, other);
	sql_close(other);
	sql_close(native);
}

static void test_sqlite_serialize__both_ways(void **state)
{
	fixture *f = *state;
	sqlite3_int64 size;
	sqlite3 *native = sql_native();
	sql_do(f->db, rows);
	unsigned char *bytes = sqlite3_serialize(f->db, "main", &size, 0);
	assert_non_null(bytes);
	assert_int_equal(size, sql_number(f->db, "select page_count * page_size from pragma_page_count, pragma_page_size"));
	assert_int_equal(sqlite3_deserialize(native, "main", bytes, size, size, SQLITE_DESERIALIZE_FREEONCLOSE), SQLITE_OK);
	expect_same(f->db, native);
	sql_close(native);
}

/* --- blobs -------------------------------------------------------------------------------------------------- */

enum { LARGE = 40 << 20, PART = 1 << 20 };

static void fill(char *part, int number)
{
	for (int i = 0; i < PART; i++)
		part[i] = (char)(number * 31 + i * 7 + (i >> 9));
}

static void test_sqlite_blob__of_40_megabytes_in_parts(void **state)
{
	fixture *f = *state;
	sqlite3 *other = sql_open(&f->store, "");
	sqlite3_blob *blob;
	char *part = malloc(PART), *back = malloc(PART);
	assert_true(part && back);
	sql_do(f->db, "create table large(b); insert into large values (zeroblob(41943040)), (x'01')");
	sql_do(f->db, "begin");
	assert_int_equal(sqlite3_blob_open(f->db, "main", "large", "b", 1, 1, &blob), SQLITE_OK);
	assert_int_equal(sqlite3_blob_bytes(blob), LARGE);
	for (int i = LARGE / PART; i-- > 0;) { /* backwards */
		fill(part, i);
		assert_int_equal(sqlite3_blob_write(blob, part, PART, i * PART), SQLITE_OK);
	}
	assert_int_equal(sqlite3_blob_write(blob, part, 1, LARGE), SQLITE_ERROR);
	assert_int_equal(sqlite3_blob_close(blob), SQLITE_OK);
	sql_expect_text(other, "0", "select instr(substr(b, 1, 1000000), x'01') from large limit 1");
	sql_do(f->db, "commit");
	assert_int_equal(sqlite3_blob_open(other, "main", "large", "b", 2, 0, &blob), SQLITE_OK);
	assert_int_equal(sqlite3_blob_reopen(blob, 1), SQLITE_OK);
	for (int i = 0; i < LARGE / PART; i++) {
		fill(part, i);
		assert_int_equal(sqlite3_blob_read(blob, back, PART, i * PART), SQLITE_OK);
		assert_memory_equal(part, back, PART);
	}
	sql_do(f->db, "update large set b = x'02' where rowid = 1"); /* the blob stays what it was in its snapshot */
	assert_int_equal(sqlite3_blob_read(blob, back, PART, LARGE - PART), SQLITE_OK);
	assert_memory_equal(part, back, PART);
	assert_int_equal(sqlite3_blob_close(blob), SQLITE_OK);
	sql_expect_text(other, "1", "select length(b) from large where rowid = 1");
	free(part);
	free(back);
	sql_close(other);
}

/* A row that is changed beside it ends an incremental blob: as natively. */
static void test_sqlite_blob__expires_with_its_row(void **state)
{
	fixture *f = *state;
	sqlite3 *pair[] = {f->db, sql_native()};
	for (int i = 0; i < 2; i++) {
		char byte = 1;
		sqlite3_blob *blob;
		sql_do(pair[i], "create table b(b); insert into b values (zeroblob(10000))");
		assert_int_equal(sqlite3_blob_open(pair[i], "main", "b", "b", 1, 1, &blob), SQLITE_OK);
		assert_int_equal(sqlite3_blob_write(blob, &byte, 1, 9999), SQLITE_OK);
		sql_do(pair[i], "update b set b = zeroblob(5)");
		assert_int_equal(sqlite3_blob_write(blob, &byte, 1, 0), SQLITE_ABORT);
		sqlite3_blob_close(blob);
		sql_expect_text(pair[i], "5", "select length(b) from b");
	}
	sql_close(pair[1]);
}

/* --- opening ------------------------------------------------------------------------------------------------ */

static int try_open(const fixture *f, const char *name, const char *parameters, int flags)
{
	char uri[200];
	sqlite3 *db;
	snprintf(uri, sizeof uri, "file:%s?vfs=pagestore&store=%s%s", name, f->store.name, parameters);
	int result = sqlite3_open_v2(uri, &db, flags | SQLITE_OPEN_URI, NULL);
	if (result == SQLITE_OK)
		result = sql_try(db, "select count(*) from sqlite_master");
	sqlite3_close(db);
	return result;
}

static void test_sqlite_open__flags_and_modes(void **state)
{
	const int create = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
	fixture *f = *state;
	assert_int_equal(try_open(f, "none", "&mode=ro", create), SQLITE_CANTOPEN);
	assert_int_equal(try_open(f, "none", "&mode=rw", create), SQLITE_CANTOPEN);
	assert_int_equal(try_open(f, "none", "", SQLITE_OPEN_READONLY), SQLITE_CANTOPEN);
	assert_int_equal(try_open(f, "none", "&mode=rwc", create), SQLITE_OK);
	assert_int_equal(try_open(f, "none", "&mode=rw", create), SQLITE_CANTOPEN); /* nothing was written */
	sql_do(f->db, "create table t(a)");
	assert_int_equal(try_open(f, "app", "&mode=ro", create), SQLITE_OK);
	assert_int_equal(try_open(f, "app", "", SQLITE_OPEN_READONLY), SQLITE_OK);
	assert_int_equal(try_open(f, "app", "&mode=rw", create), SQLITE_OK);
	sqlite3 *strange = open_other(f, "a name%20with%3f%26signs%2fin/it", "");
	sql_do(strange, "create table t(a); insert into t values (1)");
	sql_close(strange);
	assert_int_equal(try_open(f, "a name with%3f&signs/in%2fit", "&mode=ro", create), SQLITE_OK);
}

static void test_sqlite_open__the_same_database_twice_in_a_connection(void **state)
{
	fixture *f = *state;
	char sql[200];
	sql_do(f->db, rows);
	snprintf(sql, sizeof sql, "attach 'file:app?store=%s' as again", f->store.name);
	sql_do(f->db, sql);
	sql_do(f->db, "update main.t set n = 100 where id = 1; update again.t set n = n + 1 where id = 1");
	sql_expect_text(f->db, "101|101", "select a.n, b.n from main.t a, again.t b where a.id = 1 and b.id = 1");
	sql_do(f->db, "detach again");
}

/* --- what else a connection has ----------------------------------------------------------------------------- */

static int count_call(void *ctx)
{
	++*(int *)ctx;
	return 0;
}

static int refuse_call(void *ctx)
{
	++*(int *)ctx;
	return 1;
}

static void test_sqlite_hooks__are_called(void **state)
{
	fixture *f = *state;
	int commits = 0, refused = 0;
	sqlite3_commit_hook(f->db, count_call, &commits);
	sql_do(f->db, "create table h(a); insert into h values (1)");
	assert_int_equal(commits, 2);
	sqlite3_commit_hook(f->db, refuse_call, &refused);
	sql_expect(f->db, SQLITE_CONSTRAINT_COMMITHOOK, "insert into h values (2)");
	sql_expect(f->db, SQLITE_CONSTRAINT_COMMITHOOK, "begin; insert into h values (3); commit");
	sqlite3_commit_hook(f->db, NULL, NULL);
	assert_int_equal(refused, 2);
	sql_expect_text(f->db, "1", "select count(*) from h");
}

/* Pages are written ahead by a cache that is told to, and an interrupted statement leaves nothing. */
static void test_sqlite_cache__flushed_and_interrupted(void **state)
{
	fixture *f = *state;
	sql_do(f->db, rows);
	sql_do(f->db, "begin; update t set n = n + 1");
	assert_int_equal(sqlite3_db_cacheflush(f->db), SQLITE_OK);
	assert_int_equal(sqlite3_db_release_memory(f->db), SQLITE_OK);
	int calls = 0;
	sqlite3_progress_handler(f->db, 1000, refuse_call, &calls);
	sql_expect(f->db, SQLITE_INTERRUPT, "update t set pad = pad || 'more'");
	sqlite3_progress_handler(f->db, 0, NULL, NULL);
	if (!sqlite3_get_autocommit(f->db)) /* whether it is rolled back is SQLite's choice */
		sql_do(f->db, "rollback");
	sql_expect_text(f->db, "3000|900000", "select count(*), sum(length(pad)) from t");
	sql_do(f->db, "update t set n = 0 where id < 10");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_sqlite_backup__both_ways),
		TEST(test_sqlite_backup__from_store_to_store),
		TEST(test_sqlite_backup__while_the_source_changes),
		TEST(test_sqlite_backup__of_a_past_state),
		TEST(test_sqlite_backup__of_a_wal_database),
		TEST(test_sqlite_backup__into_a_database_that_is_busy),
		TEST(test_sqlite_serialize__both_ways),
		TEST(test_sqlite_blob__of_40_megabytes_in_parts),
		TEST(test_sqlite_blob__expires_with_its_row),
		TEST(test_sqlite_open__flags_and_modes),
		TEST(test_sqlite_open__the_same_database_twice_in_a_connection),
		TEST(test_sqlite_hooks__are_called),
		TEST(test_sqlite_cache__flushed_and_interrupted),
	};
	return cmocka_run_group_tests_name("sqlite_api", tests, scratch_set_up, scratch_tear_down);
}
