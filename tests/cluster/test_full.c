/* etcd out of quota (NOSPACE), filled by others: reading goes on, commits say what to do and leave nothing behind,
 * maintenance makes room, and when the alarm is disarmed the store goes on, on the same handles. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/testing.h"
#include "util/clock.h"

#define QUOTA (16u << 20)
#define PAGES 64

static etcd_server *etcd;
static s3_server *s3;

static void post(const char *path, const char *body)
{
	char answer[2048];
	int status = etcd_post(etcd, 0, path, body, answer, sizeof answer);
	if (status != 200)
		fail_msg("%s: %d %s", path, status, answer);
}

/* Others' keys, until etcd says that it is full. */
static void fill_up(void)
{
	enum { SIZE = 5000 };
	char body[SIZE + 200], answer[2048];
	for (unsigned i = 0; i < 20000; i++) {
		int used = snprintf(body, sizeof body, "{\"key\":\"b3RoZXJzLyVk\",\"value\":\"");
		memset(body + used, 'A', SIZE);
		snprintf(body + used + SIZE, sizeof body - (size_t)used - SIZE, "\"}");
		int status = etcd_post(etcd, 0, "/v3/kv/put", body, answer, sizeof answer);
		if (status != 200 && strstr(answer, "space exceeded"))
			return;
		assert_int_equal(status, 200);
	}
	fail_msg("etcd has taken more than its quota");
}

/* What the message tells the operator to do; history is compacted to its end. */
static void make_room(void)
{
	char answer[2048], body[200];
	unsigned long long revision = 0;
	assert_int_equal(etcd_post(etcd, 0, "/v3/kv/range", "{\"key\":\"AA==\"}", answer, sizeof answer), 200);
	const char *at = strstr(answer, "\"revision\":\"");
	assert_non_null(at);
	assert_int_equal(sscanf(at + 12, "%llu", &revision), 1);
	snprintf(body, sizeof body, "{\"revision\":\"%llu\",\"physical\":true}", revision);
	post("/v3/kv/compaction", body);
	post("/v3/maintenance/defragment", "{}");
	assert_int_equal(etcd_post(etcd, 0, "/v3/maintenance/alarm", "{\"action\":\"GET\"}", answer, sizeof answer), 200);
	at = strstr(answer, "\"memberID\":\"");
	assert_non_null(at);
	snprintf(body, sizeof body, "{\"action\":\"DEACTIVATE\",\"alarm\":\"NOSPACE\",\"memberID\":\"%.*s\"}",
		(int)strcspn(at + 12, "\""), at + 12);
	post("/v3/maintenance/alarm", body);
}

static uint64_t seed_of_page(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

static int commit_page(pgs_db *db, uint64_t page_no, uint64_t seed, pgs_error *err)
{
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, page_no, seed), PGS_OK);
	return pgs_commit(txn, NULL, NULL, err);
}

static void expect_all_pages(pgs_db *db)
{
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_begin(&txn, db, NULL, &err), PGS_OK, &err, "pgs_begin");
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(read_seed(txn, i, seed_of_page(i)), PGS_OK);
	pgs_abort(txn);
}

static int count_entry(void *ctx, const pgs_log_entry *entry)
{
	(void)entry;
	++*(unsigned *)ctx;
	return 0;
}

static unsigned commits_in_log(pgs_db *db)
{
	unsigned count = 0;
	assert_int_equal(pgs_log(db, NULL, count_entry, &count, NULL), PGS_OK);
	return count;
}

/* Refused by etcd; or, if this has noticed by now how much is in use, by the soft quota. */
static void expect_full(int result, const pgs_error *err, const char *what)
{
	expect_code(result, PGS_ENOSPC, err, what);
	if (strstr(err->message, "soft quota"))
		return;
	expect_words(err, etcd_endpoint(etcd, 0), "cannot change keys", "make room", "disarm the alarm", NULL);
}

/* Small, and large: with a sorted file that is in S3 before etcd refuses it, and is removed. */
static void expect_commits_refused(pgs_db *db)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_stat before = PGS_DB_STAT_INIT, after = PGS_DB_STAT_INIT;
	unsigned commits = commits_in_log(db);
	assert_int_equal(pgs_stat(db, &before, NULL), PGS_OK);
	for (unsigned i = 0; i < 3; i++)
		expect_full(commit_page(db, i, 77 << 8, &err), &err, "a small commit");
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < 512; i++)
		assert_int_equal(write_seed(txn, 1000 + i, seed_of_page(i)), PGS_OK);
	expect_full(pgs_commit(txn, NULL, NULL, &err), &err, "a large commit");
	expect_full(pgs_snapshot_create(db, "s", 1, NULL, &err), &err, "pgs_snapshot_create");
	assert_int_equal(pgs_stat(db, &after, NULL), PGS_OK);
	assert_int_equal(commits_in_log(db), commits);
	assert_int_equal(after.revision, before.revision);
	assert_int_equal(after.page_count, before.page_count);
	assert_int_equal(after.file_count, before.file_count);
	assert_int_equal(after.blob_count, before.blob_count);
}

/* What happened is found; what did not cannot be made impossible yet, and is not said to be. */
static void expect_status(pgs_db *db, const pgs_commit_token *token, int result, int status)
{
	pgs_error err = PGS_ERROR_INIT;
	int told = 0;
	expect_code(pgs_commit_status(db, token, &told, NULL, &err), result, &err, "pgs_commit_status");
	if (result == PGS_OK)
		assert_int_equal(told, status);
	else
		expect_words(&err, etcd_endpoint(etcd, 0), "make room", NULL);
}

static pgs_commit_token commit_with_token(pgs_db *db, uint64_t page_no, uint64_t seed, int expected)
{
	pgs_commit_token token;
	pgs_commit_options options = PGS_COMMIT_OPTIONS_INIT;
	pgs_error err = PGS_ERROR_INIT;
	options.token = &token;
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, page_no, seed), PGS_OK);
	expect_code(pgs_commit(txn, &options, NULL, &err), expected, &err, "a commit");
	return token;
}

static int set_up(void **state)
{
	(void)state;
	etcd = etcd_start(&(etcd_setup){.quota_bytes = QUOTA});
	s3 = s3_start(false);
	return etcd && s3 ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	etcd_stop(etcd);
	s3_stop(s3);
	return 0;
}

static pgs_store *open_it(const char *root, pgs_db **db)
{
	char url[SERVER_URL_SIZE];
	server_store_url(url, etcd_endpoints(etcd), root, s3_endpoint(s3), "&quota=16M");
	pgs_store *store = server_store_open(url, 10000);
	*db = create_db(store, "db", NULL);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(commit_page(*db, i, seed_of_page(i), NULL), PGS_OK);
	return store;
}

static void test_full_etcd__is_read_and_goes_on_when_there_is_room(void **state)
{
	pgs_db *db;
	pgs_store *store = open_it("full", &db);
	pgs_error err = PGS_ERROR_INIT;
	(void)state;
	pgs_commit_token happened = commit_with_token(db, PAGES, seed_of_page(PAGES), PGS_OK);
	fill_up();
	/* The first refusal may be of one that was applied: etcd says the same of both. */
	int first = commit_page(db, 0, seed_of_page(0), &err);
	if (first != PGS_OK) /* nothing to write: it is what the page holds */
		expect_full(first, &err, "the first commit");
	pgs_txn *txn = begin_write(db);
	assert_int_equal(write_seed(txn, 0, 78 << 8), PGS_OK);
	expect_full(pgs_commit(txn, NULL, NULL, &err), &err, "the first commit");
	expect_all_pages(db);
	expect_commits_refused(db);
	expect_all_pages(db);
	pgs_commit_token refused = commit_with_token(db, 0, 76 << 8, PGS_ENOSPC);
	expect_status(db, &happened, PGS_OK, PGS_COMMIT_HAPPENED);
	expect_status(db, &refused, PGS_ENOSPC, 0);
	make_room();
	uint64_t patience = pgs__now_ms() + 10000;
	int result;
	do /* the backend believes for a second that etcd is full */
		result = commit_page(db, 0, 79 << 8, &err);
	while (result == PGS_ENOSPC && pgs__now_ms() < patience);
	expect_code(result, PGS_OK, &err, "a commit when there is room");
	expect_status(db, &happened, PGS_OK, PGS_COMMIT_HAPPENED);
	expect_status(db, &refused, PGS_OK, PGS_COMMIT_NOT_HAPPENED);
	assert_int_equal(commit_page(db, 0, seed_of_page(0), NULL), PGS_OK);
	expect_all_pages(db);
	pgs_db_close(db);
	pgs_close(store);
}

/* What needs no put passes: the KV is compacted to the floor, where it is the store's own. */
static void test_full_etcd__is_compacted_by_maintenance(void **state)
{
	pgs_db *db;
	pgs_store *store = open_it("compacted", &db), *owner;
	pgs_error err = PGS_ERROR_INIT;
	pgs_maintain_options options = PGS_MAINTAIN_OPTIONS_INIT;
	pgs_maintain_report report = PGS_MAINTAIN_REPORT_INIT;
	pgs_store_options owning = PGS_STORE_OPTIONS_INIT;
	char url[SERVER_URL_SIZE];
	(void)state;
	options.retention_ms = PGS_RETENTION_NONE;
	expect_code(pgs_maintain(db, &options, &report, &err), PGS_OK, &err, "pgs_maintain");
	assert_true(report.floor_revision > 0);
	assert_int_equal(report.compacted_revision, 0);
	fill_up();
	server_store_url(url, etcd_endpoints(etcd), "compacted", s3_endpoint(s3), "&quota=16M");
	owning.kv_history = PGS_KV_HISTORY_OWNED;
	expect_code(pgs_open(&owner, url, &owning, &err), PGS_OK, &err, "pgs_open of a full etcd");
	pgs_db *owned = open_db(owner, "db");
	options.all = true;
	int result = pgs_maintain(owned, &options, &report, &err);
	expect_full(result, &err, "pgs_maintain of a full etcd"); /* no floor can be published, no claim be taken */
	assert_int_equal(report.compacted_revision, report.floor_revision);
	make_room();
	pgs__sleep_ms(1100, 0);
	expect_code(pgs_maintain(owned, &options, &report, &err), PGS_OK, &err, "pgs_maintain when there is room");
	expect_all_pages(db);
	expect_all_pages(owned);
	pgs_db_close(owned);
	pgs_close(owner);
	pgs_db_close(db);
	pgs_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full_etcd__is_read_and_goes_on_when_there_is_room, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_full_etcd__is_compacted_by_maintenance, set_up, tear_down),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
