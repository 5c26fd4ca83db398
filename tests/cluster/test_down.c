/* Servers that are down, or somebody else's, when a store is opened, first used, or closed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/etcd_server.h"
#include "support/s3_server.h"
#include "support/server_store.h"
#include "support/stores.h"
#include "support/tcp_proxy.h"
#include "support/testing.h"
#include "util/clock.h"

#define TIMEOUT_MS 2000

static etcd_server *etcd;
static s3_server *s3;

static int try_to_open(pgs_store **out, const char *kv, const char *blob, pgs_error *err)
{
	char url[SERVER_URL_SIZE];
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	options.timeout_ms = TIMEOUT_MS;
	server_store_url(url, kv, "down", blob, "");
	timed t = timed_begin("pgs_open", 2 * TIMEOUT_MS); /* etcd's and S3's */
	int result = pgs_open(out, url, &options, err);
	timed_end(&t);
	return result;
}

/* The store with one database, of one page that is full and one that is in a sorted file. */
static pgs_store *open_it(pgs_db **db)
{
	char url[SERVER_URL_SIZE];
	pgs_error err = PGS_ERROR_INIT;
	pgs_db_options options = PGS_DB_OPTIONS_INIT;
	server_store_url(url, etcd_endpoints(etcd), "down", s3_endpoint(s3), "");
	pgs_store *store = server_store_open(url, 5000);
	options.page_size_bytes = TEST_PAGE_SIZE;
	options.cache_bytes = 64 * TEST_PAGE_SIZE;
	int result = pgs_db_create(db, store, "db", 2, &options, &err);
	if (result == PGS_EEXIST)
		result = pgs_db_open(db, store, "db", 2, &options, &err);
	expect_code(result, PGS_OK, &err, "the database");
	return store;
}

static uint64_t seed_of(uint64_t page_no)
{
	return (page_no + 1) << 8;
}

static void expect_pages(pgs_db *db, uint64_t count)
{
	pgs_txn *txn;
	pgs_error err = PGS_ERROR_INIT;
	expect_code(pgs_begin(&txn, db, NULL, &err), PGS_OK, &err, "pgs_begin");
	for (uint64_t i = 0; i < count; i++)
		assert_int_equal(read_seed(txn, i, seed_of(i)), PGS_OK);
	pgs_abort(txn);
}

/* --- opening ----------------------------------------------------------------------------- */

static void expect_no_open(const char *kv, const char *blob, int expected, const char *endpoint, const char *says)
{
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	expect_code(try_to_open(&store, kv, blob, &err), expected, &err, says);
	assert_null(store);
	expect_words(&err, "opening an etcd: store", endpoint, "cannot ", says, NULL);
}

static void test_open__where_nobody_listens(void **state)
{
	char nowhere[32], nowhere_s3[48];
	(void)state;
	snprintf(nowhere, sizeof nowhere, "127.0.0.1:%u", etcd_free_port());
	snprintf(nowhere_s3, sizeof nowhere_s3, "http://%s", nowhere);
	expect_no_open(nowhere, s3_endpoint(s3), PGS_EIO, nowhere, "onnect");
	expect_no_open(etcd_endpoints(etcd), nowhere_s3, PGS_EIO, nowhere, "onnect");
}

static void test_open__where_somebody_else_listens(void **state)
{
	char etcd_as_s3[48];
	(void)state;
	snprintf(etcd_as_s3, sizeof etcd_as_s3, "http://%s", etcd_endpoint(etcd, 0));
	const char *s3_as_etcd = s3_endpoint(s3) + strlen("http://");
	expect_no_open(s3_as_etcd, s3_endpoint(s3), PGS_EAUTH, s3_as_etcd, "etcd's gateway");
	expect_no_open(etcd_endpoints(etcd), etcd_as_s3, PGS_EIO, etcd_as_s3, "404");
}

static void test_open__where_nobody_answers(void **state)
{
	tcp_proxy *proxy = tcp_proxy_start(etcd_port(etcd, 0)), *s3_proxy = tcp_proxy_start(s3_port(s3));
	char kv[32], blob[48];
	(void)state;
	tcp_proxy_set(proxy, PROXY_SWALLOW, 0);
	tcp_proxy_set(s3_proxy, PROXY_SWALLOW, 0);
	snprintf(kv, sizeof kv, "127.0.0.1:%u", tcp_proxy_port(proxy));
	snprintf(blob, sizeof blob, "http://127.0.0.1:%u", tcp_proxy_port(s3_proxy));
	expect_no_open(kv, s3_endpoint(s3), PGS_ETIMEOUT, kv, "deadline");
	expect_no_open(etcd_endpoints(etcd), blob, PGS_ETIMEOUT, blob, "deadline");
	tcp_proxy_stop(proxy);
	tcp_proxy_stop(s3_proxy);
}

static void test_open__of_a_bucket_that_is_not_there(void **state)
{
	char url[SERVER_URL_SIZE];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store;
	(void)state;
	server_store_url(url, etcd_endpoints(etcd), "down", s3_endpoint(s3), ""); /* for its credentials */
	snprintf(url, sizeof url, "etcd://%s/down?blob=s3://no-such-bucket/x?endpoint=%s", etcd_endpoints(etcd),
		s3_endpoint(s3));
	expect_code(pgs_open(&store, url, NULL, &err), PGS_EIO, &err, "pgs_open");
	expect_words(&err, "no-such-bucket", s3_endpoint(s3), "NoSuchBucket", NULL);
	setenv("AWS_SECRET_ACCESS_KEY", "very-secret-indeed", 1);
	snprintf(url, sizeof url, "etcd://%s/down?blob=s3://%s/x?endpoint=%s", etcd_endpoints(etcd), S3_TEST_BUCKET,
		s3_endpoint(s3));
	expect_code(pgs_open(&store, url, NULL, &err), PGS_EAUTH, &err, "pgs_open");
	expect_words(&err, S3_TEST_BUCKET, s3_endpoint(s3), "SignatureDoesNotMatch", NULL);
	assert_null(strstr(err.message, "very-secret-indeed"));
}

static void test_open__of_urls_that_are_none(void **state)
{
	static const char *const urls[] = {"etcd://", "etcd://host:99999/root?blob=dir:/tmp", "etcd://host/root",
		"etcd://%s/root?blob=s3://", "etcd://%s/root?blob=ftp://x", "etcd://host/root?blob=dir:/tmp&bolb=x",
		"s3://bucket"};
	(void)state;
	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		char url[200];
		const char *here = strstr(urls[i], "%s");
		int before = here ? (int)(here - urls[i]) : (int)strlen(urls[i]);
		snprintf(url, sizeof url, "%.*s%s%s", before, urls[i], here ? etcd_endpoint(etcd, 0) : "", here ? here + 2 : "");
		pgs_error err = PGS_ERROR_INIT;
		pgs_store *store;
		timed t = timed_begin(url, 1000);
		expect_code(pgs_open(&store, url, NULL, &err), PGS_EINVAL, &err, url);
		timed_end(&t);
		assert_true(strlen(err.message) > 20);
	}
}

/* Who could not open it can when the server is there again. */
static void test_open__works_when_they_are_up_later(void **state)
{
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store = open_it(&db);
	(void)state;
	write_pages(db, 0, 10, seed_of);
	pgs_db_close(db);
	pgs_close(store);
	etcd_kill(etcd, 0);
	expect_code(try_to_open(&store, etcd_endpoints(etcd), s3_endpoint(s3), &err), PGS_EIO, &err, "without etcd");
	assert_true(etcd_restart(etcd, 0));
	s3_kill(s3);
	expect_code(try_to_open(&store, etcd_endpoints(etcd), s3_endpoint(s3), &err), PGS_EIO, &err, "without S3");
	assert_true(s3_restart(s3));
	store = open_it(&db);
	expect_pages(db, 10);
	pgs_db_close(db);
	pgs_close(store);
}

/* --- using ------------------------------------------------------------------------------------ */

static void expect_down(int result, const pgs_error *err, const char *endpoint, const char *what)
{
	expect_code(result, PGS_EIO, err, what);
	expect_words(err, endpoint, "cannot ", NULL);
}

/* Down at the first use after opening, and between uses. */
static void test_etcd__that_goes_and_comes(void **state)
{
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store = open_it(&db);
	(void)state;
	write_pages(db, 0, 10, seed_of);
	for (int i = 0; i < 2; i++) {
		pgs_txn *txn = begin_write(db), *none;
		assert_int_equal(write_seed(txn, 3, seed_of(3 + 256)), PGS_OK);
		etcd_kill(etcd, 0);
		timed t = timed_begin("a call without etcd", 5000);
		expect_down(pgs_begin(&none, db, NULL, &err), &err, etcd_endpoint(etcd, 0), "pgs_begin");
		expect_down(pgs_maintain(db, NULL, NULL, &err), &err, etcd_endpoint(etcd, 0), "pgs_maintain");
		expect_down(pgs_commit(txn, NULL, NULL, &err), &err, etcd_endpoint(etcd, 0), "pgs_commit");
		timed_end(&t);
		assert_true(etcd_restart(etcd, 0));
		expect_pages(db, 10);
		write_pages(db, 0, 10, seed_of);
	}
	pgs_db_close(db);
	pgs_close(store);
}

static void test_s3__that_goes_and_comes(void **state)
{
	pgs_db *db;
	pgs_error err = PGS_ERROR_INIT;
	pgs_store *store = open_it(&db);
	(void)state;
	write_pages(db, 0, 600, seed_of); /* in S3 */
	for (int i = 0; i < 2; i++) {
		pgs_txn *txn = begin_write(db), *reader;
		for (uint64_t n = 1000; n < 1500; n++)
			assert_int_equal(write_seed(txn, n, seed_of(n + (uint64_t)i)), PGS_OK);
		s3_kill(s3);
		timed t = timed_begin("a call without S3", 10000);
		expect_code(pgs_begin(&reader, db, NULL, &err), PGS_OK, &err, "pgs_begin");
		int result = PGS_OK;
		for (uint64_t n = 0; n < 600 && result == PGS_OK; n++)
			result = read_seed(reader, n, seed_of(n));
		expect_down(result, pgs_txn_error(reader), s3_endpoint(s3), "pgs_read");
		expect_down(pgs_commit(txn, NULL, NULL, &err), &err, s3_endpoint(s3), "a large commit");
		txn = begin_write(db); /* small ones need no S3 */
		assert_int_equal(write_seed(txn, 5000, seed_of(5000 + 256 * (uint64_t)i)), PGS_OK);
		expect_code(pgs_commit(txn, NULL, NULL, &err), PGS_OK, &err, "a small commit");
		timed_end(&t);
		assert_true(s3_restart(s3));
		for (uint64_t n = 0; n < 600; n++) /* also the transaction that could not */
			assert_int_equal(read_seed(reader, n, seed_of(n)), PGS_OK);
		pgs_abort(reader);
		write_pages(db, 1000, 500, seed_of);
	}
	pgs_db_close(db);
	pgs_close(store);
}

/* --- closing ------------------------------------------------------------------------------------ */

/* With spilled pages to remove, a pin to release, a thread to end. */
static void test_close__when_all_are_down(void **state)
{
	char url[SERVER_URL_SIZE];
	pgs_error err = PGS_ERROR_INIT;
	pgs_store_options options = PGS_STORE_OPTIONS_INIT;
	pgs_db_options small = PGS_DB_OPTIONS_INIT;
	pgs_revision_pin *pin;
	pgs_store *store;
	pgs_db *db;
	(void)state;
	server_store_url(url, etcd_endpoints(etcd), "closing", s3_endpoint(s3), "");
	options.timeout_ms = TIMEOUT_MS;
	options.maintenance = PGS_MAINTENANCE_THREAD;
	expect_code(pgs_open(&store, url, &options, &err), PGS_OK, &err, "pgs_open");
	small.page_size_bytes = TEST_PAGE_SIZE;
	small.write_buffer_bytes = 1 << 20;
	expect_code(pgs_db_create(&db, store, "db", 2, &small, &err), PGS_OK, &err, "pgs_db_create");
	pgs_txn *txn = begin_write(db);
	for (uint64_t i = 0; i < 600; i++)
		assert_int_equal(write_seed(txn, i, seed_of(i)), PGS_OK);
	expect_code(pgs_pin_revision(&pin, db, 0, 0, NULL, &err), PGS_OK, &err, "pgs_pin_revision");
	etcd_kill(etcd, 0);
	s3_kill(s3);
	timed t = timed_begin("closing", 2 * TIMEOUT_MS);
	pgs_abort(txn);
	pgs_unpin_revision(pin);
	pgs_db_close(db);
	pgs_close(store);
	timed_end(&t);
	assert_true(etcd_restart(etcd, 0));
	assert_true(s3_restart(s3));
}

static int set_up(void **state)
{
	(void)state;
	etcd = etcd_start(&(etcd_setup){.members = 1});
	s3 = s3_start_durable();
	return etcd && s3 ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	etcd_stop(etcd);
	s3_stop(s3);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open__where_nobody_listens),
		cmocka_unit_test(test_open__where_somebody_else_listens),
		cmocka_unit_test(test_open__where_nobody_answers),
		cmocka_unit_test(test_open__of_a_bucket_that_is_not_there),
		cmocka_unit_test(test_open__of_urls_that_are_none),
		cmocka_unit_test(test_open__works_when_they_are_up_later),
		cmocka_unit_test(test_etcd__that_goes_and_comes),
		cmocka_unit_test(test_s3__that_goes_and_comes),
		cmocka_unit_test(test_close__when_all_are_down),
	};
	if (!etcd_available() || !s3_available())
		return 77;
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
