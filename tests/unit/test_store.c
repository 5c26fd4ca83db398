/* lib/db.c, lib/store.c, lib/maintain: databases, the log, differences, facts. */
#include <stdlib.h>
#include <string.h>

#include <pagestore/history.h>

#include "support/txn_stage.h"

#define T PAGE_NOISE

/* --- databases ------------------------------------------------------------------ */

typedef struct listing {
	size_t count;
	char names[8][256];
	size_t sizes[8];
	int stop_with;
} listing;

static int list_one(void *ctx, const void *name, size_t size)
{
	listing *l = ctx;
	assert_true(l->count < 8);
	memcpy(l->names[l->count], name, size);
	l->sizes[l->count++] = size;
	return l->stop_with;
}

static void test_store_db__names_are_any_bytes(void **state)
{
	stage *s = *state;
	char longest[256];
	for (size_t i = 0; i < sizeof longest; i++)
		longest[i] = (char)(255 - i);
	pgs_db *db;
	static const struct {
		const char *bytes;
		size_t size;
	} odd[] = {{"\0", 1}, {"/", 1}, {"\xff\0/n", 4}, {"d", 1}};
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(pgs_db_create(&db, s->store, odd[i].bytes, odd[i].size, NULL, NULL), PGS_OK);
		pgs_db_close(db);
		assert_int_equal(pgs_db_open(&db, s->store, odd[i].bytes, odd[i].size, NULL, NULL), PGS_OK);
		pgs_db_close(db);
	}
	assert_int_equal(pgs_db_create(&db, s->store, longest, 255, NULL, NULL), PGS_OK);
	tx_one(db, s, 0, T(1));
	pgs_db_close(db);
	assert_int_equal(pgs_db_create(&db, s->store, longest, 256, NULL, NULL), PGS_EINVAL);
	assert_null(db);
	assert_int_equal(pgs_db_create(&db, s->store, longest, 0, NULL, NULL), PGS_EINVAL);
	assert_int_equal(pgs_db_open(&db, s->store, NULL, 1, NULL, NULL), PGS_EINVAL);
	assert_int_equal(pgs_db_open(&db, s->store, longest, 254, NULL, NULL), PGS_ENOTFOUND);
	assert_null(db);
	assert_int_equal(pgs_db_drop(s->store, longest, 256, NULL), PGS_EINVAL);
	assert_int_equal(pgs_db_drop(s->store, longest, 254, NULL), PGS_ENOTFOUND);
	listing l = {0};
	assert_int_equal(pgs_db_list(s->store, list_one, &l, NULL), PGS_OK);
	static const char *const expected[] = {"", "/", "d", "db"};
	assert_int_equal(l.count, 6);
	for (size_t i = 1; i < 4; i++)
		assert_memory_equal(l.names[i], expected[i], l.sizes[i]);
	assert_int_equal(l.sizes[4] + l.sizes[5], 259);
	l = (listing){.stop_with = 42};
	assert_int_equal(pgs_db_list(s->store, list_one, &l, NULL), 42);
	assert_int_equal(l.count, 1);
}

static void test_store_db__options_are_checked(void **state)
{
	stage *s = *state;
	pgs_db *db;
	pgs_db_options o = {0};
	assert_int_equal(pgs_db_create(&db, s->store, "x", 1, &o, NULL), PGS_EINVAL);
	assert_int_equal(pgs_db_open(&db, s->store, "db", 2, &o, NULL), PGS_EINVAL);
	static const uint32_t sizes[] = {1, 256, 511, 513, 4097, 131072};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		o = (pgs_db_options)PGS_DB_OPTIONS_INIT;
		o.page_size_bytes = sizes[i];
		assert_int_equal(pgs_db_create(&db, s->store, "x", 1, &o, NULL), PGS_EINVAL);
	}
	o = (pgs_db_options)PGS_DB_OPTIONS_INIT;
	o.order = 2;
	assert_int_equal(pgs_db_create(&db, s->store, "x", 1, &o, NULL), PGS_EINVAL);
	o = (pgs_db_options)PGS_DB_OPTIONS_INIT;
	o.expect_page_size_bytes = 512;
	assert_int_equal(pgs_db_open(&db, s->store, "db", 2, &o, NULL), PGS_EINVAL);
	assert_null(db);
	o.expect_page_size_bytes = 4096;
	assert_int_equal(pgs_db_open(&db, s->store, "db", 2, &o, NULL), PGS_OK);
	pgs_db_close(db);
	assert_int_equal(pgs_db_create(&db, s->store, "db", 2, NULL, NULL), PGS_EEXIST);
	assert_null(db);
	pgs_store *other;
	pgs_store_options so = {0};
	pgs_kv *kv;
	pgs_blob *blob;
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(&other, kv, blob, &so, NULL), PGS_EINVAL);
	pgs_db_stat stat = {0};
	assert_int_equal(pgs_stat(s->db, &stat, NULL), PGS_EINVAL);
	pgs_log_options lo = {0};
	assert_int_equal(pgs_log(s->db, &lo, NULL, NULL, NULL), PGS_EINVAL);
}

static void test_store_db__a_read_only_store_refuses_writes(void **state)
{
	stage *s = *state;
	pgs_kv *kv;
	pgs_blob *blob;
	pgs_store *store;
	pgs_db *db;
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	o.read_only = true;
	tx_one(s->db, s, 0, T(1));
	stage_backends(s, &kv, &blob);
	assert_int_equal(pgs_open_with(&store, kv, blob, &o, NULL), PGS_OK);
	assert_int_equal(pgs_db_create(&db, store, "x", 1, NULL, NULL), PGS_EREADONLY);
	assert_int_equal(pgs_db_drop(store, "db", 2, NULL), PGS_EREADONLY);
	assert_int_equal(pgs_db_open(&db, store, "db", 2, NULL, NULL), PGS_OK);
	pgs_txn *t;
	pgs_txn_options to = PGS_TXN_OPTIONS_INIT;
	to.write = true;
	assert_int_equal(pgs_begin(&t, db, &to, NULL), PGS_EREADONLY);
	assert_null(t);
	t = tx_read(db);
	tx_expect(t, s, 0, T(1));
	pgs_abort(t);
	pgs_db_close(db);
	pgs_close(store);
}

static void test_store_db__handles_share_a_cache(void **state)
{
	stage *s = *state;
	pgs_db *second;
	tx_fill(s->db, s, 0, 10, T(0));
	assert_int_equal(pgs_db_open(&second, s->store, "db", 2, NULL, NULL), PGS_OK);
	uint64_t calls = pgs_fault_calls(s->fault);
	pgs_txn *t = tx_read(second);
	uint64_t begun = pgs_fault_calls(s->fault);
	for (uint64_t page = 0; page < 10; page++)
		tx_expect(t, s, page, T(page));
	assert_int_equal(begun, calls + 1); /* "one round trip" */
	assert_int_equal(pgs_fault_calls(s->fault), begun);
	pgs_abort(t);
	pgs_db_close(s->db);
	t = tx_read(second);
	tx_expect(t, s, 3, T(3));
	pgs_abort(t);
	s->db = second;
}

static void test_store_db__drop_leaves_nothing(void **state)
{
	stage *s = *state;
	pgs_db_close(s->db);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_OK);
	uint64_t keys = stage_keys(s);
	assert_int_equal(pgs_db_create(&s->db, s->store, "db", 2, &s->options, NULL), PGS_OK);
	tx_fill(s->db, s, 0, 600, T(0)); /* a file */
	tx_fill(s->db, s, 0, 150, T(1000));
	tx_fill(s->db, s, 100, 20, T(3000));
	pgs_txn *reader = tx_read(s->db), *writer = tx_begin(s->db, PGS_SERIALIZABLE), *blind;
	pgs_txn *other = tx_begin(stage_other(s), PGS_SERIALIZABLE);
	blind = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_expect(writer, s, 7, T(1007));
	tx_put(writer, s, 8, T(9));
	tx_put(blind, s, 8, T(9));
	tx_put(other, s, 9, T(9));
	assert_true(stage_blobs(s) > 0);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_OK);
	assert_int_equal(stage_keys(s), keys);
	assert_int_equal(stage_blobs(s), 0);
	pgs_error err = PGS_ERROR_INIT;
	uint8_t page[4096];
	assert_int_equal(pgs_commit(writer, NULL, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_commit(blind, NULL, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_commit(other, NULL, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_begin(&writer, s->db, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_begin(&other, s->other_db, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_db_drop(s->store, "db", 2, NULL), PGS_ENOTFOUND);
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(s->db, &stat, &err), PGS_ENOTFOUND);
	assert_int_equal(pgs_log(s->db, NULL, NULL, NULL, &err), PGS_ENOTFOUND);
	pgs_commit_token token = {.base_revision = 1};
	int status;
	assert_int_equal(pgs_commit_status(s->db, &token, &status, NULL, &err), PGS_ENOTFOUND);
	assert_int_equal(stage_keys(s), keys);
	int result = pgs_read(reader, 580, page); /* cached, or gone with the database */
	assert_true(result == PGS_OK || result == PGS_ENOTFOUND);
	pgs_abort(reader);
	/* The name is free; what comes under it has nothing to do with the old. */
	pgs_db *again;
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	o.page_size_bytes = 512;
	assert_int_equal(pgs_db_create(&again, s->store, "db", 2, &o, NULL), PGS_OK);
	assert_int_equal(pgs_begin(&writer, s->db, NULL, &err), PGS_ENOTFOUND);
	reader = tx_read(again);
	tx_expect_count(reader, 0);
	assert_int_equal(pgs_read(reader, 100, page), PGS_OK);
	assert_int_equal(page[0], 0);
	pgs_abort(reader);
	pgs_db_close(again);
}

/* --- the log ------------------------------------------------------------------------ */

typedef struct log_view {
	size_t count;
	pgs_log_entry entries[20];
	char notes[20][16];
	size_t stop_after;
} log_view;

static int log_one(void *ctx, const pgs_log_entry *entry)
{
	log_view *l = ctx;
	assert_true(l->count < 20);
	if (entry->note)
		memcpy(l->notes[l->count], entry->note, entry->note_size);
	l->entries[l->count++] = *entry;
	return l->count == l->stop_after ? 7 : 0;
}

static void test_store_log__tells_each_commit(void **state)
{
	stage *s = *state;
	uint64_t r[5];
	log_view l = {0};
	assert_int_equal(pgs_log(s->db, NULL, log_one, &l, NULL), PGS_OK);
	assert_int_equal(l.count, 0);
	r[0] = tx_fill(s->db, s, 0, 5, T(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 1, T(10));
	tx_put(t, s, 2, T(2)); /* as it is */
	tx_attr(t, "a", "1");
	tx_attr(t, "b", "1");
	pgs_commit_options co = PGS_COMMIT_OPTIONS_INIT;
	co.note = "hello";
	co.note_size = 5;
	assert_int_equal(pgs_commit(t, &co, &r[1], NULL), PGS_OK);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 3), PGS_OK);
	co.note = "";
	co.note_size = 0;
	assert_int_equal(pgs_commit(t, &co, &r[2], NULL), PGS_OK);
	r[3] = tx_fill(s->db, s, 0, 600, T(1000));
	assert_int_equal(pgs_log(s->db, NULL, log_one, &l, NULL), PGS_OK);
	assert_int_equal(l.count, 4);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(l.entries[i].revision, r[3 - i]);
	assert_int_equal(l.entries[0].pages_written, 600);
	assert_int_equal(l.entries[0].page_count, 600);
	assert_true(l.entries[0].blob_bytes >= 600 * 4096);
	assert_true(l.entries[0].kv_bytes < 600 * 200);
	assert_null(l.entries[0].note);
	assert_true(l.entries[1].truncated);
	assert_int_equal(l.entries[1].page_count, 3);
	assert_non_null(l.entries[1].note);
	assert_int_equal(l.entries[1].note_size, 0);
	assert_int_equal(l.entries[2].pages_written, 1);
	assert_int_equal(l.entries[2].attrs_written, 2);
	assert_int_equal(l.entries[2].note_size, 5);
	assert_memory_equal(l.notes[2], "hello", 5);
	assert_int_equal(l.entries[2].blob_bytes, 0);
	assert_true(l.entries[3].kv_bytes > 5 * 4096);
	assert_true(l.entries[3].time_ms > 1700000000000);
	pgs_log_options o = PGS_LOG_OPTIONS_INIT;
	o.from_revision = r[1];
	o.to_revision = r[2];
	l = (log_view){0};
	assert_int_equal(pgs_log(s->db, &o, log_one, &l, NULL), PGS_OK);
	assert_int_equal(l.count, 2);
	assert_int_equal(l.entries[0].revision, r[2]);
	o = (pgs_log_options)PGS_LOG_OPTIONS_INIT;
	o.max_entries = 3;
	l = (log_view){0};
	assert_int_equal(pgs_log(s->db, &o, log_one, &l, NULL), PGS_OK);
	assert_int_equal(l.count, 3);
	l = (log_view){.stop_after = 2};
	assert_int_equal(pgs_log(s->db, NULL, log_one, &l, NULL), 7);
	co.note = page_fill;
	co.note_size = PGS_NOTE_MAX + 1;
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_commit(t, &co, NULL, NULL), PGS_ELIMIT);
	co.struct_size = 0;
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_commit(t, &co, NULL, NULL), PGS_EINVAL);
}

/* --- differences ------------------------------------------------------------------------ */

typedef struct pages {
	size_t count;
	uint64_t list[2000];
} pages;

static int diff_one(void *ctx, uint64_t page)
{
	pages *p = ctx;
	assert_true(p->count < 2000);
	p->list[p->count++] = page;
	return 0;
}

static void expect_diff(stage *s, uint64_t a, uint64_t b, size_t count, const uint64_t *list)
{
	for (int i = 0; i < 4; i++) {
		pages p = {0};
		assert_int_equal(pgs_diff(i < 2 ? s->db : stage_other(s), i & 1 ? a : b, i & 1 ? b : a, diff_one, &p, NULL),
				 PGS_OK);
		assert_int_equal(p.count, count);
		for (size_t k = 0; k < count; k++)
			assert_int_equal(p.list[k], list[k]);
	}
}

static void test_store_diff__names_what_differs(void **state)
{
	stage *s = *state;
	uint64_t r[6];
	r[0] = tx_fill(s->db, s, 0, 10, T(0));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 3, T(100));
	tx_put(t, s, 5, T(101));
	tx_put(t, s, 12, T(102));
	tx_put(t, s, 11, PAGE_ZERO);
	r[1] = tx_commit(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	tx_put(t, s, 3, T(3)); /* back to what it was */
	tx_put(t, s, 7, T(103));
	r[2] = tx_commit(t);
	t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 6), PGS_OK);
	tx_put(t, s, 8, T(8)); /* and written as it was at r[0] */
	r[3] = tx_commit(t);
	expect_diff(s, r[0], r[0], 0, NULL);
	expect_diff(s, r[0], r[1], 3, (uint64_t[]){3, 5, 12});
	expect_diff(s, r[0], r[2], 3, (uint64_t[]){5, 7, 12});
	expect_diff(s, r[1], r[2], 2, (uint64_t[]){3, 7});
	expect_diff(s, r[2], r[3], 4, (uint64_t[]){6, 7, 9, 12});
	expect_diff(s, r[0], r[3], 4, (uint64_t[]){5, 6, 7, 9});
	pages p = {0};
	assert_int_equal(pgs_diff(s->db, r[3], r[3] + 1000, diff_one, &p, NULL), PGS_EINVAL);
	assert_int_equal(pgs_diff(s->db, 0, r[3], diff_one, &p, NULL), PGS_EINVAL);
	assert_int_equal(p.count, 0);
}

static void test_store_diff__truncation_of_a_sparse_database(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 300, T(0)); /* a pack, where there are limits */
	uint64_t before = tx_one(s->db, s, 1ull << 39, T(5));
	pgs_txn *t = tx_begin(s->db, PGS_SERIALIZABLE);
	assert_int_equal(pgs_truncate(t, 2), PGS_OK);
	uint64_t after = tx_commit(t);
	uint64_t expected[299];
	for (uint64_t i = 0; i < 298; i++)
		expected[i] = i + 2;
	expected[298] = 1ull << 39;
	expect_diff(s, before, after, 299, expected);
}

/* --- facts --------------------------------------------------------------------------------- */

static void test_store_stat__counts(void **state)
{
	stage *s = *state;
	tx_fill(s->db, s, 0, 5, T(0));
	tx_fill(s->db, s, 1, 1, T(50));
	uint64_t last = tx_fill(s->db, s, 0, 600, T(1000));
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(s->db, &stat, NULL), PGS_OK);
	bool packed = s->variant->backend & (STAGE_LIMITED | STAGE_SERVERS);
	assert_int_equal(stat.page_size_bytes, 4096);
	assert_int_equal(stat.order, s->variant->order);
	assert_int_equal(stat.revision, last);
	assert_int_equal(stat.commit_count, 3);
	assert_int_equal(stat.page_count, 600);
	assert_int_equal(stat.pointer_count, packed ? 5 : 600);
	assert_int_equal(stat.pack_count, packed);
	assert_int_equal(stat.kv_content_count, 6);
	assert_int_equal(stat.changelog_count, 3);
	assert_int_equal(stat.file_count, 1);
	assert_true(stat.file_bytes >= 600 * 4096);
	assert_int_equal(stat.blob_count, 1);
	assert_int_equal(stat.blob_bytes, stat.file_bytes);
	assert_true(stat.created_ms > 1700000000000);
	assert_int_equal(stat.floor_revision, 0);
	assert_int_equal(stat.cache_limit_bytes, 4 << 20);
	assert_true(stat.cache_used_bytes <= stat.cache_limit_bytes);
}

/* Full of pages, the cache's own memory is at most 120 bytes a page. */
static void test_store_stat__cache_overhead(void **state)
{
	stage *s = *state;
	s->options.page_size_bytes = 512;
	s->options.cache_bytes = 1 << 20;
	stage_remake(s);
	tx_fill(s->db, s, 0, 4000, T(0));
	pgs_txn *t = tx_read(s->db);
	for (uint64_t page = 0; page < 4000; page++)
		tx_expect(t, s, page, T(page));
	pgs_abort(t);
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	assert_int_equal(pgs_stat(s->db, &stat, NULL), PGS_OK);
	uint64_t cached = stat.cache_used_bytes / 512;
	assert_true(cached > 2000);
	assert_true(stat.cache_overhead_bytes <= 120 * cached);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_store_db__names_are_any_bytes),
		TEST(test_store_db__options_are_checked),
		TEST(test_store_db__a_read_only_store_refuses_writes),
		TEST(test_store_db__handles_share_a_cache),
		TEST(test_store_db__drop_leaves_nothing),
		TEST(test_store_log__tells_each_commit),
		TEST(test_store_diff__names_what_differs),
		TEST(test_store_diff__truncation_of_a_sparse_database),
		TEST(test_store_stat__counts),
		TEST(test_store_stat__cache_overhead),
	};
	return stage_run("store", tests, sizeof tests / sizeof *tests, STAGE_ALL);
}
