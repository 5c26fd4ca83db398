/* Somebody else on the same etcd: who compacts it above a store's floor while there are readers, and who writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define PAGES 400

static etcd_server *etcd;
static s3_server *s3;

typedef struct fixture {
	pgs_store *store;
	pgs_db *db;
} fixture;

/* The one of the database, with a cache that has room for a part of it. */
static int set_up(void **state)
{
	static unsigned number;
	fixture *f = calloc(1, sizeof *f);
	char root[16], url[SERVER_URL_SIZE];
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	snprintf(root, sizeof root, "foreign-%u", number++);
	server_store_url(url, etcd_endpoints(etcd), root, s3_endpoint(s3), "");
	f->store = server_store_open(url, 10000);
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.cache_bytes = 64 * TEST_PAGE_SIZE;
	expect_code(pgs_db_create(&f->db, f->store, "db", 2, &options, &err), PGS_OK, &err, "pgs_db_create");
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	fixture *f = *state;
	pgs_db_close(f->db);
	pgs_close(f->store);
	free(f);
	return 0;
}

static void post(const char *path, const char *body, char *answer, size_t size)
{
	int status = etcd_post(etcd, 0, path, body, answer, size);
	if (status != 200)
		fail_msg("%s: %d %s", path, status, answer);
}

/* Compact to the latest revision, and say which. */
static uint64_t compact_all(void)
{
	char answer[2048], body[100];
	unsigned long long revision = 0;
	post("/v3/kv/range", "{\"key\":\"AA==\"}", answer, sizeof answer);
	const char *at = strstr(answer, "\"revision\":\"");
	assert_non_null(at);
	assert_int_equal(sscanf(at + 12, "%llu", &revision), 1);
	snprintf(body, sizeof body, "{\"revision\":\"%llu\",\"physical\":true}", revision);
	post("/v3/kv/compaction", body, answer, sizeof answer);
	return revision;
}

static uint64_t old_seed(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

static uint64_t new_seed(uint64_t page_no)
{
	return (page_no + 5001) << 8;
}

static void expect_new_pages(pgs_db *db)
{
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_begin(&txn, db, NULL, &err), PGS_OK, &err, "pgs_begin");
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(read_seed(txn, i, new_seed(i)), PGS_OK);
	pgs_abort(txn);
}

/* --- compaction ---------------------------------------------------------------------------------- */

/* A reader, a pin and a revision are below what somebody compacts to. */
static void test_compaction__under_a_reader(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	pgs_txn *reader, *txn;
	pgs_revision_pin *pin;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	uint64_t old = write_pages(f->db, 0, PAGES, old_seed);
	expect_code(pgs_pin_revision(&pin, f->db, old, 0, NULL, &err), PGS_OK, &err, "pgs_pin_revision");
	expect_code(pgs_begin(&reader, f->db, NULL, &err), PGS_OK, &err, "pgs_begin");
	assert_int_equal(read_seed(reader, 0, old_seed(0)), PGS_OK);
	pgs_txn *writer = begin_write(f->db);
	assert_int_equal(read_seed(writer, 1, old_seed(1)), PGS_OK);
	write_pages(f->db, 0, PAGES, new_seed);
	uint64_t floor = compact_all();
	int result = PGS_OK;
	for (uint64_t i = 1; i < PAGES && result == PGS_OK; i++)
		result = read_seed(reader, i, old_seed(i));
	expect_code(result, PGS_EOLDREV, pgs_txn_error(reader), "a read below the compaction");
	char oldest[32];
	snprintf(oldest, sizeof oldest, "%llu", (unsigned long long)floor);
	expect_words(pgs_txn_error(reader), oldest, NULL);
	pgs_abort(reader);
	assert_int_equal(write_seed(writer, 1, 99 << 8), PGS_OK);
	result = pgs_commit(writer, NULL, NULL, &err);
	assert_true(result == PGS_ECONFLICT || result == PGS_EOLDREV);
	pgs_txn_options options = PGS_TXN_OPTIONS_INIT;
	options.at_revision = old;
	expect_code(pgs_begin(&txn, f->db, &options, &err), PGS_EOLDREV, &err, "a begin below the compaction");
	expect_new_pages(f->db);
	/* The floor is raised to what is left, and the lost pin is told. */
	expect_code(pgs_maintain(f->db, NULL, &report, &err), PGS_OK, &err, "pgs_maintain");
	assert_true(report.floor_revision >= floor);
	assert_int_equal(report.lost_pins, 1);
	assert_int_equal(pgs_pin_renew(pin, &err), PGS_EOLDREV);
	pgs_unpin_revision(pin);
	expect_new_pages(f->db);
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify");
	txn = begin_write(f->db);
	assert_int_equal(write_seed(txn, 0, new_seed(0)), PGS_OK);
	commit_ok(txn);
}

/* A transaction with more reads than compares fit is checked against the changelog, which it watches from its snapshot
 * on: that is gone. */
static void test_compaction__under_a_large_read_set(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	write_pages(f->db, 0, PAGES, new_seed);
	pgs_txn *txn = begin_write(f->db);
	for (uint64_t i = 0; i < PAGES; i += 2) /* no runs */
		assert_int_equal(read_seed(txn, i, new_seed(i)), PGS_OK);
	assert_int_equal(write_seed(txn, 1000, old_seed(1000)), PGS_OK);
	for (uint64_t i = 0; i < 3; i++) {
		pgs_txn *other = begin_write(f->db);
		assert_int_equal(write_seed(other, 2000 + i, old_seed(i)), PGS_OK);
		commit_ok(other);
	}
	compact_all();
	timed t = timed_begin("pgs_commit", 10000);
	int result = pgs_commit(txn, NULL, NULL, &err);
	timed_end(&t);
	expect_code(result, PGS_EOLDREV, &err, "a commit whose snapshot is gone");
	expect_new_pages(f->db);
	pgs_txn *again = begin_write(f->db);
	for (uint64_t i = 0; i < PAGES; i += 2)
		assert_int_equal(read_seed(again, i, new_seed(i)), PGS_OK);
	assert_int_equal(write_seed(again, 1000, old_seed(1000)), PGS_OK);
	commit_ok(again);
}

/* While it is all read: what goes on at a newer revision does. */
static void test_compaction__under_a_verification(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	for (int i = 0; i < 5; i++) {
		write_pages(f->db, 0, PAGES, i % 2 ? new_seed : old_seed);
		compact_all();
	}
	write_pages(f->db, 0, PAGES, new_seed);
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify");
	expect_code(pgs_maintain(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_maintain");
	compact_all();
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify");
	expect_new_pages(f->db);
}

/* --- others' writes --------------------------------------------------------------------------------- */

/* Revisions rise, and nothing of it is in the ranges that are watched. */
static void test_verify__does_not_wait_for_others_writes_to_be_told(void **state)
{
	fixture *f = *state;
	pgs_error err = PGS_ERROR_INIT;
	char answer[500];
	write_pages(f->db, 0, PAGES, old_seed);
	write_pages(f->db, 0, PAGES, new_seed); /* a pack */
	for (int i = 0; i < 3; i++)
		post("/v3/kv/put", "{\"key\":\"b3RoZXJz\",\"value\":\"AA==\"}", answer, sizeof answer);
	uint64_t started = pgs__now_ms();
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify");
	assert_true(pgs__now_ms() - started < 10000);
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	options.all = true;
	/* Folds it: behind the last commit. */
	expect_code(pgs_maintain(f->db, &options, NULL, &err), PGS_OK, &err, "pgs_maintain");
	expect_code(pgs_verify(f->db, NULL, NULL, &err), PGS_OK, &err, "pgs_verify");
	expect_new_pages(f->db);
}

static int group_set_up(void **state)
{
	(void)state;
	etcd = etcd_start(&(etcd_setup){.members = 1});
	s3 = s3_start(false);
	return etcd && s3 ? 0 : -1;
}

static int group_tear_down(void **state)
{
	(void)state;
	etcd_stop(etcd);
	s3_stop(s3);
	return 0;
}

#define FOREIGN_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FOREIGN_TEST(test_compaction__under_a_reader),
		FOREIGN_TEST(test_compaction__under_a_large_read_set),
		FOREIGN_TEST(test_compaction__under_a_verification),
		FOREIGN_TEST(test_verify__does_not_wait_for_others_writes_to_be_told),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
