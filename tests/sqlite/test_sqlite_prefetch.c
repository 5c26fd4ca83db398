/* examples/sqlite/prefetch.c and btree.c: what is fetched ahead of which reads, how much of it for nothing, and that
 * nothing that a page may hold leads it astray. The blob store says that it is far away, waits a little, and counts. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree.h"
#include "sqlite/sql.h"
#include "util/clock.h"

typedef struct far_blob {
	pgs_blob base;
	pgs_blob *inner;
} far_blob;

static _Atomic unsigned get_calls;
static _Atomic bool gets_fail_beside; /* calls of threads other than the test's */
static pthread_t test_thread;

static pgs_blob *inner_of(pgs_blob *blob)
{
	return ((far_blob *)blob)->inner;
}

static int far_put(pgs_blob *blob, const char *name, uint64_t size, pgs_blob_source source, void *ctx,
	uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->put(inner_of(blob), name, size, source, ctx, deadline_ms, err);
}

static int far_get(pgs_blob *blob, pgs_blob_range *ranges, size_t count, uint64_t deadline_ms, pgs_error *err)
{
	get_calls++;
	pgs__sleep_ms(1, 0);
	if (!gets_fail_beside || pthread_equal(pthread_self(), test_thread))
		return inner_of(blob)->vtable->get(inner_of(blob), ranges, count, deadline_ms, err);
	for (size_t i = 0; i < count; i++)
		ranges[i].status = PGS_EIO;
	return PGS_EIO;
}

static int far_stat(pgs_blob *blob, const char *name, uint64_t *size, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->stat(inner_of(blob), name, size, deadline_ms, err);
}

static int far_list(
	pgs_blob *blob, const char *prefix, pgs_blob_lister lister, void *ctx, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->list(inner_of(blob), prefix, lister, ctx, deadline_ms, err);
}

static int far_remove(pgs_blob *blob, const char *name, uint64_t deadline_ms, pgs_error *err)
{
	return inner_of(blob)->vtable->remove(inner_of(blob), name, deadline_ms, err);
}

static unsigned far_concurrency(pgs_blob *blob)
{
	(void)blob;
	return 8;
}

static void far_close(pgs_blob *blob)
{
	inner_of(blob)->vtable->close(inner_of(blob));
	free(blob);
}

static const pgs_blob_vtable far_vtable = {
	.version = PGS_BLOB_VERSION,
	.struct_size = sizeof far_vtable,
	.put = far_put,
	.get = far_get,
	.stat = far_stat,
	.list = far_list,
	.remove = far_remove,
	.close = far_close,
	.concurrency = far_concurrency,
};

/* --- stores ------------------------------------------------------------------------------------------- */

typedef struct fixture {
	sql_store store;
} fixture;

/* Open database "app" with empty caches. */
static sqlite3 *open_cold(fixture *f, const char *parameters)
{
	pgs_kv *kv;
	far_blob *blob = malloc(sizeof *blob);
	blob->base.vtable = &far_vtable;
	assert_int_equal(pgs_kv_memory_share(&kv, f->store.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob->inner, f->store.blob, NULL), PGS_OK);
	assert_int_equal(pagestore_sqlite_offer(f->store.name, kv, &blob->base), SQLITE_OK);
	sqlite3 *db = sql_open(&f->store, parameters);
	sql_do(db, "pragma cache_size = 200");
	get_calls = 0;
	return db;
}

static int setup(void **state)
{
	static fixture f;
	f = (fixture){0};
	static int number;
	assert_int_equal(pagestore_sqlite_register(), SQLITE_OK);
	snprintf(f.store.name, sizeof f.store.name, "far%d", ++number);
	assert_int_equal(pgs_kv_memory_new(&f.store.kv, NULL, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_new(&f.store.blob, NULL), PGS_OK);
	gets_fail_beside = false;
	test_thread = pthread_self();
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	f->store.kv->vtable->close(f->store.kv);
	f->store.blob->vtable->close(f->store.blob);
	return 0;
}

/* Make a database with these statements, in one transaction, and close it. */
static void make(fixture *f, const char *before, const char *statements)
{
	sqlite3 *db = open_cold(f, "");
	sql_do(db, before);
	sql_do(db, "begin");
	sql_do(db, statements);
	sql_do(db, "commit");
	sql_check(db);
	sql_close(db);
}

/* 20000 rows of some 400 bytes that do not compress: `id` in the order they are inserted, or all over. */
#define ROWS "with recursive i(i) as (select 1 union all select i + 1 from i where i < 20000) "
#define IN_ORDER "create table t(id integer primary key, k, v); insert into t select * from (" ROWS \
		 "select i, i * 7919 % 20000, randomblob(400) from i)"
#define ALL_OVER "create table t(id integer primary key, k, v); insert into t select * from (" ROWS \
		 "select i * 7919 % 20011, i, randomblob(400) from i)"

static long long number_of(sqlite3 *db, const char *name)
{
	char *text = sql_text(db, "pragma pagestore_cost"), *line = text ? strstr(text, name) : NULL;
	if (!line)
		fail_msg("no %s", name);
	long long number = line ? strtoll(line + strlen(name), NULL, 10) : 0;
	sqlite3_free(text);
	return number;
}

static void begin_anew(sqlite3 *db)
{
	sqlite3_free(sql_text(db, "pragma pagestore_cost=reset"));
	get_calls = 0;
}

/* --- parsing -------------------------------------------------------------------------------------------- */

/* An interior page of a table, of 3 cells and the right-most child. */
static void make_interior(uint8_t *page, size_t page_size, uint8_t kind, size_t start)
{
	memset(page, 0, page_size);
	uint8_t *h = page + start;
	size_t content = page_size - 30;
	h[0] = kind;
	h[4] = 3;
	h[5] = (uint8_t)(content >> 8);
	h[6] = (uint8_t)content;
	h[11] = 9;
	for (size_t i = 0; i < 3; i++) {
		size_t cell = content + (2 - i) * 10;
		h[12 + 2 * i] = (uint8_t)(cell >> 8);
		h[13 + 2 * i] = (uint8_t)cell;
		page[cell + 3] = (uint8_t)(4 + i);
		page[cell + 4] = 7;
	}
}

static void test_btree__children_come_in_key_order(void **state)
{
	(void)state;
	static uint8_t page[65536];
	static uint32_t children[SQ_CHILDREN_MAX];
	const size_t sizes[] = {512, 1024, 4096, 65536};
	for (size_t s = 0; s < 4; s++)
		for (uint32_t number = 1; number <= 3; number++) {
			make_interior(page, sizes[s], number == 2 ? 2 : 5, number == 1 ? 100 : 0);
			assert_int_equal(sq_btree_children(page, sizes[s], number, 10, children), 4);
			for (uint32_t i = 0; i < 3; i++)
				assert_int_equal(children[i], 4 + i);
			assert_int_equal(children[3], 9);
		}
}

static void test_btree__what_is_no_interior_page_has_none(void **state)
{
	(void)state;
	static uint8_t page[4096];
	static uint32_t children[SQ_CHILDREN_MAX];
	make_interior(page, 4096, 5, 0);
	assert_int_equal(sq_btree_children(page, 4096, 3, 8, children), 0); /* child 9 is past the end */
	assert_int_equal(sq_btree_children(page, 4096, 5, 10, children), 0); /* its own child */
	const struct {
		size_t at;
		uint8_t value;
	} harm[] = {{0, 13}, {0, 0}, {3, 255}, {4, 0}, {11, 1}, {11, 0}, {12, 0}, {12, 255}, {4086, 1}};
	for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
		make_interior(page, 4096, 5, 0);
		page[harm[i].at == 4086 ? 4066 : harm[i].at] = harm[i].value;
		if (sq_btree_children(page, 4096, 3, 10, children) != 0)
			fail_msg("%zu: %u passes", harm[i].at, harm[i].value);
	}
	make_interior(page, 4096, 5, 0);
	assert_int_equal(sq_btree_children(page, 256, 3, 10, children), 0);
}

/* Overlapping cells would be more children than there is room for. */
static void test_btree__children_are_at_most_what_fits(void **state)
{
	(void)state;
	static uint8_t page[65536];
	static uint32_t children[SQ_CHILDREN_MAX + 1];
	for (size_t cells = 9000; cells < 32762; cells += 61) {
		memset(page, 0, sizeof page);
		page[0] = 5;
		page[3] = (uint8_t)(cells >> 8);
		page[4] = (uint8_t)cells;
		page[5] = page[6] = 0xff;
		page[5] = (uint8_t)((12 + 2 * cells) >> 8);
		page[6] = (uint8_t)(12 + 2 * cells);
		page[11] = 2;
		for (size_t i = 0; i < cells; i++)
			page[12 + 2 * i] = 0xff, page[13 + 2 * i] = 0xf0;
		page[0xfff3] = 3;
		children[SQ_CHILDREN_MAX] = 77;
		assert_true(sq_btree_children(page, sizeof page, 4, 10, children) <= SQ_CHILDREN_MAX);
		assert_int_equal(children[SQ_CHILDREN_MAX], 77);
	}
}

/* --- scans ------------------------------------------------------------------------------------------------ */

typedef struct scan_cost {
	unsigned calls;
	long long misses, pages, asked, unread;
} scan_cost;

/* The answer, and what it took on an empty cache. */
static scan_cost scan(fixture *f, const char *parameters, const char *pragma, const char *sql, char **answer)
{
	sqlite3 *db = open_cold(f, parameters);
	sql_do(db, pragma);
	*answer = sql_text(db, sql);
	assert_non_null(*answer);
	scan_cost c = {
		.calls = get_calls,
		.misses = number_of(db, "cache_misses "),
		.asked = number_of(db, "prefetched "),
		.unread = number_of(db, "prefetched_unread "),
	};
	c.pages = c.misses + number_of(db, "cache_hits ");
	sql_close(db);
	return c;
}

/* Scanning takes `factor` times fewer round trips than without prefetch, and hardly a page is fetched for nothing. */
static void expect_scan(fixture *f, const char *sql, unsigned factor)
{
	char *with, *without;
	scan_cost on = scan(f, "", "pragma pagestore_prefetch=on", sql, &with);
	scan_cost off = scan(f, "", "pragma pagestore_prefetch=off", sql, &without);
	assert_string_equal(with, without);
	if (getenv("SHOW"))
		print_message("%s: %u calls %lld misses with, %u %lld without, %lld pages, %lld asked, %lld unread\n", sql,
			on.calls, on.misses, off.calls, off.misses, on.pages, on.asked, on.unread);
	if (on.misses * factor > off.misses || on.calls * factor > off.calls * 2)
		fail_msg("%s: %u calls, %lld misses with, %u, %lld without", sql, on.calls, on.misses, off.calls,
			off.misses);
	if (on.unread > on.asked / 5 + 64)
		fail_msg("%s: of %lld pages asked for %lld were not read", sql, on.asked, on.unread);
	assert_int_equal(off.asked, 0);
	sqlite3_free(with);
	sqlite3_free(without);
}

static void test_sqlite_prefetch__full_scans(void **state)
{
	make(*state, "", ALL_OVER);
	expect_scan(*state, "select count(*), sum(length(v)) from t", 10);
	expect_scan(*state, "select count(*), sum(length(v)) from (select * from t order by id desc)", 10);
	expect_scan(*state, "select id, k from t where id between 5000 and 15000", 8);
}

static void test_sqlite_prefetch__of_pages_in_order(void **state)
{
	make(*state, "", IN_ORDER "; create index tv on t(v)");
	expect_scan(*state, "select id, length(v) from t order by id desc", 10);
	char *answer;
	const char *in_order[] = {"select sum(length(v)) from t", "select count(*) from (select v from t order by v)"};
	for (size_t i = 0; i < 2; i++) { /* the store does it by itself */
		scan_cost on = scan(*state, "", "pragma pagestore_prefetch=on", in_order[i], &answer);
		sqlite3_free(answer);
		assert_true(on.misses < 60 && on.calls < 100 && on.asked < 200);
	}
}

static void test_sqlite_prefetch__indexes(void **state)
{
	make(*state, "", ALL_OVER "; create table w(a, b, primary key(a, b)) without rowid;"
			 "insert into w select (k * 4001) % 20000, v from t");
	expect_scan(*state, "select count(*), sum(length(b)) from w", 8);
	expect_scan(*state, "select a, length(b) from w where a > 4000 order by a desc", 8);
}

/* The index is scanned; the rows are all over, and nothing is asked for on their behalf. */
static void test_sqlite_prefetch__rows_by_index(void **state)
{
	char *answer;
	make(*state, "", IN_ORDER "; create index tk on t(k)");
	scan_cost c = scan(*state, "", "", "select sum(length(v)) from (select v from t where k between 100 and 2000 order by k)",
		&answer);
	assert_string_equal(answer, "760400");
	assert_true(c.unread < 300);
	sqlite3_free(answer);
}

/* Values of many pages each, whose chains are strides. */
static void test_sqlite_prefetch__overflow_chains(void **state)
{
	make(*state, "", "create table t(id integer primary key, v); insert into t "
			 "with recursive i(i) as (select 1 union all select i + 1 from i where i < 150) "
			 "select i, randomblob(80000) from i");
	expect_scan(*state, "select sum(length(v || 'x')) from t", 2);
}

static void test_sqlite_prefetch__page_sizes(void **state)
{
	fixture *f = *state;
	make(f, "pragma page_size = 512", ALL_OVER);
	expect_scan(f, "select count(*), sum(length(v)) from t", 8);
}

static void test_sqlite_prefetch__page_sizes_large(void **state)
{
	make(*state, "pragma page_size = 65536", ALL_OVER);
	expect_scan(*state, "select count(*), sum(length(v)) from t", 3);
}

static void test_sqlite_prefetch__auto_vacuum(void **state)
{
	make(*state, "pragma auto_vacuum = full", ALL_OVER "; delete from t where id % 3 = 0");
	expect_scan(*state, "select count(*), sum(length(v)) from t", 8);
}

/* The store's pages are of another size than SQLite's. */
static void test_sqlite_prefetch__after_another_page_size(void **state)
{
	fixture *f = *state;
	const char *sizes[] = {"pragma page_size = 1024; vacuum", "pragma page_size = 16384; vacuum"};
	make(f, "", ALL_OVER);
	for (size_t i = 0; i < 2; i++) {
		sqlite3 *db = open_cold(f, "");
		sql_do(db, sizes[i]);
		sql_check(db);
		sql_close(db);
		expect_scan(f, "select id, length(v) from t order by id desc", 2);
	}
}

static void test_sqlite_prefetch__the_past(void **state)
{
	fixture *f = *state;
	char *answer;
	make(f, "", ALL_OVER);
	sqlite3 *db = open_cold(f, "");
	sqlite3_free(sql_text(db, "pragma pagestore_snapshot=s"));
	sql_do(db, "delete from t where id % 2 = 0");
	sql_close(db);
	scan_cost on = scan(f, "&at=@s", "", "select count(*), sum(length(v)) from t", &answer);
	assert_string_equal(answer, "20000|8000000");
	assert_true(on.misses < 200);
	sqlite3_free(answer);
}

/* Statements that write scan, too: with the turn to write, in a transaction, and without xFetch. */
static void test_sqlite_prefetch__of_writers(void **state)
{
	fixture *f = *state;
	const char *statements[] = {
		"update t set k = k + 1 where k % 1000 = 7",
		"begin; update t set k = k + 1 where k % 1000 = 8; commit",
		"pragma mmap_size = 0; update t set k = k + 1 where k % 1000 = 9",
		"begin immediate; delete from t where k % 1000 = 10; commit",
	};
	make(f, "", ALL_OVER);
	for (size_t i = 0; i < 4; i++) {
		sqlite3 *db = open_cold(f, "");
		sql_do(db, statements[i]);
		if (number_of(db, "cache_misses ") > 250)
			fail_msg("%s: %lld misses", statements[i], number_of(db, "cache_misses "));
		sql_check(db);
		sql_close(db);
	}
}

/* --- what is no scan ---------------------------------------------------------------------------------------- */

static void test_sqlite_prefetch__a_search_fetches_its_path(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER "; create index tk on t(k)");
	sqlite3 *db = open_cold(f, "");
	sql_number(db, "select length(v) from t where id = 9999");
	assert_int_equal(number_of(db, "prefetched "), 0);
	assert_true(number_of(db, "cache_misses ") + number_of(db, "pages_ahead ") <= 7); /* schema, root, leaf, header */
	begin_anew(db);
	sql_number(db, "select length(v) from t where k = 777");
	assert_int_equal(number_of(db, "prefetched "), 0);
	assert_true(number_of(db, "cache_misses ") + number_of(db, "pages_ahead ") <= 6);
	begin_anew(db);
	sql_number(db, "select min(id) from t");
	sql_number(db, "select max(id) from t");
	sql_number(db, "select id from t order by id limit 1");
	assert_int_equal(number_of(db, "prefetched "), 0);
	sql_close(db);
}

static void test_sqlite_prefetch__random_reads_waste_little(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER);
	sqlite3 *db = open_cold(f, "");
	for (int i = 0; i < 1500; i++) {
		char sql[80];
		snprintf(sql, sizeof sql, "select length(v) from t where id = %d", i * 7103 % 20011);
		sql_number(db, sql);
	}
	assert_true(number_of(db, "prefetched_unread ") < 200);
	sql_close(db);
}

/* Scans that are broken off leave what was fetched for them: that is bounded. */
static void test_sqlite_prefetch__scans_broken_off_waste_little(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER);
	sqlite3 *db = open_cold(f, "");
	for (int i = 0; i < 200; i++) {
		char sql[80];
		snprintf(sql, sizeof sql, "select length(v) from t where id > %d limit 30", i * 7103 % 20011);
		sqlite3_free(sql_text(db, sql));
	}
	long long pages = number_of(db, "cache_misses ") + number_of(db, "cache_hits ");
	assert_true(number_of(db, "prefetched_unread ") <= pages / 4 + 64 + pages / 16);
	sql_close(db);
}

static void test_sqlite_prefetch__warm_reads_ask_for_nothing(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER);
	sqlite3 *db = open_cold(f, "");
	sqlite3_free(sql_text(db, "select sum(length(v)) from t"));
	begin_anew(db);
	sqlite3_free(sql_text(db, "select sum(length(v)) from t"));
	assert_int_equal(number_of(db, "prefetched "), 0);
	assert_int_equal(number_of(db, "cache_misses "), 0);
	assert_int_equal(get_calls, 0);
	sql_close(db);
}

/* --- trouble --------------------------------------------------------------------------------------------------- */

/* A page fetched ahead, and changed by another connection before it is read: no conflict. */
static void test_sqlite_prefetch__does_not_join_the_read_set(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER "; create table x(a); insert into x values (1)");
	sqlite3 *a = open_cold(f, ""), *b = sql_open(&f->store, "");
	sql_do(a, "begin; update x set a = 2");
	sqlite3_stmt *s = sql_begin_select(a, "select id from t order by id");
	for (int i = 0; i < 200; i++)
		assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	int64_t last = sqlite3_column_int64(s, 0);
	assert_true(number_of(a, "prefetched_unread ") > 3);
	sqlite3_finalize(s);
	char sql[80];
	snprintf(sql, sizeof sql, "update t set k = -1 where id = %lld", (long long)last + 30); /* three pages on */
	sql_do(b, sql);
	sql_do(a, "commit");
	sql_do(a, "begin; update x set a = 3; select count(*) from t where id <= 100");
	sql_do(b, "update t set k = -1 where id = 50");
	sql_expect(a, SQLITE_BUSY_SNAPSHOT, "commit"); /* that one was read */
	sql_close(a);
	sql_close(b);
}

static void test_sqlite_prefetch__failures_are_the_reads(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER);
	sqlite3 *db = open_cold(f, "");
	gets_fail_beside = true;
	sql_expect_text(db, "20000|8000000", "select count(*), sum(length(v)) from t");
	gets_fail_beside = false;
	sql_close(db);
}

/* Interior pages whose pointers go anywhere: SQLite says that they are damaged, and nothing worse happens. */
static void test_sqlite_prefetch__hostile_pages(void **state)
{
	fixture *f = *state;
	make(f, "", ALL_OVER);
	for (unsigned round = 0; round < 12; round++) {
		sqlite3 *db = open_cold(f, "");
		int64_t root = sql_number(db, "select rootpage from sqlite_schema where name = 't'");
		sql_close(db);
		pgs_store *store;
		pgs_db *d;
		pgs_txn *t;
		pgs_kv *kv;
		pgs_blob *blob;
		pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
		uint8_t page[4096];
		assert_int_equal(pgs_kv_memory_share(&kv, f->store.kv, NULL), PGS_OK);
		assert_int_equal(pgs_blob_memory_share(&blob, f->store.blob, NULL), PGS_OK);
		assert_int_equal(pgs_open_with(&store, kv, blob, NULL, NULL), PGS_OK);
		assert_int_equal(pgs_db_open(&d, store, "app", 3, NULL, NULL), PGS_OK);
		o.write = true;
		assert_int_equal(pgs_begin(&t, d, &o, NULL), PGS_OK);
		assert_int_equal(pgs_read(t, (uint64_t)root, page), PGS_OK);
		for (unsigned i = 0; i < 40; i++) {
			unsigned at = (round * 4099 + i * 131) % 4096;
			page[at] = (uint8_t)(round % 3 == 0 ? 0xff : at * 7 + i);
		}
		page[0] = 5;
		assert_int_equal(pgs_write(t, (uint64_t)root, page), PGS_OK);
		assert_int_equal(pgs_commit(t, NULL, NULL, NULL), PGS_OK);
		pgs_db_close(d);
		pgs_close(store);
		db = open_cold(f, "");
		int result = sql_try(db, "select sum(length(v)) from t");
		assert_true(result == SQLITE_OK || (result & 0xff) == SQLITE_CORRUPT);
		sql_close(db);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_btree__children_come_in_key_order),
		cmocka_unit_test(test_btree__what_is_no_interior_page_has_none),
		cmocka_unit_test(test_btree__children_are_at_most_what_fits),
		TEST(test_sqlite_prefetch__full_scans),
		TEST(test_sqlite_prefetch__of_pages_in_order),
		TEST(test_sqlite_prefetch__indexes),
		TEST(test_sqlite_prefetch__rows_by_index),
		TEST(test_sqlite_prefetch__overflow_chains),
		TEST(test_sqlite_prefetch__page_sizes),
		TEST(test_sqlite_prefetch__page_sizes_large),
		TEST(test_sqlite_prefetch__auto_vacuum),
		TEST(test_sqlite_prefetch__after_another_page_size),
		TEST(test_sqlite_prefetch__the_past),
		TEST(test_sqlite_prefetch__of_writers),
		TEST(test_sqlite_prefetch__a_search_fetches_its_path),
		TEST(test_sqlite_prefetch__random_reads_waste_little),
		TEST(test_sqlite_prefetch__scans_broken_off_waste_little),
		TEST(test_sqlite_prefetch__warm_reads_ask_for_nothing),
		TEST(test_sqlite_prefetch__does_not_join_the_read_set),
		TEST(test_sqlite_prefetch__failures_are_the_reads),
		TEST(test_sqlite_prefetch__hostile_pages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
