/* No request has many keys under one range: of a large database, a sparse one, and of what they leave when dropped. */
#include <stdlib.h>
#include <string.h>

#include <pagestore/history.h>
#include <pagestore/maintain.h>

#include "codec/keys.h"
#include "content/backend.h"
#include "support/guard_kv.h"
#include "support/stores.h"
#include "support/testing.h"
#include "txn/db.h"
#include "util/clock.h"
#include "util/cursor.h"

#define PAGE 512
#define PAGES 100000
#define CONTENTS 20000
#define CONTENTS_AT_ONCE 1500 /* less than what goes to a sorted file */
#define CHANGES 20000
#define READS 12000
#define READ_KEYS 4096   /* under a range of a transaction that only reads */
#define CHANGE_KEYS 1024 /* under one of a transaction that changes something */

typedef struct fixture {
	server server;
	guard_seen seen;
	pgs_store *store;
	pgs_db *db;
} fixture;

/* A small page for noise 0, else one that does not compress, another for each. */
static void fill(uint8_t *page, uint64_t page_no, uint64_t noise)
{
	uint64_t x = (page_no + (noise << 40)) * 0x9e3779b97f4a7c15u + 1;
	memset(page, 0, PAGE);
	for (size_t i = 0; i < (noise ? PAGE : 8); i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(page + i, &x, 8);
	}
}

static uint64_t write_some(pgs_db *db, uint64_t first, uint64_t count, uint64_t apart, uint64_t noise)
{
	uint8_t page[PAGE];
	pgs_txn *t = begin_write(db);
	for (uint64_t i = 0; i < count; i++) {
		fill(page, first + i * apart, noise);
		assert_int_equal(pgs_write(t, first + i * apart, page), PGS_OK);
	}
	return commit_ok(t);
}

/* Nobody has looked at what is there: a process that begins now knows nothing of it. */
static void reopen(fixture *f)
{
	pgs_store_options o = PGS_STORE_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_kv *kv;
	pgs_blob *blob;
	if (f->store) {
		pgs_db_close(f->db);
		pgs_close(f->store);
	}
	f->db = NULL;
	o.pressure = PGS_PRESSURE_LIMIT;
	assert_int_equal(pgs_kv_memory_share(&kv, f->server.kv, NULL), PGS_OK);
	assert_int_equal(pgs_blob_memory_share(&blob, f->server.blob, NULL), PGS_OK);
	guard_seen before = f->seen;
	kv = guard_kv_new(kv, &f->seen);
	f->seen = before;
	expect_code(pgs_open_with(&f->store, kv, blob, &o, &err), PGS_OK, &err, "pgs_open_with");
}

static void reopen_db(fixture *f)
{
	reopen(f);
	f->db = open_db(f->store, "db");
}

static void make_db(fixture *f)
{
	pgs_db_options o = PGS_DB_OPTIONS_INIT;
	pgs_maintain_options m = PGS_MAINTAIN_OPTIONS_INIT;
	o.page_size_bytes = PAGE;
	m.flush_pages = 100000; /* they stay in c/ */
	o.maintain = &m;
	reopen(f);
	f->db = create_db(f->store, "db", &o);
}

static int setup(void **state)
{
	static const pgs_kv_limits limits = {128, 1572864, 0, 0};
	fixture *f = calloc(1, sizeof *f);
	server_start(&f->server, &limits);
	make_db(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture *f = *state;
	pgs_db_close(f->db);
	pgs_close(f->store);
	server_stop(&f->server);
	free(f);
	return 0;
}

static void expect_bounded(const fixture *f, const char *what)
{
	if (f->seen.read.keys > READ_KEYS)
		fail_msg("%s: %llu keys under one range: %s", what, (unsigned long long)f->seen.read.keys, f->seen.read.range);
	if (f->seen.change.keys > CHANGE_KEYS)
		fail_msg("%s: %llu keys under a range of a transaction that changes something: %s", what,
			 (unsigned long long)f->seen.change.keys, f->seen.change.range);
}

static pgs_maintain_report maintain(fixture *f, bool all, uint64_t retention)
{
	pgs_maintain_options o = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	pgs_error err = PGS_ERROR_INIT;
	o.all = all;
	o.flush_pages = all ? 0 : 100000;
	o.retention_ms = retention;
	expect_code(pgs_maintain(f->db, &o, &r, &err), PGS_OK, &err, "pgs_maintain");
	return r;
}

/* Changelog entries as many commits would leave, over an hour: copies of one. Each also puts t, as a commit does. */
static void add_changes(fixture *f, uint64_t count)
{
	const uint8_t *prefix = pgs__db_prefix(f->db);
	pgs_kv *kv = f->server.kv;
	pgs__backend b = {.kv = kv};
	pgs__key from = pgs__key_kind(prefix, 'x'), end = pgs__key_kind_end(prefix, 'x'), t = pgs__key_single(prefix, 't');
	pgs_kv_op gets[] = {pgs__op_range(pgs__key_slice(&from), pgs__key_slice(&end), 0),
			    pgs__op_get(pgs__key_slice(&t), 0)};
	pgs_kv_txn one, txn;
	gets[0].limit = 1;
	assert_int_equal(pgs__kv_read(&b, &one, gets, 2, 0, NULL), PGS_OK);
	for (uint64_t i = 0; i < count; i++) {
		uint8_t uuid[16] = {0};
		pgs__store_u64be(uuid, (uint64_t)(pgs__unix_ms() - 3600000 + (int64_t)(i * 3600000 / count)) << 16);
		pgs__store_u64be(uuid + 8, i);
		pgs__key key = pgs__key_uuid(prefix, 'x', uuid);
		const pgs_kv_op puts[] = {pgs__op_put(pgs__key_slice(&key), pgs__got(&one, 0)->value),
					  pgs__op_put(pgs__key_slice(&t), pgs__got(&one, 1)->value)};
		assert_int_equal(pgs__kv_read(&b, &txn, puts, 2, 0, NULL), PGS_OK);
		pgs__kv_release(&b, &txn, 1);
	}
	pgs__kv_release(&b, &one, 1);
}

/* 100,000 pages in p/, 20,000 contents in c/, 20,000 entries in x/. */
static void make_large(fixture *f)
{
	write_some(f->db, 0, PAGES, 1, 0);
	for (uint64_t i = 0; i < CONTENTS; i += CONTENTS_AT_ONCE)
		write_some(f->db, i * 5 % PAGES, CONTENTS_AT_ONCE, 1, 1);
	add_changes(f, CHANGES);
	expect_bounded(f, "filling");
	maintain(f, false, PGS_RETENTION_NONE);
	expect_bounded(f, "folding");
}

static int ignore_page(void *ctx, uint64_t page_no)
{
	(void)page_no;
	++*(uint64_t *)ctx;
	return 0;
}

static int ignore_entry(void *ctx, const pgs_log_entry *entry)
{
	(void)entry;
	++*(uint64_t *)ctx;
	return 0;
}

static int ignore_snapshot(void *ctx, const pgs_snapshot_info *info)
{
	(void)info;
	++*(uint64_t *)ctx;
	return 0;
}

static pgs_txn *begin_at(fixture *f, uint64_t revision, int64_t time_ms)
{
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t;
	o.at_revision = revision;
	o.at_time_ms = time_ms;
	expect_code(pgs_begin(&t, f->db, &o, &err), PGS_OK, &err, "pgs_begin");
	return t;
}

/* A commit that has read many pages, with others committing meanwhile. */
static void commit_large_read_set(fixture *f, uint64_t apart)
{
	uint8_t page[PAGE];
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *t = begin_write(f->db);
	for (uint64_t i = 0; i < READS; i++)
		assert_int_equal(pgs_read(t, i * apart, page), PGS_OK);
	write_some(f->db, 90000, 1, 1, 1 + apart);
	assert_int_equal(pgs_write(t, 5, page), PGS_OK);
	expect_code(pgs_commit(t, NULL, NULL, &err), PGS_OK, &err, "pgs_commit");
	expect_bounded(f, "a large read set");
}

static void look_at_history(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t count = 0, now, after;
	pgs_txn *t = begin_at(f, 0, 0);
	now = pgs_txn_revision(t);
	pgs_abort(t);
	expect_code(pgs_log(f->db, NULL, ignore_entry, &count, &err), PGS_OK, &err, "pgs_log");
	expect_bounded(f, "log");
	pgs_abort(begin_at(f, 0, pgs__unix_ms()));
	expect_bounded(f, "at a time");
	after = write_some(f->db, 10, 5, 3, 8);
	expect_code(pgs_diff(f->db, now, after, ignore_page, &count, &err), PGS_OK, &err, "pgs_diff");
	expect_bounded(f, "diff");
}

static void look_at_all(fixture *f, uint64_t pages)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	pgs_verify_options deep = PGS_VERIFY_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	reopen_db(f);
	expect_code(pgs_stat(f->db, &stat, &err), PGS_OK, &err, "pgs_stat");
	assert_true(stat.pointer_count >= pages);
	expect_bounded(f, "stat");
	deep.deep = true;
	reopen_db(f);
	expect_code(pgs_verify(f->db, &deep, NULL, &err), PGS_OK, &err, "pgs_verify");
	expect_bounded(f, "verify");
}

static void use_snapshots(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	uint64_t count = 0;
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *a, *b = begin_at(f, 0, 0);
	expect_code(pgs_snapshot_create(f->db, "s", 1, NULL, &err), PGS_OK, &err, "pgs_snapshot_create");
	expect_bounded(f, "a named snapshot");
	expect_code(pgs_snapshot_list(f->db, ignore_snapshot, &count, &err), PGS_OK, &err, "pgs_snapshot_list");
	assert_int_equal(count, 1);
	write_some(f->db, 77, 1, 1, 7);
	pgs_abort(b);
	b = begin_at(f, 0, 0);
	o.at_snapshot = "s";
	o.at_snapshot_size = 1;
	expect_code(pgs_begin(&a, f->db, &o, &err), PGS_OK, &err, "pgs_begin");
	expect_code(pgs_diff_txns(a, b, ignore_page, &count, &err), PGS_OK, &err, "pgs_diff_txns");
	assert_int_equal(count, 2);
	pgs_abort(a);
	pgs_abort(b);
	expect_bounded(f, "diff of a named snapshot");
	expect_code(pgs_snapshot_drop(f->db, "s", 1, &err), PGS_OK, &err, "pgs_snapshot_drop");
	expect_bounded(f, "dropping a named snapshot");
}

static void truncate_to(fixture *f, uint64_t pages)
{
	pgs_txn *t = begin_write(f->db);
	assert_int_equal(pgs_truncate(t, pages), PGS_OK);
	commit_ok(t);
	maintain(f, false, 0);
	expect_bounded(f, "a truncation");
}

static void drop_db(fixture *f)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_report r = PGS_MAINTAIN_REPORT_INIT;
	reopen(f);
	expect_code(pgs_db_drop(f->store, "db", 2, &err), PGS_OK, &err, "pgs_db_drop");
	expect_bounded(f, "dropping");
	expect_code(pgs_maintain_store(f->store, NULL, &r, &err), PGS_OK, &err, "pgs_maintain_store");
	expect_bounded(f, "sweeping");
}

static void test_scans__of_a_large_database(void **state)
{
	fixture *f = *state;
	make_large(f);
	look_at_all(f, PAGES);
	reopen_db(f);
	commit_large_read_set(f, 1);
	commit_large_read_set(f, 2);
	look_at_history(f);
	use_snapshots(f);
	reopen_db(f);
	maintain(f, false, 0);
	expect_bounded(f, "maintenance");
	reopen_db(f);
	maintain(f, true, PGS_RETENTION_NONE);
	expect_bounded(f, "all maintenance");
	maintain(f, true, PGS_RETENTION_NONE); /* at rest */
	expect_bounded(f, "maintenance at rest");
	truncate_to(f, 50000);
	drop_db(f);
}

static void test_scans__of_a_dropped_large_database(void **state)
{
	fixture *f = *state;
	make_large(f);
	drop_db(f);
}

static void test_scans__of_a_sparse_database(void **state)
{
	fixture *f = *state;
	write_some(f->db, 0, 10, (uint64_t)1 << 39, 1);
	look_at_all(f, 10);
	look_at_history(f);
	use_snapshots(f);
	maintain(f, true, PGS_RETENTION_NONE);
	truncate_to(f, (uint64_t)1 << 40);
	drop_db(f);
}

/* What everybody has: nothing of it costs many requests. */
static void test_scans__of_a_small_database_are_few(void **state)
{
	fixture *f = *state;
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	write_some(f->db, 0, 20, 1, 1);
	reopen_db(f);
	f->seen = (guard_seen){0};
	assert_int_equal(pgs_stat(f->db, &stat, NULL), PGS_OK);
	assert_in_range(f->seen.requests, 1, 5);
	reopen_db(f);
	f->seen = (guard_seen){0};
	pgs_abort(begin_write(f->db));
	assert_in_range(f->seen.requests, 1, 3);
	f->seen = (guard_seen){0};
	maintain(f, false, 0);
	assert_in_range(f->seen.requests, 1, 30);
}

int main(void)
{
#define SCANS_TEST(name) cmocka_unit_test_setup_teardown(test_scans__##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		SCANS_TEST(of_a_large_database),
		SCANS_TEST(of_a_dropped_large_database),
		SCANS_TEST(of_a_sparse_database),
		SCANS_TEST(of_a_small_database_are_few),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
