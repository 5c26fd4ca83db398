/* Each allocation fails in turn, in each operation: PGS_ENOMEM or success, nothing leaked, and the same operation
 * works afterwards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pagestore.h>

#include "support/failing_alloc.h"
#include "support/stores.h"
#include "support/testing.h"

#define MANY 40
#define BULK 300 /* contents for a sorted file */
#define BIG_ATTRS 17 /* more than a snapshot keeps in its record */

/* What operations are done on. */
typedef struct world {
	server server;
	pgs_store *store;
	pgs_db *db;
	uint64_t first_revision;
} world;

static uint64_t seed_one(uint64_t page_no)
{
	return (page_no + 1) * 256 + 1;
}

static uint64_t seed_two(uint64_t page_no)
{
	return (page_no + 1) * 256 + 2;
}

static uint64_t seed_three(uint64_t page_no)
{
	return (page_no + 5000) * 256 + 2;
}

static const pgs_kv_limits etcd = {128, 1572864, 0, 0};

/* Contents in the KV, in a file, in deltas, in a pack; attributes. */
static void build(world *w)
{
	static const char big[PGS_ATTR_SIZE_MAX];
	server_start(&w->server, &etcd);
	w->store = server_open(&w->server, NULL, NULL);
	w->db = create_db(w->store, "db", NULL);
	w->first_revision = write_pages(w->db, 0, MANY, seed_one);
	write_pages(w->db, 1000, BULK, seed_one);
	write_pages(w->db, 0, 10, seed_two);
	pgs_txn *txn = begin_write(w->db);
	assert_int_equal(pgs_attr_set(txn, "root", 4, "value", 5), PGS_OK);
	for (char name[] = "a"; name[0] < 'a' + BIG_ATTRS; name[0]++)
		assert_int_equal(pgs_attr_set(txn, name, 1, big, sizeof big), PGS_OK);
	commit_ok(txn);
}

static void forget_caches(world *w)
{
	pgs_db_close(w->db);
	w->db = open_db(w->store, "db");
}

static void tear_down(world *w)
{
	pgs_db_close(w->db);
	pgs_close(w->store);
	server_stop(&w->server);
}

/* --- operations: each leaves nothing open, and may be done again ---------------------------- */

static int do_open_store(world *w, pgs_error *err)
{
	pgs_kv *kv = NULL;
	pgs_blob *blob = NULL;
	pgs_store *store = NULL;
	int result = pgs_kv_memory_share(&kv, w->server.kv, err);
	if (result != PGS_OK)
		return result;
	result = pgs_blob_memory_share(&blob, w->server.blob, err);
	if (result != PGS_OK) {
		kv->vtable->close(kv);
		return result;
	}
	result = pgs_open_with(&store, kv, blob, NULL, err);
	assert_true((store != NULL) == (result == PGS_OK));
	pgs_close(store);
	return result;
}

static int do_create_and_drop(world *w, pgs_error *err)
{
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_db *db = NULL;
	options.cache_bytes = 1 << 18;
	int result = pgs_db_create(&db, w->store, "other", 5, &options, err);
	assert_true((db != NULL) == (result == PGS_OK));
	pgs_db_close(db);
	if (result != PGS_OK && result != PGS_EEXIST)
		return result;
	result = pgs_db_drop(w->store, "other", 5, err);
	return result == PGS_ENOTFOUND ? PGS_OK : result;
}

static int do_open_db(world *w, pgs_error *err)
{
	pgs_db *db = NULL;
	pgs_store *store = w->store;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	options.cache_bytes = 1 << 18;
	pgs_db_close(w->db);
	w->db = NULL;
	int result = pgs_db_open(&db, store, "db", 2, &options, err);
	pgs_db_close(db);
	failing_alloc_end();
	w->db = open_db(store, "db");
	return result;
}

static int count_name(void *ctx, const void *name, size_t size)
{
	(void)name;
	(void)size;
	++*(size_t *)ctx;
	return 0;
}

static int do_list(world *w, pgs_error *err)
{
	size_t count = 0;
	return pgs_db_list(w->store, count_name, &count, err);
}

static int finish(pgs_txn *txn, int result, pgs_error *err)
{
	if (result != PGS_OK)
		*err = *pgs_txn_error(txn);
	pgs_abort(txn);
	return result;
}

static int do_read(world *w, pgs_error *err)
{
	static const uint64_t pages[] = {3, 30, 1000, 1001, 1002, 1200, 9999};
	pgs_txn *txn;
	int result = pgs_begin(&txn, w->db, NULL, err);
	for (size_t i = 0; result == PGS_OK && i < sizeof pages / sizeof *pages; i++)
		result = read_seed(txn, pages[i],
				   pages[i] < 10 ? seed_two(pages[i]) : pages[i] == 9999 ? 0 : seed_one(pages[i]));
	return txn ? finish(txn, result, err) : result;
}

/* A failed read may be repeated in the same transaction. */
static int do_read_again(world *w, pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.write = true;
	int result = pgs_begin(&txn, w->db, &options, err);
	if (result == PGS_OK)
		result = read_seed(txn, 3, seed_two(3));
	if (txn && result != PGS_OK) {
		int first = result;
		*err = *pgs_txn_error(txn);
		failing_alloc_end();
		result = read_seed(txn, 3, seed_two(3));
		assert_int_equal(result, PGS_OK);
		assert_int_equal(write_seed(txn, 3, seed_two(3)), PGS_OK);
		commit_ok(txn);
		return first;
	}
	return txn ? finish(txn, result, err) : result;
}

static int do_read_many(world *w, pgs_error *err)
{
	static uint8_t bytes[MANY + 60][TEST_PAGE_SIZE];
	uint64_t pages[MANY + 60];
	void *dst[MANY + 60];
	for (size_t i = 0; i < MANY + 60; i++) {
		pages[i] = i < MANY ? i : 1000 + i;
		dst[i] = bytes[i];
	}
	pgs_txn *txn;
	int result = pgs_begin(&txn, w->db, NULL, err);
	if (result == PGS_OK)
		result = pgs_read_many(txn, pages, MANY + 60, dst);
	uint8_t expected[TEST_PAGE_SIZE];
	for (size_t i = 0; result == PGS_OK && i < MANY + 60; i++) {
		fill_page(expected, i < 10 ? seed_two(i) : seed_one(pages[i]));
		assert_memory_equal(bytes[i], expected, sizeof expected);
	}
	return txn ? finish(txn, result, err) : result;
}

static int do_pin(world *w, pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.write = true;
	int result = pgs_begin(&txn, w->db, &options, err);
	for (uint64_t page = 0; result == PGS_OK && page < 1300; page += 100) {
		const void *data, *again = NULL;
		if (page == 500)
			result = write_seed(txn, page, 77 * 256);
		if (result == PGS_OK)
			result = pgs_pin(txn, page, &data);
		if (result == PGS_OK)
			result = pgs_pin(txn, page, &again);
		if (result == PGS_OK && page % 200)
			pgs_unpin(txn, data);
	}
	return txn ? finish(txn, result, err) : result;
}

static int do_past(world *w, pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.at_revision = w->first_revision;
	int result = pgs_begin(&txn, w->db, &options, err);
	if (result == PGS_OK)
		result = read_seed(txn, 3, seed_one(3));
	if (txn)
		result = finish(txn, result, err);
	if (result != PGS_OK)
		return result;
	options.at_revision = 0;
	options.at_time_ms = INT64_C(4000000000000);
	result = pgs_begin(&txn, w->db, &options, err);
	return txn ? finish(txn, result, err) : result;
}

/* Change pages, and change them back: so that it is the same each time. */
static int commit_pages(world *w, uint64_t first, uint64_t count, uint64_t (*seed)(uint64_t), uint64_t buffer_pages,
			pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	int result;
	(void)buffer_pages;
	options.write = true;
	result = pgs_begin(&txn, w->db, &options, err);
	for (uint64_t i = 0; result == PGS_OK && i < count; i++)
		result = write_seed(txn, first + i, seed(first + i));
	if (!txn)
		return result;
	return result == PGS_OK ? pgs_commit(txn, NULL, NULL, err) : finish(txn, result, err);
}

static int do_commit_small(world *w, pgs_error *err)
{
	int result = commit_pages(w, 0, 5, seed_one, 0, err);
	return result == PGS_OK ? commit_pages(w, 0, 5, seed_two, 0, err) : result;
}

static int do_commit_contents(world *w, pgs_error *err)
{
	int result = commit_pages(w, 2000, 20, seed_one, 0, err);
	return result == PGS_OK ? commit_pages(w, 2000, 20, seed_three, 0, err) : result;
}

static int do_commit_pack(world *w, pgs_error *err)
{
	int result = commit_pages(w, 1000, 150, seed_two, 0, err);
	return result == PGS_OK ? commit_pages(w, 1000, 150, seed_one, 0, err) : result;
}

static int do_commit_bulk(world *w, pgs_error *err)
{
	int result = commit_pages(w, 3000, BULK, seed_one, 0, err);
	return result == PGS_OK ? commit_pages(w, 3000, BULK, seed_three, 0, err) : result;
}

static int do_attrs(world *w, pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	char value[16];
	size_t size;
	options.write = true;
	int result = pgs_begin(&txn, w->db, &options, err);
	if (result == PGS_OK)
		result = pgs_attr_get(txn, "root", 4, value, sizeof value, &size);
	if (result == PGS_OK)
		assert_memory_equal(value, "value", 5);
	if (result == PGS_OK)
		result = pgs_attr_set(txn, "root", 4, "value", 5);
	if (result == PGS_OK)
		result = pgs_attr_set(txn, "gone", 4, NULL, 0);
	if (!txn)
		return result;
	return result == PGS_OK ? pgs_commit(txn, NULL, NULL, err) : finish(txn, result, err);
}

static int do_truncate(world *w, pgs_error *err)
{
	pgs_txn *txn;
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	int result = commit_pages(w, 5000, 3, seed_one, 0, err);
	if (result != PGS_OK)
		return result;
	options.write = true;
	result = pgs_begin(&txn, w->db, &options, err);
	if (result == PGS_OK)
		result = pgs_truncate(txn, 4000);
	if (!txn)
		return result;
	return result == PGS_OK ? pgs_commit(txn, NULL, NULL, err) : finish(txn, result, err);
}

static int see_entry(void *ctx, const pgs_log_entry *entry)
{
	(void)ctx;
	(void)entry;
	return 0;
}

static int see_page(void *ctx, uint64_t page_no)
{
	(void)ctx;
	(void)page_no;
	return 0;
}

static int do_log(world *w, pgs_error *err)
{
	return pgs_log(w->db, NULL, see_entry, NULL, err);
}

static int do_diff(world *w, pgs_error *err)
{
	pgs_txn *txn;
	int result = pgs_begin(&txn, w->db, NULL, err);
	if (result != PGS_OK)
		return result;
	uint64_t now = pgs_txn_revision(txn);
	pgs_abort(txn);
	return pgs_diff(w->db, w->first_revision, now, see_page, NULL, err);
}

static int see_snapshot(void *ctx, const pgs_snapshot_info *info)
{
	(void)ctx;
	assert_true(info->index_bytes > 0);
	return 0;
}

static int read_snapshot(world *w, pgs_error *err)
{
	uint8_t page[TEST_PAGE_SIZE];
	pgs_txn_options o = PGS_TXN_OPTIONS_INIT;
	pgs_txn *txn, *now = NULL;
	size_t size;
	o.at_snapshot = "x";
	o.at_snapshot_size = 1;
	int result = pgs_begin(&txn, w->db, &o, err);
	if (result != PGS_OK)
		return result;
	result = pgs_read(txn, 1001, page);
	if (result == PGS_OK)
		result = pgs_attr_get(txn, "b", 1, page, 10, &size);
	if (result != PGS_OK)
		return finish(txn, result, err);
	result = pgs_begin(&now, w->db, NULL, err);
	if (result == PGS_OK)
		result = pgs_diff_txns(txn, now, see_page, NULL, err);
	pgs_abort(now);
	pgs_abort(txn);
	return result;
}

static int do_snapshot(world *w, pgs_error *err)
{
	pgs_snapshot_options o = PGS_SNAPSHOT_OPTIONS_INIT;
	o.at_revision = w->first_revision + 1;
	int result = pgs_snapshot_create(w->db, "x", 1, NULL, err);
	if (result == PGS_OK || result == PGS_EEXIST)
		result = pgs_snapshot_create(w->db, "y", 1, &o, err);
	if (result == PGS_OK || result == PGS_EEXIST)
		result = pgs_snapshot_list(w->db, see_snapshot, NULL, err);
	if (result == PGS_OK)
		result = read_snapshot(w, err);
	if (result == PGS_OK)
		result = pgs_snapshot_drop(w->db, "x", 1, err);
	if (result == PGS_OK || result == PGS_ENOTFOUND)
		result = pgs_snapshot_drop(w->db, "y", 1, err);
	return result;
}

static int do_stat(world *w, pgs_error *err)
{
	pgs_db_stat stat = PGS_DB_STAT_INIT;
	return pgs_stat(w->db, &stat, err);
}

static int do_verify(world *w, pgs_error *err)
{
	pgs_verify_report report = PGS_VERIFY_REPORT_INIT;
	int result = pgs_verify(w->db, NULL, &report, err);
	assert_int_equal(report.findings, 0);
	return result;
}

static int do_status(world *w, pgs_error *err)
{
	pgs_commit_token token = {.uuid = {1}, .base_revision = w->first_revision};
	int status;
	return pgs_commit_status(w->db, &token, &status, NULL, err);
}

static int do_prefetch(world *w, pgs_error *err)
{
	static const uint64_t pages[] = {1, 20, 1100, 1101};
	pgs_txn *txn;
	int result = pgs_begin(&txn, w->db, NULL, err);
	if (result == PGS_OK)
		result = pgs_prefetch(txn, pages, 4);
	return txn ? finish(txn, result, err) : result;
}

typedef struct operation {
	const char *name;
	int (*run)(world *w, pgs_error *err);
} operation;

static const operation operations[] = {
	{"open store", do_open_store},
	{"create and drop", do_create_and_drop},
	{"open database", do_open_db},
	{"list", do_list},
	{"read", do_read},
	{"read again", do_read_again},
	{"read many", do_read_many},
	{"pin", do_pin},
	{"prefetch", do_prefetch},
	{"past", do_past},
	{"small commit", do_commit_small},
	{"contents", do_commit_contents},
	{"pack", do_commit_pack},
	{"bulk", do_commit_bulk},
	{"attributes", do_attrs},
	{"truncate", do_truncate},
	{"log", do_log},
	{"diff", do_diff},
	{"snapshot", do_snapshot},
	{"stat", do_stat},
	{"verify", do_verify},
	{"status", do_status},
};

static char where[100];

static int say_where(void **state)
{
	(void)state;
	if (where[0])
		fprintf(stderr, "# it was: %s\n", where);
	failing_alloc_end();
	return 0;
}

/* The nth allocation of the operation fails. Returns false when it made fewer. */
static bool fail_one(world *w, const operation *op, size_t nth)
{
	pgs_error err = PGS_ERROR_INIT;
	snprintf(where, sizeof where, "%s, allocation %u", op->name, (unsigned)nth);
	failing_alloc_begin(nth);
	int result = op->run(w, &err);
	bool failed = failing_alloc_end();
	if (result != PGS_OK) {
		expect_code(result, PGS_ENOMEM, &err, op->name);
		assert_int_equal(err.code, PGS_ENOMEM);
		assert_true(failed || result == PGS_OK);
	}
	expect_code(op->run(w, &err), PGS_OK, &err, "the same operation again");
	return failed;
}

static void sweep_operation(const operation *op)
{
	world w;
	bool failed = true;
	bool thorough = getenv("PGS_TEST_LONG") != NULL;
	size_t each = thorough ? 300 : 60, sparse = thorough ? 60 : 30; /* every one, then ever fewer */
	failing_alloc_install();
	build(&w);
	for (size_t nth = 1; failed; nth += nth < each ? 1 : 1 + nth / sparse) {
		forget_caches(&w);
		failed = fail_one(&w, op, nth);
		if (!failed && op->run == do_open_db)
			break;
	}
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_verify(w.db, NULL, NULL, &err), PGS_OK, &err, "verify");
	tear_down(&w);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

static void test_alloc__every_failure_is_survived(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
		if (!getenv("PGS_TEST_ONLY") || strcmp(getenv("PGS_TEST_ONLY"), operations[i].name) == 0)
			sweep_operation(&operations[i]);
	where[0] = '\0';
}

/* --- a transaction that spills, and goes on after a failure ---------------------------------------- */

static bool spill_with_failure(world *w, pgs_db *db, size_t nth, uint64_t (*seed)(uint64_t))
{
	uint8_t page[TEST_PAGE_SIZE];
	pgs_txn *txn = begin_write(db);
	(void)w;
	snprintf(where, sizeof where, "spilling, allocation %u", (unsigned)nth);
	failing_alloc_begin(nth);
	for (uint64_t i = 0; i < MANY; i++) {
		fill_page(page, seed(i));
		int result = pgs_write(txn, i, page);
		if (result != PGS_OK) {
			assert_int_equal(result, PGS_ENOMEM);
			result = pgs_write(txn, i, page); /* once more is enough */
		}
		assert_int_equal(result, PGS_OK);
	}
	bool failed = failing_alloc_end();
	for (uint64_t i = 0; i < MANY; i++)
		expect_code(read_seed(txn, i, seed(i)), PGS_OK, pgs_txn_error(txn), "own write");
	commit_ok(txn);
	txn = begin_write(db);
	for (uint64_t i = 0; i < MANY; i++)
		expect_code(read_seed(txn, i, seed(i)), PGS_OK, pgs_txn_error(txn), "committed");
	pgs_abort(txn);
	return failed;
}

static void test_alloc__a_transaction_goes_on_after_a_failed_spill(void **state)
{
	(void)state;
	failing_alloc_install();
	world w;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	bool failed = true;
	server_start(&w.server, NULL);
	w.store = server_open(&w.server, NULL, NULL);
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.write_buffer_bytes = 6 * TEST_PAGE_SIZE;
	options.cache_bytes = 1 << 18;
	w.db = create_db(w.store, "db", &options);
	write_pages(w.db, 0, MANY, seed_one);
	for (size_t nth = 1; failed; nth++)
		failed = spill_with_failure(&w, w.db, nth, nth % 3 == 0 ? seed_one : nth % 3 == 1 ? seed_two : seed_three);
	where[0] = '\0';
	tear_down(&w);
	assert_int_equal(failing_alloc_live(), 0);
	failing_alloc_uninstall();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_alloc__every_failure_is_survived, say_where),
		cmocka_unit_test_teardown(test_alloc__a_transaction_goes_on_after_a_failed_spill, say_where),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
